//! What can go wrong with a GPU and its libraries.

use std::path::PathBuf;

use tintype_backend::Error as BackendError;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A library, or what it needs, is not here.
    #[error("{what} is not available: {reason}; {remedy}")]
    Unavailable {
        /// The library or device that is missing.
        what: &'static str,
        /// Why, with the places that were searched.
        reason: String,
        /// What to install or set.
        remedy: String,
    },
    /// The driver reported a failure; after an illegal access it refuses all further work.
    #[error("{device}: {action} failed: {code}")]
    Driver {
        /// The device, for example `cuda:0`.
        device: String,
        /// What was being done.
        action: String,
        /// The driver's name of the failure, with its explanation.
        code: String,
    },
    /// The memory of the device does not suffice.
    #[error("{device}: {needed} bytes do not fit, {free} of {total} are free")]
    OutOfMemory {
        /// The device.
        device: String,
        /// Bytes asked for.
        needed: usize,
        /// Bytes free.
        free: usize,
        /// Bytes that the device has.
        total: usize,
    },
    /// A kernel's source does not compile.
    #[error("`{name}` does not compile for {target}: {log}")]
    Compile {
        /// The name of the source.
        name: String,
        /// The architecture.
        target: String,
        /// What the compiler said.
        log: String,
    },
    /// A call into NVRTC failed for another reason than the source.
    #[error("NVRTC: {action} failed: {message}")]
    Nvrtc {
        /// What was being done.
        action: &'static str,
        /// The library's name of the failure.
        message: String,
    },
    /// A module has no kernel of this name.
    #[error("module `{module}` has no kernel `{kernel}`")]
    MissingKernel {
        /// The module.
        module: String,
        /// The kernel.
        kernel: String,
    },
    /// A range that does not lie within a buffer.
    #[error("{action}: bytes {start}..{end} do not lie within a buffer of {len}")]
    Range {
        /// What was being done.
        action: &'static str,
        /// First byte.
        start: usize,
        /// One past the last byte.
        end: usize,
        /// The buffer's length.
        len: usize,
    },
    /// Something of one device was used with another.
    #[error("expected memory of {expected}, found {found}")]
    ForeignDevice {
        /// The device that was asked for.
        expected: String,
        /// The device that the memory lies on.
        found: String,
    },
    /// A file of the kernel cache could not be written.
    #[error("cannot write {path}: {source}")]
    Cache {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A size, dtype or architecture that nothing here can work with.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// An operation of a weight program could not be computed.
    #[error("{op}: {source}")]
    Operation {
        /// The operation, with its label.
        op: String,
        /// Why.
        source: Box<Error>,
    },
    /// Whoever asked for a weight could not take it.
    #[error("weight `{name}`: {source}")]
    Delivery {
        /// The weight.
        name: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A graph is wrong, or its evaluator failed.
    #[error(transparent)]
    Ir(#[from] tintype_ir::Error),
    /// A parameter is missing, of the wrong type, or unreadable.
    #[error(transparent)]
    Weights(#[from] tintype_weights::Error),
    /// A tensor is wrong.
    #[error(transparent)]
    Tensor(#[from] tintype_tensor::Error),
}

impl Error {
    /// The same as an error of the backend that stands on this crate.
    ///
    /// ```
    /// let error = tintype_device::Error::Unsupported("f4e2m1".to_owned());
    /// let error = error.for_backend("cuda").to_string();
    /// assert_eq!(error, "backend `cuda` cannot run f4e2m1");
    /// ```
    pub fn for_backend(self, backend: &'static str) -> BackendError {
        match self {
            Self::Unavailable {
                what,
                reason,
                remedy,
            } => BackendError::Unavailable {
                backend,
                reason: format!("{what}: {reason}"),
                remedy,
            },
            Self::Unsupported(what) => BackendError::Unsupported { backend, what },
            Self::Ir(error) => error.into(),
            Self::Weights(error) => error.into(),
            Self::Tensor(error) => error.into(),
            other => BackendError::Device {
                backend,
                source: Box::new(other),
            },
        }
    }

    /// The same, said of an operation.
    pub(crate) fn of(self, op: String) -> Self {
        let source = Box::new(self);
        Self::Operation { op, source }
    }
}
