//! What saving and loading are told, and what they give.

use std::sync::Arc;

use tintype_backend::KeepWeights;
use tintype_weights::Parameters;

use crate::{ChangedFile, Define, MutableModule, Report};

/// How a module is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SaveOptions {
    /// Whether parameters and overlays are saved: yes if nothing is said. Without, they are given
    /// again when the module is loaded.
    pub weights: bool,
    /// Whether the content hash of every parameter is written down, which reads all of them; those
    /// that are known are in any case. `verify` compares them.
    pub content_hashes: bool,
}

/// How a module is loaded.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct LoadOptions {
    /// In place of those that lie in checkpoints, by name: for a folder without weights, or a
    /// checkpoint that is elsewhere by now. What the folder itself holds goes on top.
    pub parameters: Option<Parameters>,
    /// What makes graphs, in place of the saved ones. Where it makes the same, what was compiled
    /// is used.
    pub define: Option<Arc<dyn Define>>,
    /// Where parameters wait for refits, if not where they did.
    pub keep_weights: Option<KeepWeights>,
    /// Whether all contents are read and compared with the hashes that were saved.
    pub verify: bool,
}

/// What was saved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Saved {
    /// Parameters that stay in the files that they are in.
    pub referred: usize,
    /// Parameters that were written into the folder.
    pub copied: usize,
    /// The bytes of these.
    pub copied_bytes: u64,
    /// Files of compiled forms.
    pub compiled: usize,
}

/// What was loaded.
#[derive(Debug)]
#[non_exhaustive]
pub struct Loaded {
    /// The module, which needs a refit, or a compilation where nothing compiled was found.
    pub module: MutableModule,
    /// Files of checkpoints that are others than when the module was saved. They are read as they
    /// are now, and the first call brings all weights from them.
    pub changed: Vec<ChangedFile>,
    /// The engines that were made.
    pub report: Report,
}

impl Default for SaveOptions {
    fn default() -> Self {
        Self {
            weights: true,
            content_hashes: false,
        }
    }
}

impl SaveOptions {
    /// The same without weights.
    #[must_use]
    pub fn without_weights(mut self) -> Self {
        self.weights = false;
        self
    }

    /// The same with the content hashes of all parameters.
    #[must_use]
    pub fn with_content_hashes(mut self) -> Self {
        self.content_hashes = true;
        self
    }
}

impl LoadOptions {
    /// The same with parameters in place of those of checkpoints.
    #[must_use]
    pub fn with_parameters(mut self, parameters: Parameters) -> Self {
        self.parameters = Some(parameters);
        self
    }

    /// The same with what makes graphs.
    #[must_use]
    pub fn with_define(mut self, define: impl Define + 'static) -> Self {
        self.define = Some(Arc::new(define));
        self
    }

    /// The same with parameters kept elsewhere.
    #[must_use]
    pub fn with_keep_weights(mut self, keep_weights: KeepWeights) -> Self {
        self.keep_weights = Some(keep_weights);
        self
    }

    /// The same with all contents compared.
    #[must_use]
    pub fn with_verify(mut self) -> Self {
        self.verify = true;
        self
    }
}
