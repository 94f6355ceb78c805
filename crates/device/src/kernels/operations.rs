//! Launching the kernels of weight programs, with all sizes checked.

use tintype_tensor::DType;

use super::WeightKernels;
use super::strides::{Axis, MAX_BLOCKS, Movement, Mover, Strides, collapse, repeated, row_major};
use crate::{Argument, DeviceBuffer, Error, Grid, Result, Stream};

/// Row-major elements at the beginning of a buffer.
#[derive(Debug, Clone, Copy)]
pub struct Operand<'a> {
    dtype: DType,
    shape: &'a [usize],
    buffer: &'a DeviceBuffer,
}

/// An operation on one operand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum UnaryKernel {
    /// `−x`
    Neg,
    /// `|x|`
    Abs,
    /// Square root.
    Sqrt,
    /// `1/√x`
    Rsqrt,
    /// `1/x`
    Reciprocal,
    /// Values limited to a range; NaN stays.
    Clamp {
        /// Least value.
        min: f32,
        /// Greatest value.
        max: f32,
    },
}

/// An operation on two operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum BinaryKernel {
    /// `a + b`
    Add,
    /// `a − b`
    Sub,
    /// `a · b`
    Mul,
    /// `a / b`
    Div,
    /// The greater; NaN if one is.
    Max,
    /// The lesser; NaN if one is.
    Min,
}

impl<'a> Operand<'a> {
    /// An operand, whose elements must lie within the buffer.
    ///
    /// # Errors
    /// [`Error::Range`] if they do not.
    pub fn new(dtype: DType, shape: &'a [usize], buffer: &'a DeviceBuffer) -> Result<Self> {
        let bytes = tintype_tensor::Shape::from(shape).byte_len(dtype)?;
        buffer.expect_range("taking an operand", &(0..bytes))?;
        Ok(Self {
            dtype,
            shape,
            buffer,
        })
    }

    pub(super) fn dtype(&self) -> DType {
        self.dtype
    }

    pub(super) fn shape(&self) -> &'a [usize] {
        self.shape
    }

    pub(super) fn buffer(&self) -> &'a DeviceBuffer {
        self.buffer
    }

    pub(super) fn count(&self) -> u64 {
        self.shape.iter().map(|&size| size as u64).product()
    }

    pub(super) fn address(&self) -> Argument<'static> {
        Argument::U64(self.buffer.address())
    }
}

impl UnaryKernel {
    /// The number by which the source knows it, and the limits.
    fn code(self) -> (u32, f32, f32) {
        match self {
            Self::Neg => (0, 0.0, 0.0),
            Self::Abs => (1, 0.0, 0.0),
            Self::Sqrt => (2, 0.0, 0.0),
            Self::Rsqrt => (3, 0.0, 0.0),
            Self::Reciprocal => (4, 0.0, 0.0),
            Self::Clamp { min, max } => (5, min, max),
        }
    }
}

impl WeightKernels {
    /// The values of `input` in the dtype of `output`, each rounded once.
    ///
    /// # Errors
    /// As all of these functions: [`Error::Unsupported`] for a dtype without kernels and for
    /// shapes that do not fit each other.
    pub fn cast(&self, stream: &Stream, input: Operand<'_>, output: Operand<'_>) -> Result<()> {
        expect_floats("cast", &[input, output])?;
        expect(input.count() == output.count(), || {
            format!("a cast of {:?} to {:?}", input.shape, output.shape)
        })?;
        let name = format!("cast_{}_{}", input.dtype, output.dtype);
        let count = output.count();
        let arguments = [input.address(), output.address(), Argument::U64(count)];
        let grid = self.line(count.div_ceil(8));
        self.enqueue(stream, &name, grid, &arguments, &[input], output)
    }

    /// One operation on each element; both operands have the same dtype.
    pub fn unary(
        &self,
        stream: &Stream,
        op: UnaryKernel,
        input: Operand<'_>,
        output: Operand<'_>,
    ) -> Result<()> {
        expect_floats("unary", &[input, output])?;
        let fits = input.dtype == output.dtype && input.count() == output.count();
        expect(fits, || format!("{op:?} of {input:?} to {output:?}"))?;
        let (code, low, high) = op.code();
        let arguments = [
            Argument::U32(code),
            Argument::F32(low),
            Argument::F32(high),
            input.address(),
            output.address(),
            Argument::U64(output.count()),
        ];
        let name = format!("unary_{}", output.dtype);
        let grid = self.line(output.count());
        self.enqueue(stream, &name, grid, &arguments, &[input], output)
    }

    /// One operation on each pair of elements; sizes 1 and missing outer axes are repeated.
    pub fn binary(
        &self,
        stream: &Stream,
        op: BinaryKernel,
        [a, b]: [Operand<'_>; 2],
        output: Operand<'_>,
    ) -> Result<()> {
        expect_floats("binary", &[a, b, output])?;
        let unsupported = || format!("{op:?} of {:?} and {:?}", a.shape, b.shape);
        let fits = a.dtype == output.dtype && b.dtype == output.dtype;
        expect(fits && repeats(a.shape, output.shape), unsupported)?;
        expect(repeats(b.shape, output.shape), unsupported)?;
        let count = output.count();
        let grid = self.line(count);
        let mut arguments = vec![
            Argument::U32(op as u32),
            a.address(),
            b.address(),
            output.address(),
            Argument::U64(count),
        ];
        if let (Some(a_step), Some(b_step)) = (flat_step(a, count), flat_step(b, count)) {
            arguments.extend([Argument::U64(a_step), Argument::U64(b_step)]);
            let name = format!("binary_{}", output.dtype);
            return self.enqueue(stream, &name, grid, &arguments, &[a, b], output);
        }
        let strides = binary_strides(a.shape, b.shape, output.shape);
        let strides = strides.ok_or_else(|| Error::Unsupported(unsupported()))?;
        arguments.push(Argument::Bytes(bytemuck::bytes_of(&strides)));
        let name = format!("binary_repeated_{}", output.dtype);
        self.enqueue(stream, &name, grid, &arguments, &[a, b], output)
    }

    /// Axes in another order: result axis `i` is operand axis `permutation[i]`.
    pub fn transpose(
        &self,
        stream: &Stream,
        permutation: &[usize],
        input: Operand<'_>,
        output: Operand<'_>,
    ) -> Result<()> {
        let movement = transpose_movement(input.shape, permutation, input.dtype);
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
        let fits = same_but(axis, input.shape, output.shape)
            && start + output.shape[axis] <= input.shape[axis];
        let movement = slice_movement(input.shape, output.shape, axis, start, input.dtype);
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
        let fits = same_but(axis, input.shape, output.shape)
            && start + input.shape[axis] <= output.shape[axis];
        let movement = place_movement(input.shape, output.shape, axis, start, input.dtype);
        self.move_elements(stream, movement.filter(|_| fits), input, output)
    }

    /// Sizes 1 and missing outer axes repeated to the shape of the result.
    pub fn broadcast(
        &self,
        stream: &Stream,
        input: Operand<'_>,
        output: Operand<'_>,
    ) -> Result<()> {
        let fits = repeats(input.shape, output.shape);
        let movement = fits.then(|| broadcast_movement(input.shape, output.shape, input.dtype));
        self.move_elements(stream, movement.flatten(), input, output)
    }

    /// `base + up · down` for `base[rows, columns]`, f32 `up[rows, inner]` and
    /// `down[inner, columns]`, in f32 and rounded once to the dtype of base and result.
    pub fn merge(
        &self,
        stream: &Stream,
        base: Operand<'_>,
        [up, down]: [Operand<'_>; 2],
        output: Operand<'_>,
    ) -> Result<()> {
        expect_floats("merge", &[base, output])?;
        let fits = base.dtype == output.dtype && base.shape == output.shape;
        expect(fits, || format!("a merge of {base:?} to {output:?}"))?;
        let product = product_arguments([up, down], output)?;
        let mut arguments = vec![base.address()];
        arguments.extend(product.1);
        let name = format!("merge_{}", output.dtype);
        self.enqueue(
            stream,
            &name,
            product.0,
            &arguments,
            &[base, up, down],
            output,
        )
    }

    /// `up · down` for f32 matrices.
    pub fn product(
        &self,
        stream: &Stream,
        [up, down]: [Operand<'_>; 2],
        output: Operand<'_>,
    ) -> Result<()> {
        let (grid, arguments) = product_arguments([up, down], output)?;
        expect(output.dtype == DType::F32, || {
            format!("a product of {}", output.dtype)
        })?;
        self.enqueue(stream, "product_f32", grid, &arguments, &[up, down], output)
    }

    fn move_elements(
        &self,
        stream: &Stream,
        movement: Option<Movement>,
        input: Operand<'_>,
        output: Operand<'_>,
    ) -> Result<()> {
        let unsupported = || format!("moving {input:?} to {output:?}");
        expect(input.dtype == output.dtype, unsupported)?;
        let mover = movement.and_then(|movement| movement.mover());
        let mover = mover.ok_or_else(|| Error::Unsupported(unsupported()))?;
        let (from, to) = (input.address(), output.address());
        match mover {
            Mover::Run {
                from, to, bytes, ..
            } => {
                let range = from..from + bytes;
                output.buffer.copy_from(to, input.buffer, range, stream)
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

    /// Launches a kernel whose sizes were checked, and tells the buffers of it.
    pub(super) fn enqueue(
        &self,
        stream: &Stream,
        name: &str,
        grid: Grid,
        arguments: &[Argument<'_>],
        inputs: &[Operand<'_>],
        output: Operand<'_>,
    ) -> Result<()> {
        for operand in inputs.iter().chain([&output]) {
            operand.buffer.expect_device(self.device())?;
        }
        output.buffer.expect_device(stream.device())?;
        if output.count() == 0 {
            return Ok(());
        }
        // SAFETY: callers give the arguments that the kernel declares, and operands that lie
        // within their buffers; the buffers are told of the work below.
        unsafe { self.launch(stream, name, grid, arguments) }?;
        for operand in inputs.iter().chain([&output]) {
            operand.buffer.read_by(stream)?;
        }
        Ok(())
    }
}

/// The grid and the arguments from `up` on of `merge_*` and `product_f32`.
fn product_arguments(
    [up, down]: [Operand<'_>; 2],
    output: Operand<'_>,
) -> Result<(Grid, [Argument<'static>; 6])> {
    let unsupported = || format!("a product of {up:?} and {down:?} to {output:?}");
    let (&[rows, inner], &[down_inner, columns]) = (up.shape, down.shape) else {
        return Err(Error::Unsupported(unsupported()));
    };
    let fits = up.dtype == DType::F32
        && down.dtype == DType::F32
        && inner == down_inner
        && output.shape == [rows, columns]
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

/// The strides of two operands over the axes of their result, if a kernel can follow them.
pub(crate) fn binary_strides(a: &[usize], b: &[usize], result: &[usize]) -> Option<Strides> {
    let (first, second) = (repeated(a, result), repeated(b, result));
    let sides = first.into_iter().zip(second);
    let axes = result.iter().zip(sides);
    let axes: Vec<Axis> = axes
        .map(|(&size, (first, second))| Axis {
            size,
            first,
            second,
        })
        .collect();
    Strides::new(&collapse(&axes))
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
    let mut movement = Movement::new(input, element_bytes(dtype)?);
    let strides = row_major(output);
    for (axis, &stride) in movement.axes.iter_mut().zip(&strides) {
        axis.second = stride;
    }
    movement.output_start = start as u64 * strides.get(axis)?;
    Some(movement)
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

/// Whether `shape` can be repeated to `result`.
fn repeats(shape: &[usize], result: &[usize]) -> bool {
    let fits = |(own, wanted): (&usize, &usize)| own == wanted || *own == 1;
    shape.len() <= result.len() && shape.iter().rev().zip(result.iter().rev()).all(fits)
}

/// Whether two shapes differ in one axis alone.
fn same_but(axis: usize, a: &[usize], b: &[usize]) -> bool {
    let mut axes = a.iter().zip(b).enumerate();
    axis < a.len() && a.len() == b.len() && axes.all(|(index, (a, b))| index == axis || a == b)
}

/// 1 for an operand of all elements, 0 for one of a single element.
fn flat_step(operand: Operand<'_>, count: u64) -> Option<u64> {
    match operand.count() {
        elements if elements == count => Some(1),
        1 => Some(0),
        _ => None,
    }
}

pub(super) fn expect_floats(op: &str, operands: &[Operand<'_>]) -> Result<()> {
    let wrong = operands
        .iter()
        .find(|operand| !WeightKernels::computes(operand.dtype));
    wrong.map_or(Ok(()), |operand| {
        Err(Error::Unsupported(format!("{op} of {}", operand.dtype)))
    })
}

pub(super) fn expect(fits: bool, what: impl Fn() -> String) -> Result<()> {
    if fits {
        return Ok(());
    }
    Err(Error::Unsupported(what()))
}

/// As in `merge.cu`.
const TILE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_repeat_as_the_ir_says() {
        assert!(repeats(&[3, 1], &[2, 3, 4]));
        assert!(repeats(&[], &[2, 3]));
        assert!(!repeats(&[2, 1, 1], &[3, 4]));
        assert!(!repeats(&[2], &[3]));
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
