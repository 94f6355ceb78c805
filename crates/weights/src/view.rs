//! Lazy rearrangements of a tensor: rows, swapped halves, another shape.
//!
//! A view is checked when it is made and applied when the tensor is read. Not a
//! place for arithmetic: that belongs to weight programs.
//!
//! ```
//! use tintype_tensor::Tensor;
//! use tintype_weights::{Parameters, View};
//!
//! let fused = Parameters::builder()
//!     .tensor("qkv.bias", Tensor::from_f32([6], vec![0., 1., 2., 3., 4., 5.])?)
//!     .view("to_k.bias", "qkv.bias", View::Rows { start: 2, end: 4 })
//!     .build()?;
//! assert_eq!(fused.get("to_k.bias")?.to_f32_vec()?, [2., 3.]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use tintype_tensor::{DType, Error, Shape, Tensor};

/// A rearrangement of a tensor's rows or shape.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum View {
    /// Rows `start..end` of the outermost axis; shares the bytes.
    Rows {
        /// The first row.
        start: usize,
        /// One past the last row.
        end: usize,
    },
    /// The second half of the rows, then the first; copies.
    SwapHalves,
    /// Another shape of as many elements; shares the bytes.
    Reshape(Shape),
}

impl View {
    /// The shape that this view gives a tensor, or what is wrong with it.
    pub(crate) fn shape(&self, dtype: DType, shape: &Shape) -> Result<Shape, Error> {
        let refused = |expected: Vec<usize>| Error::Shape {
            expected: expected.into(),
            found: shape.clone(),
        };
        // Rows of a packed dtype may begin within a byte.
        let mut rest = shape.get(1..).unwrap_or_default().iter();
        let row_bits = rest.try_fold(dtype.bits(), |bits, &size| bits.checked_mul(size));
        let whole_rows = !shape.is_empty() && row_bits.is_some_and(|bits| bits.is_multiple_of(8));
        let mut sizes = shape.to_vec();
        match self {
            Self::Rows { start, end } => {
                if !whole_rows || start > end || *end > shape[0] {
                    sizes.splice(..1.min(sizes.len()), [*end]);
                    return Err(refused(sizes));
                }
                sizes[0] = end - start;
                Ok(sizes.into())
            }
            Self::SwapHalves => {
                if !whole_rows || !shape[0].is_multiple_of(2) {
                    sizes.splice(
                        ..1.min(sizes.len()),
                        [shape.first().map_or(2, |rows| rows + 1)],
                    );
                    return Err(refused(sizes));
                }
                Ok(shape.clone())
            }
            Self::Reshape(target) => {
                if target.checked_len()? != shape.checked_len()? {
                    return Err(refused(target.to_vec()));
                }
                Ok(target.clone())
            }
        }
    }

    pub(crate) fn apply(&self, tensor: &Tensor) -> Result<Tensor, Error> {
        match self {
            Self::Rows { start, end } => tensor.rows(*start, *end),
            Self::Reshape(shape) => tensor.reshape(shape.clone()),
            Self::SwapHalves => {
                let (first, second) = tensor.bytes().split_at(tensor.bytes().len() / 2);
                let bytes = [second, first].concat();
                Tensor::from_bytes(tensor.dtype(), tensor.shape().clone(), bytes)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_too_long_to_count_are_refused() {
        // Without rows there are no bytes, whatever a file says of their length.
        let shape = Shape::from([0, 1 << 40, 1 << 40]);
        let rows = View::Rows { start: 0, end: 0 };
        for view in [rows, View::SwapHalves] {
            assert!(view.shape(DType::F32, &shape).is_err());
        }
    }
}
