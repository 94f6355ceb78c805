//! A value while a program runs.

use std::borrow::Cow;
use std::sync::Arc;

use half::{bf16, f16};
use tintype_backend::Result;
use tintype_tensor::{DType, Shape, Tensor};

use crate::buffer::{Buffer, Pool};
use crate::kernels::Weights;

/// A tensor as the executor holds it. Cloning is cheap.
///
/// Computed floats are kept as f32 that are rounded to `dtype` already; weights
/// stay as they are stored, so that a bf16 model takes two bytes a parameter.
#[derive(Debug, Clone)]
pub(crate) struct Value {
    pub(crate) dtype: DType,
    pub(crate) shape: Shape,
    data: Data,
}

#[derive(Debug, Clone)]
enum Data {
    Floats(Arc<Buffer>),
    Integers(Arc<Vec<i64>>),
    Stored(Tensor),
}

impl Value {
    pub(crate) fn floats(dtype: DType, shape: Shape, buffer: Buffer) -> Self {
        debug_assert_eq!(shape.element_count(), buffer.len());
        Self {
            dtype,
            shape,
            data: Data::Floats(Arc::new(buffer)),
        }
    }

    /// Whole numbers of i64, i32, u8 or bool, each within its dtype's range.
    pub(crate) fn integers(dtype: DType, shape: Shape, values: Vec<i64>) -> Self {
        debug_assert_eq!(shape.element_count(), values.len());
        Self {
            dtype,
            shape,
            data: Data::Integers(Arc::new(values)),
        }
    }

    /// A tensor as it is stored: for weights, which are read where they lie.
    pub(crate) fn stored(tensor: Tensor) -> Result<Self> {
        Self::stored_as(tensor.dtype(), tensor)
    }

    /// A stored tensor as a value of `dtype`, of which its own float dtype is a part.
    pub(crate) fn stored_as(dtype: DType, tensor: Tensor) -> Result<Self> {
        let shape = tensor.shape().clone();
        if !tensor.dtype().is_float() {
            let mut values = tensor.to_i64_vec()?;
            if dtype == DType::Bool {
                // A byte from outside may be another than 0 and 1.
                for value in &mut values {
                    *value = (*value).signum();
                }
            }
            return Ok(Self::integers(dtype, shape, values));
        }
        Ok(Self {
            dtype,
            shape,
            data: Data::Stored(tensor),
        })
    }

    /// A tensor widened to f32 once: for inputs, which are read often.
    pub(crate) fn widened(tensor: &Tensor, pool: &Arc<Pool>) -> Result<Self> {
        let (dtype, shape) = (tensor.dtype(), tensor.shape().clone());
        if !dtype.is_float() || dtype == DType::F32 {
            return Self::stored(tensor.clone());
        }
        let mut buffer = pool.take(shape.element_count());
        tensor.read_f32(0, &mut buffer)?;
        Ok(Self::floats(dtype, shape, buffer))
    }

    /// The same elements under another shape and, where no bits change, dtype.
    pub(crate) fn with_shape(&self, shape: Shape) -> Result<Self> {
        let data = match &self.data {
            Data::Stored(tensor) => Data::Stored(tensor.reshape(shape.clone())?),
            data => data.clone(),
        };
        Ok(Self {
            dtype: self.dtype,
            shape,
            data,
        })
    }

    /// The floats, borrowed where they lie as f32.
    pub(crate) fn as_floats(&self) -> Result<Cow<'_, [f32]>> {
        match &self.data {
            Data::Floats(buffer) => Ok(Cow::Borrowed(buffer)),
            Data::Stored(tensor) => Ok(tensor.to_f32()?),
            Data::Integers(values) => Ok(values.iter().map(|&value| value as f32).collect()),
        }
    }

    /// The floats, if they lie in a buffer: what a cast can share.
    pub(crate) fn shared_floats(&self, dtype: DType) -> Option<Self> {
        let Data::Floats(buffer) = &self.data else {
            return None;
        };
        let data = Data::Floats(Arc::clone(buffer));
        Some(Self {
            dtype,
            shape: self.shape.clone(),
            data,
        })
    }

    /// The whole numbers of an integer or bool value.
    pub(crate) fn as_integers(&self) -> Option<&[i64]> {
        match &self.data {
            Data::Integers(values) => Some(values),
            _ => None,
        }
    }

    /// The values where they lie, for kernels that widen as they go; `None` if
    /// they are not aligned or of a dtype that such kernels do not read.
    pub(crate) fn as_weights(&self) -> Option<Weights<'_>> {
        match &self.data {
            Data::Floats(buffer) => Some(Weights::F32(buffer)),
            Data::Integers(_) => None,
            Data::Stored(tensor) => match tensor.dtype() {
                DType::F32 => tensor.as_slice().ok().map(Weights::F32),
                DType::BF16 => tensor.as_slice::<bf16>().ok().map(Weights::BF16),
                DType::F16 => tensor.as_slice::<f16>().ok().map(Weights::F16),
                DType::F8E4M3 => Some(Weights::F8E4M3(tensor.bytes())),
                _ => None,
            },
        }
    }

    /// The value as a tensor of its dtype.
    pub(crate) fn to_tensor(&self) -> Result<Tensor> {
        let tensor = match &self.data {
            Data::Stored(tensor) => tensor.to_dtype(self.dtype)?,
            Data::Floats(buffer) => {
                Tensor::from_f32_as(self.dtype, self.shape.clone(), buffer.to_vec())?
            }
            Data::Integers(values) if self.dtype == DType::Bool => {
                let bytes = values.iter().map(|&value| u8::from(value != 0)).collect();
                Tensor::from_bytes(DType::Bool, self.shape.clone(), bytes)?
            }
            Data::Integers(values) => {
                Tensor::new(self.shape.clone(), values.to_vec())?.to_dtype(self.dtype)?
            }
        };
        Ok(tensor)
    }

    /// The value as weights are kept: in its own dtype, aligned, in memory of its own
    /// that the pool of the program does not get back.
    pub(crate) fn into_weight(self) -> Result<Self> {
        let aligned = self.as_weights().is_some();
        let floats = match self.data {
            Data::Integers(_) => return Ok(self),
            Data::Stored(_) if aligned => return Ok(self),
            Data::Stored(tensor) => tensor.to_f32_vec()?,
            Data::Floats(buffer) => match Arc::try_unwrap(buffer) {
                Ok(buffer) => buffer.into_vec(),
                Err(shared) => shared.to_vec(),
            },
        };
        Self::stored(Tensor::from_f32_as(self.dtype, self.shape, floats)?)
    }
}
