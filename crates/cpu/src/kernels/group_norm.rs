//! Group norm of images, with the `SiLU` that follows it in a VAE.

use rayon::prelude::*;
use tintype_tensor::DType;

use super::elementwise::{Unary, apply};
use super::parallel::for_row_blocks;
use super::simd::{sum, sum_of_squares};

/// What group norm of `x[batch, channels, area]` needs to know.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupNorm {
    /// Channels, a multiple of `groups`.
    pub channels: usize,
    /// Groups of neighbouring channels with one mean and variance each.
    pub groups: usize,
    /// Height × width.
    pub area: usize,
    /// Added to the variance.
    pub epsilon: f32,
    /// Whether to apply `SiLU` to the result before it is rounded.
    pub silu: bool,
    /// The dtype of the result.
    pub rounding: DType,
}

/// `(x − mean) / √(variance + ε) · weight + bias`, mean and variance over each group
/// of channels and the area; weight and bias are `[channels]`.
///
/// # Panics
/// If a length does not fit.
pub fn group_norm(
    options: &GroupNorm,
    x: &[f32],
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    let GroupNorm {
        channels,
        groups,
        area,
        ..
    } = *options;
    assert!(
        groups > 0 && channels.is_multiple_of(groups),
        "group_norm: {channels} channels"
    );
    assert!(
        x.len().is_multiple_of((channels * area).max(1)),
        "group_norm: input length"
    );
    assert_eq!(x.len(), out.len(), "group_norm: output length");
    for vector in [weight, bias].into_iter().flatten() {
        assert_eq!(
            vector.len(),
            channels,
            "group_norm: weight and bias lengths"
        );
    }
    if x.is_empty() {
        return;
    }
    let channels_per_group = channels / groups;
    let statistics: Vec<(f32, f32)> = x
        .par_chunks(channels_per_group * area)
        .map(|group| statistics(group, options.epsilon))
        .collect();
    for_row_blocks(out, area, |first, planes| {
        for (index, plane) in planes.chunks_exact_mut(area).enumerate() {
            let row = first + index;
            let channel = row % channels;
            let (mean, scale) = statistics[row / channels_per_group];
            let scale = scale * weight.map_or(1.0, |weight| weight[channel]);
            let shift = bias.map_or(0.0, |bias| bias[channel]) - mean * scale;
            let input = &x[row * area..][..area];
            for (input, piece) in input.chunks(PIECE).zip(plane.chunks_mut(PIECE)) {
                affine(input, scale, shift, piece);
                let function = if options.silu {
                    Unary::Silu
                } else {
                    Unary::Identity
                };
                apply(function, options.rounding, piece);
            }
        }
    });
}

const PIECE: usize = 2048;

/// The mean and `1 / √(variance + ε)`, the sums of pieces added in f64: a group of a
/// large image has millions of values.
fn statistics(group: &[f32], epsilon: f32) -> (f32, f32) {
    let count = group.len() as f64;
    let total: f64 = group
        .par_chunks(STATISTICS_PIECE)
        .map(|piece| f64::from(total(piece)))
        .collect::<Vec<_>>()
        .iter()
        .sum();
    let mean = (total / count) as f32;
    let squares: f64 = group
        .par_chunks(STATISTICS_PIECE)
        .map(|piece| f64::from(squares(piece, mean)))
        .collect::<Vec<_>>()
        .iter()
        .sum();
    (
        mean,
        (1.0 / (squares / count + f64::from(epsilon)).sqrt()) as f32,
    )
}

const STATISTICS_PIECE: usize = 16 * 1024;

vectorised! {
    fn total<'a>(simd; x: &'a [f32]) -> f32 {
        sum(simd, x)
    }
}

vectorised! {
    fn squares<'a>(simd; x: &'a [f32], mean: f32) -> f32 {
        sum_of_squares(simd, x, mean)
    }
}

vectorised! {
    fn affine<'a>(_simd; x: &'a [f32], scale: f32, shift: f32, out: &'a mut [f32]) {
        for (value, &input) in out.iter_mut().zip(x) {
            *value = input * scale + shift;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{Random, assert_near, same_for_any_threads};

    #[test]
    fn follows_its_formula() {
        let mut random = Random::new(10);
        for (batch, channels, groups, area) in [(1, 1, 1, 3), (2, 6, 3, 17), (1, 64, 32, 65 * 65)] {
            let x: Vec<f32> = random
                .values(batch * channels * area)
                .iter()
                .map(|v| v + 3.0)
                .collect();
            let (weight, bias) = (random.values(channels), random.values(channels));
            for silu in [false, true] {
                let options = GroupNorm {
                    channels,
                    groups,
                    area,
                    epsilon: 1e-6,
                    silu,
                    rounding: DType::F32,
                };
                let out = same_for_any_threads(|| {
                    let mut out = vec![0.0; x.len()];
                    group_norm(&options, &x, Some(&weight), Some(&bias), &mut out);
                    out
                });
                let mut expected = Vec::new();
                let width = channels / groups * area;
                for (group, values) in x.chunks_exact(width).enumerate() {
                    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / width as f64;
                    let square = |&v: &f32| (f64::from(v) - mean).powi(2);
                    let variance = values.iter().map(square).sum::<f64>() / width as f64;
                    for (index, &value) in values.iter().enumerate() {
                        let channel = (group * width + index) / area % channels;
                        let normal = (f64::from(value) - mean) / (variance + 1e-6).sqrt();
                        let y = normal * f64::from(weight[channel]) + f64::from(bias[channel]);
                        expected.push(if silu { y / (1.0 + (-y).exp()) } else { y });
                    }
                }
                assert_near(&out, &expected, 2e-6);
            }
        }
    }
}
