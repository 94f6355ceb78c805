//! What can go wrong between a graph and what runs it.

/// Errors of backends.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A backend cannot be used here.
    #[error("backend `{backend}` is not available: {reason}; {remedy}")]
    Unavailable {
        /// The backend's name.
        backend: &'static str,
        /// Why: the library or device that is missing.
        reason: String,
        /// What to install or set.
        remedy: String,
    },
    /// A graph holds something that the backend cannot run.
    #[error("backend `{backend}` cannot run {what}")]
    Unsupported {
        /// The backend's name.
        backend: &'static str,
        /// The operation, dtype or size.
        what: String,
    },
    /// An input that a program needs was not given.
    #[error("input `{0}` is missing")]
    MissingInput(String),
    /// A result that a program does not have was asked for.
    #[error("there is no output `{name}`, only {found}")]
    MissingOutput {
        /// The name asked for.
        name: String,
        /// The names there are.
        found: String,
    },
    /// The executable has no weights yet.
    #[error("graph `{0}` has no weights yet: refit it first")]
    NoWeights(String),
    /// A request state of another executable.
    #[error("this request state belongs to another executable")]
    ForeignState,
    /// A value at run time that no operation can use, such as an index out of range.
    #[error("{op}: {message}")]
    Value {
        /// The operation, with its label.
        op: String,
        /// What was expected and found.
        message: String,
    },
    /// A device or the library that drives it failed.
    #[error("backend `{backend}`: {source}")]
    Device {
        /// The backend's name.
        backend: &'static str,
        /// What failed, in the words of device or library.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A refit failed midway and the old weights could not be brought back.
    #[error(
        "the weights of graph `{graph}` are mixed, since a refit failed ({reason}) and so did going back ({again}); refit all of them"
    )]
    Poisoned {
        /// The graph.
        graph: String,
        /// Why the refit failed.
        reason: String,
        /// Why the old weights could not be brought back.
        again: String,
    },
    /// A graph, a type or an overlay is wrong.
    #[error(transparent)]
    Ir(#[from] tintype_ir::Error),
    /// A parameter is missing, of the wrong type, or unreadable.
    #[error(transparent)]
    Weights(#[from] tintype_weights::Error),
    /// A tensor is wrong.
    #[error(transparent)]
    Tensor(#[from] tintype_tensor::Error),
}
