//! Operations element by element, and reductions.

use tintype_backend::Result;
use tintype_ir::{BinaryOp, ReduceOp, UnaryOp};
use tintype_tensor::{DType, Shape};

use super::Call;
use crate::kernels::{Binary, Reduce, Unary, binary, reduce, softmax, unary};
use crate::value::Value;

impl Call<'_> {
    pub(super) fn unary(&self, op: UnaryOp) -> Result<Value> {
        let x = self.operands[0].as_floats()?;
        Ok(self.compute(|out| unary(unary_kernel(op), self.dtype, &x, out)))
    }

    pub(super) fn clamp(&self, min: f32, max: f32) -> Result<Value> {
        let x = self.operands[0].as_floats()?;
        let (min, max) = (self.dtype.round(min), self.dtype.round(max));
        let limit = |value: f32| {
            if value < min {
                min
            } else if value > max {
                max
            } else {
                value
            }
        };
        Ok(self.compute(|out| {
            for (out, &x) in out.iter_mut().zip(x.iter()) {
                *out = limit(x);
            }
        }))
    }

    pub(super) fn binary(&self, op: BinaryOp) -> Result<Value> {
        let [a, b] = self.operands else {
            unreachable!("verified")
        };
        if let (Some(left), Some(right)) = (a.as_integers(), b.as_integers()) {
            return self.integer_binary(op, (left, &a.shape), (right, &b.shape));
        }
        let (left, right) = (a.as_floats()?, b.as_floats()?);
        let Some(kernel) = binary_kernel(op) else {
            let compare = |x: &f32, y: &f32| if op == BinaryOp::Equal { x == y } else { x < y };
            let values = self.zip((&left, &a.shape), (&right, &b.shape), |x, y| {
                i64::from(compare(x, y))
            });
            return Ok(Value::integers(self.dtype, self.shape.clone(), values));
        };
        Ok(self.compute(|out| {
            binary(
                kernel,
                self.dtype,
                (&left, &a.shape),
                (&right, &b.shape),
                out,
            );
        }))
    }

    /// Whole numbers wrap around at the ends of their dtype; `div` is towards zero.
    fn integer_binary(
        &self,
        op: BinaryOp,
        left: (&[i64], &Shape),
        right: (&[i64], &Shape),
    ) -> Result<Value> {
        self.check_integers(op, right.0)?;
        let compute = |&x: &i64, &y: &i64| match op {
            BinaryOp::Add => x.wrapping_add(y),
            BinaryOp::Sub => x.wrapping_sub(y),
            BinaryOp::Mul => x.wrapping_mul(y),
            BinaryOp::Div => x.wrapping_div(y),
            BinaryOp::Max => x.max(y),
            BinaryOp::Min => x.min(y),
            BinaryOp::Equal => i64::from(x == y),
            BinaryOp::Less => i64::from(x < y),
            _ => x.wrapping_pow(y as u32),
        };
        let dtype = self.dtype;
        let values = self.zip(left, right, |x, y| wrapped(dtype, compute(x, y)));
        Ok(Value::integers(self.dtype, self.shape.clone(), values))
    }

    /// Divisors and exponents for which there is a whole number.
    fn check_integers(&self, op: BinaryOp, right: &[i64]) -> Result<()> {
        if op == BinaryOp::Div && right.contains(&0) {
            return self.error("division of whole numbers by zero".to_owned());
        }
        let is_exponent = |&value: &i64| u32::try_from(value).is_ok();
        match right.iter().find(|value| !is_exponent(value)) {
            Some(wrong) if op == BinaryOp::Pow => self.error(format!(
                "expected an exponent in 0..={} of whole numbers, found {wrong}",
                u32::MAX
            )),
            _ => Ok(()),
        }
    }

    pub(super) fn select(&self) -> Result<Value> {
        let [condition, a, b] = self.operands else {
            unreachable!("verified")
        };
        let flags = condition
            .as_integers()
            .expect("bool values are whole numbers");
        let choose = (flags, &condition.shape);
        if let (Some(left), Some(right)) = (a.as_integers(), b.as_integers()) {
            let values = self.choose(choose, (left, &a.shape), (right, &b.shape));
            return Ok(Value::integers(self.dtype, self.shape.clone(), values));
        }
        let (left, right) = (a.as_floats()?, b.as_floats()?);
        let values = self.choose(choose, (&left, &a.shape), (&right, &b.shape));
        Ok(self.compute(|out| out.copy_from_slice(&values)))
    }

    fn choose<T: Copy>(
        &self,
        flags: (&[i64], &Shape),
        a: (&[T], &Shape),
        b: (&[T], &Shape),
    ) -> Vec<T> {
        let (flag_at, a_at, b_at) = (self.indices(flags.1), self.indices(a.1), self.indices(b.1));
        let sources = flag_at.zip(a_at.zip(b_at));
        sources
            .map(|(flag, (left, right))| {
                if flags.0[flag] == 0 {
                    b.0[right]
                } else {
                    a.0[left]
                }
            })
            .collect()
    }

    fn zip<T, R>(&self, a: (&[T], &Shape), b: (&[T], &Shape), f: impl Fn(&T, &T) -> R) -> Vec<R> {
        let pairs = self.indices(a.1).zip(self.indices(b.1));
        pairs
            .map(|(left, right)| f(&a.0[left], &b.0[right]))
            .collect()
    }

    /// For each element of the result, in order: the position in an operand of
    /// `shape` that is repeated to the result's shape.
    pub(super) fn indices(&self, shape: &Shape) -> impl Iterator<Item = usize> + use<> {
        let rank = self.shape.len();
        let own = shape.strides();
        let mut strides = vec![0; rank];
        for (axis, (&size, &stride)) in shape.iter().zip(&own).enumerate() {
            strides[rank - shape.len() + axis] = if size == 1 { 0 } else { stride };
        }
        let result = self.shape.clone();
        let result_strides = result.strides();
        (0..result.element_count()).map(move |position| {
            (0..rank)
                .map(|axis| position / result_strides[axis] % result[axis] * strides[axis])
                .sum()
        })
    }

    /// Whole numbers go to floats exactly up to 2²⁴; floats to whole numbers towards zero.
    pub(super) fn cast(&self) -> Result<Value> {
        let x = &self.operands[0];
        if x.dtype == self.dtype {
            return Ok(x.clone());
        }
        if !self.dtype.is_float() {
            let tensor = x.to_tensor()?.to_dtype(self.dtype)?;
            return Value::stored(tensor);
        }
        // Every value of a smaller float dtype is one of f32: nothing to round.
        if self.dtype == DType::F32
            && let Some(shared) = x.shared_floats(self.dtype)
        {
            return Ok(shared);
        }
        let values = x.as_floats()?;
        Ok(self.compute(|out| unary(Unary::Identity, self.dtype, &values, out)))
    }

    pub(super) fn reduce(&self, kind: ReduceOp, axes: &[usize]) -> Result<Value> {
        let x = self.operands[0].as_floats()?;
        let shape = &self.operands[0].shape;
        let kernel = match kind {
            ReduceOp::Sum => Reduce::Sum,
            ReduceOp::Mean => Reduce::Mean,
            _ => Reduce::Max,
        };
        Ok(self.compute(|out| reduce(kernel, shape, axes, self.dtype, &x, out)))
    }

    pub(super) fn softmax(&self) -> Result<Value> {
        let x = self.operands[0].as_floats()?;
        Ok(self.compute(|out| softmax(self.width(), self.dtype, &x, out)))
    }

    pub(super) fn argmax(&self) -> Result<Value> {
        let width = self.width();
        if width == 0 {
            return self.error("the last axis is empty".to_owned());
        }
        let x = &self.operands[0];
        let indices = if let Some(values) = x.as_integers() {
            first_maxima(values, width)
        } else {
            first_maxima(&x.as_floats()?, width)
        };
        Ok(Value::integers(self.dtype, self.shape.clone(), indices))
    }
}

/// A whole number as `dtype` keeps it: its lowest bits.
pub(super) fn wrapped(dtype: DType, value: i64) -> i64 {
    match dtype {
        DType::I32 => i64::from(value as i32),
        DType::U8 => i64::from(value as u8),
        _ => value,
    }
}

/// For each row the first position of its greatest value.
fn first_maxima<T: Copy + PartialOrd>(values: &[T], width: usize) -> Vec<i64> {
    let first =
        |row: &[T]| (1..row.len()).fold(0, |best, at| if row[at] > row[best] { at } else { best });
    values
        .chunks_exact(width)
        .map(|row| first(row) as i64)
        .collect()
}

fn unary_kernel(op: UnaryOp) -> Unary {
    match op {
        UnaryOp::Neg => Unary::Neg,
        UnaryOp::Abs => Unary::Abs,
        UnaryOp::Exp => Unary::Exp,
        UnaryOp::Log => Unary::Log,
        UnaryOp::Sqrt => Unary::Sqrt,
        UnaryOp::Rsqrt => Unary::Rsqrt,
        UnaryOp::Reciprocal => Unary::Recip,
        UnaryOp::Sin => Unary::Sin,
        UnaryOp::Cos => Unary::Cos,
        UnaryOp::Tanh => Unary::Tanh,
        UnaryOp::Erf => Unary::Erf,
        UnaryOp::Sigmoid => Unary::Sigmoid,
        UnaryOp::Silu => Unary::Silu,
        UnaryOp::GeluErf => Unary::GeluErf,
        UnaryOp::GeluTanh => Unary::GeluTanh,
        UnaryOp::GeluQuick => Unary::GeluQuick,
        other => unreachable!("no kernel for {other:?}"),
    }
}

/// The kernel of an operation with float results; comparisons have none.
fn binary_kernel(op: BinaryOp) -> Option<Binary> {
    match op {
        BinaryOp::Add => Some(Binary::Add),
        BinaryOp::Sub => Some(Binary::Sub),
        BinaryOp::Mul => Some(Binary::Mul),
        BinaryOp::Div => Some(Binary::Div),
        BinaryOp::Max => Some(Binary::Max),
        BinaryOp::Min => Some(Binary::Min),
        BinaryOp::Pow => Some(Binary::Pow),
        _ => None,
    }
}
