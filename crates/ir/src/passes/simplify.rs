//! Simplifications that every backend wants: data movement that moves nothing, or
//! twice.
//!
//! - a reshape, broadcast, cast or slice to what its operand is already; a transpose
//!   that keeps the order; a concatenation of one value: gone;
//! - a reshape of a reshape, a transpose of a transpose, a broadcast of a broadcast, a
//!   slice of a slice along the same axis: one;
//! - a cast of a cast that lost nothing: one, or none.
//!
//! No arithmetic is simplified here.

use tintype_tensor::DType;

use super::{Pass, Rewriter};
use crate::{Graph, Node, Op, Result, TensorType, Value};

/// [`simplify`] as a pass.
#[derive(Debug, Clone, Copy)]
pub struct Simplify;

impl Pass for Simplify {
    fn name(&self) -> &'static str {
        "simplify"
    }

    fn run(&self, graph: &Graph) -> Result<Graph> {
        simplify(graph)
    }
}

/// The graph with needless data movement removed; what it leaves without a use stays
/// for dead code elimination.
pub fn simplify(graph: &Graph) -> Result<Graph> {
    Rewriter::rewrite(graph, |rewriter, _, node| {
        let [operand] = node.operands.as_slice() else {
            return Ok(None);
        };
        let operand = rewriter.map(*operand);
        let (op, operand) = match below(rewriter, operand) {
            Some((inner, source)) => match joined(rewriter, node, &inner, source) {
                Some(op) => (op, source),
                None => (node.op.clone(), operand),
            },
            None => (node.op.clone(), operand),
        };
        if does_nothing(&op, rewriter.type_of(operand), &node.ty) {
            return Ok(Some(operand));
        }
        if op == node.op && operand == rewriter.map(node.operands[0]) {
            return Ok(None);
        }
        rewriter.op(op, &[operand]).map(Some)
    })
}

/// The operation that makes a value of the new graph, and what it reads, if that is one value.
fn below(rewriter: &Rewriter, value: Value) -> Option<(Op, Value)> {
    let node = rewriter.node_of(value)?;
    match node.operands.as_slice() {
        [source] => Some((node.op.clone(), *source)),
        _ => None,
    }
}

/// The one operation on `source` that does what `node` does after `inner`.
fn joined(rewriter: &Rewriter, node: &Node, inner: &Op, source: Value) -> Option<Op> {
    match (&node.op, inner) {
        (Op::Reshape { .. }, Op::Reshape { .. }) | (Op::Broadcast { .. }, Op::Broadcast { .. }) => {
            Some(node.op.clone())
        }
        (Op::Transpose { permutation: outer }, Op::Transpose { permutation: inner }) => {
            let permutation = outer.iter().map(|&axis| inner[axis]).collect();
            Some(Op::Transpose { permutation })
        }
        (Op::Cast { dtype: outer }, Op::Cast { dtype: inner })
            if holds_all_of(*inner, rewriter.type_of(source).dtype) =>
        {
            Some(Op::Cast { dtype: *outer })
        }
        (
            Op::Slice { axis, start, end },
            Op::Slice {
                axis: inner_axis,
                start: offset,
                ..
            },
        ) if axis == inner_axis => {
            let moved = start.checked_add(offset).zip(end.checked_add(offset));
            moved.map(|(start, end)| Op::Slice {
                axis: *axis,
                start,
                end,
            })
        }
        _ => None,
    }
}

fn does_nothing(op: &Op, operand: &TensorType, result: &TensorType) -> bool {
    match op {
        Op::Reshape { .. } | Op::Broadcast { .. } | Op::Cast { .. } | Op::Slice { .. } => {
            operand == result
        }
        Op::Transpose { permutation } => permutation.iter().copied().eq(0..permutation.len()),
        Op::Concat { .. } => true,
        _ => false,
    }
}

/// Whether each value of `narrow` is a value of `wide` too.
fn holds_all_of(wide: DType, narrow: DType) -> bool {
    use DType::{BF16, Bool, F4E2M1, F8E4M3, F16, F32, I32, I64, U8};
    match narrow {
        F16 | BF16 | F8E4M3 | F4E2M1 => wide == F32 || wide == narrow,
        I32 => matches!(wide, I32 | I64),
        U8 => matches!(wide, U8 | I32 | I64 | F32),
        Bool => wide == Bool,
        _ => wide == narrow,
    }
}
