//! Linear layers: `x · weightᵀ + bias`, with an activation in the same pass.

use rayon::prelude::*;
use tintype_tensor::DType;

use super::elementwise::Activation;
use super::engine::tile;
use super::panels::{Buffer, Lines};
use super::product::{
    Epilogue, Matrix, Output, columns_per_chunk, multiply_rows, pack_depths, split,
};
use super::simd::combine;
use super::weights::Weights;

/// The sizes of a linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linear {
    /// Rows of `x` and of the output.
    pub rows: usize,
    /// Features of a row of `x`.
    pub inputs: usize,
    /// Features of a row of the output.
    pub outputs: usize,
    /// Floats from a row of `x` to the next, at least `inputs`.
    pub input_stride: usize,
    /// Floats from a row of the output to the next, at least `outputs`; larger where
    /// several layers write side by side.
    pub output_stride: usize,
    /// Applied to the sum before rounding.
    pub activation: Option<Activation>,
    /// The dtype of the result.
    pub rounding: DType,
}

impl Linear {
    /// Rows without gaps, no activation, f32.
    pub const fn new(rows: usize, inputs: usize, outputs: usize) -> Self {
        Self {
            rows,
            inputs,
            outputs,
            input_stride: inputs,
            output_stride: outputs,
            activation: None,
            rounding: DType::F32,
        }
    }
}

/// `out[rows, outputs] = activation(x[rows, inputs] · weight[outputs, inputs]ᵀ + bias)`.
///
/// Weights of other types than f32 are widened piece by piece, never as a whole. Up to
/// 8 rows are summed in another order than more rows.
///
/// # Panics
/// If a length does not fit.
pub fn linear(options: &Linear, x: &[f32], weight: Weights, bias: Option<&[f32]>, out: &mut [f32]) {
    let Linear {
        rows,
        inputs,
        outputs,
        input_stride,
        ..
    } = *options;
    assert_eq!(weight.len(), inputs * outputs, "linear: weight length");
    assert!(
        bias.is_none_or(|bias| bias.len() == outputs),
        "linear: bias length"
    );
    if rows == 0 || outputs == 0 {
        return;
    }
    assert!(input_stride >= inputs, "linear: input stride");
    assert!(
        x.len() >= (rows - 1) * input_stride + inputs,
        "linear: input length"
    );
    if rows <= FEW_ROWS {
        few_rows(options, x, weight, bias, out);
    } else {
        many_rows(options, x, weight, bias, out);
    }
}

/// Up to this many rows the time goes into reading the weight once, so it is not packed.
const FEW_ROWS: usize = 8;

fn many_rows(options: &Linear, x: &[f32], weight: Weights, bias: Option<&[f32]>, out: &mut [f32]) {
    let Linear {
        rows,
        inputs,
        outputs,
        input_stride,
        output_stride,
        ..
    } = *options;
    let tile = tile();
    let chunk = columns_per_chunk(inputs, tile.columns);
    let mut panels = Buffer::new(chunk.min(outputs.next_multiple_of(tile.columns)) * inputs);
    let x = Matrix {
        data: x,
        row_stride: input_stride,
        column_stride: 1,
    };
    for first in (0..outputs).step_by(chunk) {
        let count = chunk.min(outputs - first);
        let panels = &mut panels.get_mut()[..count.next_multiple_of(tile.columns) * inputs];
        panels
            .par_chunks_mut((tile.columns * inputs).max(1))
            .enumerate()
            .for_each_init(Vec::new, |scratch, (index, panel)| {
                let start = index * tile.columns;
                let lines = tile.columns.min(count - start);
                let from = (first + start) * inputs;
                let data = weight.read(from..from + lines * inputs, scratch);
                let lines_of_weight = Lines {
                    data,
                    line_stride: inputs,
                    depth_stride: 1,
                };
                pack_depths(&lines_of_weight, (0, lines), inputs, tile.columns, panel);
            });
        let epilogue = Epilogue {
            bias: bias.map(|bias| &bias[first..first + count]),
            activation: options.activation,
            rounding: options.rounding,
        };
        let output = Output {
            columns: count,
            stride: output_stride,
            epilogue,
        };
        multiply_rows(x, (rows, inputs), panels, &output, &mut out[first..]);
    }
}

fn few_rows(options: &Linear, x: &[f32], weight: Weights, bias: Option<&[f32]>, out: &mut [f32]) {
    let Linear {
        rows,
        inputs,
        outputs,
        input_stride,
        output_stride,
        ..
    } = *options;
    let step = (WEIGHTS_PER_TASK / inputs.max(1)).max(1);
    let blocks = split(out, (rows, outputs), output_stride, (rows, step));
    let epilogue = Epilogue {
        bias,
        activation: options.activation,
        rounding: options.rounding,
    };
    blocks
        .into_par_iter()
        .for_each_init(Vec::new, |scratch, mut block| {
            for column in 0..block.rows[0].len() {
                let start = (block.column + column) * inputs;
                let weights = weight.read(start..start + inputs, scratch);
                for (index, rows) in block.rows.chunks_mut(2).enumerate() {
                    let x = |row: usize| &x[(2 * index + row) * input_stride..][..inputs];
                    let second = if rows.len() == 2 { x(1) } else { x(0) };
                    let [low, high] = two_dots(weights, x(0), second);
                    rows[0][column] = low;
                    if let Some(row) = rows.get_mut(1) {
                        row[column] = high;
                    }
                }
            }
            epilogue.apply(block.column, &mut block.rows);
        });
}

const WEIGHTS_PER_TASK: usize = 64 * 1024;

vectorised! {
    /// Two dot products with one reading of `weights`; each has its own sums, so the
    /// result of one does not depend on the other.
    fn two_dots<'a>(simd; weights: &'a [f32], first: &'a [f32], second: &'a [f32]) -> [f32; 2] {
        let mut sums = [[simd.splat_f32s(0.0); 4]; 2];
        let (weight_vectors, weight_tail) = S::as_simd_f32s(weights);
        let (first_vectors, first_tail) = S::as_simd_f32s(first);
        let (second_vectors, second_tail) = S::as_simd_f32s(second);
        let (weight_groups, weight_rest) = weight_vectors.as_chunks::<4>();
        let (first_groups, first_rest) = first_vectors.as_chunks::<4>();
        let (second_groups, second_rest) = second_vectors.as_chunks::<4>();
        for ((weight, x), y) in weight_groups.iter().zip(first_groups).zip(second_groups) {
            for lane in 0..4 {
                sums[0][lane] = simd.mul_add_e_f32s(weight[lane], x[lane], sums[0][lane]);
                sums[1][lane] = simd.mul_add_e_f32s(weight[lane], y[lane], sums[1][lane]);
            }
        }
        for ((&weight, &x), &y) in weight_rest.iter().zip(first_rest).zip(second_rest) {
            sums[0][0] = simd.mul_add_e_f32s(weight, x, sums[0][0]);
            sums[1][0] = simd.mul_add_e_f32s(weight, y, sums[1][0]);
        }
        let tail = |x: &[f32]| weight_tail.iter().zip(x).map(|(w, x)| w * x).sum::<f32>();
        [combine(simd, sums[0]) + tail(first_tail), combine(simd, sums[1]) + tail(second_tail)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{Random, assert_near, same_for_any_threads};
    use half::{bf16, f16};
    use tintype_tensor::{f8e4m3_from_f32, f8e4m3_to_f32};

    fn reference(options: &Linear, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f64> {
        let mut out = vec![9.0; options.rows * options.output_stride];
        for row in 0..options.rows {
            for column in 0..options.outputs {
                let product = |k: usize| {
                    f64::from(x[row * options.input_stride + k])
                        * f64::from(weight[column * options.inputs + k])
                };
                let sum = (0..options.inputs).map(product).sum::<f64>() + f64::from(bias[column]);
                out[row * options.output_stride + column] = match options.activation {
                    None => sum,
                    Some(_) => sum / (1.0 + (-sum).exp()),
                };
            }
        }
        out
    }

    #[test]
    fn every_size_follows_the_definition() {
        let mut random = Random::new(15);
        for (rows, inputs, outputs) in [
            (1, 1, 1),
            (1, 300, 65),
            (7, 65, 129),
            (9, 17, 33),
            (77, 300, 65),
            (200, 513, 260),
        ] {
            for activation in [None, Some(Activation::Silu)] {
                let options = Linear {
                    input_stride: inputs + 2,
                    output_stride: outputs + 5,
                    activation,
                    ..Linear::new(rows, inputs, outputs)
                };
                let x = random.values(rows * options.input_stride);
                let (weight, bias) = (random.values(outputs * inputs), random.values(outputs));
                let out = same_for_any_threads(|| {
                    let mut out = vec![9.0; rows * options.output_stride];
                    linear(&options, &x, Weights::F32(&weight), Some(&bias), &mut out);
                    out
                });
                assert_near(&out, &reference(&options, &x, &weight, &bias), 1e-6);
                let rounded = Linear {
                    rounding: DType::BF16,
                    ..options
                };
                let mut found = vec![9.0; out.len()];
                linear(&rounded, &x, Weights::F32(&weight), Some(&bias), &mut found);
                assert!(
                    out.iter()
                        .zip(&found)
                        .all(|(&a, &b)| DType::BF16.round(a) == b)
                );
            }
        }
    }

    #[test]
    fn stored_types_give_the_bits_of_their_values() {
        let mut random = Random::new(16);
        let (inputs, outputs) = (65, 97);
        let values = random.values(inputs * outputs);
        let brains: Vec<bf16> = values.iter().map(|&v| bf16::from_f32(v)).collect();
        let halves: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
        let codes: Vec<u8> = values.iter().map(|&v| f8e4m3_from_f32(v)).collect();
        for rows in [1, 3, 40] {
            let x = random.values(rows * inputs);
            let run = |weight: Weights| {
                let mut out = vec![0.0; rows * outputs];
                linear(
                    &Linear::new(rows, inputs, outputs),
                    &x,
                    weight,
                    None,
                    &mut out,
                );
                out
            };
            let wide: Vec<f32> = brains.iter().map(|v| v.to_f32()).collect();
            assert_eq!(run(Weights::BF16(&brains)), run(Weights::F32(&wide)));
            let wide: Vec<f32> = halves.iter().map(|v| v.to_f32()).collect();
            assert_eq!(run(Weights::F16(&halves)), run(Weights::F32(&wide)));
            let wide: Vec<f32> = codes.iter().map(|&v| f8e4m3_to_f32(v)).collect();
            assert_eq!(run(Weights::F8E4M3(&codes)), run(Weights::F32(&wide)));
        }
    }

    #[test]
    fn a_row_has_the_same_bits_in_any_batch() {
        let mut random = Random::new(17);
        let (inputs, outputs) = (300, 65);
        let (x, weight) = (random.values(130 * inputs), random.values(inputs * outputs));
        let run = |rows: usize| {
            let mut out = vec![0.0; rows * outputs];
            let options = Linear::new(rows, inputs, outputs);
            linear(
                &options,
                &x[..rows * inputs],
                Weights::F32(&weight),
                None,
                &mut out,
            );
            out
        };
        let (few, many) = (run(FEW_ROWS), run(130));
        for rows in 1..FEW_ROWS {
            assert_eq!(run(rows), few[..rows * outputs]);
        }
        for rows in [9, 12, 13, 100] {
            assert_eq!(run(rows), many[..rows * outputs]);
        }
    }
}
