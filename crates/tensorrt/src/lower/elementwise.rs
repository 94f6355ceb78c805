//! Operations element by element, casts and reductions.

use tintype_ir::{BinaryOp, Constant, Dim, ReduceOp, TensorType, UnaryOp, Value};
use tintype_tensor::{DType, Tensor as HostTensor};

use super::carrier;
use super::composer::{Composer, tensor_error};
use super::layers::{Kind, Tensor};
use crate::Result;
use crate::network::{Activation, ElementWise, Reduction, Unary};

impl Composer<'_> {
    pub(super) fn constant_values(&mut self, constant: &Constant) -> Result<Tensor> {
        let values = constant.to_tensor()?;
        let dtype = carrier(values.dtype());
        if dtype == DType::F4E2M1 {
            return self.refuse("a constant of f4e2m1");
        }
        // The library's constants are no 8-bit floats: they are quantized from f32.
        if dtype == DType::F8E4M3 {
            let wide = values
                .to_dtype(DType::F32)
                .map_err(|error| tensor_error(&error))?;
            let wide = self.literal(wide);
            return self.cast(wide, dtype);
        }
        Ok(self.literal(
            values
                .to_dtype(dtype)
                .map_err(|error| tensor_error(&error))?,
        ))
    }

    pub(super) fn iota(&mut self, ty: &TensorType, axis: usize) -> Result<Tensor> {
        let dims = self.in_network(&ty.dims)?;
        let mut along = vec![Dim::from(1); dims.len()];
        along[axis] = dims[axis].clone();
        let counting = if ty.dtype.is_float() {
            DType::F32
        } else {
            DType::I64
        };
        let counted = self.count(counting, dims[axis].clone());
        let counted = self.reshape(counted, along)?;
        let repeated = self.repeat(counted, dims)?;
        self.narrow(repeated, ty.dtype)
    }

    /// The numbers 0, 1, … in f32 or i64.
    pub(super) fn count(&mut self, dtype: DType, count: Dim) -> Tensor {
        self.add(Kind::Count, &[], TensorType::new(dtype, [count]))
    }

    pub(super) fn unary_operation(&mut self, op: UnaryOp, x: Tensor) -> Result<Tensor> {
        Ok(match op {
            UnaryOp::Neg => self.unary(Unary::Neg, x),
            UnaryOp::Abs => self.unary(Unary::Abs, x),
            UnaryOp::Exp => self.unary(Unary::Exp, x),
            UnaryOp::Log => self.unary(Unary::Log, x),
            UnaryOp::Sqrt => self.unary(Unary::Sqrt, x),
            UnaryOp::Reciprocal => self.unary(Unary::Reciprocal, x),
            UnaryOp::Sin => self.unary(Unary::Sin, x),
            UnaryOp::Cos => self.unary(Unary::Cos, x),
            UnaryOp::Erf => self.unary(Unary::Erf, x),
            UnaryOp::Tanh => self.activation(Activation::Tanh, x),
            UnaryOp::Sigmoid => self.activation(Activation::Sigmoid, x),
            UnaryOp::GeluErf => self.activation(Activation::GeluErf, x),
            UnaryOp::GeluTanh => self.activation(Activation::GeluTanh, x),
            UnaryOp::Silu => return self.times_sigmoid(x, 1.0),
            UnaryOp::GeluQuick => return self.times_sigmoid(x, 1.702),
            UnaryOp::Rsqrt => {
                let wide = self.cast(x, DType::F32)?;
                let factor = self.reciprocal_root(wide);
                return self.cast(factor, self.dtype(x));
            }
            other => return self.refuse(format!("`{}` is not known here", other.name())),
        })
    }

    /// `1/√x`.
    pub(super) fn reciprocal_root(&mut self, x: Tensor) -> Tensor {
        let root = self.unary(Unary::Sqrt, x);
        self.unary(Unary::Reciprocal, root)
    }

    /// `x · sigmoid(factor · x)`, rounded once.
    fn times_sigmoid(&mut self, x: Tensor, factor: f32) -> Result<Tensor> {
        let wide = self.cast(x, DType::F32)?;
        let scaled = if factor == 1.0 {
            wide
        } else {
            self.with_number(ElementWise::Product, wide, factor)?
        };
        let curve = self.activation(Activation::Sigmoid, scaled);
        let product = self.elementwise(ElementWise::Product, wide, curve)?;
        self.cast(product, self.dtype(x))
    }

    pub(super) fn clamp(&mut self, x: Tensor, min: f32, max: f32) -> Tensor {
        let dtype = self.dtype(x);
        let ty = self.ty(x).clone();
        self.add(Kind::Clip(dtype.round(min), dtype.round(max)), &[x], ty)
    }

    /// `dtype` is the graph's, which tells u8 from the i32 that carries it.
    pub(super) fn binary(
        &mut self,
        op: BinaryOp,
        [a, b]: [Tensor; 2],
        values: &[Value],
        dtype: DType,
    ) -> Result<Tensor> {
        if op == BinaryOp::Mul
            && let Some(scaled) = self.dequantized([values[0], values[1]], dtype)?
        {
            return Ok(scaled);
        }
        let operation = match op {
            BinaryOp::Add => ElementWise::Sum,
            BinaryOp::Sub => ElementWise::Difference,
            BinaryOp::Mul => ElementWise::Product,
            BinaryOp::Div => ElementWise::Quotient,
            BinaryOp::Max => ElementWise::Max,
            BinaryOp::Min => ElementWise::Min,
            BinaryOp::Equal => ElementWise::Equal,
            BinaryOp::Less => ElementWise::Less,
            BinaryOp::Pow if dtype.is_float() => ElementWise::Power,
            BinaryOp::Pow => return self.power_of_integers(a, b, dtype),
            other => return self.refuse(format!("`{}` is not known here", other.name())),
        };
        let result = self.elementwise(operation, a, b)?;
        let may_leave = matches!(op, BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul);
        if dtype == DType::U8 && may_leave {
            self.wrapped(result)
        } else {
            Ok(result)
        }
    }

    fn power_of_integers(&mut self, a: Tensor, b: Tensor, dtype: DType) -> Result<Tensor> {
        let carried = self.dtype(a);
        let (a, b) = (self.cast(a, DType::F32)?, self.cast(b, DType::F32)?);
        let power = self.elementwise(ElementWise::Power, a, b)?;
        let power = self.cast(power, carried)?;
        if dtype == DType::U8 {
            self.wrapped(power)
        } else {
            Ok(power)
        }
    }

    /// What remains of an i32 after whole multiples of 256.
    fn wrapped(&mut self, x: Tensor) -> Result<Tensor> {
        let step = self.integer(DType::I32, self.rank(x), 256);
        let wraps = self.elementwise(ElementWise::FloorQuotient, x, step)?;
        let multiple = self.elementwise(ElementWise::Product, wraps, step)?;
        self.elementwise(ElementWise::Difference, x, multiple)
    }

    /// A whole number, of the given rank.
    pub(super) fn integer(&mut self, dtype: DType, rank: usize, value: i64) -> Tensor {
        let sizes = vec![1; rank];
        let values = match dtype {
            DType::I32 => HostTensor::new(sizes, vec![value as i32]),
            _ => HostTensor::new(sizes, vec![value]),
        };
        self.literal(values.expect("one value fills sizes of one"))
    }

    /// Select, with what the library does not choose among cast before and after.
    pub(super) fn choose(&mut self, condition: Tensor, a: Tensor, b: Tensor) -> Result<Tensor> {
        let dtype = self.dtype(a);
        let moved = match dtype {
            DType::Bool => DType::I32,
            DType::F8E4M3 => DType::F32,
            other => other,
        };
        let (a, b) = (self.cast(a, moved)?, self.cast(b, moved)?);
        let chosen = self.select(condition, a, b)?;
        self.cast(chosen, dtype)
    }

    /// The graph's cast: `dtype` is the graph's.
    pub(super) fn cast_values(&mut self, value: Value, x: Tensor, dtype: DType) -> Result<Tensor> {
        if dtype == DType::F4E2M1 || self.dtype(x) == DType::F4E2M1 {
            return self.refuse("f4e2m1");
        }
        if dtype == DType::F8E4M3
            && let Some(quantized) = self.quantized(value)?
        {
            return Ok(quantized);
        }
        self.narrow(x, dtype)
    }

    /// A cast by the rules of the graph: whole numbers stop at the ends of the narrower dtype.
    fn narrow(&mut self, x: Tensor, dtype: DType) -> Result<Tensor> {
        if self.dtype(x) == DType::F8E4M3 && !matches!(dtype, DType::F16 | DType::BF16) {
            let wide = self.cast(x, DType::F32)?;
            return if dtype == DType::F32 {
                Ok(wide)
            } else {
                self.narrow(wide, dtype)
            };
        }
        let from = self.dtype(x);
        let (min, max) = match (from, dtype) {
            (DType::I64, DType::I32) => (i64::from(i32::MIN), i64::from(i32::MAX)),
            (from, DType::U8) if from.is_float() => {
                let limited = self.clamp(x, 0.0, 255.0);
                return self.cast(limited, DType::I32);
            }
            (DType::I64 | DType::I32, DType::U8) => (0, 255),
            _ => return self.cast(x, carrier(dtype)),
        };
        let (min, max) = (
            self.integer(from, self.rank(x), min),
            self.integer(from, self.rank(x), max),
        );
        let limited = self.elementwise(ElementWise::Max, x, min)?;
        let limited = self.elementwise(ElementWise::Min, limited, max)?;
        self.cast(limited, carrier(dtype))
    }

    /// The same values in another dtype of the network.
    pub(super) fn cast(&mut self, x: Tensor, dtype: DType) -> Result<Tensor> {
        let from = self.dtype(x);
        if from == dtype {
            return Ok(x);
        }
        let of_f8 = |other: DType| matches!(other, DType::F32 | DType::F16 | DType::BF16);
        let ty = self.ty(x).with_dtype(dtype);
        if let Some(inputs) = self.widened_f8(x, dtype) {
            return Ok(self.add(Kind::Dequantize(None), &inputs, ty));
        }
        match (from, dtype) {
            (DType::F8E4M3, to) if of_f8(to) => self.scale_of_one(x, Kind::Dequantize(None), &ty),
            (from, DType::F8E4M3) if of_f8(from) => self.scale_of_one(x, Kind::Quantize(None), &ty),
            (DType::F8E4M3, _) | (_, DType::F8E4M3) => {
                let wide = self.cast(x, DType::F32)?;
                self.cast(wide, dtype)
            }
            // A number is true if it is not zero; the library would round it first.
            (from, DType::Bool) if from != DType::Bool => {
                let zero = if from.is_float() {
                    self.number(from, self.rank(x), 0.0)?
                } else {
                    self.integer(from, self.rank(x), 0)
                };
                let is_zero = self.elementwise(ElementWise::Equal, x, zero)?;
                Ok(self.unary(Unary::Not, is_zero))
            }
            _ => Ok(self.add(Kind::Cast, &[x], ty)),
        }
    }

    pub(super) fn reduction(
        &mut self,
        kind: ReduceOp,
        x: Tensor,
        axes: &[usize],
    ) -> Result<Tensor> {
        let kind = match kind {
            ReduceOp::Sum => Reduction::Sum,
            ReduceOp::Mean => Reduction::Mean,
            ReduceOp::Max => return Ok(self.reduce(Reduction::Max, x, axes)),
            other => return self.refuse(format!("`{}` is not known here", other.name())),
        };
        let wide = self.cast(x, DType::F32)?;
        let reduced = self.reduce(kind, wide, axes);
        self.cast(reduced, self.dtype(x))
    }
}
