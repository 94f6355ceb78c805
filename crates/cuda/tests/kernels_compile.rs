//! Every kernel of the plans under `tests/files` compiles, without spilling registers, also with
//! results in f8e4m3, and so do the kernels of our own that stand in for libraries.
//!
//! NVRTC needs no GPU. It is taken from `TINTYPE_NVRTC`, from `target/nvrtc`, where the tests of
//! `tintype-device` unpack it, or from where users have it; without one, each test is reported as
//! ignored.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use tintype_cuda::{Machine, Plan, Step, Work, generate, own_kernels};
use tintype_device::{Nvrtc, Target};
use tintype_ir::{Binding, StagedGraph, parse};
use tintype_tensor::DType;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let nvrtc = if arguments.list { None } else { nvrtc() };
    let targets = [Target::new(8, 0), Target::new(9, 0).specific()];
    let trials = files().into_iter().flat_map(|file| {
        let nvrtc = nvrtc.clone();
        targets.map(move |target| {
            let (nvrtc, file) = (nvrtc.clone(), file.clone());
            let is_missing = nvrtc.is_none();
            let name = format!("{file}_{target}");
            let run = move || match &nvrtc {
                Some(nvrtc) => compile_file(nvrtc, target, &file),
                None => Err("NVRTC is not here".into()),
            };
            Trial::test(name, run).with_ignored_flag(is_missing)
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn nvrtc() -> Option<Nvrtc> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?;
    let unpacked = folder.join("nvrtc/nvidia/cuda_nvrtc/lib/libnvrtc.so.12");
    if std::env::var_os("TINTYPE_NVRTC").is_none() && unpacked.is_file() {
        return Nvrtc::load_from(&unpacked).ok();
    }
    Nvrtc::load(None).ok()
}

fn files() -> Vec<String> {
    let entries = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let names = entries.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files")
}

/// Compiles the different kernels of a file's plan in one program each.
fn compile_file(nvrtc: &Nvrtc, target: Target, file: &str) -> Result<(), Failed> {
    let mut sources = BTreeMap::new();
    let machine = Machine::new(target.capability.major, target.capability.minor);
    for step in steps(file)? {
        for kernel in own_kernels(&step, &machine)? {
            sources.insert(kernel.source.text.clone(), kernel.source);
        }
        let Step {
            name,
            work: Work::Kernel(expression),
            ..
        } = step
        else {
            continue;
        };
        let kernel = generate(&expression, &name)?;
        sources.insert(kernel.source.text.clone(), kernel.source);
        if let Some(store) = expression
            .stores
            .iter()
            .position(|store| store.view.dtype == DType::BF16)
        {
            let small = expression.with_dtype(store, DType::F8E4M3, Some(0.5));
            let kernel = generate(&small, &format!("{name}_f8e4m3"))?;
            sources.insert(kernel.source.text.clone(), kernel.source);
        }
    }
    for source in sources.into_values() {
        let source = source.with_option("--ptxas-options=-v");
        let (_, log) = nvrtc.compile_with_log(&source, target).map_err(|error| {
            let kernel = source
                .text
                .lines()
                .skip_while(|line| !line.contains("extern \"C\""));
            format!("{error}\n{}", kernel.collect::<Vec<_>>().join("\n"))
        })?;
        let is_spill = |line: &&str| {
            line.contains("spill") && !line.contains("0 bytes spill stores, 0 bytes spill loads")
        };
        if let Some(line) = log.lines().find(is_spill) {
            return Err(format!("{} for {target}: {line}", source.name).into());
        }
    }
    Ok(())
}

/// The steps of the plan of a file.
fn steps(file: &str) -> Result<Vec<Step>, Failed> {
    let text = fs::read_to_string(folder().join(format!("{file}.ir")))?;
    let given = text.split("; expect:").next().unwrap_or_default();
    let sizes = given
        .lines()
        .find_map(|line| line.strip_prefix("; plan:"))
        .ok_or("no sizes")?;
    let mut binding = Binding::new();
    for part in sizes.split(',').filter(|part| !part.trim().is_empty()) {
        let (symbol, size) = part.split_once('=').ok_or("expected `symbol = size`")?;
        binding.set(symbol.trim(), size.trim().parse()?);
    }
    let staged = StagedGraph::split(&parse(given)?)?.canonical()?;
    let has_step = !staged.step.nodes().is_empty();
    let plan = Plan::new(
        if has_step {
            &staged.step
        } else {
            &staged.request
        },
        &binding,
    )?;
    Ok(plan.steps)
}
