//! Graphs of every operation in every dtype with inputs, and how far results may be apart.
//!
//! The graphs are those that tests build engines of. They are in the program, and their inputs are
//! made from seeds, so that nothing need be read.
//!
//! ```
//! use tintype_conformance::operations::{FILES, cases, difference, dtypes};
//!
//! let (_, text) = FILES[0];
//! let case = cases(text, dtypes(text)[0])?.remove(0);
//! let outputs = case.expected()?;
//! for output in case.graph.outputs() {
//!     let tensor = outputs.host(&output.name)?;
//!     assert_eq!(difference(&tensor, &tensor)?, 0.0);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::error::Error;

use tintype_backend::{Backend, Changes, CompileOptions, Tensors};
use tintype_ir::{Binding, Graph, Stage, StagedGraph, TensorType, decompose, parse};
use tintype_tensor::{DType, Tensor, TorchGenerator};
use tintype_weights::Parameters;

/// What works on cases give.
pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Names and texts of the files of cases.
pub const FILES: [(&str, &str); 4] = [
    (
        "elementwise",
        include_str!("../../tensorrt/tests/lowering/engines/elementwise.tt"),
    ),
    (
        "movement",
        include_str!("../../tensorrt/tests/lowering/engines/movement.tt"),
    ),
    (
        "networks",
        include_str!("../../tensorrt/tests/lowering/engines/networks.tt"),
    ),
    (
        "quantized",
        include_str!("../../tensorrt/tests/lowering/engines/quantized.tt"),
    ),
];

/// A graph in one dtype with values for what it reads.
#[derive(Debug, Clone)]
pub struct Case {
    /// The graph.
    pub graph: Graph,
    /// Its dtype.
    pub dtype: DType,
    /// Values of its inputs.
    pub inputs: Vec<(String, Tensor)>,
    /// Values of its parameters.
    pub parameters: Parameters,
}

/// The dtypes that a file has cases in.
pub fn dtypes(text: &str) -> Vec<DType> {
    let has = |dtype: &DType| texts(text).any(|(dtypes, _)| dtypes.contains(dtype));
    DType::ALL.into_iter().filter(has).collect()
}

/// The cases of a file in a dtype. Left out are those of programs whose sizes another one gives.
pub fn cases(text: &str, dtype: DType) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for (_, text) in texts(text).filter(|(dtypes, _)| dtypes.contains(&dtype)) {
        let text = text.replace("T[", &format!("{dtype}["));
        let text: Vec<_> = text.lines().filter(|line| !line.starts_with(';')).collect();
        let graph = parse(&text.join("\n"))?;
        if tintype_ir::verify(&graph).is_ok() {
            cases.push(Case::new(graph, dtype, &Binding::new())?);
        }
    }
    Ok(cases)
}

impl Case {
    /// A graph with values; symbols have the sizes of `sizes`, others the middle of their range.
    pub fn new(graph: Graph, dtype: DType, sizes: &Binding) -> Result<Self> {
        let mut binding = Binding::new();
        for (symbol, range) in graph.symbols() {
            let middle = usize::midpoint(*range.start(), *range.end());
            binding.set(symbol, sizes.get(symbol).unwrap_or(middle));
        }
        let mut random = TorchGenerator::new(3);
        let mut inputs = Vec::new();
        for input in graph.inputs() {
            let tensor = values(&mut random, &input.name, &input.ty, &binding)?;
            inputs.push((input.name.clone(), tensor));
        }
        let mut parameters = Parameters::builder().build()?;
        for parameter in graph.parameters() {
            let tensor = values(&mut random, &parameter.name, &parameter.ty, &binding)?;
            parameters.insert(parameter.name.clone(), tensor)?;
        }
        Ok(Self {
            graph,
            dtype,
            inputs,
            parameters,
        })
    }

    /// Whether something in it is f8.
    pub fn has_f8(&self) -> bool {
        let is_f8 = |dtype: DType| dtype == DType::F8E4M3;
        let mut parameters = self.graph.parameters().iter();
        is_f8(self.dtype)
            || parameters.any(|parameter| is_f8(parameter.ty.dtype))
            || self.graph.nodes().iter().any(|node| is_f8(node.ty.dtype))
    }

    /// The relative error that the rounding of the dtype explains where the same computes it. A
    /// number that falls to another side when it is rounded to f8 is off by a sixteenth.
    pub fn limit(&self) -> f64 {
        match self.dtype {
            _ if self.has_f8() => 4e-2,
            DType::F16 => 1e-3,
            DType::BF16 => 6e-3,
            DType::F8E4M3 => 4e-2,
            _ => 2e-6,
        }
    }

    /// The greatest relative error of an output of a backend.
    pub fn error_on(&self, backend: &dyn Backend) -> Result<f64> {
        let graph = decompose(&self.graph, &|op| backend.supports(op))?;
        let staged = StagedGraph::split(&graph)?;
        let executable = backend.compile(&staged, &CompileOptions::default())?;
        executable.refit(&Changes::all(&self.parameters))?;
        let inputs = |stage: Stage| -> Tensors {
            let mut inputs = Tensors::new();
            for (name, tensor) in &self.inputs {
                if staged.inputs_of(stage).any(|input| input.name == *name) {
                    inputs.insert(name.clone(), tensor.clone());
                }
            }
            inputs
        };
        let mut session = executable.session()?;
        let state = session.prepare(&inputs(Stage::Request))?;
        let found = if staged.step.outputs().is_empty() {
            Tensors::new()
        } else {
            session.step(state.as_ref(), &inputs(Stage::Step))?
        };
        let (expected, mut worst) = (self.expected()?, 0.0_f64);
        for output in staged.source.outputs() {
            let name = &output.name;
            let found = match found.get(name) {
                Some(_) => found.host(name)?,
                None => state.outputs().host(name)?,
            };
            let error = difference(&found, &expected.host(name)?);
            worst = worst.max(error.map_err(|error| format!("{name}: {error}"))?);
        }
        Ok(worst)
    }

    /// What the CPU computes.
    pub fn expected(&self) -> Result<Tensors> {
        let inputs: Vec<_> = self
            .inputs
            .iter()
            .map(|(n, t)| (n.as_str(), t.clone()))
            .collect();
        let expected = tintype_cpu::run(&self.graph, &self.parameters, &inputs);
        // The CPU's attention takes no values of another size than keys.
        expected.or_else(|_| {
            let apart = decompose(&self.graph, &|_| false)?;
            Ok(tintype_cpu::run(&apart, &self.parameters, &inputs)?)
        })
    }
}

/// The dtypes and the text of each case.
fn texts(text: &str) -> impl Iterator<Item = (Vec<DType>, &str)> {
    text.split("; test:").skip(1).map(|case| {
        let (dtypes, graph) = case.split_once('\n').expect("a line of dtypes, a graph");
        let dtypes = dtypes
            .split_whitespace()
            .map(|name| name.parse().expect("names of dtypes"));
        (dtypes.collect(), graph)
    })
}

/// Values for an input or parameter: positions where rows are looked up, else small numbers.
fn values(
    random: &mut TorchGenerator,
    name: &str,
    ty: &TensorType,
    binding: &Binding,
) -> Result<Tensor> {
    let shape = ty.shape(binding)?;
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

/// The relative error; whole numbers are equal, and what is not finite is so in both.
pub fn difference(found: &Tensor, expected: &Tensor) -> Result<f64> {
    if (found.dtype(), found.shape()) != (expected.dtype(), expected.shape()) {
        return Err("an output is of another type".into());
    }
    if !expected.dtype().is_float() {
        let (found, expected) = (found.to_i64_vec()?, expected.to_i64_vec()?);
        if found != expected {
            return Err(format!("expected {expected:?}, found {found:?}").into());
        }
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
