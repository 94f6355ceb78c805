//! Rotary embedding and its table.

use tintype_tensor::DType;

use super::Decomposer;
use crate::{BinaryOp, Constant, Dim, Op, Result, UnaryOp, Value};

impl Decomposer<'_, '_, '_> {
    /// `(x₀ cos − x₁ sin, x₁ cos + x₀ sin)` for each pair of the last axis.
    pub(super) fn rotary(&mut self, x: Value, table: Value) -> Result<Value> {
        let dims = self.dims(x);
        let half = self.dims(table)[1].clone();
        let mut pairs = dims[..3].to_vec();
        pairs.extend([half, Dim::from(2)]);
        let pairs = self.reshape(x, pairs)?;
        let x0 = self.slice(pairs, 4, Dim::from(0), Dim::from(1))?;
        let x1 = self.slice(pairs, 4, Dim::from(1), Dim::from(2))?;
        let cos = self.part_of_table(table, 0)?;
        let sin = self.part_of_table(table, 1)?;
        let (a, b) = (
            self.binary(BinaryOp::Mul, x0, cos)?,
            self.binary(BinaryOp::Mul, x1, sin)?,
        );
        let first = self.binary(BinaryOp::Sub, a, b)?;
        let (a, b) = (
            self.binary(BinaryOp::Mul, x1, cos)?,
            self.binary(BinaryOp::Mul, x0, sin)?,
        );
        let second = self.binary(BinaryOp::Add, a, b)?;
        let turned = self.concat(4, &[first, second])?;
        self.reshape(turned, dims)
    }

    /// Cosine (0) or sine (1) of `table[s, d/2, 2]` as `[1, s, 1, d/2, 1]`.
    fn part_of_table(&mut self, table: Value, part: i64) -> Result<Value> {
        let dims = self.dims(table);
        let sliced = self.slice(table, 2, Dim::from(part), Dim::from(part + 1))?;
        let one = Dim::from(1);
        let shape = vec![
            one.clone(),
            dims[0].clone(),
            one.clone(),
            dims[1].clone(),
            one,
        ];
        self.reshape(sliced, shape)
    }

    /// Angles `ids[.., axis] · θ^(−2i/d)`, all axes side by side.
    pub(super) fn rotary_table(&mut self, theta: f32, dims: &[usize], ids: Value) -> Result<Value> {
        let count = self.dims(ids)[0].clone();
        let mut angles = Vec::new();
        for (axis, &dim) in dims.iter().enumerate().filter(|(_, dim)| **dim > 0) {
            let axis = axis as i64;
            let position = self.slice(ids, 1, Dim::from(axis), Dim::from(axis + 1))?;
            let frequencies = frequencies(theta, dim);
            let constant = Constant::floats(DType::F32, [1, dim / 2], frequencies)?;
            let frequencies = self.rewriter.op(Op::Constant(constant), &[])?;
            angles.push(self.binary(BinaryOp::Mul, position, frequencies)?);
        }
        if angles.is_empty() {
            let nothing = self.rewriter.scalar(DType::F32, 0.0)?;
            let dims = vec![count, Dim::from(0), Dim::from(2)];
            return self.rewriter.op(Op::Broadcast { dims }, &[nothing]);
        }
        let angles = self.concat(1, &angles)?;
        let mut shape = self.dims(angles);
        shape.push(Dim::from(1));
        let angles = self.reshape(angles, shape)?;
        let cos = self.unary(UnaryOp::Cos, angles)?;
        let sin = self.unary(UnaryOp::Sin, angles)?;
        self.concat(2, &[cos, sin])
    }
}

/// `θ^(−2i/d)` for each pair, computed in f64.
fn frequencies(theta: f32, dim: usize) -> Vec<f32> {
    let exponent = |pair: usize| -2.0 * pair as f64 / dim as f64;
    (0..dim / 2)
        .map(|pair| f64::from(theta).powf(exponent(pair)) as f32)
        .collect()
}
