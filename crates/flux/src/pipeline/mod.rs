//! The pipeline: from a request to pictures.
//!
//! A [`FluxPipeline`] is opened without reading weights. Models are compiled and
//! given their weights when they are first needed, and stay, unless
//! [`FluxPipeline::low_memory`] lets each go before the next one comes.
//!
//! Threads share a pipeline: pictures run side by side, and LoRAs and weights change between
//! them. Each picture is made with one state of all models.

mod adapters;
mod change;
mod check;
mod decode;
mod denoise;
mod drawing;
mod encode;
mod initial;
mod live;
mod modules;
mod on_device;
mod open;
mod parameters;
mod quantize;
mod rewrite;
mod room;
mod tiles;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use tintype_backend::{Backend, CompileOptions, KeepWeights};
use tintype_models::{AutoencoderKlConfig, ClipTextConfig, FluxTransformerConfig, T5EncoderConfig};
use tintype_tensor::DType;
use tintype_weights::ModelFiles;

pub use adapters::AdapterReport;
use adapters::Binder;
pub use change::ChangeReport;
use drawing::Drawing;
use live::Live;
pub use modules::ModelKind;
use modules::Modules;
pub use quantize::PromptFeed;
pub use rewrite::Rewrite;

use crate::model_index::Component;
use crate::scheduler::FlowMatchEulerConfig;
use crate::tokenizer::{ClipTokenizer, T5Tokenizer};
use crate::{Error, ModelDefaults, Observer, Output, Request, Result, Sizes};

/// FLUX.1 as diffusers' FluxPipeline and FluxImg2ImgPipeline run it.
///
/// ```no_run
/// # fn f(cpu: impl tintype_backend::Backend + 'static) -> Result<(), tintype_flux::Error> {
/// use tintype_flux::{FluxPipeline, Request};
///
/// let request = Request::new("a red circle above a blue square").seed(1);
/// let output = FluxPipeline::from_pretrained("flux-dev")?.backend(cpu).generate(&request)?;
/// output.save("out.png")?;
/// # Ok(()) }
/// ```
pub struct FluxPipeline {
    source: ModelFiles,
    defaults: ModelDefaults,
    configs: Configs,
    tokenizers: Tokenizers,
    backend: Option<Arc<dyn Backend>>,
    dtype: DType,
    sizes: Sizes,
    low_memory: bool,
    /// By kind of model.
    options: [CompileOptions; 5],
    /// Held by each picture as a reader, and alone by a change while it is brought.
    live: RwLock<Live>,
    /// Held by a change from its beginning to its end, so that none is lost. A picture under way
    /// never asks for it.
    changing: Mutex<Binder>,
    modules: Modules,
    rewrite: Option<Rewrite>,
}

/// What the models compute.
#[derive(Debug, Clone)]
struct Configs {
    clip: ClipTextConfig,
    t5: T5EncoderConfig,
    transformer: FluxTransformerConfig,
    vae: AutoencoderKlConfig,
    /// Pixels of the side of a tile that the autoencoder decodes at once.
    vae_sample_size: usize,
    scheduler: FlowMatchEulerConfig,
}

struct Tokenizers {
    clip: ClipTokenizer,
    t5: T5Tokenizer,
}

impl FluxPipeline {
    /// Runs on this backend.
    #[must_use]
    pub fn backend(self, backend: impl Backend + 'static) -> Self {
        self.shared_backend(Arc::new(backend))
    }

    /// Runs on this backend, chosen at run time.
    #[must_use]
    pub fn shared_backend(mut self, backend: Arc<dyn Backend>) -> Self {
        self.modules = Modules::default();
        self.backend = Some(backend);
        self
    }

    /// Computes in f32 (the default), bf16 or f16.
    #[must_use]
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.modules = Modules::default();
        // LoRAs are bound to parameters of a dtype.
        self.changing = Mutex::default();
        self.live_mut().mixes.take();
        self.dtype = dtype;
        self
    }

    /// Compiles models for these requests. A backend that plans ahead makes better plans for few
    /// sizes; for a request of others it compiles once more. Without this, every use of FLUX is
    /// compiled for.
    #[must_use]
    pub fn sizes(mut self, sizes: Sizes) -> Self {
        self.modules = Modules::default();
        self.sizes = sizes;
        self
    }

    /// Where parameters wait for the next change of a LoRA or of weights.
    #[must_use]
    pub fn keep_weights(mut self, keep_weights: KeepWeights) -> Self {
        self.modules = Modules::default();
        for options in &mut self.options {
            options.keep_weights = keep_weights;
        }
        self
    }

    /// What the backend is told when it compiles a model, such as a folder of compiled forms.
    #[must_use]
    pub fn compile_options(mut self, kind: ModelKind, options: CompileOptions) -> Self {
        self.modules.forget(kind);
        self.options[kind as usize] = options;
        self
    }

    /// Lets each model go before the next one loads, and weights that no step reads before the
    /// first step: least memory, but every request loads all of them again. Parameters wait in
    /// their files alone, unless [`FluxPipeline::keep_weights`] names a place. Requests that run side by side share a model that
    /// both need at that time; it goes with the last of them.
    #[must_use]
    pub fn low_memory(mut self, low_memory: bool) -> Self {
        self.modules = Modules::default();
        self.low_memory = low_memory;
        self
    }

    /// What a request gets for what it leaves unset, and the LoRAs that come with the model.
    pub fn defaults(&self) -> &ModelDefaults {
        &self.defaults
    }

    /// The files that the model was opened from.
    pub fn files(&self) -> &ModelFiles {
        &self.source
    }

    /// What the transformer computes.
    pub fn transformer_config(&self) -> &FluxTransformerConfig {
        &self.configs.transformer
    }

    /// What the autoencoder computes.
    pub fn vae_config(&self) -> &AutoencoderKlConfig {
        &self.configs.vae
    }

    /// How noise levels are spaced.
    pub fn scheduler_config(&self) -> &FlowMatchEulerConfig {
        &self.configs.scheduler
    }

    /// Makes the pictures of a request.
    ///
    /// # Errors
    /// As [`FluxPipeline::generate_with`].
    pub fn generate(&self, request: &Request) -> Result<Output> {
        self.generate_with(request, &mut ())
    }

    /// Makes the pictures of a request; `observer` follows, and may change latents
    /// and embeddings or stop.
    ///
    /// Threads may do so side by side. A change of LoRAs or weights waits until this is done, so
    /// an observer must not change its own pipeline, nor begin another picture with it.
    ///
    /// # Errors
    /// [`Error::NoBackend`]; [`Error::Argument`] for a request that does not fit the model
    /// or contradicts itself, before anything is loaded, and for a replacement by
    /// `observer` of another shape; [`Error::Memory`] where its models do not fit on the device, also
    /// before anything is loaded; what reading, compiling and running models may give.
    /// The pipeline can be used again after any of them.
    pub fn generate_with(&self, request: &Request, observer: &mut dyn Observer) -> Result<Output> {
        let mut run = check::Run::new(self, request)?;
        let start = Instant::now();
        let live = self.live_with(run.lora_scale)?;
        run.timings.load += start.elapsed();
        Drawing::new(self, &live, run, observer).run()
    }

    /// The configuration of a component, for messages.
    fn config_path(&self, component: Component) -> PathBuf {
        self.source.subfolder(component.name()).path("config.json")
    }

    fn chosen_backend(&self) -> Result<&Arc<dyn Backend>> {
        self.backend.as_ref().ok_or(Error::NoBackend)
    }

    /// The state, while nobody shares the pipeline.
    fn live_mut(&mut self) -> &mut Live {
        let live = self.live.get_mut();
        live.unwrap_or_else(PoisonError::into_inner)
    }
}
