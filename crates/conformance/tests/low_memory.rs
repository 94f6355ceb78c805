//! How much memory of a GPU FLUX.1-dev takes in fp8 under low memory, counted from its graphs.
//!
//! What a device's libraries take for themselves is not in it; neither are text encoders and
//! autoencoder, which have gone or are not there yet.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use std::collections::HashSet;

use tintype_backend::programs;
use tintype_cpu::CpuEvaluator;
use tintype_flux::{Architecture, ModelKind, Sizes};
use tintype_ir::{Binding, StagedGraph};
use tintype_quant::{Recipe, Scales, quantize};
use tintype_tensor::DType;

/// The programs for one picture of 1024 by 1024 pixels and 512 tokens, as CUDA runs them.
fn staged() -> StagedGraph {
    let capabilities = tintype_cuda::capabilities();
    let architecture = Architecture::flux_dev().for_backend(&capabilities);
    let sizes = Sizes {
        pictures: 1..=1,
        prompts: 1..=1,
        heights: 1024..=1024,
        widths: 1024..=1024,
        text_tokens: 512..=512,
        tiles: false,
    };
    let graph = architecture.graph(ModelKind::Transformer, DType::BF16, &sizes);
    let (graph, recipe) = (graph.unwrap(), Recipe::flux());
    let mut scales = Scales::new();
    for name in recipe.scale_names(&graph).unwrap() {
        scales.insert(name, 1.0).unwrap();
    }
    let graph = quantize(&graph, &recipe, &scales).unwrap().graph;
    programs(&graph, &capabilities, Some(&CpuEvaluator), &|_| true).unwrap()
}

#[test]
fn flux_in_fp8_runs_in_sixteen_gigabytes() {
    let staged = staged();
    let of_request: HashSet<&str> = staged.request_weights().collect();
    let weights = staged.weight.outputs().iter();
    let modulations = weights.filter(|weight| {
        let name = weight.name.as_str();
        name.ends_with(".weight")
            && name.contains("transformer_blocks.")
            && name.contains("norm")
            && staged.weight.type_of(weight.value).rank() == 2
    });
    let modulations: Vec<&str> = modulations.map(|weight| weight.name.as_str()).collect();
    assert_eq!(modulations.len(), 2 * 19 + 38);
    for name in modulations {
        assert!(of_request.contains(name), "{name} is there in the steps");
    }
    let mut sizes = Binding::new();
    for (symbol, range) in staged.source.symbols() {
        let size = if &**symbol == "steps" {
            28
        } else {
            *range.end()
        };
        sizes.set(symbol, size);
    }
    let memory = tintype_cuda::forecast(&staged, &sizes).unwrap().memory;
    let gigabytes = |bytes: usize| bytes as f64 / 1e9;
    println!(
        "weights {:.2} GB, of the request {:.2}, workspace {:.2}, inputs {:.3}; in the steps {:.2}, \
         while loading at most {:.2}",
        gigabytes(memory.weights),
        gigabytes(memory.request_weights),
        gigabytes(memory.workspace.unwrap()),
        gigabytes(memory.inputs),
        gigabytes(memory.in_steps()),
        gigabytes(memory.peak()),
    );
    assert!(memory.in_steps() <= 16_000_000_000);
    assert!(memory.peak() <= 16_000_000_000);
    // A quarter of the parameters.
    assert!(memory.request_weights > 3_200_000_000);
}
