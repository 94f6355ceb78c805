//! The parameters of models, for those who save or inspect them.

use tintype_weights::Parameters;

use super::FluxPipeline;
use super::modules::ModelKind;
use crate::Result;

impl FluxPipeline {
    /// The parameters of a model under the names of its graph, without LoRAs: those that were
    /// changed, or else as its files have them. None is read.
    ///
    /// # Errors
    /// [`Error::Weights`](crate::Error::Weights) for files that are missing, damaged, or of
    /// another layout.
    pub fn parameters(&self, kind: ModelKind) -> Result<Parameters> {
        self.live_parameters(&self.read_live(), kind)
    }
}
