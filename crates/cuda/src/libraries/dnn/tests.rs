//! That the graphs compute what the calls mean, and which path each model's calls take.

use std::collections::HashMap;

use tintype_ir::passes::{Options, optimize};
use tintype_ir::{Attention, Binding, Conv2d, Graph, StagedGraph};
use tintype_models::{
    AutoencoderKlConfig, ClipTextConfig, ClipTextOptions, DecoderOptions, FluxTransformerConfig,
    FluxTransformerOptions, T5EncoderConfig, T5EncoderOptions,
};
use tintype_tensor::DType;

use super::attention::{Form, Path, form_of, graph_of};
use super::convolution::candidates_of;
use super::interpret::{Memory, elements, run};
use super::{Version, named, views_of_attention};
use crate::plan::{AttentionCall, Convolution, Work};
use crate::{Place, Plan, View};

const CUDNN_9_14: Version = Version(91_400);
const HOPPER: u32 = 90;

fn numbers(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 40) as f64 / (1u64 << 23) as f64 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn memory(places: &[(Place, usize)]) -> Memory {
    let places = places.iter().zip(1..);
    places
        .map(|(&(place, count), seed)| (place, numbers(count, seed)))
        .collect()
}

fn assert_near(found: &[f64], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len());
    for (index, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() < 1e-9, "{what}: {index}: {a}, not {b}");
    }
}

// ---- attention ----

/// Queries, keys and values from one buffer, written into a wider one, as in a single block.
fn joined(bias: Option<View>, attributes: Attention) -> AttentionCall {
    let product = View::contiguous(Place::Buffer(0), DType::BF16, &[2, 5, 48]);
    let part = |start: usize| {
        let part = product.slice(2, start, start + 16);
        part.reshape(&[2, 5, 2, 8]).unwrap()
    };
    let wide = View::contiguous(Place::Buffer(1), DType::BF16, &[2, 5, 40]);
    AttentionCall {
        query_key_value: [part(0), part(16), part(32)],
        bias,
        attributes,
        output: wide.slice(2, 8, 24).reshape(&[2, 5, 2, 8]).unwrap(),
    }
}

fn plain(scale: f32, causal: bool) -> Attention {
    Attention { scale, causal }
}

/// What the call means, from the views alone.
fn attention(call: &AttentionCall, memory: &Memory) -> Vec<f64> {
    let [q, k, v] = call
        .query_key_value
        .each_ref()
        .map(|view| elements(view, memory));
    let [b, s, h, d] = call.query_key_value[0].shape()[..] else {
        panic!()
    };
    let [_, t, _, e] = call.query_key_value[2].shape()[..] else {
        panic!()
    };
    let bias = call
        .bias
        .as_ref()
        .map(|bias| elements(&bias.broadcast(&[b, h, s, t]), memory));
    let mut output = Vec::new();
    for (batch, row) in (0..b).flat_map(|batch| (0..s).map(move |row| (batch, row))) {
        for head in 0..h {
            let score = |key: usize| {
                let dot: f64 = (0..d)
                    .map(|c| {
                        let query = q[((batch * s + row) * h + head) * d + c];
                        query * k[((batch * t + key) * h + head) * d + c]
                    })
                    .sum();
                let bias = bias
                    .as_ref()
                    .map_or(0.0, |bias| bias[((batch * h + head) * s + row) * t + key]);
                let is_seen = !call.attributes.causal || key <= row;
                let score = f64::from(call.attributes.scale) * dot + bias;
                if is_seen { score.exp() } else { 0.0 }
            };
            let powers: Vec<f64> = (0..t).map(score).collect();
            let sum: f64 = powers.iter().sum();
            for column in 0..e {
                let value = |key: usize| v[((batch * t + key) * h + head) * e + column];
                output.push((0..t).map(|key| powers[key] * value(key)).sum::<f64>() / sum);
            }
        }
    }
    output
}

fn check_attention(call: &AttentionCall, path: Path) {
    let mut memory = memory(&[
        (Place::Buffer(0), 2 * 5 * 48),
        (Place::Buffer(1), 2 * 5 * 40),
        (Place::Buffer(2), 2 * 2 * 5 * 5),
        (Place::Buffer(3), 2 * 3 * 16),
    ]);
    let untouched = memory.clone();
    let expected = attention(call, &memory);
    run(&graph_of(call, path), &mut memory);
    assert_near(&elements(&call.output, &memory), &expected, path.name());
    let changed = memory[&Place::Buffer(1)]
        .iter()
        .zip(&untouched[&Place::Buffer(1)]);
    let changed = changed.filter(|(a, b)| a != b).count();
    assert_eq!(
        changed,
        call.output.count(),
        "nothing beside the output is written"
    );
}

#[test]
fn both_graphs_of_plain_attention_compute_it() {
    for scale in [1.0, 0.5] {
        let call = joined(None, plain(scale, false));
        check_attention(&call, Path::Unified);
        check_attention(&call, Path::Composite);
    }
}

#[test]
fn the_composite_graph_has_bias_and_mask() {
    let bias = |shape: &[usize]| View::contiguous(Place::Buffer(2), DType::BF16, shape);
    check_attention(&joined(None, plain(0.25, true)), Path::Composite);
    for shape in [[1, 2, 5, 5], [2, 2, 5, 5], [2, 1, 5, 5], [1, 1, 5, 5]] {
        check_attention(
            &joined(Some(bias(&shape)), plain(1.0, false)),
            Path::Composite,
        );
    }
    let repeated = bias(&[1, 2, 5, 5]).broadcast(&[2, 2, 5, 5]);
    check_attention(&joined(Some(repeated), plain(1.0, true)), Path::Composite);
}

#[test]
fn queries_and_keys_may_differ_in_number() {
    let mut call = joined(None, plain(0.5, false));
    let few = View::contiguous(Place::Buffer(3), DType::BF16, &[2, 3, 2, 8]);
    call.query_key_value[1] = few.clone();
    call.query_key_value[2] = few;
    check_attention(&call, Path::Unified);
    check_attention(&call, Path::Composite);
}

#[test]
fn scores_stay_f32_and_weights_have_the_dtype_of_values() {
    let graph = graph_of(&joined(None, plain(0.5, false)), Path::Composite);
    let text = graph.to_string();
    let scores = text
        .lines()
        .filter(|line| line.contains("f32[2:50, 2:25, 5:5, 5:1]"));
    assert_eq!(scores.count(), 4, "{text}");
    let weights = text
        .lines()
        .filter(|line| line.contains("bf16[2:50, 2:25, 5:5, 5:1]"));
    assert_eq!(weights.count(), 1, "{text}");
}

fn paths(call: &AttentionCall) -> Result<Vec<Path>, String> {
    form_of(call).paths(CUDNN_9_14, HOPPER)
}

#[test]
fn layouts_that_cudnn_cannot_read_are_refused_by_name() {
    let good = joined(None, plain(1.0, false));
    assert_eq!(paths(&good), Ok(vec![Path::Unified, Path::Composite]));
    let refusal = |change: &dyn Fn(&mut AttentionCall)| {
        let mut call = good.clone();
        change(&mut call);
        paths(&call).unwrap_err()
    };
    let text = refusal(&|call| call.query_key_value[1].offset += 4);
    assert!(text.contains("keys") && text.contains("aligned"), "{text}");
    let text = refusal(&|call| call.query_key_value[2].axes[3].stride = 2);
    assert!(text.contains("values") && text.contains("gaps"), "{text}");
    let text = refusal(&|call| call.output.axes[2].size = 1);
    assert!(text.contains("sizes"), "{text}");
    let text = refusal(&|call| call.output.dtype = DType::F16);
    assert!(text.contains("output") && text.contains("bf16"), "{text}");
    let bias = View::contiguous(Place::Buffer(2), DType::F32, &[1, 2, 5, 5]);
    let text = refusal(&|call| call.bias = Some(bias.clone()));
    assert!(text.contains("bias") && text.contains("bf16"), "{text}");
    let narrow = View::contiguous(Place::Buffer(2), DType::BF16, &[1, 2, 5, 1]);
    let text = refusal(&|call| call.bias = Some(narrow.broadcast(&[1, 2, 5, 5])));
    assert!(text.contains("repeats"), "{text}");
}

#[test]
fn old_libraries_and_gpus_are_refused() {
    let form = form_of(&joined(None, plain(1.0, false)));
    let of = |version, capability| form.paths(Version(version), capability);
    assert_eq!(of(91_300, 90), Ok(vec![Path::Composite]));
    assert_eq!(of(91_301, 80), Ok(vec![Path::Unified, Path::Composite]));
    assert!(of(91_001, 90).unwrap_err().contains("9.10.2"));
    assert!(of(91_400, 75).unwrap_err().contains("7.5"));
}

#[test]
fn errors_name_the_step_with_its_views() {
    let call = joined(None, plain(1.0, false));
    let text = named("attn", "attention", &views_of_attention(&call));
    let expected = "attn (bf16 b0[2:240, 5:48, 2:8, 8], bf16 b0+16[2:240, 5:48, 2:8, 8], ";
    assert!(text.starts_with(expected), "{text}");
    assert!(named("", "attention", &[]).starts_with("attention"));
}

// ---- the models' plans ----

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
    let plan = super::tests::decoder(DType::F32);
    let why = paths(attentions(&plan)[0]).unwrap_err();
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
        let names = |found: &Vec<super::Candidate>| -> Vec<_> {
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
        let distinct: HashMap<_, _> = texts.iter().map(|text| (text, ())).collect();
        assert!(
            distinct.len() < texts.len(),
            "equal convolutions share a choice"
        );
    }
}

// ---- convolutions ----

/// `[b, c, h, w]` in the order `[b, h, w, c]`.
fn channels_last(place: Place, dtype: DType, [b, c, h, w]: [usize; 4]) -> View {
    View::contiguous(place, dtype, &[b, h, w, c]).transpose(&[0, 3, 1, 2])
}

fn convolution(is_last: bool, has_bias: bool, groups: usize) -> Convolution {
    let dtype = DType::F16;
    let view = |place, shape: [usize; 4]| match is_last {
        true => channels_last(place, dtype, shape),
        false => View::contiguous(place, dtype, &shape),
    };
    Convolution {
        input: view(Place::Buffer(0), [2, 4, 5, 6]),
        weight: view(Place::Parameter(0), [6, 4 / groups, 3, 2]),
        bias: has_bias.then(|| View::contiguous(Place::Parameter(1), dtype, &[6])),
        attributes: Conv2d {
            stride: [2, 1],
            padding: [0, 1, 1, 2],
            groups,
        },
        output: view(Place::Buffer(1), [2, 6, 2, 8]),
    }
}

/// What the call means, from the views alone.
fn convolved(call: &Convolution, memory: &Memory) -> Vec<f64> {
    let [x, w] = [&call.input, &call.weight].map(|view| elements(view, memory));
    let bias = call.bias.as_ref().map(|bias| elements(bias, memory));
    let [xs, ws, ys] = [&call.input, &call.weight, &call.output].map(View::shape);
    let [top, _, left, _] = call.attributes.padding;
    let mut output = Vec::new();
    for number in 0..ys.iter().product() {
        let (column, rest) = (number % ys[3], number / ys[3]);
        let (row, rest) = (rest % ys[2], rest / ys[2]);
        let (channel, batch) = (rest % ys[1], rest / ys[1]);
        let group = channel / (ws[0] / call.attributes.groups);
        let mut sum = bias.as_ref().map_or(0.0, |bias| bias[channel]);
        for c in 0..ws[1] {
            for (i, j) in (0..ws[2]).flat_map(|i| (0..ws[3]).map(move |j| (i, j))) {
                let y = (row * call.attributes.stride[0] + i).checked_sub(top);
                let z = (column * call.attributes.stride[1] + j).checked_sub(left);
                let (Some(y), Some(z)) = (y, z) else { continue };
                if y < xs[2] && z < xs[3] {
                    let from = ((batch * xs[1] + group * ws[1] + c) * xs[2] + y) * xs[3] + z;
                    sum += x[from] * w[((channel * ws[1] + c) * ws[2] + i) * ws[3] + j];
                }
            }
        }
        output.push(sum);
    }
    output
}

#[test]
fn every_candidate_of_a_convolution_computes_it() {
    for (is_last, has_bias, groups) in [
        (false, true, 1),
        (true, true, 1),
        (false, false, 2),
        (true, true, 2),
    ] {
        let call = convolution(is_last, has_bias, groups);
        let candidates = candidates_of(&call).unwrap();
        assert_eq!(candidates.len(), if has_bias { 2 } else { 1 });
        for candidate in candidates {
            let mut memory = memory(&[
                (Place::Buffer(0), call.input.count()),
                (Place::Parameter(0), call.weight.count()),
                (Place::Parameter(1), 6),
                (Place::Buffer(1), call.output.count()),
            ]);
            let expected = convolved(&call, &memory);
            for stage in &candidate.stages {
                run(stage, &mut memory);
            }
            let found = elements(&call.output, &memory);
            assert_near(&found, &expected, candidate.name);
        }
    }
}

#[test]
fn a_convolution_that_cudnn_cannot_read_is_refused_by_name() {
    let good = convolution(false, true, 1);
    let refusal = |change: &dyn Fn(&mut Convolution)| {
        let mut call = good.clone();
        change(&mut call);
        candidates_of(&call).unwrap_err()
    };
    let text = refusal(&|call| call.attributes.padding = [1; 4]);
    assert!(text.contains("sizes"), "{text}");
    let text = refusal(&|call| call.attributes.groups = 3);
    assert!(text.contains("sizes"), "{text}");
    let text = refusal(&|call| call.weight.dtype = DType::F32);
    assert!(text.contains("weight is f32"), "{text}");
    let text = refusal(&|call| call.bias.as_mut().unwrap().axes[0].stride = 2);
    assert!(text.contains("bias"), "{text}");
    let text = refusal(&|call| {
        for view in [&mut call.input, &mut call.weight, &mut call.output] {
            view.dtype = DType::I32;
        }
    });
    assert!(text.contains("i32"), "{text}");
}
