//! Kernels of our own compile for every GPU from Ampere on, without spilling registers, and compute
//! what they should.
//!
//! NVRTC needs no GPU; it is looked for as in `kernels_compile`. Where `TINTYPE_CXX` names a
//! compiler of C++20, kernels also run on the host as they are written (`support/on_host`), those on
//! tensor cores by the documented layouts of fragments (`matrix.cpp`).
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod cases;
mod host;
#[path = "../support/on_host/mod.rs"]
mod on_host;
mod reference;

use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use tintype_cuda::{Machine, Step, own_kernels};
use tintype_device::{Nvrtc, Target};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let nvrtc = if arguments.list { None } else { nvrtc() };
    let compiler = std::env::var("TINTYPE_CXX").ok();
    let mut trials = Vec::new();
    for step in cases::large().into_iter().chain(cases::small()) {
        for target in targets() {
            let (nvrtc, step) = (nvrtc.clone(), step.clone());
            let is_missing = nvrtc.is_none();
            let name = format!("{}_{target}", name_of(&step));
            let run = move || match &nvrtc {
                Some(nvrtc) => compile(nvrtc, target, &step),
                None => Err("NVRTC is not here".into()),
            };
            trials.push(Trial::test(name, run).with_ignored_flag(is_missing));
        }
    }
    for step in cases::small() {
        let compiler = compiler.clone();
        let is_missing = compiler.is_none();
        let name = format!("{}_on_host", name_of(&step));
        let run = move || match &compiler {
            Some(compiler) => host::check(compiler, &step),
            None => Err("no compiler of C++ is named".into()),
        };
        trials.push(Trial::test(name, run).with_ignored_flag(is_missing));
    }
    let is_missing = compiler.is_none();
    let run = move || match &compiler {
        Some(compiler) => host::check_every_code(compiler),
        None => Err("no compiler of C++ is named".into()),
    };
    trials.push(Trial::test("every_code_on_host", run).with_ignored_flag(is_missing));
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn targets() -> [Target; 6] {
    [
        Target::new(8, 0),
        Target::new(8, 6),
        Target::new(8, 9),
        Target::new(9, 0).specific(),
        Target::new(10, 0),
        Target::new(12, 0),
    ]
}

fn name_of(step: &Step) -> String {
    format!("{}_{}", step.name, step.work.writes()[0].dtype)
}

fn nvrtc() -> Option<Nvrtc> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?;
    let unpacked = folder.join("nvrtc/nvidia/cuda_nvrtc/lib/libnvrtc.so.12");
    if std::env::var_os("TINTYPE_NVRTC").is_none() && unpacked.is_file() {
        return Nvrtc::load_from(&unpacked).ok();
    }
    Nvrtc::load(None).ok()
}

fn compile(nvrtc: &Nvrtc, target: Target, step: &Step) -> Result<(), Failed> {
    let machine = Machine::new(target.capability.major, target.capability.minor);
    for kernel in own_kernels(step, &machine)? {
        if kernel.shared_bytes > machine.shared_bytes {
            let bytes = kernel.shared_bytes;
            return Err(format!("{bytes} bytes of shared memory for {target}").into());
        }
        let source = kernel.source.with_option("--ptxas-options=-v");
        let (_, log) = nvrtc.compile_with_log(&source, target)?;
        if std::env::var_os("TINTYPE_SHOW").is_some() {
            let used = log.lines().filter(|line| line.contains("Used"));
            eprintln!(
                "{target} {}: {}",
                step.name,
                used.collect::<Vec<_>>().join(" ")
            );
        }
        let is_spill = |line: &&str| {
            line.contains("spill") && !line.contains("0 bytes spill stores, 0 bytes spill loads")
        };
        if let Some(line) = log.lines().find(is_spill) {
            return Err(format!("{} for {target}: {line}", source.name).into());
        }
    }
    Ok(())
}
