//! What can go wrong while a case runs.

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the fixtures cannot be read.
    #[error("{path}: {message}")]
    Fixture {
        /// The file.
        path: String,
        /// What is wrong with it.
        message: String,
    },
    /// A result is further from the recording than the table allows.
    #[error("{what}: expected at most {expected:e}, found {found:e}")]
    Tolerance {
        /// What was compared.
        what: &'static str,
        /// The tolerance.
        expected: f64,
        /// The error measured.
        found: f64,
    },
    /// The pipeline failed.
    #[error(transparent)]
    Flux(#[from] tintype_flux::Error),
    /// A recording cannot be read.
    #[error(transparent)]
    Weights(#[from] tintype_weights::Error),
    /// A tensor is wrong.
    #[error(transparent)]
    Tensor(#[from] tintype_tensor::Error),
}
