//! Functions of two values, with broadcasting.

use tintype_tensor::DType;

use super::parallel::for_chunks;
use super::rounding::round_slice;

/// An elementwise function of two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Binary {
    /// a + b.
    Add,
    /// a − b.
    Sub,
    /// a · b.
    Mul,
    /// a / b.
    Div,
    /// The larger; NaN if either is.
    Max,
    /// The smaller; NaN if either is.
    Min,
    /// aᵇ.
    Pow,
}

/// `out = function(lhs, rhs)`, shapes aligned at the right, axes of length 1 repeated.
///
/// # Panics
/// If the shapes do not broadcast to each other or a length does not fit.
pub fn binary(
    function: Binary,
    rounding: DType,
    (lhs, lhs_shape): (&[f32], &[usize]),
    (rhs, rhs_shape): (&[f32], &[usize]),
    out: &mut [f32],
) {
    let loops = Loops::new(lhs_shape, rhs_shape);
    assert_eq!(
        lhs.len(),
        lhs_shape.iter().product::<usize>(),
        "binary: left length"
    );
    assert_eq!(
        rhs.len(),
        rhs_shape.iter().product::<usize>(),
        "binary: right length"
    );
    assert_eq!(
        out.len(),
        loops.dims.iter().product::<usize>(),
        "binary: output length"
    );
    for_chunks(out, |offset, chunk| {
        loops.for_runs(offset, chunk.len(), |position, length, left, right| {
            let out = &mut chunk[position..position + length];
            let lhs = Operand::new(lhs, left, length);
            let rhs = Operand::new(rhs, right, length);
            run(function, lhs, rhs, out);
            round_slice(rounding, out);
        });
    });
}

/// The loops over the output, merged where both operands allow it.
struct Loops {
    dims: Vec<usize>,
    lhs_strides: Vec<usize>,
    rhs_strides: Vec<usize>,
}

/// Where a run starts in an operand, and its step: 0 or 1.
#[derive(Clone, Copy)]
struct Start {
    offset: usize,
    step: usize,
}

impl Loops {
    fn new(lhs_shape: &[usize], rhs_shape: &[usize]) -> Self {
        let rank = lhs_shape.len().max(rhs_shape.len());
        let lhs_shape = [vec![1; rank - lhs_shape.len()], lhs_shape.to_vec()].concat();
        let rhs_shape = [vec![1; rank - rhs_shape.len()], rhs_shape.to_vec()].concat();
        let (lhs_steps, rhs_steps) = (strides(&lhs_shape), strides(&rhs_shape));
        let mut loops = Self {
            dims: vec![],
            lhs_strides: vec![],
            rhs_strides: vec![],
        };
        for axis in 0..rank {
            let (left, right) = (lhs_shape[axis], rhs_shape[axis]);
            assert!(
                left == right || left == 1 || right == 1,
                "binary: {left} against {right}"
            );
            let dim = if left == 1 { right } else { left };
            loops.push(dim, lhs_steps[axis], rhs_steps[axis]);
        }
        if loops.dims.is_empty() {
            loops.push_new(1, 1, 1);
        }
        loops
    }

    /// Appends an inner axis, merged with the one before if both walk on evenly.
    fn push(&mut self, dim: usize, lhs_stride: usize, rhs_stride: usize) {
        if dim == 1 {
            return;
        }
        if let Some(last) = self.dims.len().checked_sub(1)
            && self.lhs_strides[last] == lhs_stride * dim
            && self.rhs_strides[last] == rhs_stride * dim
        {
            self.dims[last] *= dim;
            self.lhs_strides[last] = lhs_stride;
            self.rhs_strides[last] = rhs_stride;
            return;
        }
        self.push_new(dim, lhs_stride, rhs_stride);
    }

    fn push_new(&mut self, dim: usize, lhs_stride: usize, rhs_stride: usize) {
        self.dims.push(dim);
        self.lhs_strides.push(lhs_stride);
        self.rhs_strides.push(rhs_stride);
    }

    /// Calls `body(position, length, lhs, rhs)` for the runs along the last axis that
    /// make up the output's `offset..offset + length`.
    fn for_runs(
        &self,
        offset: usize,
        length: usize,
        mut body: impl FnMut(usize, usize, Start, Start),
    ) {
        let last = self.dims.len() - 1;
        let inner = self.dims[last];
        let mut position = 0;
        while position < length {
            let column = (offset + position) % inner;
            let run = (inner - column).min(length - position);
            let (mut left, mut right) = (
                column * self.lhs_strides[last],
                column * self.rhs_strides[last],
            );
            let mut rest = (offset + position) / inner;
            for axis in (0..last).rev() {
                let index = rest % self.dims[axis];
                rest /= self.dims[axis];
                left += index * self.lhs_strides[axis];
                right += index * self.rhs_strides[axis];
            }
            body(
                position,
                run,
                Start {
                    offset: left,
                    step: self.lhs_strides[last],
                },
                Start {
                    offset: right,
                    step: self.rhs_strides[last],
                },
            );
            position += run;
        }
    }
}

/// Row-major strides, 0 for axes of length 1.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![0; shape.len()];
    let mut step = 1;
    for axis in (0..shape.len()).rev() {
        if shape[axis] != 1 {
            strides[axis] = step;
        }
        step *= shape[axis];
    }
    strides
}

#[derive(Clone, Copy)]
enum Operand<'a> {
    Row(&'a [f32]),
    Scalar(f32),
}

impl<'a> Operand<'a> {
    fn new(values: &'a [f32], start: Start, length: usize) -> Self {
        if start.step == 0 {
            Self::Scalar(values[start.offset])
        } else {
            Self::Row(&values[start.offset..start.offset + length])
        }
    }
}

fn run(function: Binary, lhs: Operand, rhs: Operand, out: &mut [f32]) {
    match function {
        Binary::Add => add(lhs, rhs, out),
        Binary::Sub => sub(lhs, rhs, out),
        Binary::Mul => mul(lhs, rhs, out),
        Binary::Div => div(lhs, rhs, out),
        Binary::Max => max(lhs, rhs, out),
        Binary::Min => min(lhs, rhs, out),
        Binary::Pow => pow(lhs, rhs, out),
    }
}

macro_rules! functions {
    ($($name:ident = |$a:ident, $b:ident| $formula:expr;)*) => {
        $(vectorised! {
            fn $name<'a>(_simd; lhs: Operand<'a>, rhs: Operand<'a>, out: &'a mut [f32]) {
                match (lhs, rhs) {
                    (Operand::Row(lhs), Operand::Row(rhs)) => {
                        for ((out, &$a), &$b) in out.iter_mut().zip(lhs).zip(rhs) {
                            *out = $formula;
                        }
                    }
                    (Operand::Row(lhs), Operand::Scalar($b)) => {
                        for (out, &$a) in out.iter_mut().zip(lhs) {
                            *out = $formula;
                        }
                    }
                    (Operand::Scalar($a), Operand::Row(rhs)) => {
                        for (out, &$b) in out.iter_mut().zip(rhs) {
                            *out = $formula;
                        }
                    }
                    (Operand::Scalar($a), Operand::Scalar($b)) => out.fill($formula),
                }
            }
        })*
    };
}

functions! {
    add = |a, b| a + b;
    sub = |a, b| a - b;
    mul = |a, b| a * b;
    div = |a, b| a / b;
    max = |a, b| if a.is_nan() || a > b { a } else { b };
    min = |a, b| if a.is_nan() || a < b { a } else { b };
    pow = |a, b| a.powf(b);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{Random, same_for_any_threads};

    fn reference(lhs: (&[f32], &[usize]), rhs: (&[f32], &[usize]), out: &[usize]) -> Vec<f32> {
        let at = |(values, shape): (&[f32], &[usize]), index: usize| {
            let (mut rest, mut offset, mut step) = (index, 0, 1);
            for (axis, &dim) in out.iter().enumerate().rev() {
                let own = (axis + shape.len())
                    .checked_sub(out.len())
                    .map_or(1, |own| shape[own]);
                if own != 1 {
                    offset += rest % dim * step;
                }
                step *= own;
                rest /= dim;
            }
            values[offset]
        };
        (0..out.iter().product())
            .map(|index| at(lhs, index) * at(rhs, index))
            .collect()
    }

    #[test]
    fn broadcasts_like_numpy() {
        let mut random = Random::new(9);
        let shapes: [(&[usize], &[usize], &[usize]); 10] = [
            (&[3, 17], &[3, 17], &[3, 17]),
            (&[300, 65], &[], &[300, 65]),
            (&[1], &[5, 3], &[5, 3]),
            (&[65, 129], &[129], &[65, 129]),
            (&[2, 300, 65], &[2, 1, 65], &[2, 300, 65]),
            (&[2, 1, 65], &[2, 300, 65], &[2, 300, 65]),
            (&[4, 1, 3], &[1, 17, 1], &[4, 17, 3]),
            (&[2, 3, 1, 1], &[2, 3, 40, 41], &[2, 3, 40, 41]),
            (&[], &[], &[]),
            (&[200_000], &[200_000], &[200_000]),
        ];
        for (left, right, shape) in shapes {
            let lhs = random.values(left.iter().product());
            let rhs = random.values(right.iter().product());
            let expected = reference((&lhs, left), (&rhs, right), shape);
            let found = same_for_any_threads(|| {
                let mut out = vec![0.0; expected.len()];
                binary(
                    Binary::Mul,
                    DType::F32,
                    (&lhs, left),
                    (&rhs, right),
                    &mut out,
                );
                out
            });
            assert_eq!(found, expected, "{left:?} {right:?}");
            let mut rounded = vec![0.0; expected.len()];
            binary(
                Binary::Mul,
                DType::BF16,
                (&lhs, left),
                (&rhs, right),
                &mut rounded,
            );
            assert!(
                found
                    .iter()
                    .zip(&rounded)
                    .all(|(&a, &b)| DType::BF16.round(a) == b)
            );
        }
    }

    #[test]
    fn every_function() {
        let cases = [
            (Binary::Add, 5.0),
            (Binary::Sub, 1.0),
            (Binary::Mul, 6.0),
            (Binary::Div, 1.5),
            (Binary::Max, 3.0),
            (Binary::Min, 2.0),
            (Binary::Pow, 9.0),
        ];
        for (function, expected) in cases {
            let mut out = [0.0; 3];
            binary(
                function,
                DType::F32,
                (&[3.0; 3], &[3]),
                (&[2.0], &[1]),
                &mut out,
            );
            assert_eq!(out, [expected; 3], "{function:?}");
        }
        for function in [Binary::Max, Binary::Min] {
            for (a, b) in [(f32::NAN, 1.0), (1.0, f32::NAN)] {
                let mut out = [0.0];
                binary(function, DType::F32, (&[a], &[1]), (&[b], &[1]), &mut out);
                assert!(out[0].is_nan());
            }
        }
    }
}
