//! What can go wrong with a module.

use std::fmt;
use std::path::{Path, PathBuf};

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
    /// A file or folder of a saved module cannot be read or written.
    #[error("{}: {action} failed: {source}", file.display())]
    Io {
        /// The file or folder.
        file: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A file of a saved module is not what it should be.
    #[error("{}: expected {expected}, found {found}", file.display())]
    Saved {
        /// The file.
        file: PathBuf,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A tensor is not what it was when a module was saved, or cannot be saved.
    #[error("{}: tensor {tensor}: expected {expected}, found {found}", file.display())]
    SavedTensor {
        /// The file, or `memory`.
        file: PathBuf,
        /// The tensor's name there.
        tensor: String,
        /// What was expected.
        expected: String,
        /// What was found.
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
    pub(crate) fn io(file: &Path, action: &'static str, source: std::io::Error) -> Self {
        Self::Io {
            file: file.to_owned(),
            action,
            source,
        }
    }

    pub(crate) fn saved(
        file: &Path,
        expected: impl Into<String>,
        found: impl fmt::Display,
    ) -> Self {
        Self::Saved {
            file: file.to_owned(),
            expected: expected.into(),
            found: found.to_string(),
        }
    }

    pub(crate) fn refused(self) -> Self {
        match self {
            Self::Refused { .. } => self,
            other => Self::Refused {
                source: Box::new(other),
            },
        }
    }
}
