//! Types of results: dtype and dimensions of each operation from its operands.
//!
//! The rules are strict: operands of one operation share a dtype unless the
//! operation says otherwise, and a conversion is always an explicit `cast`.

mod elementwise;
mod nn;
mod shape;

use crate::{Dim, Error, Op, Result, TensorType};

/// The type of the result of `op` on operands of the given types.
pub fn infer(op: &Op, operands: &[TensorType]) -> Result<TensorType> {
    let check = Check { op };
    check.operand_count(operands.len())?;
    match op {
        Op::Constant(constant) => Ok(constant.ty().clone()),
        Op::Iota { ty, axis } => check.iota(ty, *axis),
        Op::Unary(_) => check.float(&operands[0]).cloned(),
        Op::Clamp { min, max } => check.clamp(&operands[0], *min, *max),
        Op::Softmax => check.softmax(&operands[0]),
        Op::Binary(binary) => check.binary(*binary, &operands[0], &operands[1]),
        Op::Select => check.select(operands),
        Op::Cast { dtype } => Ok(operands[0].with_dtype(*dtype)),
        Op::Reshape { dims } => check.reshape(&operands[0], dims),
        Op::Broadcast { dims } => check.broadcast_to(&operands[0], dims),
        Op::Transpose { permutation } => check.transpose(&operands[0], permutation),
        Op::Slice { axis, start, end } => check.slice(&operands[0], *axis, start, end),
        Op::Concat { axis } => check.concat(operands, *axis),
        Op::Gather { axis } => check.gather(&operands[0], &operands[1], *axis),
        Op::GatherRows => check.gather_rows(&operands[0], &operands[1]),
        Op::ArgMax => check.argmax(&operands[0]),
        Op::Reduce { axes, .. } => check.reduce(&operands[0], axes),
        Op::MatMul => check.matmul(&operands[0], &operands[1]),
        Op::RelativeBuckets(attributes) => check.relative_buckets(attributes),
        Op::Linear => check.linear(operands),
        Op::LayerNorm { epsilon } | Op::RmsNorm { epsilon } => check.norm(operands, *epsilon),
        Op::GroupNorm { groups, epsilon } => check.group_norm(operands, *groups, *epsilon),
        Op::Modulate => check.modulate(operands),
        Op::GatedResidual => check.gated_residual(operands),
        Op::Rotary => check.rotary(&operands[0], &operands[1]),
        Op::RotaryTable { theta, dims } => check.rotary_table(&operands[0], *theta, dims),
        Op::Attention(attributes) => check.attention(operands, attributes),
        Op::Conv2d(attributes) => check.conv2d(operands, attributes),
        Op::UpsampleNearest { factor } => check.upsample(&operands[0], *factor),
    }
}

/// The dimensions of two operands repeated to match each other; `None` if they do not.
pub fn broadcast_dims(a: &[Dim], b: &[Dim]) -> Option<Vec<Dim>> {
    let rank = a.len().max(b.len());
    let one = Dim::from(1);
    let at = |dims: &[Dim], axis: usize| {
        (axis + dims.len())
            .checked_sub(rank)
            .map_or_else(|| one.clone(), |index| dims[index].clone())
    };
    (0..rank)
        .map(|axis| match (at(a, axis), at(b, axis)) {
            (a, b) if a == b || b == one => Some(a),
            (a, b) if a == one => Some(b),
            _ => None,
        })
        .collect()
}

/// The least and greatest number of operands of an operation.
pub(crate) fn operand_counts(op: &Op) -> (usize, usize) {
    match op {
        Op::Constant(_) | Op::Iota { .. } | Op::RelativeBuckets(_) => (0, 0),
        Op::Binary(_) | Op::MatMul | Op::Gather { .. } | Op::GatherRows | Op::Rotary => (2, 2),
        Op::RmsNorm { .. } => (1, 2),
        Op::Select | Op::Modulate | Op::GatedResidual | Op::GroupNorm { .. } => (3, 3),
        Op::Linear | Op::Conv2d(_) => (2, 3),
        Op::LayerNorm { .. } => (1, 3),
        Op::Attention(_) => (3, 4),
        Op::Concat { .. } => (1, usize::MAX),
        _ => (1, 1),
    }
}

struct Check<'a> {
    op: &'a Op,
}

impl Check<'_> {
    fn error<T>(&self, message: String) -> Result<T> {
        Err(Error::Type {
            op: self.op.name().to_owned(),
            message,
        })
    }

    fn ensure(&self, holds: bool, message: impl FnOnce() -> String) -> Result<()> {
        if holds { Ok(()) } else { self.error(message()) }
    }

    fn operand_count(&self, found: usize) -> Result<()> {
        let (least, most) = operand_counts(self.op);
        self.ensure((least..=most).contains(&found), || {
            let expected = match (least, most) {
                (least, most) if least == most => least.to_string(),
                (least, usize::MAX) => format!("{least} or more"),
                (least, most) => format!("{least} to {most}"),
            };
            format!("expected {expected} operands, found {found}")
        })
    }

    fn float<'t>(&self, ty: &'t TensorType) -> Result<&'t TensorType> {
        self.ensure(ty.dtype.is_float(), || {
            format!("expected a float operand, found {ty}")
        })?;
        Ok(ty)
    }

    fn rank(&self, ty: &TensorType, rank: usize) -> Result<()> {
        self.ensure(ty.rank() == rank, || {
            format!("expected {rank} axes, found {ty}")
        })
    }

    fn axis(&self, ty: &TensorType, axis: usize) -> Result<()> {
        self.ensure(axis < ty.rank(), || {
            format!("axis {axis} is not one of {ty}")
        })
    }

    fn last<'t>(&self, ty: &'t TensorType) -> Result<&'t Dim> {
        match ty.dims.last() {
            Some(dim) => Ok(dim),
            None => self.error(format!("expected at least one axis, found {ty}")),
        }
    }

    /// An attribute that enters the arithmetic.
    fn finite(&self, name: &str, value: f32) -> Result<()> {
        self.ensure(value.is_finite(), || {
            format!("{name}: expected a finite number, found {value}")
        })
    }

    fn expect(&self, name: &str, expected: &TensorType, found: &TensorType) -> Result<()> {
        self.ensure(expected == found, || {
            format!("{name}: expected {expected}, found {found}")
        })
    }
}
