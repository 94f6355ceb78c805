//! Elements at other places: transpose, slice, parts of a concatenation, broadcast.

use tintype_tensor::DType;

use super::WeightKernels;
use super::operations::{Operand, expect, repeats};
use super::strides::{Movement, Mover, repeated, row_major};
use crate::{Argument, Error, Grid, Result, Stream};

impl WeightKernels {
    /// Axes in another order: result axis `i` is operand axis `permutation[i]`.
    pub fn transpose(
        &self,
        stream: &Stream,
        permutation: &[usize],
        input: Operand<'_>,
        output: Operand<'_>,
    ) -> Result<()> {
        let movement = transpose_movement(input.shape(), permutation, input.dtype());
        let movement = movement.filter(|_| input.count() == output.count());
        self.move_elements(stream, movement, input, output)
    }

    /// Positions of one axis from `start` on, as many as the result has.
    pub fn slice(
        &self,
        stream: &Stream,
        (axis, start): (usize, usize),
        input: Operand<'_>,
        output: Operand<'_>,
    ) -> Result<()> {
        let fits = same_but(axis, input.shape(), output.shape())
            && start + output.shape()[axis] <= input.shape()[axis];
        let movement = slice_movement(input.shape(), output.shape(), axis, start, input.dtype());
        self.move_elements(stream, movement.filter(|_| fits), input, output)
    }

    /// `input` at position `start` of one axis of `output`: a part of a concatenation.
    pub fn place(
        &self,
        stream: &Stream,
        (axis, start): (usize, usize),
        input: Operand<'_>,
        output: Operand<'_>,
    ) -> Result<()> {
        let fits = same_but(axis, input.shape(), output.shape())
            && start + input.shape()[axis] <= output.shape()[axis];
        let movement = place_movement(input.shape(), output.shape(), axis, start, input.dtype());
        self.move_elements(stream, movement.filter(|_| fits), input, output)
    }

    /// Sizes 1 and missing outer axes repeated to the shape of the result.
    pub fn broadcast(
        &self,
        stream: &Stream,
        input: Operand<'_>,
        output: Operand<'_>,
    ) -> Result<()> {
        let fits = repeats(input.shape(), output.shape());
        let movement =
            fits.then(|| broadcast_movement(input.shape(), output.shape(), input.dtype()));
        self.move_elements(stream, movement.flatten(), input, output)
    }

    fn move_elements(
        &self,
        stream: &Stream,
        movement: Option<Movement>,
        input: Operand<'_>,
        output: Operand<'_>,
    ) -> Result<()> {
        let unsupported = || format!("moving {input:?} to {output:?}");
        expect(input.dtype() == output.dtype(), unsupported)?;
        let mover = movement.and_then(|movement| movement.mover());
        let mover = mover.ok_or_else(|| Error::Unsupported(unsupported()))?;
        let (from, to) = (input.address(), output.address());
        match mover {
            Mover::Run {
                from, to, bytes, ..
            } => {
                let range = from..from + bytes;
                output.buffer().copy_from(to, input.buffer(), range, stream)
            }
            Mover::Transpose {
                unit,
                batch,
                rows,
                columns,
            } => {
                let grid = Grid::new([columns.div_ceil(32), rows.div_ceil(32), batch], 256);
                let arguments = [from, to, Argument::U32(rows), Argument::U32(columns)];
                let name = format!("transpose_{unit}");
                self.enqueue(stream, &name, grid, &arguments, &[input], output)
            }
            Mover::Strided {
                unit,
                count,
                input_start,
                output_start,
                strides,
            } => {
                let arguments = [
                    from,
                    to,
                    Argument::U64(count),
                    Argument::U64(input_start),
                    Argument::U64(output_start),
                    Argument::Bytes(bytemuck::bytes_of(&strides)),
                ];
                let (name, grid) = (format!("copy_{unit}"), self.line(count));
                self.enqueue(stream, &name, grid, &arguments, &[input], output)
            }
        }
    }
}

/// The movement of a transpose; `None` for dtypes that are not whole bytes.
pub(crate) fn transpose_movement(
    shape: &[usize],
    permutation: &[usize],
    dtype: DType,
) -> Option<Movement> {
    let strides = row_major(shape);
    let sizes: Option<Vec<usize>> = permutation
        .iter()
        .map(|&axis| shape.get(axis).copied())
        .collect();
    let mut movement = Movement::new(&sizes?, element_bytes(dtype)?);
    for (axis, &from) in movement.axes.iter_mut().zip(permutation) {
        axis.first = strides[from];
    }
    (permutation.len() == shape.len()).then_some(movement)
}

/// The movement of a slice.
pub(crate) fn slice_movement(
    input: &[usize],
    output: &[usize],
    axis: usize,
    start: usize,
    dtype: DType,
) -> Option<Movement> {
    let mut movement = Movement::new(output, element_bytes(dtype)?);
    let strides = row_major(input);
    for (axis, &stride) in movement.axes.iter_mut().zip(&strides) {
        axis.first = stride;
    }
    movement.input_start = start as u64 * strides.get(axis)?;
    Some(movement)
}

/// The movement of a part of a concatenation.
pub(crate) fn place_movement(
    input: &[usize],
    output: &[usize],
    axis: usize,
    start: usize,
    dtype: DType,
) -> Option<Movement> {
    // What a slice of the whole would read, written.
    Some(slice_movement(output, input, axis, start, dtype)?.reversed())
}

/// The movement of a broadcast.
pub(crate) fn broadcast_movement(
    input: &[usize],
    output: &[usize],
    dtype: DType,
) -> Option<Movement> {
    let mut movement = Movement::new(output, element_bytes(dtype)?);
    for (axis, stride) in movement.axes.iter_mut().zip(repeated(input, output)) {
        axis.first = stride;
    }
    Some(movement)
}

fn element_bytes(dtype: DType) -> Option<usize> {
    dtype.bits().is_multiple_of(8).then_some(dtype.bits() / 8)
}

/// Whether two shapes differ in one axis alone.
fn same_but(axis: usize, a: &[usize], b: &[usize]) -> bool {
    let mut axes = a.iter().zip(b).enumerate();
    axis < a.len() && a.len() == b.len() && axes.all(|(index, (a, b))| index == axis || a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_may_differ_in_one_axis() {
        assert!(same_but(1, &[2, 3], &[2, 7]));
        assert!(!same_but(1, &[2, 3], &[3, 3]));
        assert!(!same_but(2, &[2, 3], &[2, 3]));
    }

    #[test]
    fn a_concatenation_of_rows_is_runs_of_bytes() {
        let movement = place_movement(&[2, 8], &[6, 8], 0, 3, DType::BF16);
        let mover = movement.unwrap().mover();
        let expected = Mover::Run {
            from: 0,
            to: 48,
            bytes: 32,
        };
        assert_eq!(mover, Some(expected));
        let columns = place_movement(&[2, 8], &[2, 24], 1, 8, DType::BF16);
        let mover = columns.unwrap().mover();
        assert!(matches!(
            mover,
            Some(Mover::Strided {
                unit: 16,
                count: 2,
                output_start: 1,
                ..
            })
        ));
    }

    #[test]
    fn four_bit_elements_do_not_move() {
        assert_eq!(transpose_movement(&[2, 2], &[1, 0], DType::F4E2M1), None);
    }
}
