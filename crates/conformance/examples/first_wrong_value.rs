//! Finds the first value of a graph that a GPU computes otherwise than the CPU, or not at all.
//!
//! ```text
//! tintype inspect --component transformer --program step > step.ir
//! first_wrong_value step.ir --target sm80 batch=1..4 image_tokens=64 steps=1..64:20
//! first_wrong_value step.ir --backend cuda --own-kernels --checks batch=1 image_tokens=64
//! ```
//!
//! TensorRT is the backend unless another is named; `--own-kernels` and `--checks` are the
//! backend `cuda`'s. A line `; plan: tokens = 16` in the file gives sizes too, and what stands
//! behind `; expect:` is left out.
//!
//! The file is a graph in the text form. `NAME=MIN..MAX` narrows a symbol's range, `NAME=SIZE` or
//! `:SIZE` behind the range is the size that runs; without it that is the least, and of a symbol
//! that is not named the middle. Parameters and inputs are random. Values are tried by bisection,
//! each as the only output of what leads to it, so one that is right behind a wrong one can mislead;
//! `--all` tries only the graph's own outputs. Without a file a small graph is tried; without
//! the backend it says so and ends with 0.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use tintype_backend::{Backend, Error};
use tintype_conformance::operations::Case;
use tintype_cpu::CpuEvaluator;
use tintype_cuda::{CudaBackend, CudaOptions};
use tintype_ir::passes::dead_code;
use tintype_ir::{Binding, parse};
use tintype_tensor::DType;
use tintype_tensorrt::backend::{BuildOptions, TensorrtBackend, TensorrtOptions};
use tintype_tensorrt::lower::SizeRange;
use tintype_tensorrt::plan::PlanCache;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const SMALL: &str = r#"graph "small" {
  dim rows = 1..=64
  param @weight: f32[32, 64]
  input step %x: f32[rows, 64]
  %0: f32[rows, 32] = linear %x, @weight
  %1: f32[rows, 32] = silu %0
  output y = %1
}
"#;

fn main() -> ExitCode {
    tintype_conformance::log_to_stderr();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let text = match arguments.next() {
        Some(file) => std::fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?,
        None => SMALL.to_owned(),
    };
    let text = text.split("; expect:").next().unwrap_or_default();
    let folder = tempfile::tempdir()?;
    let mut wanted = Wanted::new(folder.path());
    let (mut all, mut sizes) = (false, planned(text)?);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--target" => wanted.target = arguments.next(),
            "--backend" => wanted.is_cuda = arguments.next().as_deref() == Some("cuda"),
            "--own-kernels" => wanted.cuda = wanted.cuda.without_libraries(),
            "--checks" => wanted.cuda = wanted.cuda.with_checks(),
            "--all" => all = true,
            symbol => {
                let (name, range, size) = symbol_of(symbol)?;
                wanted.build = wanted.build.with_range(name, range);
                sizes.set(name, size);
            }
        }
    }
    let backend = match wanted.open() {
        Err(error @ Error::Unavailable { .. }) => {
            println!("{error}");
            return Ok(());
        }
        opened => opened?,
    };
    let backend = &*backend;
    let (program, lines) = program_of(text)?;
    let own: Vec<_> = text.lines().filter(|line| is_output(line)).collect();
    let own = own.join("\n");
    println!(
        "{}",
        trial(backend, &format!("{program}{own}\n}}\n"), &sizes, "all").1
    );
    if all {
        return Ok(());
    }
    let (mut right, mut wrong) = (0, lines.len());
    while right < wrong {
        let middle = usize::midpoint(right, wrong);
        let name = lines[middle];
        let text = format!("{program}  output out = {name}\n}}\n");
        let (is_right, said) = trial(backend, &text, &sizes, name);
        println!("{said}");
        if is_right {
            right = middle + 1;
        } else {
            wrong = middle;
        }
    }
    match lines.get(wrong) {
        Some(name) => println!("first wrong: {name}"),
        None => println!("all values are right"),
    }
    Ok(())
}

/// The backend that is tried.
struct Wanted {
    is_cuda: bool,
    cuda: CudaOptions,
    build: BuildOptions,
    target: Option<String>,
}

impl Wanted {
    fn new(plans: &Path) -> Self {
        Self {
            is_cuda: false,
            cuda: CudaOptions::new(Arc::new(CpuEvaluator)),
            build: BuildOptions::new(PlanCache::new(plans)),
            target: None,
        }
    }

    fn open(self) -> std::result::Result<Box<dyn Backend>, Error> {
        if self.is_cuda {
            let backend = CudaBackend::new(self.cuda)?;
            println!("{}", backend.description());
            return Ok(Box::new(backend));
        }
        let mut options = TensorrtOptions::new(Arc::new(CpuEvaluator), self.build);
        if let Some(target) = self.target {
            options = options.with_target(target.parse()?);
        }
        let backend = TensorrtBackend::new(options)?;
        println!("{}", backend.description());
        Ok(Box::new(backend))
    }
}

/// Sizes that a file names itself.
fn planned(text: &str) -> Result<Binding> {
    let mut sizes = Binding::new();
    let line = text.lines().find_map(|line| line.strip_prefix("; plan:"));
    for part in line.unwrap_or_default().split(',') {
        if let Some((symbol, size)) = part.split_once('=') {
            sizes.set(symbol.trim(), size.trim().parse()?);
        }
    }
    Ok(sizes)
}

fn symbol_of(text: &str) -> Result<(&str, SizeRange, usize)> {
    let wrong = || format!("`{text}`: NAME=SIZE or NAME=MIN..MAX[:SIZE] is wanted");
    let (name, value) = text.split_once('=').ok_or_else(wrong)?;
    let (range, size) = match value.split_once(':') {
        Some((range, size)) => (range, Some(size.parse()?)),
        None => (value, None),
    };
    let (min, max) = match range.split_once("..") {
        Some((min, max)) => (min.parse()?, max.parse()?),
        None => (range.parse()?, range.parse()?),
    };
    Ok((name, SizeRange::of(&(min..=max)), size.unwrap_or(min)))
}

fn is_output(line: &str) -> bool {
    line.trim_start().starts_with("output ")
}

/// The graph's text without outputs and without the last bracket, and the names of its values.
fn program_of(text: &str) -> Result<(String, Vec<&str>)> {
    parse(text)?;
    let (mut program, mut names) = (String::new(), Vec::new());
    for line in text.lines().filter(|line| !is_output(line) && *line != "}") {
        program.push_str(line);
        program.push('\n');
        if let Some((name, _)) = line.trim_start().split_once(": ")
            && line.contains(" = ")
            && name.starts_with('%')
        {
            names.push(name);
        }
    }
    Ok((program, names))
}

/// Whether the backend computes what the CPU does, and a line about it.
fn trial(backend: &dyn Backend, text: &str, sizes: &Binding, name: &str) -> (bool, String) {
    let start = Instant::now();
    let result = parse(text)
        .map_err(Into::into)
        .and_then(|graph| Case::new(dead_code(&graph), DType::F32, sizes)?.error_on(backend));
    let seconds = start.elapsed().as_secs_f64();
    match result {
        Ok(error) => (
            error < 2e-2,
            format!("{name:8} off by {error:.1e}, {seconds:.1} s"),
        ),
        Err(error) => (false, format!("{name:8} {error}, {seconds:.1} s")),
    }
}
