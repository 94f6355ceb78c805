//! The type of a value: dtype and dimensions.

use std::fmt;

use tintype_tensor::{DType, Shape};

use crate::{Binding, Dim, Error, Result};

/// Dtype and dimensions of a value, printed as `bf16[batch, 4096]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// The element type.
    pub dtype: DType,
    /// The dimensions, outermost first.
    pub dims: Vec<Dim>,
}

impl TensorType {
    /// A type of the given dtype and dimensions.
    pub fn new<D: Into<Dim>>(dtype: DType, dims: impl IntoIterator<Item = D>) -> Self {
        Self {
            dtype,
            dims: dims.into_iter().map(Into::into).collect(),
        }
    }

    /// The number of axes.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// Whether no symbol occurs.
    pub fn is_static(&self) -> bool {
        self.dims.iter().all(|dim| dim.as_constant().is_some())
    }

    /// The shape of a type without symbols.
    pub fn static_shape(&self) -> Option<Shape> {
        let sizes: Option<Vec<usize>> = self
            .dims
            .iter()
            .map(|dim| {
                dim.as_constant()
                    .and_then(|size| usize::try_from(size).ok())
            })
            .collect();
        sizes.map(Shape::from)
    }

    /// The shape under a binding of the symbols.
    pub fn shape(&self, binding: &Binding) -> Result<Shape> {
        let sizes: Result<Vec<usize>> = self.dims.iter().map(|dim| binding.evaluate(dim)).collect();
        Ok(Shape::from(sizes?))
    }

    /// The number of elements as a polynomial.
    pub fn element_count(&self) -> Result<Dim> {
        self.dims
            .iter()
            .try_fold(Dim::from(1), |product, dim| product.checked_mul(dim))
            .ok_or_else(|| Error::Overflow(self.to_string()))
    }

    /// The same dimensions with another dtype.
    #[must_use]
    pub fn with_dtype(&self, dtype: DType) -> Self {
        Self {
            dtype,
            dims: self.dims.clone(),
        }
    }

    /// The same dtype with other dimensions.
    #[must_use]
    pub fn with_dims(&self, dims: Vec<Dim>) -> Self {
        Self {
            dtype: self.dtype,
            dims,
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (axis, dim) in self.dims.iter().enumerate() {
            if axis > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{dim}")?;
        }
        f.write_str("]")
    }
}
