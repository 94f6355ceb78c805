//! Attention against its definition in f64.

use super::*;
use crate::kernels::testing::{Random, assert_near, same_for_any_threads};

fn reference(
    options: &Attention,
    (query, key, value): (&[f32], &[f32], &[f32]),
    bias: Option<AttentionBias>,
) -> Vec<f64> {
    let Attention {
        batch,
        heads,
        query_len,
        key_len,
        head_dim,
        ..
    } = *options;
    let mut out = vec![9.0; batch * query_len * options.output_stride];
    let wide = |x: &[f32], index: usize| f64::from(x[index]);
    for b in 0..batch {
        for h in 0..heads {
            for i in 0..query_len {
                let at = |s: Strides, token: usize| b * s.batch + token * s.token + h * s.head;
                let score = |j: usize| {
                    if options.causal && j > i {
                        return f64::NEG_INFINITY;
                    }
                    let dot: f64 = (0..head_dim)
                        .map(|d| {
                            wide(query, at(options.query, i) + d)
                                * wide(key, at(options.key, j) + d)
                        })
                        .sum();
                    let added = bias.map_or(0.0, |bias| {
                        let matrix = b % bias.batch * bias.heads + h % bias.heads;
                        wide(bias.data, (matrix * query_len + i) * key_len + j)
                    });
                    dot * f64::from(options.scale) + added
                };
                let scores: Vec<f64> = (0..key_len).map(score).collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
                for d in 0..head_dim {
                    let sum: f64 = (0..key_len)
                        .map(|j| {
                            (scores[j] - largest).exp() * wide(value, at(options.value, j) + d)
                        })
                        .sum();
                    let row = (b * query_len + i) * options.output_stride;
                    out[row + h * head_dim + d] = sum / total;
                }
            }
        }
    }
    out
}

fn check(options: &Attention, bias_shape: Option<(usize, usize)>, seed: u64) {
    let mut random = Random::new(seed);
    let Attention {
        batch,
        heads,
        query_len,
        key_len,
        head_dim,
        ..
    } = *options;
    let query = random.values(batch * query_len * heads * head_dim);
    let key = random.values(batch * key_len * heads * head_dim);
    let value = random.values(batch * key_len * heads * head_dim);
    let data = bias_shape.map(|(b, h)| {
        let mut data = random.values(b * h * query_len * key_len);
        // Masked keys, never all of a query's.
        for (index, value) in data.iter_mut().enumerate() {
            if index % 7 == 3 && index % key_len != 0 {
                *value = f32::NEG_INFINITY;
            }
        }
        data
    });
    let bias = data
        .as_ref()
        .zip(bias_shape)
        .map(|(data, (batch, heads))| AttentionBias { data, batch, heads });
    let run = |options: &Attention| {
        let mut out = vec![9.0; batch * query_len * options.output_stride];
        attention(options, &query, &key, &value, bias, &mut out);
        out
    };
    let out = same_for_any_threads(|| run(options));
    assert_near(
        &out,
        &reference(options, (&query, &key, &value), bias),
        2e-6,
    );
    let rounded = run(&Attention {
        rounding: DType::BF16,
        ..*options
    });
    assert!(
        out.iter()
            .zip(&rounded)
            .all(|(&a, &b)| DType::BF16.round(a) == b)
    );
}

#[test]
fn follows_the_definition_at_odd_sizes() {
    for (seed, (batch, heads, tokens, head_dim)) in [
        (1, 1, 1, 1),
        (2, 3, 17, 8),
        (1, 2, 65, 40),
        (1, 1, 300, 64),
        (2, 1, 130, 65),
    ]
    .into_iter()
    .enumerate()
    {
        for causal in [false, true] {
            let options = Attention {
                causal,
                ..Attention::new(batch, heads, tokens, head_dim)
            };
            check(&options, None, seed as u64);
            check(&options, Some((1, heads)), seed as u64 + 20);
            check(&options, Some((batch, 1)), seed as u64 + 40);
        }
    }
}

#[test]
fn query_and_key_lengths_and_layouts_may_differ() {
    let options = Attention {
        batch: 2,
        heads: 3,
        query_len: 50,
        key_len: 301,
        head_dim: 24,
        query: Strides::heads_first(50, 3, 24),
        key: Strides::packed(301, 3, 24),
        value: Strides::heads_first(301, 3, 24),
        output_stride: 3 * 24 + 5,
        scale: 0.3,
        causal: false,
        rounding: DType::F32,
    };
    check(&options, None, 60);
    check(&options, Some((2, 3)), 61);
}

#[test]
fn large_scores_do_not_overflow() {
    let query = [200.0; 4];
    let key = [100.0, -100.0, 100.0, -100.0];
    let value = [1.0, 2.0, 3.0, 4.0];
    let mut out = [0.0; 4];
    let options = Attention {
        scale: 1.0,
        ..Attention::new(1, 1, 4, 1)
    };
    attention(&options, &query, &key, &value, None, &mut out);
    assert_eq!(out, [2.0; 4]);
}
