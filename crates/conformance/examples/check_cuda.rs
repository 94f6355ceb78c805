//! Runs graphs on the first GPU beside the CPU backend: steps that are enqueued, captured and
//! replayed, weights that change under a state and in place.
//!
//! ```text
//! cargo run --release -p tintype-conformance --example check_cuda              # the blocks of models
//! cargo run --release -p tintype-conformance --example check_cuda -- FILE.ir   # others, as text
//!     --checks      each step is waited for, so that a failure names it
//!     --no-graphs   each step is enqueued by itself
//!     --own-kernels no library
//!     --branches    steps that do not depend on each other run side by side
//!     --profile     where the time goes
//!     --require-gpu without a GPU it fails; else it says so and ends with 0
//! ```
//!
//! A file gives its sizes in a line `; plan: tokens = 16`. Weights and inputs are noise.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use tintype_backend::Error::Unavailable;
use tintype_backend::{Backend, Changes, CompileOptions, Executable, Session, Tensors};
use tintype_cpu::{CpuBackend, CpuEvaluator};
use tintype_cuda::{CudaBackend, CudaOptions, Profile};
use tintype_ir::{Binding, Graph, Input, Stage, StagedGraph, parse};
use tintype_tensor::{DType, Shape, Tensor, TorchGenerator, relative_error};
use tintype_weights::Parameters;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

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
    let (flags, files): (Vec<String>, Vec<String>) = std::env::args()
        .skip(1)
        .partition(|argument| argument.starts_with("--"));
    let has = |flag: &str| flags.iter().any(|given| given == flag);
    let profile = Profile::new();
    let mut options = CudaOptions::new(Arc::new(CpuEvaluator));
    if has("--checks") {
        options = options.with_checks();
    }
    if has("--no-graphs") {
        options = options.without_graphs();
    }
    if has("--own-kernels") {
        options = options.without_libraries();
    }
    if has("--branches") {
        options = options.with_branches();
    }
    if has("--profile") {
        options = options.with_profile(&profile);
    }
    let backend = match CudaBackend::new(options) {
        Err(error @ Unavailable { .. }) if !has("--require-gpu") => {
            println!("{error}");
            return Ok(());
        }
        opened => opened?,
    };
    println!("{}", backend.description());
    let files: Vec<PathBuf> = if files.is_empty() {
        blocks()?
    } else {
        files.into_iter().map(PathBuf::from).collect()
    };
    let mut failures = 0;
    for file in &files {
        println!("== {}", file.display());
        if let Err(error) = check(&backend, file, &mut failures) {
            println!("  FAILED: {error}");
            failures += 1;
        }
        for line in profile.take()? {
            println!("  {line}");
        }
    }
    match failures {
        0 => Ok(()),
        _ => Err(format!("{failures} failures").into()),
    }
}

fn blocks() -> Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cuda/tests/files");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        files.push(entry?.path());
    }
    files.sort();
    Ok(files)
}

/// A graph with its sizes.
struct Case {
    staged: StagedGraph,
    sizes: Binding,
}

fn check(backend: &dyn Backend, file: &Path, failures: &mut usize) -> Result<()> {
    let case = Case::read(file)?;
    let options = CompileOptions::default();
    let cuda = backend.compile(&case.staged, &options)?;
    let cpu = CpuBackend::new().compile(&case.staged, &options)?;
    let weights = [1, 2, 3].map(|seed| case.parameters(seed));
    let [first, second, third] = weights;
    let (first, second, third) = (first?, second?, third?);
    for executable in [&cuda, &cpu] {
        executable.refit(&Changes::all(&first))?;
    }
    // One run of each kind: enqueued, captured, replayed.
    let mut pair = Pair::new(&case, &*cuda, &*cpu)?;
    for seed in 10..13 {
        *failures += pair.step(&case, "a step", seed)?;
    }
    for executable in [&cuda, &cpu] {
        executable.refit(&Changes::all(&second))?;
    }
    *failures += pair.step(&case, "a step with weights of before", 13)?;
    let mut other = Pair::new(&case, &*cuda, &*cpu)?;
    for seed in 14..17 {
        *failures += other.step(&case, "a step with others beside", seed)?;
    }
    drop((pair, other));
    for executable in [&cuda, &cpu] {
        executable.refit(&Changes::all(&third))?;
    }
    let mut last = Pair::new(&case, &*cuda, &*cpu)?;
    *failures += last.step(&case, "a step with weights in place", 17)?;
    Ok(())
}

/// Sessions of both backends with a state each.
struct Pair {
    sessions: [Box<dyn Session>; 2],
    states: [Box<dyn tintype_backend::RequestState>; 2],
}

impl Pair {
    fn new(case: &Case, cuda: &dyn Executable, cpu: &dyn Executable) -> Result<Self> {
        let inputs = case.inputs(Stage::Request, 9)?;
        let mut sessions = [cuda.session()?, cpu.session()?];
        let [on_cuda, on_cpu] = &mut sessions;
        // Requests are enqueued and captured too; the one that is replayed counts.
        for _ in 0..2 {
            on_cuda.prepare(&inputs)?;
        }
        let states = [on_cuda.prepare(&inputs)?, on_cpu.prepare(&inputs)?];
        Ok(Self { sessions, states })
    }

    /// Compares a step and the outputs of the request; gives the number of failures.
    fn step(&mut self, case: &Case, what: &str, seed: u64) -> Result<usize> {
        let inputs = case.inputs(Stage::Step, seed)?;
        let [cuda, cpu] = &mut self.sessions;
        let found = cuda.step(self.states[0].as_ref(), &inputs)?;
        let expected = cpu.step(self.states[1].as_ref(), &inputs)?;
        let [found_before, expected_before] = &self.states;
        let has_codes = case.has_codes();
        let request = [found_before.outputs(), expected_before.outputs()];
        Ok(compare(what, [&found, &expected], has_codes)?
            + compare("the request", request, has_codes)?)
    }
}

fn compare(what: &str, [found, expected]: [&Tensors; 2], has_codes: bool) -> Result<usize> {
    let mut failures = 0;
    for (name, tensor) in expected.iter() {
        let (expected, found) = (tensor.to_host()?, found.host(name)?);
        let limit = match expected.dtype() {
            // A value that falls to another side when it is rounded to a code is off by a
            // sixteenth.
            _ if has_codes => 6e-2,
            DType::F32 => 1e-4,
            _ => 2e-2,
        };
        let error = if expected.dtype().is_float() {
            relative_error(&found.to_f32_vec()?, &expected.to_f32_vec()?)
        } else {
            f64::from(u8::from(found.bytes() != expected.bytes()))
        };
        // NaN is no small error.
        let is_good = error <= limit;
        failures += usize::from(!is_good);
        let verdict = if is_good { "" } else { "  FAILED" };
        println!(
            "  {what}: {name} {}: {error:.2e}{verdict}",
            expected.shape()
        );
        if !is_good {
            println!("    {}", worst(&found, &expected)?);
        }
    }
    Ok(failures)
}

/// The element that is off most, and how many are off.
fn worst(found: &Tensor, expected: &Tensor) -> Result<String> {
    let (values, wanted) = (found.to_f32_vec()?, expected.to_f32_vec()?);
    let off = |index: &usize| {
        let difference = (values[*index] - wanted[*index]).abs();
        // NaN is the worst there is.
        let share = difference / wanted[*index].abs().max(1e-2);
        if share.is_nan() { f32::INFINITY } else { share }
    };
    let count = (0..wanted.len()).filter(|index| off(index) > 0.1).count();
    let worst = (0..wanted.len()).max_by(|a, b| off(a).total_cmp(&off(b)));
    let Some(index) = worst else {
        return Ok("no elements".to_owned());
    };
    let first = (0..wanted.len()).find(|index| off(index) > 0.1);
    Ok(format!(
        "{count} of {} elements are off by more than a tenth, the first at {first:?}; worst at \
         {index}: expected {}, found {}",
        wanted.len(),
        wanted[index],
        values[index]
    ))
}

impl Case {
    fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file)?;
        let given = text.split("; expect:").next().unwrap_or_default();
        let sizes = given.lines().find_map(|line| line.strip_prefix("; plan:"));
        let mut binding = Binding::new();
        for part in sizes.unwrap_or_default().split(',') {
            if let Some((symbol, size)) = part.split_once('=') {
                binding.set(symbol.trim(), size.trim().parse()?);
            }
        }
        Ok(Self {
            staged: StagedGraph::split(&parse(given)?)?,
            sizes: binding,
        })
    }

    fn graph(&self) -> &Graph {
        &self.staged.source
    }

    /// Whether values are rounded to 8 bits on the way.
    fn has_codes(&self) -> bool {
        let mut nodes = self.graph().nodes().iter();
        nodes.any(|node| node.ty.dtype == DType::F8E4M3)
    }

    fn parameters(&self, seed: u64) -> Result<Parameters> {
        let mut builder = Parameters::builder();
        for (index, parameter) in self.graph().parameters().iter().enumerate() {
            let shape = parameter.ty.shape(&self.sizes)?;
            // Rows of about unit length keep products in the range of their operands.
            let scale = 1.0 / (shape.last().copied().unwrap_or(1).max(1) as f32).sqrt();
            let values = noise(&shape, 1000 * seed + index as u64)?;
            let values = values.into_iter().map(|value| value * scale).collect();
            let tensor = Tensor::from_f32_as(parameter.ty.dtype, shape, values)?;
            builder = builder.tensor(parameter.name.as_str(), tensor);
        }
        Ok(builder.build()?)
    }

    fn inputs(&self, stage: Stage, seed: u64) -> Result<Tensors> {
        let inputs = self.staged.inputs_of(stage).enumerate();
        inputs
            .map(|(index, input)| {
                let tensor = self.input(input, 100 * seed + index as u64)?;
                Ok((input.name.clone(), tensor))
            })
            .collect()
    }

    /// Noise; whole numbers are 0 or 1.
    fn input(&self, input: &Input, seed: u64) -> Result<Tensor> {
        let shape = input.ty.shape(&self.sizes)?;
        let values = noise(&shape, seed)?;
        if input.ty.dtype.is_float() {
            return Ok(Tensor::from_f32_as(input.ty.dtype, shape, values)?);
        }
        let whole = values.iter().map(|value| f32::from(u8::from(*value > 0.0)));
        let whole = Tensor::from_f32(shape, whole.collect())?;
        Ok(whole.to_dtype(input.ty.dtype)?)
    }
}

fn noise(shape: &Shape, seed: u64) -> Result<Vec<f32>> {
    Ok(TorchGenerator::new(seed).randn(&**shape)?.to_f32_vec()?)
}
