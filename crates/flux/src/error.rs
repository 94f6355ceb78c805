//! What can go wrong while a FLUX pipeline is read, prepared and run.
//!
//! One type for the whole crate. Every message names the file or the argument,
//! what was expected and what was found; it never says what to do next, which
//! only the program that shows it can know.
//!
//! ```
//! use tintype_flux::latents::LatentSize;
//!
//! let error = LatentSize::from_pixels(0, 512).unwrap_err();
//! assert_eq!(error.to_string(), "height: expected 16 to 16384 pixels, found 0");
//! ```

use std::path::{Path, PathBuf};

/// The error of every fallible function of this crate.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be opened or read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file could not be written; nothing of it was left behind.
    #[error("{}: cannot be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file or folder that a pipeline needs does not exist.
    #[error("{}: expected {expected}, found nothing", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
        /// What should be there.
        expected: String,
    },
    /// A file is larger than any honest file of its kind.
    #[error("{}: expected at most {limit} bytes, found {found}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most that is read, in bytes.
        limit: u64,
        /// The size of the file, in bytes.
        found: u64,
    },
    /// A file that should be JSON is not, or has values of the wrong kind.
    #[error("{}: not the expected JSON", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where the text went wrong.
        source: serde_json::Error,
    },
    /// A file can be read, but what it holds makes no sense.
    #[error("{}: {what}: expected {expected}, found {found}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The part of the file: a field, a token, a chunk.
        what: String,
        /// What would have been right.
        expected: String,
        /// What was there.
        found: String,
    },
    /// A configuration names a class that is not known here.
    #[error("{}: {component}: expected class {expected}, found {found}", path.display())]
    UnknownClass {
        /// The file.
        path: PathBuf,
        /// `_class_name`, or the name of the component.
        component: String,
        /// The classes that are supported, separated by commas.
        expected: String,
        /// The class that the file names.
        found: String,
    },
    /// An argument of a call is out of range.
    #[error("{argument}: expected {expected}, found {found}")]
    Argument {
        /// The name of the argument.
        argument: String,
        /// What would have been right.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A text could not be turned into tokens.
    #[error("{}: cannot encode the text: {reason}", path.display())]
    Encode {
        /// The file that the tokenizer was made from.
        path: PathBuf,
        /// What the tokenizer said.
        reason: String,
    },
    /// A change of a pipeline could not be made: every model has the weights it had.
    #[error("the change was refused, and all weights are those before it: {source}")]
    Refused {
        /// Why.
        source: Box<Self>,
    },
    /// No backend was chosen.
    #[error("no backend was chosen: call `FluxPipeline::backend` first")]
    NoBackend,
    /// The models of a request do not fit on a device. None was loaded for it.
    #[error(
        "the models of this request ({models}) need {needed} bytes on {backend}, {free} are free{}",
        in_turn.map_or(String::new(), |bytes| format!(
            "; one after the other (`--low-memory`) they need {bytes}"
        ))
    )]
    Memory {
        /// Those that are not loaded, separated by commas.
        models: String,
        /// The backend, by its name.
        backend: &'static str,
        /// Bytes of their weights, workspaces and inputs: of all, or of the greatest where they are
        /// loaded in turn.
        needed: usize,
        /// Bytes that they could have.
        free: usize,
        /// Bytes that would be needed if they were loaded in turn; `None` where they are.
        in_turn: Option<usize>,
    },
    /// A model's configuration is not understood.
    #[error(transparent)]
    Model(#[from] tintype_models::Error),
    /// A LoRA does not fit, or its file is wrong.
    #[error(transparent)]
    Lora(#[from] tintype_lora::Error),
    /// A checkpoint is wrong.
    #[error(transparent)]
    Weights(#[from] tintype_weights::Error),
    /// A graph is wrong.
    #[error(transparent)]
    Ir(#[from] tintype_ir::Error),
    /// A model cannot be quantized as asked for.
    #[error(transparent)]
    Quant(#[from] tintype_quant::Error),
    /// A backend failed.
    #[error(transparent)]
    Backend(#[from] tintype_backend::Error),
    /// A tensor is wrong.
    #[error(transparent)]
    Tensor(#[from] tintype_tensor::Error),
    /// A module could not be compiled, changed or run.
    #[error(transparent)]
    Module(tintype_refit::Error),
}

impl From<tintype_refit::Error> for Error {
    /// What other crates say stays theirs.
    fn from(error: tintype_refit::Error) -> Self {
        match error {
            tintype_refit::Error::Backend(error) => Self::Backend(error),
            tintype_refit::Error::Ir(error) => Self::Ir(error),
            tintype_refit::Error::Weights(error) => Self::Weights(error),
            other => Self::Module(other),
        }
    }
}

impl Error {
    /// A file whose content is wrong at one place.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "callers pass literals and numbers alike"
    )]
    pub(crate) fn invalid(
        path: &Path,
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> Self {
        Self::Invalid {
            path: path.to_owned(),
            what: what.into(),
            expected: expected.into(),
            found: found.to_string(),
        }
    }

    /// A change that was not made. Wrong arguments are told as they are.
    pub(crate) fn refused(self) -> Self {
        match self {
            Self::Argument { .. } | Self::Refused { .. } => self,
            // Said once is enough.
            Self::Module(tintype_refit::Error::Refused { source }) => Self::from(*source).refused(),
            other => Self::Refused {
                source: Box::new(other),
            },
        }
    }

    /// An argument that is out of range.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "callers pass literals and numbers alike"
    )]
    pub(crate) fn argument(
        argument: impl Into<String>,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> Self {
        Self::Argument {
            argument: argument.into(),
            expected: expected.into(),
            found: found.to_string(),
        }
    }
}
