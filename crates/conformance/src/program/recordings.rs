//! Recorded requests on each backend, against what diffusers made of them.

use std::time::Instant;

use tintype_conformance::{Case, Tolerance, run_case};
use tintype_tensor::DType;

use super::machine::Machine;
use super::report::{Label, Measured, Report};
use super::{Arguments, Result, on_each};

/// One of each kind.
const SMALLER: [&str; 6] = [
    "dev",
    "schnell",
    "true_cfg",
    "img2img_0_6",
    "lora_two_formats_and_texts",
    "tiled",
];

/// All in f32.
pub(super) fn run(machine: &Machine, _: &Arguments, report: &mut Report) -> Result<()> {
    run_in(machine, report, &[DType::F32], |_| true)
}

/// Some in less than f32.
pub(super) fn run_smaller(machine: &Machine, _: &Arguments, report: &mut Report) -> Result<()> {
    let is_one = |case: &Case| SMALLER.contains(&case.name.as_str());
    run_in(machine, report, &[DType::BF16, DType::F16], is_one)
}

fn run_in(
    machine: &Machine,
    report: &mut Report,
    dtypes: &[DType],
    is_wanted: impl Fn(&Case) -> bool,
) -> Result<()> {
    let Some(fixtures) = &machine.fixtures else {
        let reason = "no folder of recorded cases: name it with --fixtures";
        report.skip(Label::new("all", ""), 1, reason);
        return Ok(());
    };
    let mut cases = Case::read_all(fixtures)?;
    cases.retain(|case| is_wanted(case) && report.wants(&case.name));
    let count = cases.len() * dtypes.len();
    on_each(machine, report, count, |on, found, report| {
        for &dtype in dtypes {
            let tolerance = Tolerance::of(on, dtype);
            for case in &cases {
                let start = Instant::now();
                let result = run_case(fixtures, case, &found.backend, dtype).and_then(|errors| {
                    tolerance.check(&errors)?;
                    Ok(Measured {
                        error: errors.latents,
                        allowed: tolerance.latents,
                        note: format!("pixel {:.4}", errors.pixel),
                    })
                });
                let label = Label::new(&case.name, on).of(dtype);
                report.compare(label, start.elapsed(), result.map_err(Into::into));
            }
        }
        Ok(())
    })
}
