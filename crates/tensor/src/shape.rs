//! Concrete shapes, outermost axis first.

use std::fmt;
use std::ops::Deref;

use crate::{DType, Error, Result};

/// The sizes of a tensor's axes, outermost first; row-major without gaps.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape(Vec<usize>);

impl Shape {
    /// A shape of the given sizes.
    pub fn new(sizes: impl Into<Vec<usize>>) -> Self {
        Self(sizes.into())
    }

    /// The number of elements, or an error where it overflows.
    pub fn checked_len(&self) -> Result<usize> {
        self.0
            .iter()
            .try_fold(1usize, |product, &size| product.checked_mul(size))
            .ok_or_else(|| Error::TooLarge(self.clone()))
    }

    /// The number of elements of a shape that is known to fit.
    ///
    /// # Panics
    /// On overflow; shapes from outside go through [`Shape::checked_len`] first.
    pub fn element_count(&self) -> usize {
        self.checked_len().expect("a checked shape")
    }

    /// The bytes that this shape takes in `dtype`, or an error on overflow.
    pub fn byte_len(&self, dtype: DType) -> Result<usize> {
        dtype
            .byte_len(self.checked_len()?)
            .filter(|&bytes| isize::try_from(bytes).is_ok())
            .ok_or_else(|| Error::TooLarge(self.clone()))
    }

    /// Row-major strides in elements.
    pub fn strides(&self) -> Vec<usize> {
        let mut strides = vec![1; self.0.len()];
        for axis in (0..self.0.len().saturating_sub(1)).rev() {
            strides[axis] = strides[axis + 1] * self.0[axis + 1];
        }
        strides
    }
}

impl Deref for Shape {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.0
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(sizes: [usize; N]) -> Self {
        Self(sizes.to_vec())
    }
}

impl From<Vec<usize>> for Shape {
    fn from(sizes: Vec<usize>) -> Self {
        Self(sizes)
    }
}

impl From<&[usize]> for Shape {
    fn from(sizes: &[usize]) -> Self {
        Self(sizes.to_vec())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (axis, size) in self.0.iter().enumerate() {
            if axis > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{size}")?;
        }
        f.write_str("]")
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_are_row_major() {
        assert_eq!(Shape::from([2, 3, 4]).strides(), [12, 4, 1]);
        assert!(Shape::from([]).strides().is_empty());
        assert_eq!(Shape::from([]).element_count(), 1);
    }

    #[test]
    fn overflow_is_an_error() {
        let shape = Shape::from([usize::MAX, 2]);
        assert_eq!(shape.checked_len(), Err(Error::TooLarge(shape.clone())));
        assert!(Shape::from([usize::MAX / 4]).byte_len(DType::F32).is_err());
    }
}
