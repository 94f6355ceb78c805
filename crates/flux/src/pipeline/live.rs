//! What pictures are made with now, and the lock over all of it.
//!
//! ```text
//! picture: read ─ CLIP ─ T5 ─ transformer ─ decoder ─ done
//! change:  prepare ─────────── waits ───────────────── write ─ refit each model ─ done
//! ```
//!
//! A picture holds the state as a reader from its first to its last model, so no picture has
//! CLIP of one state and the transformer of another. A change is prepared beside pictures under
//! way, and waits for them only to be brought.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{OnceLock, PoisonError, RwLockReadGuard, RwLockWriteGuard};

use tintype_refit::Weights;
use tintype_weights::Parameters;

use super::FluxPipeline;
use super::adapters::{Adapters, Binder, Mixes};
use super::modules::ModelKind;
use crate::Result;
use crate::model_index::Component;

/// The state of a pipeline that changes while it runs. A clone is cheap.
#[derive(Debug, Clone, Default)]
pub(super) struct Live {
    pub(super) adapters: Adapters,
    /// What lies on the models for these adapters; made when it is first needed.
    pub(super) mixes: OnceLock<Mixes>,
    /// Where weights lie, if not among the model's own files.
    pub(super) weight_files: BTreeMap<Component, PathBuf>,
    /// Parameters that were changed since they were read.
    pub(super) parameters: BTreeMap<Component, Parameters>,
}

impl Live {
    /// What lies on the models.
    pub(super) fn mixes(&self, pipeline: &FluxPipeline) -> Result<&Mixes> {
        if let Some(mixes) = self.mixes.get() {
            return Ok(mixes);
        }
        // The pipeline's own binder may be in use by a change that waits for this picture.
        let mixes = Binder::default().mix(pipeline, &self.adapters)?;
        Ok(self.mixes.get_or_init(|| mixes))
    }

    /// Lays what lies on a model on its weights.
    pub(super) fn lay_overlays(
        &self,
        pipeline: &FluxPipeline,
        kind: ModelKind,
        weights: &mut Weights,
    ) -> Result<()> {
        if let Some(mixed) = self.mixes(pipeline)?.of(kind) {
            weights.overlays = mixed.overlays.clone();
            weights.own = mixed.parameters.clone();
        }
        Ok(())
    }
}

impl FluxPipeline {
    /// The state as it is, which stays until the guard is dropped.
    pub(super) fn read_live(&self) -> RwLockReadGuard<'_, Live> {
        self.live.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for all pictures under way.
    pub(super) fn write_live(&self) -> RwLockWriteGuard<'_, Live> {
        self.live.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state with this factor of all LoRAs, which a request may ask for.
    pub(super) fn live_with(&self, lora_scale: f32) -> Result<RwLockReadGuard<'_, Live>> {
        let live = self.read_live();
        if live.adapters.has_common(lora_scale) {
            return Ok(live);
        }
        drop(live);
        let change = |adapters: &mut Adapters| {
            adapters.set_common(lora_scale);
            Ok(())
        };
        let (_, live) = self.change_adapters(change)?;
        // Nobody comes between the change and this picture.
        Ok(RwLockWriteGuard::downgrade(live))
    }
}
