//! Reductions over neighbouring axes.

use tintype_tensor::DType;

use super::WeightKernels;
use super::operations::{Operand, expect, expect_floats};
use super::strides::MAX_BLOCKS;
use crate::{Argument, DeviceBuffer, Error, Grid, Result, Stream};

/// A reduction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ReduceKernel {
    /// The sum.
    Sum,
    /// The mean.
    Mean,
    /// The greatest value; NaN if there is one.
    Max,
}

/// A shape seen as `[outer, reduced, inner]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reduction {
    outer: usize,
    reduced: usize,
    inner: usize,
}

impl Reduction {
    /// `None` for axes that are not neighbours, for empty shapes, and for sizes that kernels
    /// do not count.
    pub(crate) fn new(shape: &[usize], axes: &[usize]) -> Option<Self> {
        let neighbours = axes.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        let (Some(&first), Some(&last)) = (axes.first(), axes.last()) else {
            return None;
        };
        if !neighbours || last >= shape.len() || shape.contains(&0) {
            return None;
        }
        let reduction = Self {
            outer: shape[..first].iter().product(),
            reduced: shape[first..=last].iter().product(),
            inner: shape[last + 1..].iter().product(),
        };
        let most = i32::MAX as usize;
        let Self {
            outer,
            reduced,
            inner,
        } = reduction;
        let fits = inner == 1 || outer <= MAX_BLOCKS;
        (fits && outer <= most && reduced <= most && inner <= most).then_some(reduction)
    }

    /// Into how many parts the reduced axis is cut, so that about `blocks` are at work.
    fn parts(self, blocks: usize) -> usize {
        let (others, least) = if self.inner == 1 {
            (self.outer, 4096)
        } else {
            (self.outer * self.inner.div_ceil(256), 64)
        };
        let most = (self.reduced / least).clamp(1, 1024);
        (blocks / others.max(1)).clamp(1, most)
    }
}

impl WeightKernels {
    /// Reduces neighbouring `axes` of `input`; the result has as many elements as the other
    /// axes together. Sums are in f32, in an order that depends on shape and device alone.
    pub fn reduce(
        &self,
        stream: &Stream,
        op: ReduceKernel,
        axes: &[usize],
        input: Operand<'_>,
        output: Operand<'_>,
    ) -> Result<()> {
        expect_floats("reduce", &[input, output])?;
        let unsupported = || format!("{op:?} of {input:?} over {axes:?} to {output:?}");
        let reduction = Reduction::new(input.shape(), axes);
        let reduction = reduction.ok_or_else(|| Error::Unsupported(unsupported()))?;
        let count = reduction.outer * reduction.inner;
        let fits = output.dtype() == input.dtype() && output.count() == count as u64;
        expect(fits, unsupported)?;
        let parts = reduction.parts(self.device().info().multiprocessors * 8);
        let partial = DeviceBuffer::allocate(stream, count * parts * 4)?;
        let partial_shape = [parts, count];
        let partial = Operand::new(DType::F32, &partial_shape, &partial)?;
        self.reduce_to_parts(stream, op, reduction, input, partial)?;
        let divisor = if op == ReduceKernel::Mean {
            reduction.reduced as f32
        } else {
            1.0
        };
        let arguments = [
            Argument::U32(op as u32),
            Argument::U64(partial.buffer().address()),
            output.address(),
            Argument::U64(count as u64),
            Argument::U32(parts as u32),
            Argument::F32(divisor),
        ];
        let name = format!("reduce_parts_{}", output.dtype());
        let grid = self.line(count as u64);
        self.enqueue(stream, &name, grid, &arguments, &[partial], output)
    }

    fn reduce_to_parts(
        &self,
        stream: &Stream,
        op: ReduceKernel,
        reduction: Reduction,
        input: Operand<'_>,
        partial: Operand<'_>,
    ) -> Result<()> {
        let Reduction {
            outer,
            reduced,
            inner,
        } = reduction;
        let parts = partial.shape()[0] as u32;
        let mut arguments = vec![
            Argument::U32(op as u32),
            input.address(),
            partial.address(),
            Argument::U32(reduced as u32),
        ];
        if inner == 1 {
            let name = format!("reduce_rows_{}", input.dtype());
            let grid = Grid::new([outer as u32, parts, 1], 256);
            return self.enqueue(stream, &name, grid, &arguments, &[input], partial);
        }
        arguments.push(Argument::U32(inner as u32));
        let name = format!("reduce_columns_{}", input.dtype());
        let grid = Grid::new([inner.div_ceil(256) as u32, parts, outer as u32], 256);
        self.enqueue(stream, &name, grid, &arguments, &[input], partial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_axes_are_one() {
        let reduction = Reduction::new(&[2, 3, 4, 5], &[1, 2]).unwrap();
        assert_eq!(
            (reduction.outer, reduction.reduced, reduction.inner),
            (2, 12, 5)
        );
        assert_eq!(Reduction::new(&[2, 3, 4], &[0, 2]), None);
        assert_eq!(Reduction::new(&[2, 0], &[1]), None);
        assert_eq!(Reduction::new(&[2, 3], &[]), None);
        assert_eq!(Reduction::new(&[100_000, 3, 2], &[1]), None);
    }

    #[test]
    fn long_axes_are_cut_and_short_ones_are_not() {
        let parts =
            |shape: &[usize], axes: &[usize]| Reduction::new(shape, axes).unwrap().parts(1000);
        assert_eq!(parts(&[12288, 3072], &[1]), 1);
        assert_eq!(parts(&[12288, 3072], &[0, 1]), 1000);
        assert_eq!(parts(&[12288, 3072], &[0]), 83);
        assert_eq!(parts(&[10], &[0]), 1);
    }
}
