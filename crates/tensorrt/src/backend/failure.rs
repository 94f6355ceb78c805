//! Errors of this crate as those of a backend.

use tintype_backend::Error as BackendError;
use tintype_tensorrt_sys as sys;

use super::NAME;
use crate::Error;

/// Whether a library is missing, a graph cannot be run, or the GPU failed.
///
/// ```
/// use tintype_tensorrt::Error;
///
/// let error = Error::DType(tintype_tensor::DType::F4E2M1);
/// let error = tintype_backend::Error::from(error).to_string();
/// assert_eq!(error, "backend `tensorrt` cannot run TensorRT has no dtype f4e2m1");
/// ```
impl From<Error> for BackendError {
    fn from(error: Error) -> Self {
        match error {
            Error::Device(error) => error.for_backend(NAME),
            Error::Graph(error) => error.into(),
            Error::Library(error) => of_library(error),
            Error::Lowering { .. } | Error::DType(_) | Error::Target { .. } => Self::Unsupported {
                backend: NAME,
                what: error.to_string(),
            },
            other => Self::Device {
                backend: NAME,
                source: Box::new(other),
            },
        }
    }
}

fn of_library(error: sys::Error) -> BackendError {
    let remedy = match error {
        // These say themselves what to install.
        sys::Error::NotFound { .. }
        | sys::Error::UnknownVersion { .. }
        | sys::Error::NoBuilder { .. } => "see `tintype doctor`",
        sys::Error::Platform => "use the backend `cpu`",
        sys::Error::Load { .. } | sys::Error::NoFunction { .. } => {
            "set TINTYPE_TENSORRT to the library's file or folder"
        }
        other => {
            return BackendError::Device {
                backend: NAME,
                source: Box::new(other),
            };
        }
    };
    BackendError::Unavailable {
        backend: NAME,
        reason: error.to_string(),
        remedy: remedy.to_owned(),
    }
}
