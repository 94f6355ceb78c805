//! Softmax and the norms.

use super::{Decomposer, times};
use crate::{BinaryOp, Dim, Op, ReduceOp, Result, UnaryOp, Value};

impl Decomposer<'_, '_, '_> {
    /// `e^(x − max x) / Σ e^(x − max x)`.
    pub(super) fn softmax(&mut self, x: Value) -> Result<Value> {
        let greatest = self.reduce_last(ReduceOp::Max, x)?;
        let shifted = self.binary(BinaryOp::Sub, x, greatest)?;
        let exponentials = self.unary(UnaryOp::Exp, shifted)?;
        let sum = self.reduce_last(ReduceOp::Sum, exponentials)?;
        self.binary(BinaryOp::Div, exponentials, sum)
    }

    pub(super) fn rms_norm(&mut self, epsilon: f32, x: Value, weight: &[Value]) -> Result<Value> {
        let normalised = self.normalise(epsilon, x)?;
        match weight {
            [] => Ok(normalised),
            [weight, ..] => self.binary(BinaryOp::Mul, normalised, *weight),
        }
    }

    pub(super) fn layer_norm(&mut self, epsilon: f32, x: Value, affine: &[Value]) -> Result<Value> {
        let centred = self.centre(x)?;
        let normalised = self.normalise(epsilon, centred)?;
        match affine {
            [weight, bias] => self.affine(normalised, *weight, *bias),
            _ => Ok(normalised),
        }
    }

    /// Groups become the axis that a LayerNorm works on.
    pub(super) fn group_norm(
        &mut self,
        groups: usize,
        epsilon: f32,
        x: Value,
        [weight, bias]: [Value; 2],
    ) -> Result<Value> {
        let dims = self.dims(x);
        let groups = Dim::from(groups);
        let channels = dims[1]
            .div_exact(&groups)
            .unwrap_or_else(|| dims[1].clone());
        let size = times(&times(&channels, &dims[2])?, &dims[3])?;
        let grouped = self.reshape(x, vec![dims[0].clone(), groups, size])?;
        let normalised = self.add(Op::LayerNorm { epsilon }, &[grouped])?;
        let normalised = self.reshape(normalised, dims.clone())?;
        let per_channel = vec![dims[1].clone(), Dim::from(1), Dim::from(1)];
        let weight = self.reshape(weight, per_channel.clone())?;
        let bias = self.reshape(bias, per_channel)?;
        self.affine(normalised, weight, bias)
    }

    fn affine(&mut self, x: Value, weight: Value, bias: Value) -> Result<Value> {
        let scaled = self.binary(BinaryOp::Mul, x, weight)?;
        self.binary(BinaryOp::Add, scaled, bias)
    }

    fn centre(&mut self, x: Value) -> Result<Value> {
        let mean = self.reduce_last(ReduceOp::Mean, x)?;
        self.binary(BinaryOp::Sub, x, mean)
    }

    /// `x · rsqrt(mean(x²) + ε)`.
    fn normalise(&mut self, epsilon: f32, x: Value) -> Result<Value> {
        let squares = self.binary(BinaryOp::Mul, x, x)?;
        let mean = self.reduce_last(ReduceOp::Mean, squares)?;
        let raised = self.binary_scalar(BinaryOp::Add, mean, epsilon)?;
        let factor = self.unary(UnaryOp::Rsqrt, raised)?;
        self.binary(BinaryOp::Mul, x, factor)
    }
}
