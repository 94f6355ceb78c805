//! Kernels of our own at the sizes of FLUX.1-dev, against the rate of a copy.
//!
//! A kernel that takes 20 µs is timed ten times in a row, so that events cost little beside it.
//! Its operands partly stay in the cache then, as they do in a step, where they were just written.

use serde_json::json;
use tintype_cuda::{Profile, ProfileLine};

use super::super::machine::Machine;
use super::super::report::{Label, Report};
use super::super::{Arguments, Result};
use super::profile::{Profiled, profiled};

/// The share of a copy's rate that is asked for.
const SHARE: f64 = 0.8;

/// Kernels that move less take as long as a launch takes.
const LEAST_BYTES: usize = 8 << 20;

/// How often each kernel runs between two events.
const REPEATS: usize = 10;

pub(in super::super) fn run(
    machine: &Machine,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<()> {
    let profile = Profile::repeating(REPEATS);
    let Some(Profiled { lines, peaks }) = profiled(machine, arguments, report, &profile)? else {
        return Ok(());
    };
    let mut rows = Vec::new();
    for line in lines.step.iter().filter(|line| is_own(line)) {
        let rate = line.bytes as f64 / (line.milliseconds / 1e3);
        let share = rate / peaks.copy;
        let (name, count) = (&line.name, line.count);
        println!(
            "        {name:<36} {count:>4} × {:>8.4} ms, {:.2} TB/s, {:.0} % of a copy",
            line.milliseconds / count as f64,
            rate / 1e12,
            share * 100.0
        );
        rows.push(json!({
            "name": name,
            "count": count,
            "bytes": line.bytes,
            "milliseconds": line.milliseconds,
            "share": share,
        }));
        let case = format!("bandwidth of {name}");
        let text = format!("{share:.2} of a copy's rate, {SHARE} asked for");
        let result = if share >= SHARE {
            Ok(text)
        } else {
            Err(text.into())
        };
        let took = std::time::Duration::from_secs_f64(line.milliseconds / 1e3);
        report.check(Label::new(&case, "cuda"), took, result);
    }
    report.table("bandwidth", rows);
    Ok(())
}

fn is_own(line: &ProfileLine) -> bool {
    let is_own = matches!(line.kind, "kernel" | "special");
    is_own && line.count > 0 && line.bytes / line.count >= LEAST_BYTES
}
