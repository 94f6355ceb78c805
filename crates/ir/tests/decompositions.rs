//! What operations decompose into computes their formulas.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/interpreter.rs"]
mod interpreter;

use std::collections::HashMap;

use interpreter::{Array, run};
use tintype_ir::{Binding, decompose, parse};

fn noise(shape: &[usize], seed: u64) -> Array {
    Array::noise(shape, seed)
}

/// Runs the decomposed operation; `s` is bound to 5.
fn computed(declarations: &str, operation: &str, given: &[(&'static str, &Array)]) -> Array {
    let text = format!(
        "graph g {{ dim s = 1..=64 input request %sizes: f32[s] {declarations} %0: {operation} output y = %0 }}"
    );
    let simple = decompose(&parse(&text).unwrap(), &|_| false).unwrap();
    tintype_ir::verify(&simple).unwrap();
    let mut binding = Binding::new();
    binding.set("s", 5);
    let given: HashMap<_, _> = given
        .iter()
        .map(|&(name, array)| (name, array.clone()))
        .collect();
    run(&simple, &binding, &given).remove("y").unwrap()
}

fn expect(found: &Array, value: impl FnMut(&[usize]) -> f64) {
    let expected = Array::from_fn(&found.shape, value);
    for (flat, (a, b)) in found.values.iter().zip(&expected.values).enumerate() {
        assert!(
            (a - b).abs() <= 1e-6 * b.abs().max(1.0),
            "at {flat}: expected {b}, found {a}"
        );
    }
}

#[test]
fn convolution_with_stride_groups_and_lopsided_padding() {
    let (x, w, b) = (
        noise(&[2, 4, 10, 9], 1),
        noise(&[6, 2, 3, 2], 2),
        noise(&[6], 3),
    );
    let found = computed(
        "param @w: f32[6, 2, 3, 2] param @b: f32[6] input step %x: f32[2, 4, 2*s, 9]",
        "f32[2, 6, s + 1, 4] = conv2d %x, @w, @b {stride = [2, 3], padding = [2, 1, 1, 2], groups = 2}",
        &[("x", &x), ("w", &w), ("b", &b)],
    );
    assert_eq!(found.shape, [2, 6, 6, 4]);
    expect(&found, |i| {
        let mut sum = b.at(&[i[1]]);
        for c in 0..2 {
            for ky in 0..3 {
                for kx in 0..2 {
                    let (y, z) = (
                        (i[2] * 2 + ky).wrapping_sub(2),
                        (i[3] * 3 + kx).wrapping_sub(1),
                    );
                    if y < 10 && z < 9 {
                        sum += w.at(&[i[1], c, ky, kx]) * x.at(&[i[0], i[1] / 3 * 2 + c, y, z]);
                    }
                }
            }
        }
        sum
    });
}

#[test]
fn attention_causal_with_bias() {
    let q = noise(&[2, 3, 2, 4], 1);
    let (k, v) = (noise(&[2, 5, 2, 4], 2), noise(&[2, 5, 2, 3], 3));
    let bias = noise(&[1, 2, 3, 5], 4);
    let found = computed(
        "input step %q: f32[2, 3, 2, 4] input step %k: f32[2, s, 2, 4] \
         input step %v: f32[2, s, 2, 3] input step %bias: f32[1, 2, 3, s]",
        "f32[2, 3, 2, 3] = attention %q, %k, %v, %bias {scale = 0.5, causal = true}",
        &[("q", &q), ("k", &k), ("v", &v), ("bias", &bias)],
    );
    expect(&found, |i| {
        let score = |t: usize| {
            let dot: f64 = (0..4)
                .map(|d| q.at(&[i[0], i[1], i[2], d]) * k.at(&[i[0], t, i[2], d]))
                .sum();
            (0.5 * dot + bias.at(&[0, i[2], i[1], t])).exp()
        };
        let total: f64 = (0..=i[1]).map(score).sum();
        (0..=i[1])
            .map(|t| score(t) * v.at(&[i[0], t, i[2], i[3]]))
            .sum::<f64>()
            / total
    });
}

#[test]
fn norms() {
    let (x, w, b) = (noise(&[2, 4, 3, 5], 1), noise(&[4], 2), noise(&[4], 3));
    let found = computed(
        "param @w: f32[4] param @b: f32[4] input step %x: f32[2, 4, 3, s]",
        "f32[2, 4, 3, s] = group_norm %x, @w, @b {groups = 2, epsilon = 0.25}",
        &[("x", &x), ("w", &w), ("b", &b)],
    );
    expect(&found, |i| {
        let first = i[1] / 2 * 2;
        let group = Array::from_fn(&[2, 3, 5], |j| x.at(&[i[0], first + j[0], j[1], j[2]])).values;
        let mean = group.iter().sum::<f64>() / 30.0;
        let variance = group.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 30.0;
        (x.at(i) - mean) / (variance + 0.25).sqrt() * w.at(&i[1..2]) + b.at(&i[1..2])
    });
    let x = noise(&[5, 4], 1);
    let found = computed(
        "param @w: f32[4] input step %x: f32[s, 4]",
        "f32[s, 4] = rms_norm %x, @w {epsilon = 0.25}",
        &[("x", &x), ("w", &w)],
    );
    expect(&found, |i| {
        let mean = (0..4).map(|d| x.at(&[i[0], d]).powi(2)).sum::<f64>() / 4.0;
        x.at(i) / (mean + 0.25).sqrt() * w.at(&i[1..])
    });
}

#[test]
fn rotary_and_its_table() {
    let (x, ids) = (noise(&[2, 5, 3, 6], 1), noise(&[5, 2], 2));
    let table = computed(
        "input step %ids: f32[s, 2]",
        "f32[s, 3, 2] = rotary_table %ids {theta = 100.0, dims = [2, 4]}",
        &[("ids", &ids)],
    );
    let angle = |s: usize, pair: usize| match pair {
        0 => ids.at(&[s, 0]),
        _ => ids.at(&[s, 1]) * 100f64.powf(-2.0 * (pair - 1) as f64 / 4.0),
    };
    expect(&table, |i| {
        let angle = angle(i[0], i[1]);
        if i[2] == 0 { angle.cos() } else { angle.sin() }
    });
    let found = computed(
        "input request %t: f32[s, 3, 2] input step %x: f32[2, s, 3, 6]",
        "f32[2, s, 3, 6] = rotary %x, %t",
        &[("x", &x), ("t", &table)],
    );
    expect(&found, |i| {
        let (pair, odd) = (i[3] / 2, i[3] % 2 == 1);
        let (sin, cos) = angle(i[1], pair).sin_cos();
        let member = |m: usize| x.at(&[i[0], i[1], i[2], 2 * pair + m]);
        if odd {
            member(1) * cos + member(0) * sin
        } else {
            member(0) * cos - member(1) * sin
        }
    });
}

#[test]
fn look_ups_and_pixels() {
    let x = Array::from_fn(&[3, 5], |i| {
        [
            [1.0, 7.0, 7.0, 2.0, 3.0],
            [9.0, 1.0, 9.0, 9.0, 0.0],
            [0.0; 5],
        ][i[0]][i[1]]
    });
    let found = computed(
        "input request %x: i64[3, s]",
        "i64[3] = argmax %x",
        &[("x", &x)],
    );
    assert_eq!(found.values, [1.0, 0.0, 0.0]);
    let (x, rows) = (
        noise(&[3, 5, 2], 1),
        Array::from_fn(&[3], |i| [4.0, 0.0, 2.0][i[0]]),
    );
    let found = computed(
        "input request %x: f32[3, s, 2] input request %i: i64[3]",
        "f32[3, 2] = gather_rows %x, %i",
        &[("x", &x), ("i", &rows)],
    );
    expect(&found, |i| x.at(&[i[0], [4, 0, 2][i[0]], i[1]]));
    let x = noise(&[1, 2, 5, 3], 1);
    let found = computed(
        "input request %x: f32[1, 2, s, 3]",
        "f32[1, 2, 3*s, 9] = upsample_nearest %x {factor = 3}",
        &[("x", &x)],
    );
    expect(&found, |i| x.at(&[0, i[1], i[2] / 3, i[3] / 3]));
}

#[test]
fn activations() {
    let x = noise(&[5], 7);
    let of = |name: &str| {
        computed(
            "input step %x: f32[s]",
            &format!("f32[s] = {name} %x"),
            &[("x", &x)],
        )
    };
    expect(&of("silu"), |i| x.at(i) / (1.0 + (-x.at(i)).exp()));
    expect(&of("gelu_quick"), |i| {
        x.at(i) / (1.0 + (-1.702 * x.at(i)).exp())
    });
    expect(&of("gelu_tanh"), |i| {
        let inner = (2.0 / std::f64::consts::PI).sqrt() * (x.at(i) + 0.044715 * x.at(i).powi(3));
        0.5 * x.at(i) * (1.0 + inner.tanh())
    });
}
