//! What can be wrong with a LoRA file, or between it and a model.

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read as safetensors, or one of its tensors cannot be read.
    #[error(transparent)]
    Weights(#[from] tintype_weights::Error),
    /// A tensor contradicts its partners, its meaning, or the model.
    #[error("{file}: tensor `{tensor}`: expected {expected}, found {found}")]
    Tensor {
        /// The file, or `memory`.
        file: String,
        /// The tensor's name in that file.
        tensor: String,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// No name in the file is that of a LoRA for a model that is known.
    #[error("{file}: expected the tensors of a LoRA, found {found}")]
    NotLora {
        /// The file or folder, or `memory`.
        file: String,
        /// What the file holds instead.
        found: String,
    },
    /// The file uses a kind of adapter that cannot be merged here.
    #[error("{file}: {kind} is not supported: {keys}")]
    Unsupported {
        /// The file, or `memory`.
        file: String,
        /// The kind of adapter.
        kind: &'static str,
        /// Names of the tensors concerned.
        keys: String,
    },
    /// The training settings stored with the file cannot be understood.
    #[error("{file}: expected {expected}, found {found}")]
    Settings {
        /// The file that holds the settings.
        file: String,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// Adapters were combined or scaled in a way that has no meaning.
    #[error("adapter `{adapter}`: expected {expected}, found {found}")]
    Adapter {
        /// The adapter's name.
        adapter: String,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// A parameter of the model cannot carry an overlay.
    #[error("parameter `{parameter}`: {source}")]
    Overlay {
        /// The parameter's name in the model.
        parameter: String,
        /// What the graph says.
        source: tintype_ir::Error,
    },
}

impl Error {
    pub(crate) fn tensor(
        file: &str,
        tensor: &str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Tensor {
            file: file.to_owned(),
            tensor: shown(tensor),
            expected: expected.into(),
            found: found.into(),
        }
    }

    pub(crate) fn adapter(
        adapter: &str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Adapter {
            adapter: shown(adapter),
            expected: expected.into(),
            found: found.into(),
        }
    }
}

/// A name as messages show it: one from a hostile file may fill megabytes.
pub(crate) fn shown(name: &str) -> String {
    const LONGEST: usize = 200;
    match name.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

/// The first few of `names`, and how many more there are.
pub(crate) fn shown_list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const MOST: usize = 5;
    let names: Vec<&str> = names.collect();
    let mut list: Vec<String> = names
        .iter()
        .take(MOST)
        .map(|name| format!("`{}`", shown(name)))
        .collect();
    if names.len() > MOST {
        list.push(format!("{} more", names.len() - MOST));
    }
    list.join(", ")
}
