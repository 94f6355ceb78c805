//! What graphs are lowered to for TensorRT means what the graphs mean.
//!
//! A lowered graph prints itself ([`Layers::describe`]). Each of its layers is said here in
//! operations of the IR ([`layers`]), which is what TensorRT's documentation says that they do.
//! The CPU computes both graphs; results agree within the rounding of their dtype. No library is
//! needed. The cases are those that engines are built of, `crates/tensorrt/tests/lowering/engines`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod layers;

use libtest_mimic::{Arguments, Failed, Trial};
use tintype_conformance::operations::{self, Case, FILES, Result, difference, dtypes};
use tintype_tensor::{DType, Tensor};
use tintype_tensorrt::lower::{Layers, LowerOptions, WeightSource};
use tintype_weights::Parameters;

fn main() {
    let mut trials = Vec::new();
    for (name, text) in FILES {
        for dtype in dtypes(text) {
            let run = move || run(text, dtype);
            trials.push(Trial::test(
                format!("{name} in {dtype} keeps its meaning"),
                run,
            ));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn run(text: &str, dtype: DType) -> std::result::Result<(), Failed> {
    let mut failures = Vec::new();
    for case in operations::cases(text, dtype).map_err(|error| error.to_string())? {
        if let Err(error) = compare(&case) {
            failures.push(format!("{}: {error}", case.graph.name()));
        }
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures.join("\n").into())
    }
}

/// Computes a graph and what it is lowered to.
fn compare(case: &Case) -> Result<()> {
    let lowered = Layers::of(&case.graph, &LowerOptions::default())?;
    let said = layers::to_graph(&lowered.describe())?;
    let expected = case.expected()?;
    let mut weights = Parameters::builder().build()?;
    for weight in lowered.weights() {
        let tensor = match &weight.source {
            WeightSource::Literal(values) => values.reshape(weight.sizes.clone())?,
            _ => case
                .parameters
                .get(&weight.name)?
                .reshape(weight.sizes.clone())?,
        };
        weights.insert(weight.name.clone(), tensor)?;
    }
    let inputs: Vec<(&str, Tensor)> = lowered
        .inputs()
        .iter()
        .zip(&case.inputs)
        .map(|(input, (_, tensor))| (input.tensor.as_str(), tensor.clone()))
        .collect();
    let found = tintype_cpu::run(&said, &weights, &inputs)?;
    for output in lowered.outputs() {
        let (expected, found) = (expected.host(&output.name)?, found.host(&output.tensor)?);
        let error = difference(&found, &expected)?;
        if error > case.limit() {
            return Err(format!("output {} is off by {error:.2e}", output.name).into());
        }
    }
    Ok(())
}
