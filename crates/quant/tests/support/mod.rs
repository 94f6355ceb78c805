//! A small FLUX transformer by chance, and what it is given. No assertions.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file takes what it needs; a failing test panics"
)]

use tintype_backend::{Backend, Changes, CompileOptions, Tensors};
use tintype_cpu::CpuBackend;
use tintype_ir::passes::{Options, optimize};
use tintype_ir::{Binding, Graph, Overlay, Stage, StagedGraph};
use tintype_models::{FluxTransformerConfig, FluxTransformerOptions};
use tintype_quant::Examples;
use tintype_tensor::{DType, Tensor, TorchGenerator};
use tintype_weights::Parameters;

pub(crate) const STEPS: usize = 3;

/// One double and one single block, four heads of 16.
pub(crate) fn flux(dtype: DType) -> Graph {
    let config = FluxTransformerConfig {
        num_layers: 1,
        num_single_layers: 1,
        num_attention_heads: 4,
        attention_head_dim: 16,
        axes_dims_rope: vec![4, 6, 6],
        in_channels: 8,
        out_channels: 8,
        joint_attention_dim: 24,
        pooled_projection_dim: 12,
        ..FluxTransformerConfig::dev()
    };
    let options = FluxTransformerOptions {
        dtype,
        ..FluxTransformerOptions::default()
    };
    config.graph(&options).unwrap()
}

/// Noise for each parameter, so large that values keep their size from layer to layer.
pub(crate) fn parameters(graph: &Graph, seed: u64) -> Parameters {
    let mut noise = TorchGenerator::new(seed);
    let mut builder = Parameters::builder();
    for parameter in graph.parameters() {
        let shape = parameter.ty.static_shape().unwrap();
        let factor = match shape.as_ref() {
            [_, columns] => 1.0 / (*columns as f32).sqrt(),
            _ => 0.5,
        };
        let values = noise.randn(&*shape).unwrap().to_f32_vec().unwrap();
        let values = values.into_iter().map(|value| value * factor).collect();
        let tensor = Tensor::from_f32_as(parameter.ty.dtype, shape, values).unwrap();
        builder = builder.tensor(parameter.name.as_str(), tensor);
    }
    builder.build().unwrap()
}

/// Inputs of a request and of its steps.
pub(crate) fn example(graph: &Graph, seed: u64) -> (Tensors, Vec<Tensors>) {
    let mut sizes = Binding::new();
    for (symbol, size) in [
        ("batch", 1),
        ("steps", STEPS),
        ("image_tokens", 9),
        ("text_tokens", 5),
    ] {
        sizes.set(symbol, size);
    }
    let mut noise = TorchGenerator::new(seed);
    let mut given = |stage: Stage| {
        let inputs = graph.inputs().iter().filter(|input| input.stage == stage);
        inputs.fold(Tensors::new(), |all, input| {
            if input.name == "step_index" {
                return all;
            }
            let shape = input.ty.shape(&sizes).unwrap();
            let mut values = noise.randn(&*shape).unwrap().to_f32_vec().unwrap();
            if input.name == "timesteps" {
                values = vec![0.9, 0.5, 0.2];
            } else if input.name == "guidance" {
                values = vec![3.5];
            } else if input.name.ends_with("_ids") {
                values = values
                    .iter()
                    .map(|value| (value.abs() * 3.0).floor())
                    .collect();
            }
            let tensor = Tensor::from_f32_as(input.ty.dtype, shape, values).unwrap();
            all.with(input.name.as_str(), tensor)
        })
    };
    let request = given(Stage::Request);
    let steps = (0..STEPS).map(|index| {
        let inputs = given(Stage::Step);
        inputs.with("step_index", Tensor::scalar(index as i64))
    });
    (request, steps.collect())
}

/// The model with examples, on the CPU.
pub(crate) fn examples<'a>(
    backend: &'a CpuBackend,
    graph: &Graph,
    parameters: &Parameters,
    count: u64,
) -> Examples<'a> {
    Examples {
        backend,
        graph: graph.clone(),
        parameters: parameters.clone(),
        examples: (0..count).map(|seed| example(graph, 100 + seed)).collect(),
    }
}

/// A graph as programs, with projections fused or not.
pub(crate) fn staged(graph: &Graph, fuse_qkv: bool) -> StagedGraph {
    let options = Options::default().with_fuse_qkv(fuse_qkv);
    StagedGraph::split(&optimize(graph, &options, None).unwrap()).unwrap()
}

/// The output `sample` of each step of one example.
pub(crate) fn samples(
    staged: &StagedGraph,
    parameters: &Parameters,
    overlays: &[Overlay],
    (request, steps): &(Tensors, Vec<Tensors>),
) -> Vec<Vec<f32>> {
    let backend = CpuBackend::new();
    let executable = backend.compile(staged, &CompileOptions::default()).unwrap();
    let changes = Changes::all(parameters).with_overlays(overlays);
    executable.refit(&changes).unwrap();
    let mut session = executable.session().unwrap();
    let state = session.prepare(request).unwrap();
    steps
        .iter()
        .map(|inputs| {
            let outputs = session.step(state.as_ref(), inputs).unwrap();
            outputs.host("sample").unwrap().to_f32_vec().unwrap()
        })
        .collect()
}

/// Both sets of parameters.
pub(crate) fn with(parameters: &Parameters, more: &Parameters) -> Parameters {
    let builder = Parameters::builder()
        .parameters(parameters)
        .parameters(more);
    builder.build().unwrap()
}
