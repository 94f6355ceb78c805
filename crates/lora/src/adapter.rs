//! A LoRA file in use: under a name, with a scale.
//!
//! ```no_run
//! # fn main() -> Result<(), tintype_lora::Error> {
//! use tintype_lora::{Adapter, LoraFile};
//! let file = LoraFile::open("style.safetensors")?;
//! // Strong in the first ten blocks only.
//! let adapter = Adapter::new("style", file, 0.8)
//!     .with_scales(|target| if target.block().is_some_and(|block| block < 10) { 1.0 } else { 0.2 });
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::sync::Arc;

use crate::{LoraFile, LoraTarget};

/// A file with a name and a scale, which may be negative.
#[derive(Clone)]
pub struct Adapter {
    name: String,
    file: LoraFile,
    scale: f32,
    scales: Option<Arc<Scales>>,
}

type Scales = dyn Fn(&LoraTarget) -> f32 + Send + Sync;

impl Adapter {
    /// `file` under `name`, every update multiplied by `scale`.
    pub fn new(name: impl Into<String>, file: LoraFile, scale: f32) -> Self {
        Self {
            name: name.into(),
            file,
            scale,
            scales: None,
        }
    }

    /// Multiplies each update by a scale of its own besides the common one.
    #[must_use]
    pub fn with_scales(
        mut self,
        scales: impl Fn(&LoraTarget) -> f32 + Send + Sync + 'static,
    ) -> Self {
        self.scales = Some(Arc::new(scales));
        self
    }

    /// The same with another common scale.
    #[must_use]
    pub fn with_scale(mut self, scale: f32) -> Self {
        self.scale = scale;
        self
    }

    /// Its name, which begins the names of the parameters that it brings.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file.
    pub fn file(&self) -> &LoraFile {
        &self.file
    }

    /// The common scale.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// The scale of one update, without the update's own factor.
    pub(crate) fn scale_of(&self, target: &LoraTarget) -> f32 {
        let own = self.scales.as_ref().map_or(1.0, |scales| scales(target));
        self.scale * own
    }
}

impl fmt::Debug for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adapter")
            .field("name", &self.name)
            .field("file", &self.file.origin())
            .field("scale", &self.scale)
            .field("has_scales", &self.scales.is_some())
            .finish_non_exhaustive()
    }
}
