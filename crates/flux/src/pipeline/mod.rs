//! The pipeline: from a request to pictures.
//!
//! A [`FluxPipeline`] is opened without reading weights. Models are compiled and
//! given their weights when they are first needed, and stay, unless
//! [`FluxPipeline::low_memory`] lets each go before the next one comes.

mod adapters;
mod check;
mod compiled;
mod decode;
mod denoise;
mod encode;
mod initial;
mod model;
mod open;
mod quantize;
mod rewrite;
mod tiles;

use std::path::PathBuf;
use std::sync::Arc;

use tintype_backend::{Backend, CompileOptions};
use tintype_models::{AutoencoderKlConfig, ClipTextConfig, FluxTransformerConfig, T5EncoderConfig};
use tintype_tensor::{DType, Tensor};
use tintype_weights::ModelFiles;

pub use adapters::AdapterReport;
use adapters::Adapters;
use model::Model;
pub use model::ModelKind;
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
    weight_files: WeightFiles,
    defaults: ModelDefaults,
    configs: Configs,
    tokenizers: Tokenizers,
    backend: Option<Arc<dyn Backend>>,
    dtype: DType,
    sizes: Sizes,
    low_memory: bool,
    /// By kind of model.
    options: [CompileOptions; 5],
    adapters: Adapters,
    models: Models,
    rewrite: Option<Rewrite>,
}

/// Where the weights of models lie, if not among the model's own files.
#[derive(Debug, Clone, Default)]
struct WeightFiles {
    transformer: Option<PathBuf>,
    vae: Option<PathBuf>,
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

/// The models that are loaded now.
#[derive(Default)]
struct Models {
    clip: Option<Model>,
    t5: Option<Model>,
    transformer: Option<Model>,
    decoder: Option<Model>,
    encoder: Option<Model>,
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
        self.models = Models::default();
        self.backend = Some(backend);
        self
    }

    /// Computes in f32 (the default), bf16 or f16.
    #[must_use]
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.models = Models::default();
        self.dtype = dtype;
        self
    }

    /// Compiles models for these requests only; others are refused. A backend that plans ahead
    /// makes better plans for few sizes. Without this, every use of FLUX is compiled for.
    #[must_use]
    pub fn sizes(mut self, sizes: Sizes) -> Self {
        self.models = Models::default();
        self.sizes = sizes;
        self
    }

    /// Lets each model go before the next one loads: least memory, but every
    /// request loads all of them again.
    #[must_use]
    pub fn low_memory(mut self, low_memory: bool) -> Self {
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
    pub fn generate(&mut self, request: &Request) -> Result<Output> {
        self.generate_with(request, &mut ())
    }

    /// Makes the pictures of a request; `observer` follows, and may change latents
    /// and embeddings or stop.
    ///
    /// # Errors
    /// [`Error::NoBackend`]; [`Error::Argument`] for a request that does not fit the model
    /// or contradicts itself, before anything is loaded, and for a replacement by
    /// `observer` of another shape; what reading, compiling and running models may give.
    /// The pipeline can be used again after any of them.
    pub fn generate_with(
        &mut self,
        request: &Request,
        observer: &mut dyn Observer,
    ) -> Result<Output> {
        let run = check::Run::new(self, request)?;
        let output = self.run(run, observer);
        if output.is_err() {
            // What a failed request leaves loaded would lie beside the next one's models.
            self.release(|models| *models = Models::default());
        }
        output
    }

    fn run(&mut self, mut run: check::Run, observer: &mut dyn Observer) -> Result<Output> {
        self.apply_lora_scale(run.lora_scale)?;
        let prompts = self.encode_prompts(&mut run, observer)?;
        let latents = self.initial_latents(&mut run, observer)?;
        let denoised = self.denoise(&mut run, &prompts, latents, observer)?;
        warn_of_overflow(&denoised.latents)?;
        let pixels = if run.request.latents_only {
            None
        } else {
            Some(self.decode(&mut run, &denoised.latents, observer)?)
        };
        Ok(Output {
            request: run.request,
            latents: denoised.latents.to_dtype(DType::F32)?,
            pixels,
            prompt_embeds: denoised.prompt_embeds.to_dtype(DType::F32)?,
            pooled_prompt_embeds: prompts.positive.pooled.to_dtype(DType::F32)?,
            timings: run.timings,
        })
    }

    /// The configuration of a component, for messages.
    fn config_path(&self, component: Component) -> PathBuf {
        self.source.subfolder(component.name()).path("config.json")
    }

    fn chosen_backend(&self) -> Result<&Arc<dyn Backend>> {
        self.backend.as_ref().ok_or(Error::NoBackend)
    }

    /// Lets go of the models that `low_memory` says are done.
    fn release(&mut self, done: impl FnOnce(&mut Models)) {
        if self.low_memory {
            done(&mut self.models);
        }
    }
}

/// Such a picture is black; f16 overflows in places where f32 and bf16 do not.
fn warn_of_overflow(latents: &Tensor) -> Result<()> {
    if !latents.to_f32_vec()?.iter().all(|value| value.is_finite()) {
        tracing::warn!(
            "the latents are not finite in {}: the weights, or the dtype, do not suit",
            latents.dtype()
        );
    }
    Ok(())
}
