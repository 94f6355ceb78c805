//! Values written in a graph.

use tintype_tensor::{DType, Shape, Tensor};

use crate::{Error, Result, TensorType};

/// A constant: a static type and its values; one value stands for all elements.
///
/// Constants are few and small (frequencies, epsilons); everything large is a
/// parameter or computed.
#[derive(Debug, Clone)]
pub struct Constant {
    ty: TensorType,
    values: Values,
}

#[derive(Debug, Clone)]
enum Values {
    Floats(Vec<f32>),
    Integers(Vec<i64>),
}

impl Constant {
    /// A constant of float values, rounded to `dtype`; one value fills the shape.
    pub fn floats(dtype: DType, shape: impl Into<Shape>, values: Vec<f32>) -> Result<Self> {
        let rounded = values.into_iter().map(|value| dtype.round(value)).collect();
        Self::checked(
            dtype,
            &shape.into(),
            Values::Floats(rounded),
            dtype.is_float(),
        )
    }

    /// A constant of whole numbers or booleans; one value fills the shape.
    pub fn integers(dtype: DType, shape: impl Into<Shape>, values: Vec<i64>) -> Result<Self> {
        let (min, max) = match dtype {
            DType::I32 => (i64::from(i32::MIN), i64::from(i32::MAX)),
            DType::U8 => (0, 255),
            DType::Bool => (0, 1),
            _ => (i64::MIN, i64::MAX),
        };
        let fits = values.iter().all(|value| (min..=max).contains(value));
        Self::checked(
            dtype,
            &shape.into(),
            Values::Integers(values),
            fits && !dtype.is_float(),
        )
    }

    /// A constant that holds a tensor's values; a run of one value is kept once.
    pub fn from_tensor(tensor: &Tensor) -> Result<Self> {
        let shape = tensor.shape().clone();
        let failed = |error: tintype_tensor::Error| Error::Type {
            op: "constant".to_owned(),
            message: error.to_string(),
        };
        if tensor.dtype().is_float() {
            let values = tensor.to_f32_vec().map_err(failed)?;
            let same = values
                .windows(2)
                .all(|pair| pair[0].to_bits() == pair[1].to_bits());
            let values = if same {
                values.into_iter().take(1).collect()
            } else {
                values
            };
            return Self::floats(tensor.dtype(), shape, values);
        }
        let values = tensor.to_i64_vec().map_err(failed)?;
        let same = values.windows(2).all(|pair| pair[0] == pair[1]);
        let values = if same {
            values.into_iter().take(1).collect()
        } else {
            values
        };
        Self::integers(tensor.dtype(), shape, values)
    }

    fn checked(dtype: DType, shape: &Shape, values: Values, kind_fits: bool) -> Result<Self> {
        let found = match &values {
            Values::Floats(values) => values.len(),
            Values::Integers(values) => values.len(),
        };
        let expected = shape
            .checked_len()
            .map_err(|error| Error::Overflow(error.to_string()))?;
        let sizes_fit = shape.iter().all(|&size| i64::try_from(size).is_ok());
        if !kind_fits || !sizes_fit || (found != expected && found != 1) {
            return Err(Error::Type {
                op: "constant".to_owned(),
                message: format!("{dtype}{shape} cannot hold these {found} values"),
            });
        }
        Ok(Self {
            ty: TensorType::new(dtype, shape.iter().copied()),
            values,
        })
    }

    /// The type; it has no symbols.
    pub fn ty(&self) -> &TensorType {
        &self.ty
    }

    /// The single value of a float constant that has one value for all elements.
    pub fn as_splat(&self) -> Option<f32> {
        match &self.values {
            Values::Floats(values) if values.len() == 1 => values.first().copied(),
            _ => None,
        }
    }

    /// The float values as stored: one, or one for each element.
    pub fn float_values(&self) -> Option<&[f32]> {
        match &self.values {
            Values::Floats(values) => Some(values),
            Values::Integers(_) => None,
        }
    }

    /// The whole numbers as stored: one, or one for each element.
    pub fn integer_values(&self) -> Option<&[i64]> {
        match &self.values {
            Values::Floats(_) => None,
            Values::Integers(values) => Some(values),
        }
    }

    /// The values as a tensor.
    ///
    /// # Panics
    /// Never: a constant is made with a static type.
    pub fn to_tensor(&self) -> Result<Tensor> {
        let shape = self.ty.static_shape().expect("constants have static types");
        let count = shape.element_count();
        let tensor = match &self.values {
            Values::Floats(values) => {
                let all = if values.len() == 1 {
                    vec![values[0]; count]
                } else {
                    values.clone()
                };
                Tensor::from_f32_as(self.ty.dtype, shape, all)
            }
            Values::Integers(values) => {
                let all = if values.len() == 1 {
                    vec![values[0]; count]
                } else {
                    values.clone()
                };
                match self.ty.dtype {
                    DType::Bool => {
                        let bytes = all.into_iter().map(|value| value as u8).collect();
                        Tensor::from_bytes(DType::Bool, shape, bytes)
                    }
                    dtype => Tensor::new(shape, all).and_then(|tensor| tensor.to_dtype(dtype)),
                }
            }
        };
        tensor.map_err(|error| Error::Overflow(error.to_string()))
    }
}

/// Equal to the bit, so that −0 and NaN constants are told apart and match themselves.
impl PartialEq for Constant {
    fn eq(&self, other: &Self) -> bool {
        let same_values = match (&self.values, &other.values) {
            (Values::Floats(a), Values::Floats(b)) => a
                .iter()
                .map(|v| v.to_bits())
                .eq(b.iter().map(|v| v.to_bits())),
            (Values::Integers(a), Values::Integers(b)) => a == b,
            _ => false,
        };
        self.ty == other.ty && same_values
    }
}
