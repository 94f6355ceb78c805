//! Every operation in every dtype, on each backend against the CPU.

use std::time::Instant;

use tintype_conformance::Tolerance;
use tintype_conformance::operations::{self, Case, FILES, dtypes};
use tintype_ir::Op;
use tintype_tensor::DType;
use tintype_tensorrt::Version;

use super::machine::Machine;
use super::report::{Label, Measured, Report};
use super::{Arguments, Result, on_each};

pub(super) fn run(machine: &Machine, _: &Arguments, report: &mut Report) -> Result<()> {
    let mut cases = Vec::new();
    for (file, text) in FILES {
        for dtype in dtypes(text) {
            for case in operations::cases(text, dtype)? {
                cases.push((format!("{file}: {}", case.graph.name()), case));
            }
        }
    }
    cases.retain(|(name, _)| report.wants(name));
    // Found on a GPU: the library cannot write such a plan. It can from 1.7 on.
    let refuses_f8 = machine.tensorrt.as_ref().is_ok_and(|library| {
        let version = library.version();
        !library.takes_placeholders() && version < Version::new(1, 7, 0)
    });
    on_each(machine, report, cases.len(), |on, found, report| {
        for (name, case) in &cases {
            let backend = if case.has_f8() {
                &found.for_f8
            } else {
                &found.backend
            };
            let start = Instant::now();
            let result = case.error_on(backend.as_ref());
            let label = Label::new(name, on).of(case.dtype);
            match result {
                Err(error) if is_unsupported(error.as_ref()) => {
                    report.skip(label, 1, error.to_string());
                }
                Err(error) if on == "tensorrt" && refuses_f8 && has_f8_weights(case) => {
                    let known = "weights in f8 that can be refitted need TensorRT-RTX 1.7";
                    report.skip(label, 1, format!("{known}: {error}"));
                }
                other => report.compare(label, start.elapsed(), other.map(|e| measured(case, e))),
            }
        }
        Ok(())
    })
}

fn measured(case: &Case, error: f64) -> Measured {
    let rounds = if case.has_f8() {
        DType::F8E4M3
    } else {
        case.dtype
    };
    Measured {
        error,
        allowed: Tolerance::relative(rounds),
        note: String::new(),
    }
}

/// Weights, or constants: before 1.7 every constant of a plan can be refitted, or none.
fn has_f8_weights(case: &Case) -> bool {
    let is_f8 = |dtype: DType| dtype == DType::F8E4M3;
    let mut parameters = case.graph.parameters().iter();
    let mut nodes = case.graph.nodes().iter();
    parameters.any(|parameter| is_f8(parameter.ty.dtype))
        || nodes.any(|node| {
            matches!(node.op, Op::Iota { .. } | Op::Constant(_)) && is_f8(node.ty.dtype)
        })
}

/// Whether the backend says that it does not run this.
fn is_unsupported(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(
        error.downcast_ref::<tintype_backend::Error>(),
        Some(tintype_backend::Error::Unsupported { .. })
    )
}
