//! Checks TensorRT on a GPU against the CPU: what it computes, and what the traits promise of
//! refits, request states and sessions.
//!
//! ```text
//! cargo build --release -p tintype-conformance --example check_backend
//! TINTYPE_TENSORRT=libtensorrt_rtx.so.1 target/release/examples/check_backend --require-gpu
//! ```
//!
//! The program stands alone; it needs the library, the driver and NVRTC. Where they are not, it
//! runs the same checks on the CPU backend, so that a run on a GPU is not lost to a mistake in
//! them, and ends with 0, or with 1 under `--require-gpu`. `--target sm80` builds for another
//! architecture than the GPU's, `--no-speed` leaves the measurements out. It ends with 1 if a
//! check fails.

mod checks;
mod model;
mod speed;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use tintype_backend::Backend;
use tintype_cpu::{CpuBackend, CpuEvaluator};
use tintype_tensor::DType;
use tintype_tensorrt::backend::{BuildOptions, TensorrtBackend, TensorrtOptions, build_plans};
use tintype_tensorrt::plan::PlanCache;
use tintype_tensorrt::{LoadOptions, Target, Tensorrt};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Counts what passed and prints a line for each check.
#[derive(Debug, Default)]
struct Report {
    passed: usize,
    failed: Vec<String>,
}

impl Report {
    /// A check with what was found, or why it failed.
    fn check(&mut self, name: &str, result: Result<String>) {
        match result {
            Ok(found) => {
                println!("ok      {name:<62} {found}");
                self.passed += 1;
            }
            Err(error) => {
                println!("FAILED  {name:<62} {error}");
                self.failed.push(name.to_owned());
            }
        }
    }

    /// Prints the sum; whether all passed.
    fn finish(self) -> bool {
        println!("{} passed; {} failed", self.passed, self.failed.len());
        for name in &self.failed {
            println!("failed: {name}");
        }
        self.failed.is_empty()
    }
}

#[derive(Debug)]
struct Arguments {
    require_gpu: bool,
    speed: bool,
    target: Option<Target>,
}

impl Arguments {
    fn read(mut given: impl Iterator<Item = String>) -> Result<Self> {
        let mut arguments = Self {
            require_gpu: false,
            speed: true,
            target: None,
        };
        while let Some(argument) = given.next() {
            match argument.as_str() {
                "--require-gpu" => arguments.require_gpu = true,
                "--no-speed" => arguments.speed = false,
                "--target" => {
                    let value = given.next().ok_or("--target needs an architecture")?;
                    arguments.target = Some(value.parse()?);
                }
                other => return Err(format!("unknown argument `{other}`").into()),
            }
        }
        Ok(arguments)
    }
}

fn main() -> ExitCode {
    let arguments = match Arguments::read(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("check_backend: {error}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("check_backend: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs everything; whether all of it passed.
fn run(arguments: &Arguments) -> Result<bool> {
    let plans = tempfile::tempdir()?;
    let build = BuildOptions::new(PlanCache::new(plans.path()));
    let mut options = TensorrtOptions::new(Arc::new(CpuEvaluator), build);
    if let Some(target) = arguments.target {
        options = options.with_target(target);
    }
    let mut report = Report::default();
    match TensorrtBackend::new(options) {
        Ok(backend) => {
            println!("{}", backend.description());
            check(&backend, arguments, &mut report)?;
        }
        Err(error) if arguments.require_gpu => return Err(error.into()),
        Err(error) => {
            println!("nothing was run on a GPU: {error}");
            build_only(arguments, plans.path(), &mut report);
            check(&CpuBackend::new(), arguments, &mut report)?;
        }
    }
    Ok(report.finish())
}

/// Builds the plans at least, where there is a library.
fn build_only(arguments: &Arguments, folder: &Path, report: &mut Report) {
    let Ok(tensorrt) = Tensorrt::load(&LoadOptions::default()) else {
        return;
    };
    let target = arguments.target.unwrap_or(Target::new(8, 9));
    let options = BuildOptions::new(PlanCache::new(folder));
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let build = || -> Result<String> {
            let plans = build_plans(&tensorrt, &model::staged(dtype)?, &[target], &options)?;
            let bytes: u64 = plans.iter().map(|plan| plan.bytes).sum();
            let weights: usize = plans.iter().map(|plan| plan.weights).sum();
            Ok(format!(
                "{} plans, {bytes} bytes, {weights} weights",
                plans.len()
            ))
        };
        report.check(&format!("{dtype}: plans for {target}"), build());
    }
}

fn check(backend: &dyn Backend, arguments: &Arguments, report: &mut Report) -> Result<()> {
    checks::values(backend, report)?;
    checks::promises(backend, report)?;
    if arguments.speed {
        speed::measure(backend, report)?;
    }
    Ok(())
}
