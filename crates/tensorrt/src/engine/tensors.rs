//! Inputs and outputs of an engine.

use std::ffi::{CStr, CString};

use tintype_tensor::DType;
use tintype_tensorrt_sys as sys;
use tintype_tensorrt_sys::{Dims, ICudaEngine, TensorFormat, TensorIOMode, TensorLocation};

use crate::calls::name;
use crate::dtype::from_library;
use crate::{Error, Result};

/// An input or output of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IoTensor {
    /// Its name.
    pub name: String,
    /// The dtype of its elements.
    pub dtype: DType,
    /// Its sizes, -1 for those that a run decides.
    pub sizes: Vec<i64>,
    /// Whether it is an input, or an output.
    pub is_input: bool,
    /// Whether it lies in host memory: numbers that shapes depend on.
    pub is_on_host: bool,
    pub(super) raw_name: CString,
}

impl IoTensor {
    /// Whether a tensor of these sizes can be given or taken.
    pub fn accepts(&self, sizes: &[usize]) -> bool {
        let fits = |(own, size): (&i64, &usize)| *own < 0 || usize::try_from(*own) == Ok(*size);
        self.sizes.len() == sizes.len() && self.sizes.iter().zip(sizes).all(fits)
    }

    /// All inputs and outputs of an engine, in its order.
    ///
    /// # Safety
    /// The engine is alive.
    pub(super) unsafe fn all_of(engine: ICudaEngine) -> Result<Vec<Self>> {
        // SAFETY: as the caller says.
        let count = unsafe { engine.get_nb_io_tensors() }?;
        // SAFETY: as the caller says, and the index is below the count.
        (0..count)
            .map(|index| unsafe { Self::at(engine, index) })
            .collect()
    }

    /// # Safety
    /// The engine is alive and has so many tensors.
    unsafe fn at(engine: ICudaEngine, index: i32) -> Result<Self> {
        // SAFETY: the names that the engine gives live as long as it; they are copied at once.
        unsafe {
            let name = text(engine.get_io_tensor_name(index)?);
            let raw_name = self::name(&name)?;
            let pointer = raw_name.as_ptr();
            let format = engine.get_tensor_format(pointer)?;
            if format != TensorFormat::LINEAR {
                return Err(Error::Mismatch {
                    name,
                    expected: "elements in row-major order".to_owned(),
                    found: format!("format {}", format.0),
                });
            }
            Ok(Self {
                dtype: from_library(engine.get_tensor_data_type(pointer)?)?,
                sizes: engine.get_tensor_shape(pointer)?.as_slice().to_vec(),
                is_input: engine.get_tensor_io_mode(pointer)? == TensorIOMode::INPUT,
                is_on_host: engine.get_tensor_location(pointer)? == TensorLocation::HOST,
                name,
                raw_name,
            })
        }
    }
}

/// A copy of a text of the library; empty if there is none.
///
/// # Safety
/// The pointer is null or points to a text that ends with a zero.
pub(super) unsafe fn text(pointer: *const std::ffi::c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: as the caller says.
    unsafe { CStr::from_ptr(pointer) }
        .to_string_lossy()
        .into_owned()
}

/// Sizes as the library takes them.
///
/// # Errors
/// More than 8 dimensions, or one that has no `i64`.
pub(super) fn to_dims(sizes: &[usize]) -> std::result::Result<Dims, sys::Error> {
    let sizes = sizes
        .iter()
        .map(|&size| i64::try_from(size).unwrap_or(i64::MAX));
    Dims::new(&sizes.collect::<Vec<_>>())
}

/// Sizes that the library gives, if it knows all of them.
pub(super) fn from_dims(dims: &Dims) -> Option<Vec<usize>> {
    if dims.is_invalid() {
        return None;
    }
    let sizes = dims.as_slice().iter();
    sizes.map(|&size| usize::try_from(size).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_compared_where_they_are_known() {
        let tensor = IoTensor {
            name: "x".to_owned(),
            dtype: DType::BF16,
            sizes: vec![-1, 64],
            is_input: true,
            is_on_host: false,
            raw_name: c"x".to_owned(),
        };
        assert!(tensor.accepts(&[3, 64]));
        assert!(!tensor.accepts(&[3, 63]));
        assert!(!tensor.accepts(&[3, 64, 1]));
    }

    #[test]
    fn unknown_sizes_are_none() {
        assert_eq!(from_dims(&to_dims(&[2, 3]).unwrap()), Some(vec![2, 3]));
        assert_eq!(from_dims(&Dims::new(&[2, -1]).unwrap()), None);
        let invalid = Dims {
            nb_dims: -1,
            d: [0; 8],
        };
        assert_eq!(from_dims(&invalid), None);
        assert!(to_dims(&[1; 9]).is_err());
    }
}
