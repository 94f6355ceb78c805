//! What the mutable module promises, on each backend.
//!
//! Results are compared to the bit with what the same module gave before, and within what the
//! dtype allows with a module on the CPU that is made anew for what should be.

mod changes;
mod failures;
mod subject;
mod threads;

use std::time::Instant;

use tintype_tensor::DType;

use super::machine::{Found, Machine};
use super::report::{Label, Report};
use super::{Arguments, Result, on_each};
use subject::Subject;

/// A check: what was found.
type Check = fn(&mut Subject) -> Result<String>;

/// One table, in the order in which they run.
const CHECKS: [(&str, Check); 20] = [
    ("an edit in place is seen", changes::edit),
    ("the smallest edit is seen", changes::smallest),
    (
        "another activation is compiled, and the engine before found again",
        changes::activation,
    ),
    (
        "attaching and detaching costs refits only, and leaves the bits",
        changes::attached,
    ),
    ("another dtype of an input is noticed", changes::dtype),
    (
        "another argument of the definition is noticed",
        changes::argument,
    ),
    (
        "sizes out of range add an engine, and keep the ranges",
        changes::out_of_range,
    ),
    (
        "six calls alternating two sizes compile at most twice",
        changes::alternating,
    ),
    ("what was not changed is not refitted", changes::unchanged),
    ("every parameter is mapped", changes::mapped),
    (
        "another checkpoint gives other outputs",
        changes::checkpoint,
    ),
    ("states tell what comes next", changes::states),
    (
        "three adapters are near the sum in f32",
        changes::three_adapters,
    ),
    (
        "there and back is equal to the bit after 100 swaps",
        changes::hundred_swaps,
    ),
    (
        "a step into memory of the caller is a step",
        changes::step_into,
    ),
    ("20 changes that fail leave the bits", failures::refused),
    (
        "a change waits for a picture under way, which keeps its weights",
        threads::waiting,
    ),
    (
        "no picture has mixed weights under 200 swaps",
        threads::swapped,
    ),
    (
        "a thread that would wait for itself gets an error",
        threads::itself,
    ),
    (
        "a picture begins however fast changes follow",
        threads::fast,
    ),
];

pub(super) fn run(machine: &Machine, _: &Arguments, report: &mut Report) -> Result<()> {
    let dtypes = [DType::F32, DType::BF16];
    let count = CHECKS.len() * dtypes.len();
    on_each(machine, report, count, |on, found: &Found, report| {
        for dtype in dtypes {
            for (name, check) in &CHECKS {
                if !report.wants(name) {
                    continue;
                }
                let start = Instant::now();
                let result = Subject::new(&found.backend, dtype);
                let result = result.and_then(|mut subject| check(&mut subject));
                report.check(Label::new(name, on).of(dtype), start.elapsed(), result);
            }
        }
        Ok(())
    })
}
