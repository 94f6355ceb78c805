//! Adaptive normalization: modulation by scale and shift, gated residuals.

use tintype_tensor::DType;

use super::norm::{Norm, normalize_row};
use super::parallel::for_row_blocks;
use super::rounding::round_slice;

/// Scale and shift, each `[batch, width]`, for `x[batch, tokens, width]`.
#[derive(Debug, Clone, Copy)]
pub struct Modulation<'a> {
    /// Multiplies as `1 + scale`.
    pub scale: &'a [f32],
    /// Added after the product.
    pub shift: &'a [f32],
}

/// `x · (1 + scale) + shift` for `x[batch, tokens, width]`.
///
/// # Panics
/// If a length does not fit.
pub fn modulate(width: usize, rounding: DType, x: &[f32], modulation: Modulation, out: &mut [f32]) {
    let rows_per_batch = modulation.check(width, x, out);
    for_row_blocks(out, width, |first, rows| {
        let inputs = &x[first * width..][..rows.len()];
        let pairs = inputs.chunks_exact(width).zip(rows.chunks_exact_mut(width));
        for (index, (input, row)) in pairs.enumerate() {
            let (scale, shift) = modulation.row(width, (first + index) / rows_per_batch);
            row.copy_from_slice(input);
            modulate_row(row, scale, shift);
            round_slice(rounding, row);
        }
    });
}

/// [`modulate`] of the layer norm of `x` without weight and bias, rounded once.
///
/// # Panics
/// If a length does not fit.
pub fn layer_norm_modulate(norm: &Norm, x: &[f32], modulation: Modulation, out: &mut [f32]) {
    norm.check(x, out, &[]);
    let width = norm.width;
    let rows_per_batch = modulation.check(width, x, out);
    for_row_blocks(out, width, |first, rows| {
        let inputs = &x[first * width..][..rows.len()];
        let pairs = inputs.chunks_exact(width).zip(rows.chunks_exact_mut(width));
        for (index, (input, row)) in pairs.enumerate() {
            let (scale, shift) = modulation.row(width, (first + index) / rows_per_batch);
            normalize_row(norm.epsilon, input, row);
            modulate_row(row, scale, shift);
            round_slice(norm.rounding, row);
        }
    });
}

/// `residual + gate · x`, `gate[batch, width]` broadcast over the tokens of
/// `x[batch, tokens, width]`.
///
/// # Panics
/// If a length does not fit.
pub fn gated_residual(
    width: usize,
    rounding: DType,
    residual: &[f32],
    gate: &[f32],
    x: &[f32],
    out: &mut [f32],
) {
    assert_eq!(residual.len(), x.len(), "gated_residual: input lengths");
    let rows_per_batch = Modulation {
        scale: gate,
        shift: gate,
    }
    .check(width, x, out);
    for_row_blocks(out, width, |first, rows| {
        for (index, row) in rows.chunks_exact_mut(width).enumerate() {
            let start = (first + index) * width;
            let batch = (first + index) / rows_per_batch;
            let gate = &gate[batch * width..][..width];
            gated_row(
                &residual[start..start + width],
                gate,
                &x[start..start + width],
                row,
            );
            round_slice(rounding, row);
        }
    });
}

impl<'a> Modulation<'a> {
    /// Checks the lengths; the number of rows that share a row of scale and shift.
    fn check(&self, width: usize, x: &[f32], out: &[f32]) -> usize {
        assert_eq!(x.len(), out.len(), "modulation: input and output lengths");
        assert_eq!(
            self.scale.len(),
            self.shift.len(),
            "modulation: scale and shift lengths"
        );
        assert!(
            width > 0 && x.len().is_multiple_of(width),
            "modulation: whole rows"
        );
        assert!(
            !self.scale.is_empty() && self.scale.len().is_multiple_of(width),
            "modulation: scale length"
        );
        let (rows, batch) = (x.len() / width, self.scale.len() / width);
        assert!(
            rows.is_multiple_of(batch),
            "modulation: {rows} rows for {batch} scales"
        );
        (rows / batch).max(1)
    }

    fn row(&self, width: usize, batch: usize) -> (&'a [f32], &'a [f32]) {
        let start = batch * width;
        (
            &self.scale[start..start + width],
            &self.shift[start..start + width],
        )
    }
}

vectorised! {
    fn modulate_row<'a>(_simd; row: &'a mut [f32], scale: &'a [f32], shift: &'a [f32]) {
        for ((value, &scale), &shift) in row.iter_mut().zip(scale).zip(shift) {
            *value = *value * (1.0 + scale) + shift;
        }
    }
}

vectorised! {
    fn gated_row<'a>(
        _simd;
        residual: &'a [f32],
        gate: &'a [f32],
        x: &'a [f32],
        out: &'a mut [f32],
    ) {
        for (((value, &residual), &gate), &x) in out.iter_mut().zip(residual).zip(gate).zip(x) {
            *value = residual + gate * x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::layer_norm;
    use crate::kernels::testing::{Random, assert_near, same_for_any_threads};

    #[test]
    fn all_three_follow_their_formulas() {
        let mut random = Random::new(5);
        for (batch, tokens, width) in [(1, 1, 3), (2, 3, 17), (3, 65, 129), (2, 40, 512)] {
            let count = batch * tokens * width;
            let (x, residual) = (random.values(count), random.values(count));
            let (scale, shift) = (random.values(batch * width), random.values(batch * width));
            let modulation = Modulation {
                scale: &scale,
                shift: &shift,
            };
            let at = |index: usize| index / (tokens * width) * width + index % width;
            let wide = |values: &[f32], index: usize| f64::from(values[index]);

            let found = same_for_any_threads(|| {
                let mut out = vec![0.0; count];
                modulate(width, DType::F32, &x, modulation, &mut out);
                out
            });
            let formula =
                |i: usize| wide(&x, i) * (1.0 + wide(&scale, at(i))) + wide(&shift, at(i));
            assert_near(&found, &(0..count).map(formula).collect::<Vec<_>>(), 1e-6);

            let mut out = vec![0.0; count];
            gated_residual(width, DType::BF16, &residual, &scale, &x, &mut out);
            for (index, &value) in out.iter().enumerate() {
                let expected = residual[index] + scale[at(index)] * x[index];
                assert_eq!(value, DType::BF16.round(expected));
            }

            let norm = Norm {
                width,
                epsilon: 1e-6,
                rounding: DType::F32,
            };
            let (mut normal, mut fused) = (vec![0.0; count], vec![0.0; count]);
            layer_norm(&norm, &x, None, None, &mut normal);
            modulate(width, DType::F32, &normal, modulation, &mut out);
            layer_norm_modulate(&norm, &x, modulation, &mut fused);
            assert_eq!(fused, out);
        }
    }
}
