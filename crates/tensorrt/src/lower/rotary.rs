//! Rotary embedding and its table.

use tintype_ir::Dim;
use tintype_tensor::{DType, Tensor as HostTensor};

use super::composer::{Composer, tensor_error};
use super::layers::{Kind, Tensor};
use crate::Result;
use crate::network::{ElementWise, Unary};

impl Composer<'_> {
    /// Pairs of `x[b, s, h, d]` turned by `table[s, d/2, 2]`, in f32 by the library's layer.
    pub(super) fn rotary(&mut self, x: Tensor, table: Tensor) -> Result<Tensor> {
        let (dims, dtype) = (self.dims(x), self.dtype(x));
        let heads = self.transpose(x, &[0, 2, 1, 3]);
        let heads = self.cast(heads, DType::F32)?;
        let cosine = self.part_of_table(table, 0, &dims[0])?;
        let sine = self.part_of_table(table, 1, &dims[0])?;
        let ty = self.ty(heads).clone();
        let turned = self.add(Kind::RotaryEmbedding, &[heads, cosine, sine], ty);
        let turned = self.cast(turned, dtype)?;
        Ok(self.transpose(turned, &[0, 2, 1, 3]))
    }

    /// Cosine (0) or sine (1) of `table[s, d/2, 2]` as `[b, s, d/2]`.
    fn part_of_table(&mut self, table: Tensor, part: i64, batch: &Dim) -> Result<Tensor> {
        let dims = self.dims(table);
        let sliced = self.slice(table, 2, Dim::from(part), Dim::from(1));
        let one = self.reshape(sliced, vec![1.into(), dims[0].clone(), dims[1].clone()])?;
        self.repeat(one, vec![batch.clone(), dims[0].clone(), dims[1].clone()])
    }

    /// Cosine and sine of `ids[s, axis] · θ^(−2i/d)`, axes side by side.
    ///
    /// The graph's angles are f64. Here they are counted in whole turns: the frequency is cut
    /// into three parts of so few bits that each product with a position up to 4096 is exact in
    /// f32; whole turns, which no sine sees, are dropped from each before they are summed.
    pub(super) fn rotary_table(
        &mut self,
        ids: Tensor,
        theta: f32,
        dims: &[usize],
    ) -> Result<Tensor> {
        let ids = self.cast(ids, DType::F32)?;
        let count = self.ty(ids).dims[0].clone();
        let mut turns = Vec::new();
        for (axis, &dim) in dims.iter().enumerate().filter(|(_, dim)| **dim > 0) {
            let position = self.slice(ids, 1, Dim::from(axis), Dim::from(1));
            turns.push(self.turns(position, theta, dim)?);
        }
        if turns.is_empty() {
            return self.refuse("a table without columns");
        }
        let turns = self.concatenate(&turns, 1)?;
        let angles = self.with_number(ElementWise::Product, turns, std::f32::consts::TAU)?;
        let half = self.ty(angles).dims[1].clone();
        let angles = self.reshape(angles, vec![count, half, 1.into()])?;
        let (cosine, sine) = (
            self.unary(Unary::Cos, angles),
            self.unary(Unary::Sin, angles),
        );
        self.concatenate(&[cosine, sine], 2)
    }

    /// `position[s, 1]` times the frequencies in turns, within −½ to ½: `[s, dim/2]`.
    fn turns(&mut self, position: Tensor, theta: f32, dim: usize) -> Result<Tensor> {
        let mut sum = None;
        for part in in_parts(&frequencies(theta, dim)) {
            let part = HostTensor::from_f32(vec![1, dim / 2], part)
                .map_err(|error| tensor_error(&error))?;
            let part = self.literal(part);
            let turns = self.elementwise(ElementWise::Product, position, part)?;
            let turns = self.fraction(turns)?;
            sum = Some(match sum {
                Some(sum) => self.elementwise(ElementWise::Sum, sum, turns)?,
                None => turns,
            });
        }
        let sum = sum.expect("there are three parts");
        self.fraction(sum)
    }

    /// `x` without the nearest whole number.
    fn fraction(&mut self, x: Tensor) -> Result<Tensor> {
        let whole = self.unary(Unary::Round, x);
        self.elementwise(ElementWise::Difference, x, whole)
    }
}

/// `θ^(−2i/d) / 2π` for each pair.
fn frequencies(theta: f32, dim: usize) -> Vec<f64> {
    let exponent = |pair: usize| -2.0 * pair as f64 / dim as f64;
    let frequency = |pair| f64::from(theta).powf(exponent(pair)) / std::f64::consts::TAU;
    (0..dim / 2).map(frequency).collect()
}

/// Each number as a sum of three: two of 12 bits and what is left.
fn in_parts(numbers: &[f64]) -> [Vec<f32>; 3] {
    let mut left = numbers.to_vec();
    let mut take = |cut: fn(f32) -> f32| -> Vec<f32> {
        let parts = left.iter_mut().map(|left| {
            let part = cut(*left as f32);
            *left -= f64::from(part);
            part
        });
        parts.collect()
    };
    let short = |number: f32| f32::from_bits(number.to_bits() & 0xffff_f000);
    [take(short), take(short), take(|number| number)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the layers compute, with f32 arithmetic here.
    fn angle(position: f32, frequency: f64) -> f32 {
        let mut sum = 0.0_f32;
        for part in in_parts(&[frequency]) {
            let turns = position * part[0];
            sum += turns - turns.round_ties_even();
        }
        (sum - sum.round_ties_even()) * std::f32::consts::TAU
    }

    #[test]
    fn angles_are_exact_at_far_positions() {
        for frequency in frequencies(10_000.0, 56) {
            for position in [1.0_f32, 63.0, 127.0, 1023.0, 4095.0] {
                let exact = f64::from(position) * frequency * std::f64::consts::TAU;
                let angle = angle(position, frequency);
                assert!((f64::from(angle.cos()) - exact.cos()).abs() < 1e-6);
                assert!((f64::from(angle.sin()) - exact.sin()).abs() < 1e-6);
            }
        }
    }
}
