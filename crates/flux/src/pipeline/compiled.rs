//! What is needed to compile a pipeline's models in another process, and to use what that gave.

use tintype_backend::CompileOptions;
use tintype_weights::Parameters;

use super::FluxPipeline;
use super::model::ModelKind;
use crate::Result;

impl FluxPipeline {
    /// What the backend is told when it compiles a model, such as a folder of compiled forms.
    #[must_use]
    pub fn compile_options(mut self, kind: ModelKind, options: CompileOptions) -> Self {
        *self.models.slot(kind) = None;
        self.options[kind as usize] = options;
        self
    }

    /// The parameters of a model as its files have them, under the names of its graph. None is
    /// read.
    ///
    /// # Errors
    /// [`Error::Weights`](crate::Error::Weights) for files that are missing, damaged, or of
    /// another layout.
    pub fn parameters_in_files(&self, kind: ModelKind) -> Result<Parameters> {
        self.parameters(kind)
    }
}
