//! Layers in few words: what operations are put together from.

use tintype_ir::{Dim, TensorType, broadcast_dims};
use tintype_tensor::DType;

use super::composer::Composer;
use super::layers::{Kind, Tensor};
use crate::Result;
use crate::network::{Activation, ElementWise, Reduction, Unary};

impl Composer<'_> {
    /// The same elements under other dimensions.
    pub(super) fn reshape(&mut self, x: Tensor, dims: Vec<Dim>) -> Result<Tensor> {
        if self.ty(x).dims == dims {
            return Ok(x);
        }
        if dims.len() > MAX_RANK {
            return self.refuse(format!("{} axes, the library has {MAX_RANK}", dims.len()));
        }
        let ty = self.ty(x).with_dims(dims);
        Ok(self.add(Kind::Reshape, &[x], ty))
    }

    /// Leading axes of size 1, up to a rank.
    pub(super) fn at_rank(&mut self, x: Tensor, rank: usize) -> Result<Tensor> {
        let dims = self.dims(x);
        let missing = rank.saturating_sub(dims.len());
        let ones = std::iter::repeat_n(Dim::from(1), missing);
        self.reshape(x, ones.chain(dims).collect())
    }

    /// The axes in another order; a transpose of a transpose is one, or none.
    pub(super) fn transpose(&mut self, x: Tensor, permutation: &[usize]) -> Tensor {
        if let Some(layer) = self.maker(x)
            && let Kind::Transpose(before) = &layer.kind
        {
            let both: Vec<usize> = permutation.iter().map(|&axis| before[axis]).collect();
            return self.transpose(layer.inputs[0], &both);
        }
        if permutation
            .iter()
            .enumerate()
            .all(|(axis, &from)| axis == from)
        {
            return x;
        }
        let ty = self.ty(x);
        let dims = permutation
            .iter()
            .map(|&axis| ty.dims[axis].clone())
            .collect();
        let ty = ty.with_dims(dims);
        self.add(Kind::Transpose(permutation.to_vec()), &[x], ty)
    }

    /// The values before they were rounded, where that was the last thing done to them; in f32.
    pub(super) fn unrounded(&mut self, x: Tensor) -> Result<Tensor> {
        if let Some(layer) = self.maker(x)
            && layer.kind == Kind::Cast
            && self.dtype(layer.inputs[0]) == DType::F32
        {
            return Ok(layer.inputs[0]);
        }
        self.cast(x, DType::F32)
    }

    /// Sizes 1 and missing outer axes repeated.
    pub(super) fn repeat(&mut self, x: Tensor, dims: Vec<Dim>) -> Result<Tensor> {
        let x = self.at_rank(x, dims.len())?;
        if self.ty(x).dims == dims {
            return Ok(x);
        }
        let ty = self.ty(x).with_dims(dims);
        Ok(self.add(Kind::Repeat, &[x], ty))
    }

    /// Positions `start..start + size` of one axis.
    pub(super) fn slice(&mut self, x: Tensor, axis: usize, start: Dim, size: Dim) -> Tensor {
        let mut ty = self.ty(x).clone();
        if ty.dims[axis] == size {
            return x;
        }
        let mut starts = vec![Dim::from(0); ty.rank()];
        starts[axis] = start;
        ty.dims[axis] = size;
        self.add(Kind::Slice(starts), &[x], ty)
    }

    pub(super) fn concatenate(&mut self, parts: &[Tensor], axis: usize) -> Result<Tensor> {
        if let [part] = parts {
            return Ok(*part);
        }
        let mut ty = self.ty(parts[0]).clone();
        for &part in &parts[1..] {
            let sum = ty.dims[axis].checked_add(&self.ty(part).dims[axis]);
            ty.dims[axis] = sum.ok_or_else(|| tintype_ir::Error::Overflow(ty.to_string()))?;
        }
        Ok(self.add(Kind::Concatenate(axis), parts, ty))
    }

    /// Two operands of one dtype with their ranks made equal.
    pub(super) fn elementwise(
        &mut self,
        operation: ElementWise,
        a: Tensor,
        b: Tensor,
    ) -> Result<Tensor> {
        let rank = self.rank(a).max(self.rank(b));
        let (a, b) = (self.at_rank(a, rank)?, self.at_rank(b, rank)?);
        let Some(dims) = broadcast_dims(&self.ty(a).dims, &self.ty(b).dims) else {
            return self.refuse(format!("{} and {} do not fit", self.ty(a), self.ty(b)));
        };
        let dtype = match operation {
            ElementWise::Equal | ElementWise::Less => DType::Bool,
            _ => self.dtype(a),
        };
        Ok(self.add(
            Kind::ElementWise(operation),
            &[a, b],
            TensorType { dtype, dims },
        ))
    }

    /// An operand and a number.
    pub(super) fn with_number(
        &mut self,
        operation: ElementWise,
        x: Tensor,
        number: f32,
    ) -> Result<Tensor> {
        let number = self.number(self.dtype(x), self.rank(x), number)?;
        self.elementwise(operation, x, number)
    }

    pub(super) fn unary(&mut self, operation: Unary, x: Tensor) -> Tensor {
        let ty = self.ty(x).clone();
        self.add(Kind::Unary(operation), &[x], ty)
    }

    pub(super) fn activation(&mut self, activation: Activation, x: Tensor) -> Tensor {
        let ty = self.ty(x).clone();
        self.add(Kind::Activation(activation), &[x], ty)
    }

    pub(super) fn select(&mut self, condition: Tensor, a: Tensor, b: Tensor) -> Result<Tensor> {
        let rank = [condition, a, b].map(|operand| self.rank(operand));
        let rank = rank.into_iter().fold(0, usize::max);
        let operands = [
            self.at_rank(condition, rank)?,
            self.at_rank(a, rank)?,
            self.at_rank(b, rank)?,
        ];
        let [condition, a, b] = operands.map(|operand| self.dims(operand));
        let dims = broadcast_dims(&a, &b).and_then(|dims| broadcast_dims(&dims, &condition));
        let Some(dims) = dims else {
            return self.refuse("condition and operands do not fit");
        };
        let ty = self.ty(operands[1]).with_dims(dims);
        Ok(self.add(Kind::Select, &operands, ty))
    }

    /// A reduction; the axes stay with size 1.
    pub(super) fn reduce(&mut self, kind: Reduction, x: Tensor, axes: &[usize]) -> Tensor {
        let mut ty = self.ty(x).clone();
        let mut bits = 0;
        for &axis in axes {
            ty.dims[axis] = Dim::from(1);
            bits |= 1 << axis;
        }
        self.add(Kind::Reduce(kind, bits), &[x], ty)
    }

    /// The product over the last two axes; ranks are made equal.
    pub(super) fn multiply(&mut self, a: Tensor, b: Tensor, turned: [bool; 2]) -> Result<Tensor> {
        let rank = self.rank(a).max(self.rank(b));
        let (a, b) = (self.at_rank(a, rank)?, self.at_rank(b, rank)?);
        let (of_a, of_b) = (self.dims(a), self.dims(b));
        let Some(mut dims) = broadcast_dims(&of_a[..rank - 2], &of_b[..rank - 2]) else {
            return self.refuse(format!("{} and {} do not multiply", self.ty(a), self.ty(b)));
        };
        dims.push(of_a[rank - 2 + usize::from(turned[0])].clone());
        dims.push(of_b[rank - 1 - usize::from(turned[1])].clone());
        let ty = self.ty(a).with_dims(dims);
        Ok(self.add(Kind::MatrixMultiply(turned), &[a, b], ty))
    }

    /// Softmax over the last axis; the library wants two.
    pub(super) fn softmax(&mut self, x: Tensor) -> Result<Tensor> {
        let dims = self.dims(x);
        let rows = if dims.len() == 1 {
            self.at_rank(x, 2)?
        } else {
            x
        };
        let ty = self.ty(rows).clone();
        let result = self.add(Kind::Softmax(ty.rank() - 1), &[rows], ty);
        self.reshape(result, dims)
    }
}

/// The library's limit.
const MAX_RANK: usize = 8;
