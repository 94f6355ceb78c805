//! Checks a GPU against the meaning: every kernel of weight programs on fresh random inputs
//! against the CPU, whole weight programs, parameters
//! that wait between their runs, and what streams, events and memory promise.
//!
//! ```text
//! cargo build --release -p tintype-device --example check_device
//! target/release/examples/check_device --require-gpu
//! ```
//!
//! The program stands alone; it needs the driver and NVRTC. Without a GPU it runs the cases on
//! the CPU alone and ends with 0, or with 1 under `--require-gpu`. `--seed N` repeats a run, `--device N` takes another
//! GPU, `--no-speed` leaves the measurements out. It ends with 1 if a check fails.

mod keep;
mod kernels;
mod machine;
#[path = "../../tests/support/programs.rs"]
mod programs;
mod report;
mod speed;
mod whole;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tintype_device::{Device, KernelCache, WeightKernels, WeightRunner};
use tintype_tensor::TorchGenerator;

use self::report::Report;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What all checks work with.
struct Bench {
    device: Device,
    kernels: Arc<WeightKernels>,
    runner: WeightRunner,
    generator: TorchGenerator,
    report: Report,
}

#[derive(Debug)]
struct Arguments {
    require_gpu: bool,
    speed: bool,
    device: usize,
    seed: u64,
}

fn main() -> ExitCode {
    let arguments = match Arguments::read(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("check_device: {error}");
            return ExitCode::from(2);
        }
    };
    let bench = match Bench::new(&arguments) {
        Ok(bench) => bench,
        Err(error) if !arguments.require_gpu => return without_gpu(&arguments, error.as_ref()),
        Err(error) => {
            eprintln!("check_device: {error}");
            return ExitCode::FAILURE;
        }
    };
    match check(bench, &arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("check_device: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Checks the checks, so that a run on a GPU is not lost to a mistake in them.
fn without_gpu(arguments: &Arguments, reason: &dyn std::error::Error) -> ExitCode {
    println!("no kernel was run: {reason}");
    match kernels::check_without_device(&mut TorchGenerator::new(arguments.seed)) {
        Ok(count) => {
            println!("the CPU ran all {count} cases, and a kernel would");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("check_device: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs everything; whether all of it passed.
fn check(mut bench: Bench, arguments: &Arguments) -> Result<bool> {
    println!("seed {}", arguments.seed);
    machine::check(&mut bench);
    kernels::check(&mut bench)?;
    whole::check(&mut bench)?;
    keep::check(&mut bench);
    if arguments.speed {
        speed::measure(&mut bench)?;
    }
    Ok(bench.report.finish())
}

impl Bench {
    fn new(arguments: &Arguments) -> Result<Self> {
        let device = Device::open(arguments.device)?;
        let info = device.info();
        println!(
            "{} ({}), compute capability {}, {} multiprocessors, {} MiB, driver for CUDA {}",
            device.name(),
            info.name,
            info.compute_capability,
            info.multiprocessors,
            info.memory_bytes >> 20,
            device.driver().version()
        );
        let nvrtc = tintype_device::Nvrtc::load(Some(device.driver().version()))?;
        println!("NVRTC {} from {}", nvrtc.version(), nvrtc.path().display());
        let start = Instant::now();
        let kernels = Arc::new(WeightKernels::load(&device, &KernelCache::of_user())?);
        let folder = KernelCache::of_user().folder().to_owned();
        println!(
            "kernels loaded in {:?}, cache {}",
            start.elapsed(),
            folder.display()
        );
        Ok(Self {
            runner: WeightRunner::new(Arc::clone(&kernels))?,
            kernels,
            device,
            generator: TorchGenerator::new(arguments.seed),
            report: Report::default(),
        })
    }
}

impl Arguments {
    fn read(mut given: impl Iterator<Item = String>) -> Result<Self> {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let mut arguments = Self {
            require_gpu: false,
            speed: true,
            device: 0,
            seed: u64::from(clock.subsec_nanos()),
        };
        while let Some(argument) = given.next() {
            let mut value = || given.next().ok_or(format!("{argument} needs a number"));
            match argument.as_str() {
                "--require-gpu" => arguments.require_gpu = true,
                "--no-speed" => arguments.speed = false,
                "--device" => arguments.device = value()?.parse()?,
                "--seed" => arguments.seed = value()?.parse()?,
                other => return Err(format!("unknown argument `{other}`").into()),
            }
        }
        Ok(arguments)
    }
}
