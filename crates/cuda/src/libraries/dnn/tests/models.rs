//! The paths of FLUX.1-dev, T5, CLIP and the VAE at full size.

use std::collections::HashSet;

use tintype_ir::passes::{Options, optimize};
use tintype_ir::{Binding, Graph, StagedGraph};
use tintype_models::{
    AutoencoderKlConfig, ClipTextConfig, ClipTextOptions, DecoderOptions, FluxTransformerConfig,
    FluxTransformerOptions, T5EncoderConfig, T5EncoderOptions,
};
use tintype_tensor::DType;

use super::{CUDNN_9_14, HOPPER};
use crate::Plan;
use crate::libraries::dnn::attention::{Form, Path, form_of, graph_of};
use crate::libraries::dnn::convolution::{Candidate, candidates_of};
use crate::plan::{AttentionCall, Work};

fn plan(graph: &Graph, sizes: &[(&str, usize)]) -> Plan {
    let graph = optimize(graph, &Options::default(), None).unwrap();
    let staged = StagedGraph::split(&graph).unwrap().canonical().unwrap();
    let program = match staged.step.nodes() {
        [] => staged.request,
        _ => staged.step,
    };
    let mut binding = Binding::new();
    for &(symbol, size) in sizes {
        binding.set(symbol, size);
    }
    Plan::new(&program, &binding).unwrap()
}

fn attentions(plan: &Plan) -> Vec<&AttentionCall> {
    let steps = plan.steps.iter().filter_map(|step| match &step.work {
        Work::Attention(call) => Some(call),
        _ => None,
    });
    steps.collect()
}

fn form(call: &AttentionCall) -> Form {
    let form = form_of(call);
    assert_eq!(form.obstacle, None);
    form
}

#[test]
fn flux_takes_the_one_operation() {
    let config = FluxTransformerConfig {
        num_layers: 1,
        num_single_layers: 1,
        ..FluxTransformerConfig::dev()
    };
    let options = FluxTransformerOptions {
        dtype: DType::BF16,
        batch: 1..=2,
        ..FluxTransformerOptions::default()
    };
    let graph = config.graph(&options).unwrap();
    for batch in [1, 2] {
        let sizes = [
            ("batch", batch),
            ("steps", 20),
            ("image_tokens", 4096),
            ("text_tokens", 512),
        ];
        let plan = plan(&graph, &sizes);
        let calls = attentions(&plan);
        assert_eq!(calls.len(), 2);
        for call in calls {
            let form = form(call);
            assert_eq!((form.batch, form.heads, form.queries), (batch, 24, 4608));
            assert_eq!((form.keys, form.width, form.value_width), (4608, 128, 128));
            assert!(!form.has_bias && !form.is_causal);
            let paths = form.paths(CUDNN_9_14, HOPPER);
            assert_eq!(paths, Ok(vec![Path::Unified, Path::Composite]));
        }
    }
}

#[test]
fn t5_takes_the_composite_graph_with_its_bias() {
    let config = T5EncoderConfig {
        num_layers: 1,
        ..T5EncoderConfig::xxl()
    };
    let options = T5EncoderOptions {
        dtype: DType::BF16,
        ..T5EncoderOptions::default()
    };
    let graph = config.graph(&options).unwrap();
    let plan = plan(&graph, &[("batch", 1), ("tokens", 512)]);
    let [call] = attentions(&plan)[..] else {
        panic!()
    };
    let form = form(call);
    assert_eq!((form.heads, form.queries, form.width), (64, 512, 64));
    assert!(form.has_bias && form.scale == 1.0);
    assert_eq!(form.paths(CUDNN_9_14, HOPPER), Ok(vec![Path::Composite]));
    let graph = graph_of(call, Path::Composite).to_string();
    assert!(graph.contains("Add in f32"), "{graph}");
    assert!(!graph.contains("Multiply"), "a scale of 1 is none: {graph}");
}

#[test]
fn clip_takes_the_composite_graph_with_its_mask() {
    let config = ClipTextConfig {
        num_hidden_layers: 1,
        ..ClipTextConfig::large()
    };
    let options = ClipTextOptions {
        dtype: DType::F16,
        ..ClipTextOptions::default()
    };
    let graph = config.graph(&options).unwrap();
    let plan = plan(&graph, &[("batch", 1), ("tokens", 77)]);
    let [call] = attentions(&plan)[..] else {
        panic!()
    };
    let form = form(call);
    assert_eq!((form.heads, form.queries, form.width), (12, 77, 64));
    assert!(form.is_causal && !form.has_bias);
    assert_eq!(form.paths(CUDNN_9_14, HOPPER), Ok(vec![Path::Composite]));
}

fn decoder(dtype: DType) -> Plan {
    let options = DecoderOptions {
        dtype,
        ..DecoderOptions::default()
    };
    let graph = AutoencoderKlConfig::flux().decoder(&options).unwrap();
    let sizes = [("batch", 1), ("latent_height", 128), ("latent_width", 128)];
    plan(&graph, &sizes)
}

#[test]
fn the_vaes_one_wide_head_is_left_to_a_kernel() {
    let plan = decoder(DType::BF16);
    let [call] = attentions(&plan)[..] else {
        panic!()
    };
    let form = form(call);
    assert_eq!((form.heads, form.queries, form.width), (1, 16384, 512));
    let why = form.paths(CUDNN_9_14, HOPPER).unwrap_err();
    assert!(why.contains("512"), "{why}");
    let plan = decoder(DType::F32);
    let form = form_of(attentions(&plan)[0]);
    let why = form.paths(CUDNN_9_14, HOPPER).unwrap_err();
    assert!(why.contains("f32"), "{why}");
}

#[test]
fn every_convolution_of_the_vae_has_candidates() {
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        let plan = decoder(dtype);
        let calls = plan.steps.iter().filter_map(|step| match &step.work {
            Work::Convolution(call) => Some(call),
            _ => None,
        });
        let candidates: Vec<_> = calls.map(|call| candidates_of(call).unwrap()).collect();
        assert!(candidates.len() > 20, "{}", candidates.len());
        let names = |found: &Vec<Candidate>| -> Vec<_> {
            found.iter().map(|candidate| candidate.name).collect()
        };
        assert!(
            candidates
                .iter()
                .all(|found| names(found) == ["fused", "two passes"])
        );
        let texts: Vec<_> = candidates
            .iter()
            .map(|found| found[0].stages[0].to_string())
            .collect();
        let distinct: HashSet<_> = texts.iter().collect();
        assert!(
            distinct.len() < texts.len(),
            "equal convolutions share a choice"
        );
    }
}
