//! What can be wrong with a recipe, a scale table, or between them and a model.

use std::path::PathBuf;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A recipe does not parse, or says what cannot be.
    #[error("recipe: {0}")]
    Recipe(String),
    /// Patterns of a recipe that name nothing in the graph.
    #[error("recipe: {patterns}: expected names of {kind} of graph `{graph}`, found none")]
    NoMatch {
        /// The patterns.
        patterns: String,
        /// `linears` or `attentions`.
        kind: &'static str,
        /// The graph's name.
        graph: String,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// A scale table is damaged, for something else, or holds a value that cannot be.
    #[error("{origin}: {entry}: expected {expected}, found {found}")]
    Table {
        /// The file, or `memory`.
        origin: String,
        /// The field or the scale's name.
        entry: String,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// A calibration saw nothing, or a value from which no scale follows.
    #[error("calibration: {entry}: expected {expected}, found {found}")]
    Calibration {
        /// The observed value, or what feeds the model.
        entry: String,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// Numbers that are to be compared do not fit each other.
    #[error("{what}: expected {expected}, found {found}")]
    Compare {
        /// What is compared.
        what: &'static str,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// What feeds the model failed.
    #[error(transparent)]
    Feed(Box<dyn std::error::Error + Send + Sync>),
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] tintype_backend::Error),
    /// A graph cannot be made.
    #[error(transparent)]
    Ir(#[from] tintype_ir::Error),
    /// A parameter is missing or cannot be read.
    #[error(transparent)]
    Weights(#[from] tintype_weights::Error),
    /// A tensor is wrong.
    #[error(transparent)]
    Tensor(#[from] tintype_tensor::Error),
}
