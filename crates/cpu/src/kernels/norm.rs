//! Layer norm and RMS norm over the last axis.

use tintype_tensor::DType;

use super::parallel::for_row_blocks;
use super::rounding::round_slice;
use super::simd::{sum, sum_of_squares};

/// What a normalization over the last axis needs to know.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// The length of a row.
    pub width: usize,
    /// Added to the variance (or the mean square).
    pub epsilon: f32,
    /// The dtype of the result.
    pub rounding: DType,
}

/// `(x − mean) / √(variance + ε) · weight + bias` for each row of `x[rows, width]`.
///
/// # Panics
/// If a length does not fit.
pub fn layer_norm(
    norm: &Norm,
    x: &[f32],
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    norm.check(x, out, &[weight, bias]);
    for_row_blocks(out, norm.width, |first, rows| {
        let inputs = &x[first * norm.width..][..rows.len()];
        let pairs = inputs
            .chunks_exact(norm.width)
            .zip(rows.chunks_exact_mut(norm.width));
        for (input, row) in pairs {
            normalize_row(norm.epsilon, input, row);
            scale_shift(row, weight, bias);
            round_slice(norm.rounding, row);
        }
    });
}

/// `x / √(mean(x²) + ε) · weight` for each row of `x[rows, width]`.
///
/// # Panics
/// If a length does not fit.
pub fn rms_norm(norm: &Norm, x: &[f32], weight: Option<&[f32]>, out: &mut [f32]) {
    norm.check(x, out, &[weight]);
    for_row_blocks(out, norm.width, |first, rows| {
        let inputs = &x[first * norm.width..][..rows.len()];
        rms_rows(*norm, inputs, weight, rows);
        round_slice(norm.rounding, rows);
    });
}

impl Norm {
    pub(super) fn check(&self, x: &[f32], out: &[f32], vectors: &[Option<&[f32]>]) {
        assert!(
            self.width > 0 && x.len().is_multiple_of(self.width),
            "norm: whole rows"
        );
        assert_eq!(x.len(), out.len(), "norm: input and output lengths");
        for vector in vectors.iter().flatten() {
            assert_eq!(vector.len(), self.width, "norm: weight and bias lengths");
        }
    }
}

vectorised! {
    /// `(x − mean) / √(variance + ε)`; the variance from differences to the mean,
    /// which keeps its digits when the mean is large.
    pub(super) fn normalize_row<'a>(simd; epsilon: f32, x: &'a [f32], out: &'a mut [f32]) {
        let count = x.len() as f32;
        let mean = sum(simd, x) / count;
        let variance = sum_of_squares(simd, x, mean) / count;
        let scale = 1.0 / (variance + epsilon).sqrt();
        for (value, &input) in out.iter_mut().zip(x) {
            *value = (input - mean) * scale;
        }
    }
}

vectorised! {
    fn rms_rows<'a>(simd; norm: Norm, x: &'a [f32], weight: Option<&'a [f32]>, out: &'a mut [f32]) {
        for (input, row) in x.chunks_exact(norm.width).zip(out.chunks_exact_mut(norm.width)) {
            let mean_square = sum_of_squares(simd, input, 0.0) / norm.width as f32;
            let scale = 1.0 / (mean_square + norm.epsilon).sqrt();
            match weight {
                Some(weight) => {
                    for ((value, &input), &weight) in row.iter_mut().zip(input).zip(weight) {
                        *value = input * scale * weight;
                    }
                }
                None => {
                    for (value, &input) in row.iter_mut().zip(input) {
                        *value = input * scale;
                    }
                }
            }
        }
    }
}

vectorised! {
    /// `row · weight + bias`.
    pub(super) fn scale_shift<'a>(
        _simd;
        row: &'a mut [f32],
        weight: Option<&'a [f32]>,
        bias: Option<&'a [f32]>,
    ) {
        if let Some(weight) = weight {
            for (value, &weight) in row.iter_mut().zip(weight) {
                *value *= weight;
            }
        }
        if let Some(bias) = bias {
            for (value, &bias) in row.iter_mut().zip(bias) {
                *value += bias;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{Random, assert_near, same_for_any_threads};

    fn layer_norm_reference(width: usize, epsilon: f64, x: &[f32]) -> Vec<f64> {
        let rows = x.chunks_exact(width).flat_map(|row| {
            let row: Vec<f64> = row.iter().map(|&v| f64::from(v)).collect();
            let mean = row.iter().sum::<f64>() / width as f64;
            let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / width as f64;
            row.into_iter()
                .map(move |v| (v - mean) / (variance + epsilon).sqrt())
        });
        rows.collect()
    }

    #[test]
    fn layer_norm_follows_its_formula() {
        let mut random = Random::new(3);
        for (rows, width) in [(1, 3), (3, 17), (65, 65), (17, 512), (300, 129)] {
            let x: Vec<f32> = random
                .values(rows * width)
                .iter()
                .map(|v| v + 50.0)
                .collect();
            let (weight, bias) = (random.values(width), random.values(width));
            let norm = Norm {
                width,
                epsilon: 1e-6,
                rounding: DType::F32,
            };
            let out = same_for_any_threads(|| {
                let mut out = vec![0.0; x.len()];
                layer_norm(&norm, &x, Some(&weight), Some(&bias), &mut out);
                out
            });
            let mut expected = layer_norm_reference(width, 1e-6, &x);
            for (index, value) in expected.iter_mut().enumerate() {
                *value = *value * f64::from(weight[index % width]) + f64::from(bias[index % width]);
            }
            assert_near(&out, &expected, 1e-5);
            let mut rounded = vec![0.0; x.len()];
            let half = Norm {
                rounding: DType::F16,
                ..norm
            };
            layer_norm(&half, &x, Some(&weight), Some(&bias), &mut rounded);
            assert!(
                out.iter()
                    .zip(&rounded)
                    .all(|(&a, &b)| DType::F16.round(a) == b)
            );
        }
    }

    #[test]
    fn rms_norm_follows_its_formula() {
        let mut random = Random::new(4);
        for (rows, width) in [(1, 1), (3, 17), (65, 128), (700, 65)] {
            let (x, weight) = (random.values(rows * width), random.values(width));
            let norm = Norm {
                width,
                epsilon: 1e-6,
                rounding: DType::F32,
            };
            for weight in [None, Some(&weight[..])] {
                let out = same_for_any_threads(|| {
                    let mut out = vec![0.0; x.len()];
                    rms_norm(&norm, &x, weight, &mut out);
                    out
                });
                let expected: Vec<f64> = x
                    .chunks_exact(width)
                    .flat_map(|row| {
                        let squares: f64 = row.iter().map(|&v| f64::from(v).powi(2)).sum();
                        let scale = 1.0 / (squares / width as f64 + f64::from(1e-6f32)).sqrt();
                        row.iter().enumerate().map(move |(index, &v)| {
                            f64::from(v) * scale * weight.map_or(1.0, |w| f64::from(w[index]))
                        })
                    })
                    .collect();
                assert_near(&out, &expected, 1e-6);
            }
        }
    }
}
