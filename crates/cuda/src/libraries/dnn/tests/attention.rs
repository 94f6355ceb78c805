//! Graphs of attention against what calls mean; forms that are refused.

use tintype_ir::Attention;
use tintype_tensor::DType;

use super::{CUDNN_9_14, HOPPER, assert_near, memory};
use crate::libraries::dnn::attention::{Path, form_of, graph_of};
use crate::libraries::dnn::interpret::{Memory, elements, run};
use crate::libraries::dnn::library::Version;
use crate::libraries::dnn::{named, views_of_attention};
use crate::plan::AttentionCall;
use crate::{Place, View};

/// Queries, keys and values from one buffer, written into a wider one, as in a single block.
pub(super) fn joined(bias: Option<View>, attributes: Attention) -> AttentionCall {
    let product = View::contiguous(Place::Buffer(0), DType::BF16, &[2, 5, 48]);
    let part = |start: usize| {
        let part = product.slice(2, start, start + 16);
        part.reshape(&[2, 5, 2, 8]).unwrap()
    };
    let wide = View::contiguous(Place::Buffer(1), DType::BF16, &[2, 5, 40]);
    AttentionCall {
        query_key_value: [part(0), part(16), part(32)],
        scales: [1.0; 3],
        bias,
        attributes,
        output: wide.slice(2, 8, 24).reshape(&[2, 5, 2, 8]).unwrap(),
        output_factor: None,
    }
}

/// The same of codes, with heads as wide as cuDNN takes them and a factor in memory.
pub(super) fn codes() -> AttentionCall {
    let view =
        |place, shape: &[usize]| View::contiguous(Place::Buffer(place), DType::F8E4M3, shape);
    let product = view(0, &[2, 5, 96]);
    let part = |start: usize| {
        let part = product.slice(2, start, start + 32);
        part.reshape(&[2, 5, 2, 16]).unwrap()
    };
    let wide = view(1, &[2, 5, 64]);
    AttentionCall {
        query_key_value: [part(0), part(32), part(64)],
        scales: [0.5, 0.25, 4.0],
        bias: None,
        attributes: plain(0.25, false),
        output: wide.slice(2, 16, 48).reshape(&[2, 5, 2, 16]).unwrap(),
        output_factor: Some(View::contiguous(Place::Buffer(4), DType::F32, &[1])),
    }
}

pub(super) fn plain(scale: f32, causal: bool) -> Attention {
    Attention { scale, causal }
}

/// What the call means, from the views alone.
pub(super) fn attention(call: &AttentionCall, memory: &Memory) -> Vec<f64> {
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
    let [q_scale, k_scale, v_scale] = call.scales.map(f64::from);
    let scale = f64::from(call.attributes.scale) * q_scale * k_scale;
    let factor = call.output_factor.as_ref();
    let factor = factor.map_or(1.0, |factor| elements(factor, memory)[0]) * v_scale;
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
                let score = scale * dot + bias;
                if is_seen { score.exp() } else { 0.0 }
            };
            let powers: Vec<f64> = (0..t).map(score).collect();
            let sum: f64 = powers.iter().sum();
            for column in 0..e {
                let value = |key: usize| v[((batch * t + key) * h + head) * e + column];
                let whole: f64 = (0..t).map(|key| powers[key] * value(key)).sum();
                output.push(whole / sum * factor);
            }
        }
    }
    output
}

fn check_attention(call: &AttentionCall, path: Path) {
    let mut memory = memory(&[
        (Place::Buffer(0), 2 * 5 * 96),
        (Place::Buffer(1), 2 * 5 * 64),
        (Place::Buffer(2), 2 * 2 * 5 * 5),
        (Place::Buffer(3), 2 * 3 * 16),
        (Place::Buffer(4), 1),
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
fn the_graph_of_codes_computes_it() {
    check_attention(&codes(), Path::Narrow);
    let mut call = codes();
    call.output_factor = None;
    check_attention(&call, Path::Narrow);
}

#[test]
fn weights_are_codes_between_the_products_and_all_else_is_f32() {
    let graph = graph_of(&codes(), Path::Narrow).to_string();
    let of = |dtype: &str| {
        let start = format!("= {dtype}[2:50, 2:25, 5:5, 5:1]");
        graph.lines().filter(|line| line.contains(&start)).count()
    };
    // Scores, three times scaled, less the greatest, raised, weighed.
    assert_eq!((of("f32"), of("f8e4m3")), (7, 1), "{graph}");
    assert_eq!(graph.matches("GreatestMagnitude").count(), 2, "{graph}");
    assert_eq!(graph.matches("] spare").count(), 2, "{graph}");
    assert_eq!(graph.matches("] number").count(), 5, "{graph}");
}

#[test]
fn codes_are_taken_from_hopper_on_where_the_result_is_codes() {
    assert_eq!(paths(&codes()), Ok(vec![Path::Narrow]));
    let form = form_of(&codes());
    let of = |version, capability| form.paths(Version(version), capability).unwrap_err();
    assert!(of(91_400, 89).contains("8.9"));
    assert!(of(91_001, 90).contains("9.10.2"));
    let refusal = |change: &dyn Fn(&mut AttentionCall)| {
        let mut call = codes();
        change(&mut call);
        paths(&call).unwrap_err()
    };
    let text = refusal(&|call| call.output.dtype = DType::BF16);
    assert!(text.contains("output") && text.contains("f8e4m3"), "{text}");
    let text = refusal(&|call| call.attributes.causal = true);
    assert!(text.contains("mask"), "{text}");
    let text = refusal(&|call| call.query_key_value[0].offset = 8);
    assert!(text.contains("aligned"), "{text}");
    let wide = View::contiguous(Place::Buffer(4), DType::F32, &[2]);
    let text = refusal(&|call| call.output_factor = Some(wide.clone()));
    assert!(text.contains("factor"), "{text}");
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
