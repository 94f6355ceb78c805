//! Operations that move values, and reductions.

use tintype_tensor::DType;

use super::Check;
use crate::{Dim, Error, Result, TensorType, broadcast_dims};

impl Check<'_> {
    pub(super) fn reshape(&self, operand: &TensorType, dims: &[Dim]) -> Result<TensorType> {
        let result = operand.with_dims(dims.to_vec());
        let (before, after) = (operand.element_count()?, result.element_count()?);
        self.ensure(before == after, || {
            format!("{operand} has {before} elements, {result} has {after}")
        })?;
        Ok(result)
    }

    pub(super) fn broadcast_to(&self, operand: &TensorType, dims: &[Dim]) -> Result<TensorType> {
        let result = operand.with_dims(dims.to_vec());
        let fits = broadcast_dims(&operand.dims, dims).is_some_and(|both| both == dims);
        self.ensure(fits, || format!("{operand} does not broadcast to {result}"))?;
        Ok(result)
    }

    pub(super) fn transpose(
        &self,
        operand: &TensorType,
        permutation: &[usize],
    ) -> Result<TensorType> {
        let mut sorted = permutation.to_vec();
        sorted.sort_unstable();
        self.ensure(sorted.iter().copied().eq(0..operand.rank()), || {
            format!("{permutation:?} is no permutation of the axes of {operand}")
        })?;
        Ok(operand.with_dims(
            permutation
                .iter()
                .map(|&axis| operand.dims[axis].clone())
                .collect(),
        ))
    }

    pub(super) fn slice(
        &self,
        operand: &TensorType,
        axis: usize,
        start: &Dim,
        end: &Dim,
    ) -> Result<TensorType> {
        self.axis(operand, axis)?;
        let size = &operand.dims[axis];
        let Some(length) = end.checked_sub(start) else {
            return Err(Error::Overflow(format!("{end} - {start}")));
        };
        // Symbols are not negative: an order that holds for each coefficient holds for all values.
        let ordered = |low: &Dim, high: &Dim| {
            high.checked_sub(low)
                .is_some_and(|gap| gap.terms().iter().all(|(c, _)| *c >= 0))
        };
        let within = ordered(&Dim::from(0), start) && ordered(start, end) && ordered(end, size);
        self.ensure(within, || {
            format!("{start}..{end} does not lie within axis {axis} of {operand}")
        })?;
        let mut dims = operand.dims.clone();
        dims[axis] = length;
        Ok(operand.with_dims(dims))
    }

    pub(super) fn concat(&self, operands: &[TensorType], axis: usize) -> Result<TensorType> {
        let first = &operands[0];
        self.axis(first, axis)?;
        let mut total = Dim::from(0);
        for operand in operands {
            let others_equal = operand.dtype == first.dtype
                && operand.rank() == first.rank()
                && (0..first.rank()).all(|i| i == axis || operand.dims[i] == first.dims[i]);
            self.ensure(others_equal, || {
                format!("{first} and {operand} differ beside axis {axis}")
            })?;
            total = total
                .checked_add(&operand.dims[axis])
                .ok_or_else(|| Error::Overflow(format!("the sum along axis {axis}")))?;
        }
        let mut dims = first.dims.clone();
        dims[axis] = total;
        Ok(first.with_dims(dims))
    }

    pub(super) fn index_type(&self, indices: &TensorType) -> Result<()> {
        self.ensure(matches!(indices.dtype, DType::I64 | DType::I32), || {
            format!("expected i64 or i32 indices, found {indices}")
        })
    }

    pub(super) fn gather(
        &self,
        table: &TensorType,
        indices: &TensorType,
        axis: usize,
    ) -> Result<TensorType> {
        self.axis(table, axis)?;
        self.index_type(indices)?;
        let mut dims = table.dims.clone();
        dims.splice(axis..=axis, indices.dims.iter().cloned());
        Ok(table.with_dims(dims))
    }

    pub(super) fn gather_rows(
        &self,
        table: &TensorType,
        indices: &TensorType,
    ) -> Result<TensorType> {
        self.index_type(indices)?;
        self.ensure(
            table.rank() >= 2 && indices.rank() == 1 && table.dims[0] == indices.dims[0],
            || format!("expected [b, n, …] and [b], found {table} and {indices}"),
        )?;
        let mut dims = table.dims.clone();
        dims.remove(1);
        Ok(table.with_dims(dims))
    }

    pub(super) fn argmax(&self, operand: &TensorType) -> Result<TensorType> {
        self.last(operand)?;
        Ok(TensorType {
            dtype: DType::I64,
            dims: operand.dims[..operand.rank() - 1].to_vec(),
        })
    }

    pub(super) fn reduce(&self, operand: &TensorType, axes: &[usize]) -> Result<TensorType> {
        self.float(operand)?;
        let ascending = axes.windows(2).all(|pair| pair[0] < pair[1]);
        self.ensure(
            !axes.is_empty() && ascending && axes.iter().all(|&a| a < operand.rank()),
            || format!("{axes:?} are not ascending axes of {operand}"),
        )?;
        let mut dims = operand.dims.clone();
        for &axis in axes {
            dims[axis] = Dim::from(1);
        }
        Ok(operand.with_dims(dims))
    }
}
