//! What plain structs of the library can do.
//!
//! ```
//! use tintype_tensorrt_sys::Dims;
//!
//! let dims = Dims::new(&[2, 3, -1])?;
//! assert_eq!(dims.as_slice(), [2, 3, -1]);
//! # Ok::<(), tintype_tensorrt_sys::Error>(())
//! ```

use std::ptr;

use crate::{DataType, Dims, Error, NetworkDefinitionCreationFlag, Permutation, Weights};

impl Dims {
    /// The greatest number of dimensions.
    pub const MAX: usize = 8;

    /// Sizes of each dimension; -1 stands for one that is known at run time.
    ///
    /// # Errors
    /// [`Error::TooManyDimensions`] for more than [`Self::MAX`].
    pub fn new(sizes: &[i64]) -> Result<Self, Error> {
        if sizes.len() > Self::MAX {
            return Err(Error::TooManyDimensions { found: sizes.len() });
        }
        let mut dims = Self {
            nb_dims: sizes.len() as i32,
            d: [0; Self::MAX],
        };
        dims.d[..sizes.len()].copy_from_slice(sizes);
        Ok(dims)
    }

    /// The sizes; none if the library means "unknown" by a negative number of dimensions.
    pub fn as_slice(&self) -> &[i64] {
        let count = usize::try_from(self.nb_dims).unwrap_or_default();
        &self.d[..count.min(Self::MAX)]
    }

    /// Whether the library says that there are no such dimensions.
    pub fn is_invalid(&self) -> bool {
        self.nb_dims < 0
    }
}

impl Permutation {
    /// Axis `i` of the result is axis `axes[i]` of the operand.
    ///
    /// # Errors
    /// [`Error::TooManyDimensions`] for more than [`Dims::MAX`].
    pub fn new(axes: &[usize]) -> Result<Self, Error> {
        if axes.len() > Dims::MAX {
            return Err(Error::TooManyDimensions { found: axes.len() });
        }
        let mut order = [0; Dims::MAX];
        for (place, axis) in order.iter_mut().zip(axes) {
            *place = *axis as i32;
        }
        Ok(Self { order })
    }
}

impl Weights {
    /// No weights, for instance no bias.
    pub const fn none(dtype: DataType) -> Self {
        Self::new(dtype, ptr::null(), 0)
    }

    /// Weights without values: a place that refit fills. RTX 1.7 and TensorRT 11.4 take them.
    ///
    /// They are named by what the layer's `get_weights` gives afterwards, not by this: the
    /// library tells weights apart by address, and gives each placeholder one of its own.
    pub const fn placeholder(dtype: DataType, count: i64) -> Self {
        Self::new(dtype, ptr::null(), count)
    }

    /// `count` elements at `values`, which the library reads when it builds or refits.
    pub const fn new(dtype: DataType, values: *const std::ffi::c_void, count: i64) -> Self {
        Self {
            type_: dtype,
            values,
            count,
        }
    }
}

impl NetworkDefinitionCreationFlag {
    /// The flag's bit, as `createNetworkV2` takes it.
    pub const fn bit(self) -> u32 {
        1 << self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dims_have_room_for_eight() {
        assert_eq!(Dims::new(&[]).unwrap().as_slice(), [0_i64; 0]);
        assert_eq!(Dims::new(&[7; 8]).unwrap().as_slice(), [7; 8]);
        let error = Dims::new(&[1; 9]).unwrap_err();
        assert_eq!(error.to_string(), "expected at most 8 dimensions, found 9");
        assert!(Permutation::new(&[0; 9]).is_err());
        assert_eq!(Permutation::new(&[1, 0]).unwrap().order[..2], [1, 0]);
    }

    #[test]
    fn dims_of_the_library_are_not_trusted() {
        for (nb_dims, count) in [(-1, 0), (3, 3), (9, 8), (i32::MAX, 8)] {
            let dims = Dims { nb_dims, d: [1; 8] };
            assert_eq!(dims.as_slice().len(), count);
            assert_eq!(dims.is_invalid(), nb_dims < 0);
        }
    }

    #[test]
    fn structs_have_the_layout_of_the_abi() {
        assert_eq!(size_of::<Dims>(), 72);
        assert_eq!(size_of::<Weights>(), 24);
        assert_eq!(size_of::<Permutation>(), 32);
        assert_eq!(size_of::<crate::InterfaceInfo>(), 16);
        assert_eq!(size_of::<DataType>(), 4);
    }
}
