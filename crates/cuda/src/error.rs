//! What can go wrong with planning, generating code, and running it.
//!
//! ```
//! use tintype_cuda::Error;
//!
//! let error = Error::Unsupported { op: "conv2d".to_owned(), message: "groups of 3".to_owned() };
//! assert_eq!(error.to_string(), "conv2d cannot be planned: groups of 3");
//! ```

/// What can go wrong with planning, generating code, and running it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A graph that is not well formed, or a size that is not bound.
    #[error(transparent)]
    Graph(#[from] tintype_ir::Error),
    /// A tensor too large for memory.
    #[error(transparent)]
    Tensor(#[from] tintype_tensor::Error),
    /// An operation that has no plan.
    #[error("{op} cannot be planned: {message}")]
    Unsupported {
        /// The operation.
        op: String,
        /// Why it cannot.
        message: String,
    },
    /// A step that neither a library nor a kernel here can run.
    #[error("no way to run {step}: {reasons}")]
    Unmade {
        /// The step, with its views.
        step: String,
        /// What each said that was asked.
        reasons: String,
    },
    /// A step of a program could not be enqueued.
    #[error("{step}: {source}")]
    Step {
        /// The step, with its program and views.
        step: String,
        /// Why.
        source: Box<Error>,
    },
    /// The memory of the device does not suffice.
    #[error(
        "graph `{graph}` needs {needed} bytes on {device} for {what}, {free} are free; run models in turn (`--low-memory`), or on a GPU with more memory"
    )]
    Memory {
        /// The graph.
        graph: String,
        /// What for: its weights, others beside those that a request holds, or a workspace.
        what: &'static str,
        /// The device.
        device: String,
        /// Bytes needed.
        needed: usize,
        /// Bytes free.
        free: usize,
    },
    /// The device or its driver failed, or is not here.
    #[error(transparent)]
    Device(#[from] tintype_device::Error),
    /// What other parts say through the traits of backends.
    #[error(transparent)]
    Backend(#[from] tintype_backend::Error),
    /// cuBLASLt failed.
    #[error("{step}: cuBLASLt: {action} failed: {message}")]
    Blas {
        /// The step, with its sizes and dtypes.
        step: String,
        /// What was being done.
        action: &'static str,
        /// The library's name of the failure, or what was expected and found.
        message: String,
    },
    /// cuDNN failed at something that it had agreed to do.
    #[error("{step}: cuDNN: {action} failed: {message}")]
    Dnn {
        /// The step, with its shapes.
        step: String,
        /// What was being done.
        action: String,
        /// The library's name of the failure, and what else it said.
        message: String,
    },
    /// A kernel that does not compile, load or run.
    #[error("step `{step}`: kernel `{kernel}`: {source}")]
    Kernel {
        /// The step, by its name.
        step: String,
        /// The kernel.
        kernel: String,
        /// What the compiler or the driver said.
        source: Box<tintype_device::Error>,
    },
}

impl Error {
    pub(crate) fn kernel(step: &str, kernel: &str, source: tintype_device::Error) -> Self {
        Self::Kernel {
            step: step.to_owned(),
            kernel: kernel.to_owned(),
            source: Box::new(source),
        }
    }

    pub(crate) fn unsupported(op: &str, message: impl Into<String>) -> Self {
        Self::Unsupported {
            op: op.to_owned(),
            message: message.into(),
        }
    }
}
