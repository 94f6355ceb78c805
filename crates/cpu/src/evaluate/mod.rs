//! One operation on values: chooses the kernel and gives it sizes.
//!
//! The graph has been verified and the shapes follow from it; what can still be
//! wrong here are values, such as an index out of range.

mod elementwise;
mod layout;
mod network;

use std::sync::Arc;

use tintype_backend::{Error, Result};
use tintype_ir::{Binding, Op};
use tintype_tensor::{DType, Shape};

use crate::buffer::{Buffer, Pool};
use crate::kernels::Activation;
use crate::value::Value;

/// An operation with everything it needs.
pub(crate) struct Call<'a> {
    pub(crate) op: &'a Op,
    pub(crate) kernel: Kernel,
    pub(crate) operands: &'a [Value],
    /// Of the result.
    pub(crate) dtype: DType,
    /// Of the result.
    pub(crate) shape: Shape,
    pub(crate) binding: &'a Binding,
    pub(crate) pool: &'a Arc<Pool>,
}

/// Whether the call computes its operation alone or with the one before it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kernel {
    Plain,
    LinearActivation(Activation),
    LayerNormModulate { epsilon: f32 },
    GroupNormSilu { groups: usize, epsilon: f32 },
}

/// Computes the result.
pub(crate) fn evaluate(call: &Call) -> Result<Value> {
    if call.shape.contains(&0) {
        // Kernels cut work into rows, and an empty row has no place to cut.
        return Ok(call.empty());
    }
    match call.kernel {
        Kernel::LinearActivation(activation) => return call.linear(Some(activation)),
        Kernel::LayerNormModulate { epsilon } => return call.layer_norm_modulate(epsilon),
        Kernel::GroupNormSilu { groups, epsilon } => return call.group_norm(groups, epsilon, true),
        Kernel::Plain => {}
    }
    match call.op {
        Op::Constant(constant) => Value::stored(constant.to_tensor()?),
        Op::Iota { axis, .. } => Ok(call.iota(*axis)),
        Op::Unary(op) => call.unary(*op),
        Op::Binary(op) => call.binary(*op),
        Op::Select => call.select(),
        Op::Cast { .. } => call.cast(),
        Op::Clamp { min, max } => call.clamp(*min, *max),
        Op::Reshape { .. } => call.operands[0].with_shape(call.shape.clone()),
        Op::Broadcast { .. } => call.broadcast(),
        Op::Transpose { permutation } => call.transpose(permutation),
        Op::Slice { axis, start, .. } => call.slice(*axis, call.binding.evaluate(start)?),
        Op::Concat { axis } => call.concat(*axis),
        Op::Gather { axis } => call.gather(*axis),
        Op::GatherRows => call.gather_rows(),
        Op::ArgMax => call.argmax(),
        Op::Reduce { kind, axes } => call.reduce(*kind, axes),
        Op::MatMul => call.matmul(),
        Op::RelativeBuckets(attributes) => Ok(call.relative_buckets(attributes)),
        Op::Linear => call.linear(None),
        Op::Softmax => call.softmax(),
        Op::LayerNorm { epsilon } => call.layer_norm(*epsilon),
        Op::RmsNorm { epsilon } => call.rms_norm(*epsilon),
        Op::GroupNorm { groups, epsilon } => call.group_norm(*groups, *epsilon, false),
        Op::Modulate => call.modulate(),
        Op::GatedResidual => call.gated_residual(),
        Op::Rotary => call.rotary(),
        Op::RotaryTable { theta, dims } => call.rotary_table(*theta, dims),
        Op::Attention(attributes) => call.attention(attributes),
        Op::Conv2d(attributes) => call.conv2d(attributes),
        Op::UpsampleNearest { factor } => call.upsample(*factor),
        other => Err(Error::Unsupported {
            backend: "cpu",
            what: format!("`{}`", other.name()),
        }),
    }
}

impl Call<'_> {
    /// A buffer for the result; the kernel writes all of it.
    fn buffer(&self) -> Buffer {
        self.pool.take(self.shape.element_count())
    }

    fn result(&self, buffer: Buffer) -> Value {
        Value::floats(self.dtype, self.shape.clone(), buffer)
    }

    /// Runs a kernel that writes floats.
    fn compute(&self, kernel: impl FnOnce(&mut [f32])) -> Value {
        let mut buffer = self.buffer();
        kernel(&mut buffer);
        self.result(buffer)
    }

    /// A result without elements.
    fn empty(&self) -> Value {
        if self.dtype.is_float() {
            return self.compute(|_| {});
        }
        Value::integers(self.dtype, self.shape.clone(), Vec::new())
    }

    fn error<T>(&self, message: String) -> Result<T> {
        Err(Error::Value {
            op: self.op.name().to_owned(),
            message,
        })
    }

    /// The size of the last axis of the first operand.
    fn width(&self) -> usize {
        self.operands[0].shape.last().copied().unwrap_or(1)
    }
}
