//! An evaluator of a few operations, enough to test folding.

use tintype_ir::{BinaryOp, Error, Evaluator, Op, Result, TensorType};
use tintype_tensor::Tensor;

/// Adds and multiplies equal shapes and scalars, and negates.
pub(crate) struct Arithmetic;

impl Evaluator for Arithmetic {
    fn evaluate(&self, op: &Op, operands: &[Tensor], ty: &TensorType) -> Result<Tensor> {
        let failed = |message: &str| Error::Evaluate {
            op: op.name().to_owned(),
            message: message.to_owned(),
        };
        let shape = ty
            .static_shape()
            .ok_or_else(|| failed("the type has symbols"))?;
        let values: Vec<Vec<f32>> = operands.iter().map(|t| t.to_f32_vec().unwrap()).collect();
        let at = |operand: usize, index: usize| values[operand][index % values[operand].len()];
        let compute = |index: usize| match op {
            Op::Binary(BinaryOp::Add) => Some(at(0, index) + at(1, index)),
            Op::Binary(BinaryOp::Mul) => Some(at(0, index) * at(1, index)),
            Op::Unary(_) => Some(-at(0, index)),
            Op::Broadcast { .. } | Op::Cast { .. } => Some(at(0, index)),
            Op::Iota { .. } => Some(index as f32),
            _ => None,
        };
        let result: Option<Vec<f32>> = (0..shape.element_count()).map(compute).collect();
        let result = result.ok_or_else(|| failed("not one of the operations of this test"))?;
        Tensor::from_f32_as(ty.dtype, shape, result).map_err(|error| failed(&error.to_string()))
    }
}
