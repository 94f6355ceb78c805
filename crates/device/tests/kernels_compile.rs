//! Every kernel compiles for every architecture that is supported, without spilling registers.
//!
//! NVRTC needs no GPU. It is taken from `TINTYPE_NVRTC` or fetched with pip into
//! `target/nvrtc`; where neither works, each test is reported as ignored, by name.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Failed, Trial};
use tintype_device::{Error, KernelCache, Nvrtc, Source, Target, WeightKernels};

/// CUDA 12.9 is the newest that has code for all of these and that drivers of CUDA 12 load.
const PACKAGE: &str = "nvidia-cuda-nvrtc-cu12==12.9.86";

const TARGETS: [Target; 6] = [
    Target::new(8, 0),
    Target::new(8, 6),
    Target::new(8, 9),
    Target::new(9, 0).specific(),
    Target::new(10, 0),
    Target::new(12, 0),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let nvrtc = if arguments.list {
        Err(String::new())
    } else {
        nvrtc()
    };
    let reason = nvrtc.as_ref().err().cloned();
    if let Some(reason) = reason.filter(|reason| !reason.is_empty()) {
        eprintln!("NVRTC is not here, so these tests are ignored: {reason}");
    }
    libtest_mimic::run(&arguments, trials(nvrtc.as_ref().ok())).exit_code()
}

fn trials(nvrtc: Option<&Nvrtc>) -> Vec<Trial> {
    let is_missing = nvrtc.is_none();
    let trial = |name: String, test: fn(&Nvrtc, Target) -> Result<(), Failed>, target| {
        let nvrtc = nvrtc.cloned();
        let run = move || match &nvrtc {
            Some(nvrtc) => test(nvrtc, target),
            None => Err("NVRTC is not here".into()),
        };
        Trial::test(name, run).with_ignored_flag(is_missing)
    };
    let mut trials: Vec<Trial> = TARGETS
        .iter()
        .map(|&target| trial(format!("weight_kernels_{target}"), compiles, target))
        .collect();
    let any = Target::new(8, 0);
    trials.push(trial(
        "a_wrong_source_is_an_error_with_the_log".into(),
        wrong_source,
        any,
    ));
    trials.push(trial(
        "an_unknown_architecture_is_an_error".into(),
        unknown,
        any,
    ));
    trials.push(trial(
        "the_second_compilation_comes_from_the_cache".into(),
        cached,
        any,
    ));
    trials
}

fn compiles(nvrtc: &Nvrtc, target: Target) -> Result<(), Failed> {
    let source = WeightKernels::source().with_option("--ptxas-options=-v");
    let (code, log) = nvrtc.compile_with_log(&source, target)?;
    let contains = |name: &str| {
        let symbol = format!("\0{name}\0");
        let mut parts = code.windows(symbol.len());
        parts.any(|part| part == symbol.as_bytes())
    };
    for name in WeightKernels::names() {
        if !contains(&name) {
            return Err(format!("{target} has no `{name}`").into());
        }
    }
    let reported = log.lines().filter(|line| line.contains("spill")).count();
    if reported < WeightKernels::names().len() {
        return Err(format!("the compiler tells of {reported} kernels: {log}").into());
    }
    let is_spill = |line: &&str| {
        line.contains("spill") && !line.contains("0 bytes spill stores, 0 bytes spill loads")
    };
    match log.lines().find(is_spill) {
        Some(line) => Err(format!("{target}: {line}\n{log}").into()),
        None => Ok(()),
    }
}

fn wrong_source(nvrtc: &Nvrtc, target: Target) -> Result<(), Failed> {
    let source = Source::new("wrong.cu", "__global__ void kernel() { nonsense; }");
    match nvrtc.compile(&source, target) {
        Err(Error::Compile { name, log, .. }) if log.contains("nonsense") => {
            assert_eq!(name, "wrong.cu");
            Ok(())
        }
        other => Err(format!("{other:?}").into()),
    }
}

fn unknown(nvrtc: &Nvrtc, _: Target) -> Result<(), Failed> {
    let capability = Target::new(7, 0).capability;
    let source = Source::new("empty.cu", "");
    assert!(nvrtc.compile(&source, Target::new(42, 0)).is_err());
    // Some versions still have code for Volta.
    if let Err(error) = nvrtc.target_for(capability) {
        assert!(error.to_string().contains("7.0"), "{error}");
    }
    assert!(nvrtc.target_for(Target::new(42, 0).capability).is_err());
    assert_eq!(
        nvrtc.target_for(Target::new(9, 0).capability)?,
        Target::new(9, 0)
    );
    Ok(())
}

fn cached(nvrtc: &Nvrtc, target: Target) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let cache = KernelCache::new(folder.path());
    let source = Source::new("one.cu", "extern \"C\" __global__ void one() {}");
    let code = cache.compile(nvrtc, &source, target)?;
    let key = KernelCache::key(&source, target, nvrtc.version());
    assert_eq!(cache.read(&key).as_ref(), Some(&code));
    assert_eq!(cache.compile(nvrtc, &source, target)?, code);
    Ok(())
}

/// NVRTC as the user named it, or from a package in `target`; why there is none.
fn nvrtc() -> Result<Nvrtc, String> {
    if std::env::var_os("TINTYPE_NVRTC").is_some() {
        return Nvrtc::load(None).map_err(|error| error.to_string());
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
    let folder = target.ok_or("there is no target folder")?.join("nvrtc");
    let library = library_in(&folder);
    if !library.is_file() {
        fetch(&folder)?;
    }
    Nvrtc::load_from(&library).map_err(|error| error.to_string())
}

fn library_in(folder: &Path) -> PathBuf {
    folder.join("nvidia/cuda_nvrtc/lib/libnvrtc.so.12")
}

/// Unpacks the package beside `folder` and gives it its name when it is whole.
fn fetch(folder: &Path) -> Result<(), String> {
    let parent = folder.parent().ok_or("there is no target folder")?;
    let work = tempfile::tempdir_in(parent).map_err(|error| error.to_string())?;
    let unpacked = work.path().join("unpacked");
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-compile",
    ]);
    pip.args([
        "--only-binary=:all:",
        "--disable-pip-version-check",
        "--target",
    ]);
    pip.arg(&unpacked).arg(PACKAGE).stdin(Stdio::null());
    let output = pip.output().map_err(|error| format!("python3: {error}"))?;
    if !output.status.success() || !library_in(&unpacked).is_file() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(format!("pip did not install {PACKAGE}: {}", message.trim()));
    }
    // Another test run may have been faster.
    if std::fs::rename(&unpacked, folder).is_err() && !library_in(folder).is_file() {
        return Err(format!("cannot write {}", folder.display()));
    }
    Ok(())
}
