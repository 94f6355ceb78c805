//! Softmax over the last axis.

use tintype_tensor::DType;

use super::parallel::for_row_blocks;
use super::rounding::round_slice;
use super::{math, simd};

/// `exp(x − max) / Σ exp(x − max)` for each row of `x[rows, width]`.
///
/// A row of −∞ alone gives NaN, as the formula does.
///
/// # Panics
/// If a length does not fit.
pub fn softmax(width: usize, rounding: DType, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "softmax: input and output lengths");
    for_row_blocks(out, width, |first, rows| {
        let inputs = &x[first * width..][..rows.len()];
        for (input, row) in inputs.chunks_exact(width).zip(rows.chunks_exact_mut(width)) {
            softmax_row(input, row);
            round_slice(rounding, row);
        }
    });
}

vectorised! {
    fn softmax_row<'a>(token; x: &'a [f32], out: &'a mut [f32]) {
        let largest = simd::max(x);
        for (value, &input) in out.iter_mut().zip(x) {
            *value = math::exp_normal(input - largest);
        }
        let scale = 1.0 / simd::sum(token, out);
        for value in out {
            *value *= scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{Random, assert_near, same_for_any_threads};

    #[test]
    fn follows_its_formula() {
        let mut random = Random::new(6);
        for (rows, width) in [(1, 1), (3, 17), (65, 65), (33, 1030)] {
            let x: Vec<f32> = random
                .values(rows * width)
                .iter()
                .map(|v| v * 20.0)
                .collect();
            let out = same_for_any_threads(|| {
                let mut out = vec![0.0; x.len()];
                softmax(width, DType::F32, &x, &mut out);
                out
            });
            let expected: Vec<f64> = x
                .chunks_exact(width)
                .flat_map(|row| {
                    let total: f64 = row.iter().map(|&v| f64::from(v).exp()).sum();
                    row.iter().map(move |&v| f64::from(v).exp() / total)
                })
                .collect();
            assert_near(&out, &expected, 2e-6);
        }
    }

    #[test]
    fn masked_positions_are_zero_and_nan_shows() {
        let mut out = [0.0; 3];
        softmax(3, DType::F32, &[1.0, f32::NEG_INFINITY, 1.0], &mut out);
        assert_eq!(out, [0.5, 0.0, 0.5]);
        softmax(3, DType::F32, &[1.0, f32::NAN, 1.0], &mut out);
        assert!(out.iter().all(|value| value.is_nan()));
    }
}
