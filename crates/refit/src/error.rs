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
