//! What can be wrong with a tensor.

use crate::{DType, Shape};

/// Errors of this crate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The number of bytes or elements does not fit the shape and dtype.
    #[error("{dtype}{shape} needs {expected} bytes, found {found}")]
    Size {
        /// The tensor's dtype.
        dtype: DType,
        /// The tensor's shape.
        shape: Shape,
        /// Bytes that dtype and shape ask for.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// The tensor has another dtype than the caller needs.
    #[error("expected a tensor of {expected}, found {found}")]
    DType {
        /// What the caller needs.
        expected: DType,
        /// What the tensor has.
        found: DType,
    },
    /// The tensor has another shape than the caller needs.
    #[error("expected shape {expected}, found {found}")]
    Shape {
        /// What the caller needs.
        expected: Shape,
        /// What the tensor has.
        found: Shape,
    },
    /// A shape whose number of bytes does not fit in memory's address range.
    #[error("shape {0} is too large")]
    TooLarge(Shape),
    /// The tensor's bytes are not aligned to its element type.
    #[error("the bytes of this {0} tensor are not aligned to its elements")]
    Unaligned(DType),
    /// A name that is no dtype.
    #[error("unknown dtype `{0}`")]
    UnknownDType(String),
    /// No conversion between two dtypes.
    #[error("no conversion from {from} to {to}")]
    Conversion {
        /// The source dtype.
        from: DType,
        /// The wanted dtype.
        to: DType,
    },
}
