//! Parameters and inputs for graphs, and graphs by chance. No assertions.
#![allow(dead_code, reason = "each test file takes what it needs")]

use tintype_backend::{Backend, Changes, CompileOptions, Executable, Tensors};
use tintype_cpu::CpuBackend;
use tintype_ir::{
    BinaryOp, Binding, Dim, Graph, GraphBuilder, Op, ReduceOp, Stage, StagedGraph, TensorType,
    UnaryOp, Value, parse,
};
use tintype_tensor::{DType, Shape, Tensor, TorchGenerator};
use tintype_weights::Parameters;

/// Normal noise, rounded to `dtype`; for integers small whole numbers from 0.
pub(crate) fn tensor(dtype: DType, shape: impl Into<Shape>, seed: u64) -> Tensor {
    let noise = TorchGenerator::new(seed).randn(&*shape.into()).unwrap();
    if dtype.is_float() {
        return noise.to_dtype(dtype).unwrap();
    }
    let values = noise.to_f32_vec().unwrap();
    let whole = values.iter().map(|value| value.abs().floor().min(1.0));
    Tensor::from_f32_as(dtype, noise.shape().clone(), whole.collect()).unwrap()
}

/// A value for each parameter of a graph.
pub(crate) fn parameters(graph: &Graph, seed: u64) -> Parameters {
    let mut builder = Parameters::builder();
    for (index, parameter) in graph.parameters().iter().enumerate() {
        let shape = parameter.ty.static_shape().unwrap();
        let value = tensor(parameter.ty.dtype, shape, seed + index as u64);
        builder = builder.tensor(parameter.name.as_str(), value);
    }
    builder.build().unwrap()
}

/// A value for each input of a graph at `stage`, or at both.
pub(crate) fn inputs(
    graph: &Graph,
    stage: Option<Stage>,
    binding: &Binding,
    seed: u64,
) -> Vec<(String, Tensor)> {
    let inputs = graph.inputs().iter().enumerate();
    inputs
        .filter(|(_, input)| stage.is_none_or(|stage| input.stage == stage))
        .map(|(index, input)| {
            let shape = input.ty.shape(binding).unwrap();
            let value = tensor(input.ty.dtype, shape, 1000 + seed + index as u64);
            (input.name.clone(), value)
        })
        .collect()
}

/// Runs a graph whole; all outputs as bytes with their names.
pub(crate) fn run_whole(
    graph: &Graph,
    parameters: &Parameters,
    inputs: &[(String, Tensor)],
) -> Tensors {
    let inputs: Vec<(&str, Tensor)> = inputs
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor.clone()))
        .collect();
    tintype_cpu::run(graph, parameters, &inputs).unwrap()
}

/// An executable of a text with these weights.
pub(crate) fn compiled(text: &str, parameters: &Parameters) -> Box<dyn Executable> {
    let executable = compile(&parse(text).unwrap());
    executable.refit(&Changes::all(parameters)).unwrap();
    executable
}

/// An executable without weights.
pub(crate) fn compile(graph: &Graph) -> Box<dyn Executable> {
    let staged = StagedGraph::split(graph).unwrap();
    CpuBackend::new()
        .compile(&staged, &CompileOptions::default())
        .unwrap()
}

/// The dtype, shape and bytes of every tensor, by name.
pub(crate) fn bits(tensors: &Tensors) -> Vec<(String, String, Vec<u8>)> {
    let mut all: Vec<_> = tensors
        .iter()
        .map(|(name, tensor)| {
            let host = tensor.to_host().unwrap();
            let ty = format!("{}{}", host.dtype(), host.shape());
            (name.to_owned(), ty, host.bytes().to_vec())
        })
        .collect();
    all.sort();
    all
}

/// A graph by chance over values `[batch, 4]` of `dtype`, with operations in all stages.
pub(crate) fn random_graph(seed: u64, dtype: DType) -> Graph {
    let mut chance = Chance(seed);
    let mut b = GraphBuilder::new("random");
    let batch = b.symbol("batch", 1..=16);
    let ty = TensorType::new(dtype, [batch, Dim::from(4)]);
    let mut values = vec![
        b.input("r", Stage::Request, ty.clone()),
        b.input("s", Stage::Step, ty),
    ];
    let mut weights = vec![
        b.parameter("w0", TensorType::new(dtype, [4, 4])),
        b.parameter("w1", TensorType::new(dtype, [4, 4])),
    ];
    for _ in 0..4 + chance.below(16) {
        if chance.below(3) == 0 {
            let weight = random_weight(&mut b, &weights, &mut chance);
            weights.push(weight);
        } else {
            let value = random_value(&mut b, &values, &weights, &mut chance);
            values.push(value);
        }
    }
    b.output("last", values[values.len() - 1]);
    b.output("middle", values[values.len() / 2]);
    b.output("weight", weights[weights.len() - 1]);
    b.finish().unwrap()
}

fn random_weight(b: &mut GraphBuilder, weights: &[Value], chance: &mut Chance) -> Value {
    let x = chance.of(weights);
    let y = chance.of(weights);
    match chance.below(4) {
        0 => b.unary(UnaryOp::Tanh, x),
        1 => b.transpose(x, &[1, 0]),
        2 => b.add(x, y),
        _ => {
            let product = b.matmul(x, y);
            b.unary(UnaryOp::Sin, product)
        }
    }
}

fn random_value(
    b: &mut GraphBuilder,
    values: &[Value],
    weights: &[Value],
    chance: &mut Chance,
) -> Value {
    const BOUNDED: [UnaryOp; 6] = [
        UnaryOp::Tanh,
        UnaryOp::Sigmoid,
        UnaryOp::Silu,
        UnaryOp::GeluErf,
        UnaryOp::GeluTanh,
        UnaryOp::Cos,
    ];
    let (x, y) = (chance.of(values), chance.of(values));
    match chance.below(8) {
        0 => b.unary(BOUNDED[chance.below(BOUNDED.len())], x),
        1 => b.binary(BinaryOp::Max, x, y),
        2 => {
            let bounded = b.unary(UnaryOp::Tanh, y);
            b.mul(x, bounded)
        }
        3 => b.linear(x, chance.of(weights), None),
        4 => {
            let hidden = b.linear(x, chance.of(weights), None);
            b.unary(UnaryOp::Silu, hidden)
        }
        5 => {
            let normed = b.layer_norm(x, 1e-2);
            b.modulate(normed, y, y)
        }
        6 => {
            let mean = b.reduce(ReduceOp::Mean, x, &[1]);
            b.gated_residual(x, mean, y)
        }
        _ => b.op(Op::Softmax, &[x]),
    }
}

/// Numbers from a seed (splitmix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % count as u64) as usize
    }

    fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }
}
