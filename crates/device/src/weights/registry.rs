//! What all graphs of one device keep, told to make room.
//!
//! ```
//! use std::sync::Arc;
//! use tintype_backend::KeepWeights;
//! use tintype_device::{KeptParameters, KeptRegistry, Sharing};
//!
//! let program = tintype_ir::parse("graph weights { param @w: bf16[8] output w = @w }")?;
//! let kept = Arc::new(KeptParameters::new(KeepWeights::Auto, Sharing::Weights, &program));
//! let registry: KeptRegistry = KeptRegistry::default();
//! registry.add(&kept);
//! assert!(!registry.let_go(), "nothing is kept yet");
//! # Ok::<(), tintype_ir::Error>(())
//! ```

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::kept::{KeptParameters, KeptTensor};
use super::pinned::PinnedTensor;
use crate::CudaTensor;

/// What all graphs of a device keep, so that it makes room for what must run.
pub struct KeptRegistry<T = CudaTensor, P = PinnedTensor>(Mutex<Vec<Weak<KeptParameters<T, P>>>>);

impl<T: KeptTensor, P> KeptRegistry<T, P> {
    /// One more, as long as it lives.
    pub fn add(&self, kept: &Arc<KeptParameters<T, P>>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| known.strong_count() > 0);
        all.push(Arc::downgrade(kept));
    }

    /// Has all let go of what [`KeptParameters::let_go`] says; whether that was anything.
    pub fn let_go(&self) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: usize = all
            .iter()
            .filter_map(Weak::upgrade)
            .map(|kept| kept.let_go())
            .sum();
        if bytes > 0 {
            tracing::info!("{bytes} bytes of kept parameters make room; refits read them again");
        }
        bytes > 0
    }
}

impl<T, P> Default for KeptRegistry<T, P> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}
