//! What can be wrong with parameters and the files that hold them.

use std::path::{Path, PathBuf};

use tintype_tensor::Shape;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder cannot be read.
    #[error("{}: {action} failed", file.display())]
    Io {
        /// The file or folder.
        file: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A file is not what its format asks for.
    #[error("{}: expected {expected}, found {found}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the format asks for.
        expected: String,
        /// What the file holds.
        found: String,
    },
    /// A tensor in a file, or a file of tensors, contradicts what is known of it.
    #[error("{}: tensor `{tensor}`: expected {expected}, found {found}", file.display())]
    FileTensor {
        /// The file.
        file: PathBuf,
        /// The tensor's name in that file.
        tensor: String,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// A tensor is stored in a dtype that is known but cannot be read.
    #[error("{}: tensor `{tensor}`: expected a supported dtype, found {dtype}", file.display())]
    UnsupportedDType {
        /// The file.
        file: PathBuf,
        /// The tensor's name in that file.
        tensor: String,
        /// The dtype's name in the file.
        dtype: &'static str,
    },
    /// A parameter has another shape than its user needs.
    #[error("{origin}: tensor `{tensor}`: expected shape {expected}, found {found}")]
    Shape {
        /// The file, or `memory`.
        origin: String,
        /// The parameter's name.
        tensor: String,
        /// The shape that is needed.
        expected: Shape,
        /// The shape that it has.
        found: Shape,
    },
    /// A parameter is wrong in another way than its shape.
    #[error("{origin}: tensor `{tensor}`: expected {expected}, found {found}")]
    Parameter {
        /// The file, or `memory`.
        origin: String,
        /// The parameter's name.
        tensor: String,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// No parameter has this name.
    #[error("{origin}: expected a tensor `{tensor}`, found none among {count}")]
    Missing {
        /// The files that were searched, or `memory`.
        origin: String,
        /// The name.
        tensor: String,
        /// The number of parameters there are.
        count: usize,
    },
    /// Two parameters would get the same name.
    #[error("{origin}: expected one tensor `{tensor}`, found two")]
    Duplicate {
        /// The file, or `memory`.
        origin: String,
        /// The name.
        tensor: String,
    },
    /// A value cannot be converted or viewed.
    #[error("{origin}: tensor `{tensor}`: {source}")]
    Value {
        /// The file, or `memory`.
        origin: String,
        /// The parameter's name.
        tensor: String,
        /// What the tensor says.
        source: tintype_tensor::Error,
    },
    /// The names fit no layout that is known.
    #[error("{origin}: expected the tensors of {expected}, found {found}")]
    Layout {
        /// The files, or `memory`.
        origin: String,
        /// The model or layout that was asked for.
        expected: &'static str,
        /// What the names look like.
        found: String,
    },
}

impl Error {
    pub(crate) fn io(file: &Path, action: &'static str, source: std::io::Error) -> Self {
        Self::Io {
            file: file.to_owned(),
            action,
            source,
        }
    }

    pub(crate) fn file(file: &Path, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::File {
            file: file.to_owned(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    pub(crate) fn file_tensor(
        file: &Path,
        tensor: &str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::FileTensor {
            file: file.to_owned(),
            tensor: shown(tensor),
            expected: expected.into(),
            found: found.into(),
        }
    }
}

/// A name from a file as messages show it: a hostile one may fill megabytes.
pub(crate) fn shown(name: &str) -> String {
    match name.char_indices().nth(LONGEST_SHOWN) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

/// The first of `names` for a message, and how many more there are.
pub(crate) fn shown_list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let first: Vec<String> = names
        .iter()
        .take(5)
        .map(|name| format!("`{}`", shown(name)))
        .collect();
    match names.len() {
        0 => "none".to_owned(),
        count if count > first.len() => {
            format!("{} and {} more", first.join(", "), count - first.len())
        }
        _ => first.join(", "),
    }
}

const LONGEST_SHOWN: usize = 200;
