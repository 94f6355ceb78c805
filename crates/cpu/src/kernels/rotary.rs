//! Rotary position embedding on interleaved pairs.

use rayon::prelude::*;
use tintype_tensor::DType;

use super::parallel::GRAIN;
use super::rounding::round_slice;

/// The shape of `x[batch, tokens, heads, head_dim]`; `head_dim` is even.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotary {
    /// Rows that share the table.
    pub batch: usize,
    /// Positions of the sequence.
    pub tokens: usize,
    /// Heads of a token.
    pub heads: usize,
    /// Values of a head, in pairs (x₀, x₁).
    pub head_dim: usize,
    /// Floats from one token of `x` to the next; `heads · head_dim` when packed.
    /// The output is always packed.
    pub token_stride: usize,
    /// The dtype of the result.
    pub rounding: DType,
}

/// `(x₀·cos − x₁·sin, x₁·cos + x₀·sin)` for each pair; `table` is
/// `[tokens, head_dim / 2, 2]` of (cos, sin).
///
/// # Panics
/// If a length does not fit.
pub fn rotary(rotary: &Rotary, x: &[f32], table: &[f32], out: &mut [f32]) {
    let Rotary {
        batch,
        tokens,
        heads,
        head_dim,
        token_stride,
        rounding,
    } = *rotary;
    let width = heads * head_dim;
    assert!(head_dim.is_multiple_of(2), "rotary: pairs");
    assert_eq!(table.len(), tokens * head_dim, "rotary: table length");
    assert_eq!(out.len(), batch * tokens * width, "rotary: output length");
    if out.is_empty() {
        return;
    }
    assert!(
        x.len() >= (batch * tokens - 1) * token_stride + width,
        "rotary: input length"
    );
    let tokens_per_task = (GRAIN / width).max(1);
    out.par_chunks_mut(tokens_per_task * width)
        .enumerate()
        .for_each(|(task, block)| {
            for (index, row) in block.chunks_exact_mut(width).enumerate() {
                let token = task * tokens_per_task + index;
                let angles = &table[token % tokens * head_dim..][..head_dim];
                rotate_token(&x[token * token_stride..][..width], angles, row);
                round_slice(rounding, row);
            }
        });
}

vectorised! {
    fn rotate_token<'a>(_simd; x: &'a [f32], angles: &'a [f32], out: &'a mut [f32]) {
        for (head, row) in x.chunks_exact(angles.len()).zip(out.chunks_exact_mut(angles.len())) {
            let (inputs, _) = head.as_chunks::<2>();
            let (outputs, _) = row.as_chunks_mut::<2>();
            let (pairs, _) = angles.as_chunks::<2>();
            for ((output, &[x0, x1]), &[cos, sin]) in outputs.iter_mut().zip(inputs).zip(pairs) {
                *output = [x0 * cos - x1 * sin, x1 * cos + x0 * sin];
            }
        }
    }
}

/// The table of [`rotary`] for positions `ids[tokens, axes]`.
///
/// Axis `a` has `axes_dims[a] / 2` angles `id · theta^(−2i / axes_dims[a])`,
/// computed in f64; the axes follow each other. `out` is
/// `[tokens, Σ axes_dims / 2, 2]` of (cos, sin).
///
/// # Panics
/// If a length does not fit.
pub fn rotary_table(axes_dims: &[usize], theta: f64, ids: &[f32], out: &mut [f32]) {
    let axes = axes_dims.len();
    let width: usize = axes_dims.iter().sum();
    assert!(
        axes > 0 && ids.len().is_multiple_of(axes),
        "rotary_table: ids length"
    );
    assert!(
        axes_dims.iter().all(|dim| dim.is_multiple_of(2)),
        "rotary_table: even dims"
    );
    assert_eq!(
        out.len(),
        ids.len() / axes * width,
        "rotary_table: output length"
    );
    let frequencies: Vec<(usize, f64)> = axes_dims
        .iter()
        .enumerate()
        .flat_map(|(axis, &dim)| {
            (0..dim / 2).map(move |i| (axis, 1.0 / theta.powf(2.0 * i as f64 / dim as f64)))
        })
        .collect();
    if width == 0 {
        return;
    }
    out.par_chunks_exact_mut(width)
        .zip(ids.par_chunks_exact(axes))
        .for_each(|(row, ids)| {
            let (pairs, _) = row.as_chunks_mut::<2>();
            for (pair, &(axis, frequency)) in pairs.iter_mut().zip(&frequencies) {
                let (sin, cos) = (f64::from(ids[axis]) * frequency).sin_cos();
                *pair = [cos as f32, sin as f32];
            }
        });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{Random, assert_near, same_for_any_threads};

    #[test]
    fn rotates_pairs_by_the_angles_of_their_token() {
        let mut random = Random::new(7);
        let axes_dims = [4, 6, 8];
        for (batch, tokens, heads) in [(1, 1, 1), (2, 3, 5), (2, 65, 17)] {
            let head_dim = 18;
            let width = heads * head_dim;
            let token_stride = width + 7;
            let ids: Vec<f32> = (0..tokens * 3)
                .map(|index| (index * 7 % 64) as f32)
                .collect();
            let mut table = vec![0.0; tokens * head_dim];
            rotary_table(&axes_dims, 10_000.0, &ids, &mut table);
            let x = random.values(batch * tokens * token_stride);
            let options = Rotary {
                batch,
                tokens,
                heads,
                head_dim,
                token_stride,
                rounding: DType::F32,
            };
            let out = same_for_any_threads(|| {
                let mut out = vec![0.0; batch * tokens * width];
                rotary(&options, &x, &table, &mut out);
                out
            });
            let mut expected = Vec::new();
            for row in 0..batch * tokens {
                for head in 0..heads {
                    for pair in 0..head_dim / 2 {
                        let (axis, i) = match pair {
                            0..2 => (0, pair),
                            2..5 => (1, pair - 2),
                            _ => (2, pair - 5),
                        };
                        let exponent = -2.0 * i as f64 / axes_dims[axis] as f64;
                        let id = f64::from(ids[row % tokens * 3 + axis]);
                        let (sin, cos) = (id * 10_000f64.powf(exponent)).sin_cos();
                        let start = row * token_stride + head * head_dim + 2 * pair;
                        let (x0, x1) = (f64::from(x[start]), f64::from(x[start + 1]));
                        expected.extend([x0 * cos - x1 * sin, x1 * cos + x0 * sin]);
                    }
                }
            }
            assert_near(&out, &expected, 1e-6);
            let mut rounded = vec![0.0; out.len()];
            rotary(
                &Rotary {
                    rounding: DType::BF16,
                    ..options
                },
                &x,
                &table,
                &mut rounded,
            );
            assert!(
                out.iter()
                    .zip(&rounded)
                    .all(|(&a, &b)| DType::BF16.round(a) == b)
            );
        }
    }
}
