//! What can be wrong with a configuration or with the graph asked for.

use tintype_tensor::DType;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration file that is not JSON.
    #[error("{file}: not the expected JSON")]
    Json {
        /// The file, as the caller named it.
        file: String,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// A configuration that this crate does not understand or support.
    #[error("{file}: `{field}`: expected {expected}, found {found}")]
    Config {
        /// The file, as the caller named it.
        file: String,
        /// The field; nested ones with a dot.
        field: String,
        /// What would be understood.
        expected: String,
        /// The value found.
        found: String,
    },
    /// A dtype in which models are not computed.
    #[error("{model}: expected dtype f32, bf16 or f16, found {found}")]
    DType {
        /// The model.
        model: &'static str,
        /// The dtype asked for.
        found: DType,
    },
    /// A range of sizes that is empty or begins at zero.
    #[error("{model}: range of `{symbol}`: expected at least one size from 1 on, found {found}")]
    Range {
        /// The model.
        model: &'static str,
        /// The symbol.
        symbol: String,
        /// The range asked for.
        found: String,
    },
    /// The graph does not build.
    #[error("{model}: cannot build the graph")]
    Graph {
        /// The model.
        model: &'static str,
        /// What is wrong with it.
        source: tintype_ir::Error,
    },
}
