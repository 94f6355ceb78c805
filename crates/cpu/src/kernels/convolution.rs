//! Two-dimensional convolution as a product with the image's patches, and upsampling.
//!
//! The patches of a block of output pixels are written straight into the right panels
//! of the engine, one pass of depth at a time, so the scratch memory does not grow
//! with the image. The weight is packed once.

use rayon::prelude::*;
use tintype_tensor::DType;

use super::engine::{DEPTH, multiply, tile};
use super::panels::{Buffer, Lines};
use super::parallel::for_row_blocks;
use super::patches::Patches;
use super::product::split;
use super::rounding::round_slice;
use super::weights::Weights;

/// The sizes of a convolution of `x[batch, channels, height, width]` with
/// `weight[outputs, channels / groups, kernel…]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2d {
    /// Images.
    pub batch: usize,
    /// Input channels, a multiple of `groups`.
    pub channels: usize,
    /// Output channels, a multiple of `groups`.
    pub outputs: usize,
    /// Input height and width.
    pub size: [usize; 2],
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Steps down and right.
    pub stride: [usize; 2],
    /// Zeros added at top, bottom, left, right.
    pub padding: [usize; 4],
    /// Groups of channels that do not see each other.
    pub groups: usize,
    /// The dtype of the result.
    pub rounding: DType,
}

impl Conv2d {
    /// Height and width of the output; zero where the kernel does not fit.
    pub fn output_size(&self) -> [usize; 2] {
        let [top, bottom, left, right] = self.padding;
        let along = |axis: usize, padding: usize| {
            (self.size[axis] + padding)
                .checked_sub(self.kernel[axis])
                .map_or(0, |room| room / self.stride[axis] + 1)
        };
        [along(0, top + bottom), along(1, left + right)]
    }
}

/// `out[batch, outputs, height′, width′] = x ∗ weight + bias`, a cross-correlation as in
/// every framework; the output's size is [`Conv2d::output_size`].
///
/// # Panics
/// If a length does not fit, or a stride or the number of groups is zero.
pub fn conv2d(options: &Conv2d, x: &[f32], weight: Weights, bias: Option<&[f32]>, out: &mut [f32]) {
    let Conv2d {
        batch,
        channels,
        outputs,
        groups,
        ..
    } = *options;
    let area = options.size[0] * options.size[1];
    let pixels: usize = options.output_size().iter().product();
    assert!(
        groups > 0 && channels.is_multiple_of(groups),
        "conv2d: channels and groups"
    );
    assert!(outputs.is_multiple_of(groups), "conv2d: outputs and groups");
    let inner = channels / groups * options.kernel[0] * options.kernel[1];
    assert_eq!(x.len(), batch * channels * area, "conv2d: input length");
    assert_eq!(weight.len(), outputs * inner, "conv2d: weight length");
    assert!(
        bias.is_none_or(|bias| bias.len() == outputs),
        "conv2d: bias length"
    );
    assert_eq!(out.len(), batch * outputs * pixels, "conv2d: output length");
    if out.is_empty() {
        return;
    }
    let rows = outputs / groups;
    let packed: Vec<Buffer> = (0..groups)
        .map(|group| pack_weight(&weight, group * rows, rows, inner))
        .collect();
    let images = out.par_chunks_mut(rows * pixels).enumerate();
    images.for_each(|(index, out)| {
        let (image, group) = (index / groups, index % groups);
        let channels = channels / groups;
        let x = &x[(image * groups + group) * channels * area..][..channels * area];
        let bias = bias.map(|bias| &bias[group * rows..(group + 1) * rows]);
        convolve(
            &Patches::new(options, x),
            packed[group].get(),
            bias,
            options.rounding,
            out,
        );
    });
}

/// The rows `first..first + rows` of the weight as left panels, ordered by pass of
/// depth and then by panel, so that a pass is one piece.
fn pack_weight(weight: &Weights, first: usize, rows: usize, inner: usize) -> Buffer {
    let group = tile().rows;
    let lines = rows.next_multiple_of(group);
    let mut packed = Buffer::new(lines * inner);
    let passes = packed.get_mut().par_chunks_mut((lines * DEPTH).max(1));
    passes.enumerate().for_each(|(pass, packed)| {
        let depth = pass * DEPTH;
        let depths = DEPTH.min(inner - depth);
        let panels = packed.par_chunks_mut(group * depths);
        panels
            .enumerate()
            .for_each_init(Vec::new, |scratch, (index, panel)| {
                let start = index * group;
                let count = group.min(rows - start);
                let from = (first + start) * inner;
                let data = weight.read(from..from + count * inner, scratch);
                let weight = Lines {
                    data,
                    line_stride: inner,
                    depth_stride: 1,
                };
                weight.pack((0, count), (depth, depths), group, panel);
            });
    });
    packed
}

/// One image and group: tasks are blocks of output pixels with all their channels.
fn convolve(
    patches: &Patches,
    packed: &[f32],
    bias: Option<&[f32]>,
    rounding: DType,
    out: &mut [f32],
) {
    let pixels = patches.pixels();
    let rows = out.len() / pixels;
    let step = TASK_PIXELS.next_multiple_of(tile().columns);
    let blocks = split(out, (rows, pixels), pixels, (rows, step));
    blocks.into_par_iter().for_each_init(
        || (Buffer::new(step * DEPTH), Buffer::new(rows * step)),
        |(panels, sums), mut block| {
            let columns = block.rows[0].len();
            let width = columns.next_multiple_of(tile().columns);
            // Sums stay in a small block of their own: the rows of a large image lie
            // whole planes apart, where a power of two would fill few cache lines.
            let sums = &mut sums.get_mut()[..rows * width];
            convolve_block(patches, packed, (block.column, columns), panels, sums);
            for (channel, (row, sums)) in block
                .rows
                .iter_mut()
                .zip(sums.chunks_exact(width))
                .enumerate()
            {
                let bias = bias.map_or(0.0, |bias| bias[channel]);
                add(&sums[..columns], bias, row);
                round_slice(rounding, row);
            }
        },
    );
}

/// `sums[rows, width] = weight · patches` for the `columns` pixels from `pixel` on.
fn convolve_block(
    patches: &Patches,
    packed: &[f32],
    (pixel, columns): (usize, usize),
    panels: &mut Buffer,
    sums: &mut [f32],
) {
    let tile = tile();
    let inner = patches.inner();
    let width = columns.next_multiple_of(tile.columns);
    let mut rows: Vec<&mut [f32]> = sums.chunks_exact_mut(width).collect();
    let lines = rows.len().next_multiple_of(tile.rows);
    for depth in (0..inner).step_by(DEPTH) {
        let depths = DEPTH.min(inner - depth);
        let left = &packed[lines * depth..lines * (depth + depths)];
        let panels = &mut panels.get_mut()[..width * depths];
        patches.fill((pixel, columns), (depth, depths), tile.columns, panels);
        for (index, panel) in panels.chunks_exact(tile.columns * depths).enumerate() {
            multiply(
                left,
                panel,
                depths,
                depth > 0,
                index * tile.columns,
                &mut rows,
            );
        }
    }
}

const TASK_PIXELS: usize = 256;

vectorised! {
    fn add<'a>(_simd; sums: &'a [f32], bias: f32, out: &'a mut [f32]) {
        for (value, &sum) in out.iter_mut().zip(sums) {
            *value = sum + bias;
        }
    }
}

/// Each pixel of `x[planes, height, width]` twice in both directions.
///
/// # Panics
/// If a length does not fit.
pub fn upsample_nearest2(size: [usize; 2], x: &[f32], out: &mut [f32]) {
    let [height, width] = size;
    assert_eq!(out.len(), 4 * x.len(), "upsample: output length");
    assert!(
        x.len().is_multiple_of((height * width).max(1)),
        "upsample: input length"
    );
    // A pair of output rows comes from one input row.
    for_row_blocks(out, 4 * width, |first, pairs| {
        for (index, pair) in pairs.chunks_exact_mut(4 * width).enumerate() {
            let row = &x[(first + index) * width..][..width];
            let (upper, lower) = pair.split_at_mut(2 * width);
            for (target, &value) in upper.as_chunks_mut::<2>().0.iter_mut().zip(row) {
                *target = [value, value];
            }
            lower.copy_from_slice(upper);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{Random, assert_near, same_for_any_threads};
    use half::bf16;

    fn reference(options: &Conv2d, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f64> {
        let Conv2d {
            batch,
            channels,
            outputs,
            size,
            kernel,
            stride,
            padding,
            groups,
            ..
        } = *options;
        let [height, width] = options.output_size();
        let (own, rows) = (channels / groups, outputs / groups);
        let mut out = Vec::new();
        for b in 0..batch {
            for o in 0..outputs {
                for (oy, ox) in (0..height).flat_map(|oy| (0..width).map(move |ox| (oy, ox))) {
                    let mut sum = f64::from(bias[o]);
                    for c in 0..own {
                        for (ky, kx) in
                            (0..kernel[0]).flat_map(|y| (0..kernel[1]).map(move |x| (y, x)))
                        {
                            let y = (oy * stride[0] + ky).checked_sub(padding[0]);
                            let x_at = (ox * stride[1] + kx).checked_sub(padding[2]);
                            let (Some(y), Some(x_at)) = (y, x_at) else {
                                continue;
                            };
                            if y < size[0] && x_at < size[1] {
                                let channel = b * channels + o / rows * own + c;
                                sum += f64::from(x[(channel * size[0] + y) * size[1] + x_at])
                                    * f64::from(
                                        weight[((o * own + c) * kernel[0] + ky) * kernel[1] + kx],
                                    );
                            }
                        }
                    }
                    out.push(sum);
                }
            }
        }
        out
    }

    #[test]
    fn every_shape_follows_the_definition() {
        let mut random = Random::new(18);
        let base = Conv2d {
            batch: 1,
            channels: 3,
            outputs: 5,
            size: [17, 19],
            kernel: [3, 3],
            stride: [1, 1],
            padding: [1, 1, 1, 1],
            groups: 1,
            rounding: DType::F32,
        };
        let cases = [
            base,
            Conv2d {
                batch: 2,
                channels: 65,
                outputs: 33,
                size: [9, 70],
                ..base
            },
            Conv2d {
                kernel: [1, 1],
                padding: [0; 4],
                size: [40, 41],
                channels: 17,
                ..base
            },
            Conv2d {
                kernel: [1, 1],
                padding: [0; 4],
                stride: [2, 2],
                ..base
            },
            Conv2d {
                stride: [2, 2],
                padding: [0, 1, 0, 1],
                size: [18, 66],
                ..base
            },
            Conv2d {
                channels: 6,
                outputs: 4,
                groups: 2,
                kernel: [3, 1],
                ..base
            },
            Conv2d {
                kernel: [5, 4],
                padding: [2, 0, 1, 3],
                stride: [1, 3],
                ..base
            },
            Conv2d {
                size: [1, 1],
                ..base
            },
            Conv2d {
                size: [2, 300],
                kernel: [2, 7],
                padding: [0, 0, 6, 6],
                ..base
            },
        ];
        for options in cases {
            let inner = options.channels / options.groups * options.kernel[0] * options.kernel[1];
            let x =
                random.values(options.batch * options.channels * options.size[0] * options.size[1]);
            let weight = random.values(options.outputs * inner);
            let bias = random.values(options.outputs);
            let expected = reference(&options, &x, &weight, &bias);
            let out = same_for_any_threads(|| {
                let mut out = vec![0.0; expected.len()];
                conv2d(&options, &x, Weights::F32(&weight), Some(&bias), &mut out);
                out
            });
            assert_near(&out, &expected, 1e-6);
            let half = Conv2d {
                rounding: DType::F16,
                ..options
            };
            let mut rounded = vec![0.0; out.len()];
            conv2d(&half, &x, Weights::F32(&weight), Some(&bias), &mut rounded);
            assert!(
                out.iter()
                    .zip(&rounded)
                    .all(|(&a, &b)| DType::F16.round(a) == b)
            );
        }
    }

    #[test]
    fn stored_types_and_missing_bias() {
        let mut random = Random::new(19);
        let options = Conv2d {
            batch: 1,
            channels: 4,
            outputs: 14,
            size: [8, 8],
            kernel: [3, 3],
            stride: [1, 1],
            padding: [1; 4],
            groups: 1,
            rounding: DType::F32,
        };
        let x = random.values(4 * 64);
        let brains: Vec<bf16> = random
            .values(14 * 36)
            .iter()
            .map(|&v| bf16::from_f32(v))
            .collect();
        let wide: Vec<f32> = brains.iter().map(|v| v.to_f32()).collect();
        let (mut out, mut expected) = (vec![0.0; 14 * 64], vec![0.0; 14 * 64]);
        conv2d(&options, &x, Weights::BF16(&brains), None, &mut out);
        conv2d(
            &options,
            &x,
            Weights::F32(&wide),
            Some(&[0.0; 14]),
            &mut expected,
        );
        assert_eq!(out, expected);
    }

    #[test]
    fn upsampling_repeats_pixels() {
        let mut out = [0.0; 16];
        upsample_nearest2([2, 2], &[1.0, 2.0, 3.0, 4.0], &mut out);
        let expected = [
            1., 1., 2., 2., 1., 1., 2., 2., 3., 3., 4., 4., 3., 3., 4., 4.,
        ];
        assert_eq!(out, expected);
    }
}
