//! Products of f32 matrices, and the merge of low-rank updates.

use tintype_tensor::DType;

use super::WeightKernels;
use super::operations::{Operand, expect, expect_floats};
use super::strides::MAX_BLOCKS;
use crate::{Argument, Error, Grid, Result, Stream};

impl WeightKernels {
    /// `base + up · (scale · down)` for `base[rows, columns]`, `up[rows, inner]` and
    /// `down[inner, columns]` of one dtype that it [merges](Self::merges), in f32 and rounded once
    /// to the dtype of base and result.
    pub fn merge(
        &self,
        stream: &Stream,
        base: Operand<'_>,
        ([up, down], scale): ([Operand<'_>; 2], f32),
        output: Operand<'_>,
    ) -> Result<()> {
        let factor = up.dtype();
        expect(Self::merges(factor), || format!("a merge of {factor}"))?;
        expect_floats("merge", &[base, output])?;
        let fits = base.dtype() == output.dtype() && base.shape() == output.shape();
        expect(fits, || format!("a merge of {base:?} to {output:?}"))?;
        let product = product_arguments([up, down], output)?;
        let mut arguments = vec![base.address()];
        arguments.extend(product.1);
        arguments.push(Argument::F32(scale));
        let name = format!("merge_{}_{factor}", output.dtype());
        self.enqueue(
            stream,
            &name,
            product.0,
            &arguments,
            &[base, up, down],
            output,
        )
    }

    /// Whether factors of this dtype are merged as they are.
    pub fn merges(factor: DType) -> bool {
        FACTORS.contains(&factor)
    }

    /// `up · down` for f32 matrices.
    pub fn product(
        &self,
        stream: &Stream,
        [up, down]: [Operand<'_>; 2],
        output: Operand<'_>,
    ) -> Result<()> {
        let (grid, arguments) = product_arguments([up, down], output)?;
        let is_f32 = up.dtype() == DType::F32 && output.dtype() == DType::F32;
        expect(is_f32, || {
            format!("a product of {} to {}", up.dtype(), output.dtype())
        })?;
        self.enqueue(stream, "product_f32", grid, &arguments, &[up, down], output)
    }
}

/// The grid and the arguments from `up` on of `merge_*` and `product_f32`.
fn product_arguments(
    [up, down]: [Operand<'_>; 2],
    output: Operand<'_>,
) -> Result<(Grid, [Argument<'static>; 6])> {
    let unsupported = || format!("a product of {up:?} and {down:?} to {output:?}");
    let (&[rows, inner], &[down_inner, columns]) = (up.shape(), down.shape()) else {
        return Err(Error::Unsupported(unsupported()));
    };
    let fits = up.dtype() == down.dtype()
        && inner == down_inner
        && output.shape() == [rows, columns]
        && has_product(rows, columns, inner);
    expect(fits, unsupported)?;
    let blocks = |size: usize| size.div_ceil(TILE) as u32;
    let arguments = [
        up.address(),
        down.address(),
        output.address(),
        Argument::U32(rows as u32),
        Argument::U32(columns as u32),
        Argument::U32(inner as u32),
    ];
    let grid = Grid::new([blocks(columns), blocks(rows), 1], 256);
    Ok((grid, arguments))
}

/// Whether the sizes of a product are ones that its kernel counts.
pub(crate) fn has_product(rows: usize, columns: usize, inner: usize) -> bool {
    // Indices within a tile go beyond the sizes by less than a tile.
    let counts = |size: usize| size < u32::MAX as usize - TILE;
    counts(columns) && counts(inner) && rows.div_ceil(TILE) <= MAX_BLOCKS
}

/// The dtypes of factors that are merged as they are stored.
pub(super) const FACTORS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// As in `merge.cu`.
const TILE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_the_grid_cannot_hold_have_no_product() {
        assert!(has_product(21_504, 3072, 128));
        assert!(!has_product(64 * MAX_BLOCKS + 1, 1, 1));
        assert!(!has_product(1, u32::MAX as usize, 1));
    }
}
