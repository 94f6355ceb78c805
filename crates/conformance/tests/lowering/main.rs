//! What graphs are lowered to for TensorRT means what the graphs mean.
//!
//! A lowered graph prints itself ([`Layers::describe`]). Each of its layers is said here in
//! operations of the IR ([`layers`]), which is what TensorRT's documentation says that they do.
//! The CPU computes both graphs; results agree within the rounding of their dtype. No library is
//! needed. The cases are those that engines are built of, `crates/tensorrt/tests/lowering/engines`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod layers;

use libtest_mimic::{Arguments, Failed, Trial};
use tintype_ir::{Binding, Graph, TensorType, decompose, parse};
use tintype_tensor::{DType, Tensor, TorchGenerator};
use tintype_tensorrt::lower::{Layers, LowerOptions, WeightSource};
use tintype_weights::Parameters;

const FILES: [(&str, &str); 4] = [
    (
        "elementwise",
        include_str!("../../../tensorrt/tests/lowering/engines/elementwise.tt"),
    ),
    (
        "movement",
        include_str!("../../../tensorrt/tests/lowering/engines/movement.tt"),
    ),
    (
        "networks",
        include_str!("../../../tensorrt/tests/lowering/engines/networks.tt"),
    ),
    (
        "quantized",
        include_str!("../../../tensorrt/tests/lowering/engines/quantized.tt"),
    ),
];

fn main() {
    let mut trials = Vec::new();
    for (name, text) in FILES {
        for dtype in DType::ALL {
            if cases(text).any(|(dtypes, _)| dtypes.contains(&dtype)) {
                let run = move || run(text, dtype);
                trials.push(Trial::test(
                    format!("{name} in {dtype} keeps its meaning"),
                    run,
                ));
            }
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// The dtypes and the text of each case.
fn cases(text: &str) -> impl Iterator<Item = (Vec<DType>, &str)> {
    text.split("; test:").skip(1).map(|case| {
        let (dtypes, graph) = case.split_once('\n').unwrap();
        let dtypes = dtypes.split_whitespace().map(|name| name.parse().unwrap());
        (dtypes.collect(), graph)
    })
}

fn run(text: &str, dtype: DType) -> Result<(), Failed> {
    let mut failures = Vec::new();
    for (_, text) in cases(text).filter(|(dtypes, _)| dtypes.contains(&dtype)) {
        let text = text.replace("T[", &format!("{dtype}["));
        let text: Vec<_> = text.lines().filter(|line| !line.starts_with(';')).collect();
        let graph = parse(&text.join("\n"))?;
        if let Err(error) = compare(&graph, dtype) {
            failures.push(format!(
                "{}: {}",
                graph.name(),
                error.message().unwrap_or("failed")
            ));
        }
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures.join("\n").into())
    }
}

/// Computes a graph and what it is lowered to.
fn compare(graph: &Graph, dtype: DType) -> Result<(), Failed> {
    // Sizes that only another program knows the CPU does not know either.
    if tintype_ir::verify(graph).is_err() {
        return Ok(());
    }
    let lowered = Layers::of(graph, &LowerOptions::default())?;
    let said = layers::to_graph(&lowered.describe())?;
    let mut random = TorchGenerator::new(3);
    let inputs: Result<Vec<(&str, Tensor)>, Failed> = graph
        .inputs()
        .iter()
        .map(|input| {
            Ok((
                input.name.as_str(),
                values(&mut random, &input.name, &input.ty, graph)?,
            ))
        })
        .collect();
    let inputs = inputs?;
    let mut parameters = Parameters::builder().build()?;
    for parameter in graph.parameters() {
        let tensor = values(&mut random, &parameter.name, &parameter.ty, graph)?;
        parameters.insert(parameter.name.clone(), tensor)?;
    }
    // The CPU's attention takes no values of another size than keys.
    let expected = match tintype_cpu::run(graph, &parameters, &inputs) {
        Ok(expected) => expected,
        Err(_) => tintype_cpu::run(&decompose(graph, &|_| false)?, &parameters, &inputs)?,
    };
    let mut weights = Parameters::builder().build()?;
    for weight in lowered.weights() {
        let tensor = match &weight.source {
            WeightSource::Literal(values) => values.reshape(weight.sizes.clone())?,
            _ => parameters
                .get(&weight.name)?
                .reshape(weight.sizes.clone())?,
        };
        weights.insert(weight.name.clone(), tensor)?;
    }
    let said_inputs: Vec<(&str, Tensor)> = lowered
        .inputs()
        .iter()
        .zip(&inputs)
        .map(|(input, (_, tensor))| (input.tensor.as_str(), tensor.clone()))
        .collect();
    let found = tintype_cpu::run(&said, &weights, &said_inputs)?;
    for output in lowered.outputs() {
        let (expected, found) = (expected.host(&output.name)?, found.host(&output.tensor)?);
        let error = difference(&found, &expected)?;
        if error > limit(graph, dtype) {
            return Err(format!("output {} is off by {error:.2e}", output.name).into());
        }
    }
    Ok(())
}

/// Values for an input or parameter: positions where rows are looked up, else small numbers.
fn values(
    random: &mut TorchGenerator,
    name: &str,
    ty: &TensorType,
    graph: &Graph,
) -> Result<Tensor, Failed> {
    let mut binding = Binding::new();
    for (symbol, range) in graph.symbols() {
        binding.set(symbol, usize::midpoint(*range.start(), *range.end()));
    }
    let shape = ty.shape(&binding)?;
    let count = shape.element_count();
    if !ty.dtype.is_float() {
        let (first, sizes) = if name.starts_with("row") {
            (0, 3)
        } else {
            (1, 5)
        };
        let values = (0..count).map(|index| ((index * 7 + 3) % sizes + first) as f32);
        return Ok(Tensor::from_f32_as(ty.dtype, shape, values.collect())?);
    }
    if name == "ids" {
        let values = (0..count).map(|index| (index * 97 % 128) as f32).collect();
        return Ok(Tensor::from_f32_as(ty.dtype, shape, values)?);
    }
    let mut values = random.randn(vec![count.max(16)])?.to_f32_vec()?;
    values.truncate(count);
    // Scales are positive.
    let is_scale = name.ends_with('s') && count == 1;
    let values = values
        .into_iter()
        .map(|value| if is_scale { value.abs() + 0.5 } else { value });
    Ok(Tensor::from_f32_as(ty.dtype, shape, values.collect())?)
}

/// The relative error that the rounding of a dtype explains. A number that falls to another side
/// when it is rounded to f8 is off by a sixteenth.
fn limit(graph: &Graph, dtype: DType) -> f64 {
    let has_f8 = graph
        .parameters()
        .iter()
        .any(|parameter| parameter.ty.dtype == DType::F8E4M3);
    match dtype {
        _ if has_f8 => 4e-2,
        DType::F16 => 1e-3,
        DType::BF16 => 6e-3,
        DType::F8E4M3 => 4e-2,
        _ => 2e-6,
    }
}

/// The relative error; whole numbers are equal, and what is not finite is so in both.
fn difference(found: &Tensor, expected: &Tensor) -> Result<f64, Failed> {
    if (found.dtype(), found.shape()) != (expected.dtype(), expected.shape()) {
        return Err("an output is of another type".into());
    }
    if !expected.dtype().is_float() {
        let (found, expected) = (found.to_i64_vec()?, expected.to_i64_vec()?);
        assert_eq!(found, expected);
        return Ok(0.0);
    }
    let (found, expected) = (found.to_f32_vec()?, expected.to_f32_vec()?);
    let (mut difference, mut size) = (0.0_f64, 1e-30_f64);
    for (&found, &expected) in found.iter().zip(&expected) {
        let same = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
        if !(same || (found.is_finite() && expected.is_finite())) {
            return Err(format!("expected {expected}, found {found}").into());
        }
        if expected.is_finite() {
            difference += f64::from(found - expected).powi(2);
            size += f64::from(expected).powi(2);
        }
    }
    Ok((difference / size).sqrt())
}
