//! Plans built where nothing need run them.

use std::time::{Duration, Instant};

use tintype_tensor::DType;
use tintype_tensorrt::backend::build_plans;
use tintype_tensorrt::{Target, Tensorrt};

use super::flux::build::{self, Shape};
use super::machine::Machine;
use super::promises::model;
use super::report::{Label, Report};
use super::{Arguments, Result};

const DTYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// What the whole of FLUX.1-dev may take where two cores build it.
const SECONDS: f64 = 120.0;
const MEMORY_MIB: f64 = 3e9 / 1048576.0;
const PLAN_MIB: f64 = 150e6 / 1048576.0;

pub(super) fn run(machine: &Machine, arguments: &Arguments, report: &mut Report) -> Result<()> {
    let count = DTYPES.len() + usize::from(arguments.include_slow);
    let library = match &machine.tensorrt {
        Ok(library) if library.takes_placeholders() => library,
        Ok(library) => {
            let reason = format!("{} builds no weightless plans without a GPU", library.abi());
            report.skip(Label::new("all", "tensorrt"), count, reason);
            return Ok(());
        }
        Err(reason) => {
            report.skip(Label::new("all", "tensorrt"), count, reason);
            return Ok(());
        }
    };
    let target = machine.target.unwrap_or(Target::new(8, 9));
    for dtype in DTYPES {
        let start = Instant::now();
        let result = small(library, machine, dtype, target);
        let case = format!("a small model for {target}");
        report.check(
            Label::new(&case, "tensorrt").of(dtype),
            start.elapsed(),
            result,
        );
    }
    let name = format!(
        "FLUX.1-dev for {target}, {} image tokens",
        arguments.flux_tokens
    );
    if arguments.include_slow {
        whole(library, target, arguments, &name, report)
    } else {
        report.skip(
            Label::new(&name, "tensorrt"),
            1,
            "takes minutes: --include-slow",
        );
        Ok(())
    }
}

fn small(library: &Tensorrt, machine: &Machine, dtype: DType, target: Target) -> Result<String> {
    let staged = model::staged(dtype)?;
    let plans = build_plans(library, &staged, &[target], &machine.build_options())?;
    let bytes: u64 = plans.iter().map(|plan| plan.bytes).sum();
    let weights: usize = plans.iter().map(|plan| plan.weights).sum();
    let count = plans.len();
    Ok(format!("{count} plans, {bytes} bytes, {weights} weights"))
}

/// Both plans of the transformer, which together may take what is allowed.
fn whole(
    library: &Tensorrt,
    target: Target,
    arguments: &Arguments,
    name: &str,
    report: &mut Report,
) -> Result<()> {
    let staged = Shape::new(arguments.flux_tokens).staged()?;
    let (mut seconds, mut bytes, mut weights) = (0.0, 0, 0);
    for program in [&staged.request, &staged.step] {
        let built = build::plan(library, program, Some(target), None)?;
        seconds += built.seconds;
        bytes += built.plan.len();
        weights += built.weights;
    }
    let mebibytes = bytes as f64 / 1048576.0;
    report.figure("FLUX.1-dev: build", seconds, "s", Some(SECONDS))?;
    report.figure("FLUX.1-dev: plans", mebibytes, "MiB", Some(PLAN_MIB))?;
    if let Some(peak) = peak_memory() {
        // Of the whole process, sections before this one included.
        report.figure("FLUX.1-dev: peak of memory", peak, "MiB", Some(MEMORY_MIB))?;
    }
    let took = Duration::from_secs_f64(seconds);
    report.check(
        Label::new(name, "tensorrt"),
        took,
        Ok(format!("{weights} weights")),
    );
    Ok(())
}

/// The most memory that the process had, in MiB, as Linux tells it.
fn peak_memory() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: f64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes / 1024.0)
}
