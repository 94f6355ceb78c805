//! Operands, and launching the kernels that work element by element, with all sizes checked.

use tintype_tensor::DType;

use super::WeightKernels;
use super::strides::{Axis, Strides, collapse, repeated};
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

/// Whether `shape` can be repeated to `result`.
pub(super) fn repeats(shape: &[usize], result: &[usize]) -> bool {
    let fits = |(own, wanted): (&usize, &usize)| own == wanted || *own == 1;
    shape.len() <= result.len() && shape.iter().rev().zip(result.iter().rev()).all(fits)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_repeat_as_the_ir_says() {
        assert!(repeats(&[3, 1], &[2, 3, 4]));
        assert!(repeats(&[], &[2, 3]));
        assert!(!repeats(&[2, 1, 1], &[3, 4]));
        assert!(!repeats(&[2], &[3]));
    }
}
