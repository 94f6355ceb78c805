//! What constant folding needs from a backend.

use tintype_tensor::Tensor;

use crate::{Op, Result, TensorType};

/// Computes one operation on host tensors. `tintype-cpu` implements it.
pub trait Evaluator {
    /// The result of `op`, of the static type `ty`.
    fn evaluate(&self, op: &Op, operands: &[Tensor], ty: &TensorType) -> Result<Tensor>;
}
