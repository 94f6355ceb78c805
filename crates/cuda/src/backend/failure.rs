//! Errors of this crate as those of a backend.

use tintype_backend::Error as BackendError;

use super::NAME;
use crate::Error;

/// Whether something is missing, cannot be run, or failed.
///
/// ```
/// use tintype_cuda::Error;
///
/// let error = Error::Unsupported { op: "conv2d".to_owned(), message: "groups of 3".to_owned() };
/// let error = tintype_backend::Error::from(error).to_string();
/// assert_eq!(error, "backend `cuda` cannot run conv2d cannot be planned: groups of 3");
/// ```
impl From<Error> for BackendError {
    fn from(error: Error) -> Self {
        match error {
            Error::Graph(error) => error.into(),
            Error::Tensor(error) => error.into(),
            Error::Device(error) => error.for_backend(NAME),
            Error::Backend(error) => error,
            Error::Unsupported { .. } | Error::Unmade { .. } => Self::Unsupported {
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
