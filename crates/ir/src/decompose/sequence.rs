//! Attention, and the operations that look positions up.

use tintype_tensor::DType;

use super::{Decomposer, times};
use crate::{Attention, BinaryOp, Dim, Op, ReduceOp, Result, TensorType, UnaryOp, Value};

impl Decomposer<'_, '_, '_> {
    /// Products on `[b, h, s, d]` with a softmax between them.
    pub(super) fn attention(
        &mut self,
        attributes: &Attention,
        [q, k, v]: [Value; 3],
        bias: Option<Value>,
    ) -> Result<Value> {
        let queries = self.transpose(q, &[0, 2, 1, 3])?;
        let keys = self.transpose(k, &[0, 2, 3, 1])?;
        let values = self.transpose(v, &[0, 2, 1, 3])?;
        let scores = self.rewriter.op(Op::MatMul, &[queries, keys])?;
        let mut scores = self.binary_scalar(BinaryOp::Mul, scores, attributes.scale)?;
        if let Some(bias) = bias {
            scores = self.binary(BinaryOp::Add, scores, bias)?;
        }
        if attributes.causal {
            scores = self.hide_later_keys(scores)?;
        }
        let weights = self.add(Op::Softmax, &[scores])?;
        let result = self.rewriter.op(Op::MatMul, &[weights, values])?;
        self.transpose(result, &[0, 2, 1, 3])
    }

    /// −∞ where the key's position is after the query's.
    fn hide_later_keys(&mut self, scores: Value) -> Result<Value> {
        let dims = self.dims(scores);
        let positions = TensorType::new(DType::I64, dims[2..].to_vec());
        let iota = |axis: usize| Op::Iota {
            ty: positions.clone(),
            axis,
        };
        let query = self.rewriter.op(iota(0), &[])?;
        let key = self.rewriter.op(iota(1), &[])?;
        let later = self.binary(BinaryOp::Less, query, key)?;
        let hidden = self.rewriter.scalar(DType::F32, f32::NEG_INFINITY)?;
        self.rewriter.op(Op::Select, &[later, hidden, scores])
    }

    /// A gather from `x[b·n, …]` at `indices + n·(0, 1, …)`.
    pub(super) fn gather_rows(&mut self, x: Value, indices: Value) -> Result<Value> {
        let dims = self.dims(x);
        let count = times(&dims[0], &dims[1])?;
        let mut rows = vec![count.clone()];
        rows.extend(dims[2..].iter().cloned());
        let rows = self.reshape(x, rows)?;
        // The first row of each: `n` may be a symbol, so that it is counted, not multiplied.
        let counted = Op::Iota {
            ty: TensorType::new(DType::I64, [count]),
            axis: 0,
        };
        let counted = self.rewriter.op(counted, &[])?;
        let counted = self.reshape(counted, dims[..2].to_vec())?;
        let zero = self.integer(0)?;
        let first = self.rewriter.op(Op::Gather { axis: 1 }, &[counted, zero])?;
        let indices = self.rewriter.cast(indices, DType::I64)?;
        let positions = self.binary(BinaryOp::Add, first, indices)?;
        self.rewriter.op(Op::Gather { axis: 0 }, &[rows, positions])
    }

    /// The least position among those that hold the greatest value, as the greatest of
    /// the negated positions.
    pub(super) fn argmax(&mut self, x: Value) -> Result<Value> {
        let x = self.rewriter.cast(x, DType::F32)?;
        let greatest = self.reduce_last(ReduceOp::Max, x)?;
        let is_greatest = self.binary(BinaryOp::Equal, x, greatest)?;
        let size: Dim = self.dims(x).pop().unwrap_or_else(|| Dim::from(1));
        let positions = Op::Iota {
            ty: TensorType::new(DType::F32, [size]),
            axis: 0,
        };
        let positions = self.rewriter.op(positions, &[])?;
        let negated = self.unary(UnaryOp::Neg, positions)?;
        let nowhere = self.rewriter.scalar(DType::F32, f32::NEG_INFINITY)?;
        let candidates = self
            .rewriter
            .op(Op::Select, &[is_greatest, negated, nowhere])?;
        let first = self.reduce_last(ReduceOp::Max, candidates)?;
        let first = self.unary(UnaryOp::Neg, first)?;
        let mut dims = self.dims(first);
        dims.pop();
        self.reshape(first, dims)
    }
}
