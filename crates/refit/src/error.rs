//! What can go wrong with a module.

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A change was refused; nothing of it was taken.
    #[error("the change was refused, and the weights are those before it: {source}")]
    Refused {
        /// Why.
        source: Box<Self>,
    },
    /// A change is to be brought, which waits for pictures under way, by a thread that has one.
    #[error("this thread has a picture under way that a change waits for: let it go first")]
    PictureUnderWay,
    /// A change of a module within another of the same thread.
    #[error("this thread is changing the module already: expected one change after the other")]
    ChangeUnderWay,
    /// The change before could not be brought while this one was made from it.
    #[error("the change before was taken back while this one was made from it: make it again")]
    Overtaken,
    /// A parameter of an overlay has the name of a parameter of the module.
    #[error(
        "parameter `{name}` of an overlay: expected a name of its own, found that of a parameter of {origin}"
    )]
    Shadowed {
        /// The name.
        name: String,
        /// Where the module's parameters are from.
        origin: String,
    },
    /// The definition made no graph.
    #[error("no graph could be made: {source}")]
    Define {
        /// What the definition says.
        source: crate::DefineError,
    },
    /// No given input tells how large a dimension is.
    #[error("graph `{graph}`: no given input binds dimension `{symbol}`")]
    Unbound {
        /// The graph.
        graph: String,
        /// The symbol.
        symbol: String,
    },
    /// A range was declared for what the graph does not have.
    #[error("{what}: expected {expected}, found {found}")]
    Range {
        /// The symbol or the input's axis.
        what: String,
        /// What there is.
        expected: String,
        /// What was declared.
        found: String,
    },
    /// A backend failed.
    #[error(transparent)]
    Backend(#[from] tintype_backend::Error),
    /// A graph or overlay is wrong.
    #[error(transparent)]
    Ir(#[from] tintype_ir::Error),
    /// A parameter is wrong.
    #[error(transparent)]
    Weights(#[from] tintype_weights::Error),
    /// A tensor is wrong.
    #[error(transparent)]
    Tensor(#[from] tintype_tensor::Error),
}

impl Error {
    pub(crate) fn refused(self) -> Self {
        match self {
            Self::Refused { .. } => self,
            other => Self::Refused {
                source: Box::new(other),
            },
        }
    }
}
