//! Dtypes here and in the library.

use tintype_tensor::DType;
use tintype_tensorrt_sys::DataType;

use crate::{Error, Result};

/// The library's name for a dtype. It has all of them.
///
/// # Errors
/// [`Error::DType`] for one that comes later.
pub(crate) fn to_library(dtype: DType) -> Result<DataType> {
    Ok(match dtype {
        DType::F32 => DataType::FLOAT,
        DType::F16 => DataType::HALF,
        DType::BF16 => DataType::BF16,
        DType::F8E4M3 => DataType::FP8,
        DType::F4E2M1 => DataType::FP4,
        DType::I64 => DataType::INT64,
        DType::I32 => DataType::INT32,
        DType::U8 => DataType::UINT8,
        DType::Bool => DataType::BOOL,
        other => return Err(Error::DType(other)),
    })
}

/// The dtype that the library means.
///
/// # Errors
/// [`Error::LibraryDType`] for those that are the library's alone.
pub(crate) fn from_library(dtype: DataType) -> Result<DType> {
    let known = DType::ALL.into_iter();
    let mut known = known.filter(|known| to_library(*known).is_ok_and(|known| known == dtype));
    known.next().ok_or(Error::LibraryDType(dtype.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_goes_to_the_library_and_back() {
        for dtype in DType::ALL {
            assert_eq!(from_library(to_library(dtype).unwrap()).unwrap(), dtype);
        }
        let error = from_library(DataType::INT8).unwrap_err();
        assert_eq!(error.to_string(), "the library's dtype 2 is not known here");
    }
}
