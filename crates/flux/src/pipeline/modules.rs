//! The models of a pipeline as mutable modules: made when they are first needed, shared by all
//! pictures under way.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tintype_backend::{CompileOptions, KeepWeights};
use tintype_ir::Graph;
use tintype_models::{ClipTextConfig, T5EncoderConfig};
use tintype_refit::{MutableModule, Weights};
use tintype_weights::{Checkpoint, Parameters, layout};

use super::FluxPipeline;
use super::live::Live;
use crate::model_index::Component;
use crate::{Architecture, Result, Sizes};

/// The models of a pipeline; the autoencoder is two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ModelKind {
    /// The CLIP text encoder.
    Clip,
    /// The T5 text encoder.
    T5,
    /// The denoising transformer.
    Transformer,
    /// The autoencoder's way to pixels.
    Decoder,
    /// The autoencoder's way from pixels.
    Encoder,
}

impl ModelKind {
    /// Every one, in the order of use.
    pub const ALL: [Self; 5] = [
        Self::Clip,
        Self::T5,
        Self::Encoder,
        Self::Transformer,
        Self::Decoder,
    ];

    /// The name of its folder in diffusers' layout; the autoencoder's with its direction.
    pub fn name(self) -> &'static str {
        match self {
            Self::Decoder => "vae_decoder",
            Self::Encoder => "vae_encoder",
            other => other.component().name(),
        }
    }

    pub(super) fn component(self) -> Component {
        match self {
            Self::Clip => Component::TextEncoder,
            Self::T5 => Component::TextEncoder2,
            Self::Transformer => Component::Transformer,
            Self::Decoder | Self::Encoder => Component::Vae,
        }
    }
}

/// The modules that are loaded now, by kind.
#[derive(Default)]
pub(super) struct Modules([Mutex<Slot>; 5]);

/// Pictures hold a module by a handle each; with `low_memory` nobody else does, so that it goes
/// with the last of them.
#[derive(Default)]
struct Slot {
    kept: Option<Arc<MutableModule>>,
    alive: Weak<MutableModule>,
    /// The memory that it takes, for what was asked last.
    need: Option<(Asked, usize)>,
}

/// What the memory of a module depends on: sizes and steps.
pub(super) type Asked = (Sizes, usize);

impl Modules {
    /// The module, made by `make` if there is none; kept or left to its pictures.
    fn get(
        &self,
        kind: ModelKind,
        keep: bool,
        make: impl FnOnce() -> Result<MutableModule>,
    ) -> Result<Arc<MutableModule>> {
        // Others that need it wait here, so that it is made once.
        let mut slot = self.slot(kind);
        let module = match slot.alive.upgrade() {
            Some(module) => module,
            None => Arc::new(make()?),
        };
        slot.alive = Arc::downgrade(&module);
        slot.kept = keep.then(|| Arc::clone(&module));
        Ok(module)
    }

    /// The module if it is loaded.
    pub(super) fn loaded(&self, kind: ModelKind) -> Option<Arc<MutableModule>> {
        self.slot(kind).alive.upgrade()
    }

    /// The bytes that a module takes, as `forecast` says if it is not known.
    pub(super) fn need(
        &self,
        kind: ModelKind,
        asked: &Asked,
        forecast: impl FnOnce() -> Result<usize>,
    ) -> Result<usize> {
        match &self.slot(kind).need {
            Some((known, bytes)) if known == asked => return Ok(*bytes),
            _ => {}
        }
        let bytes = forecast()?;
        self.slot(kind).need = Some((asked.clone(), bytes));
        Ok(bytes)
    }

    /// Lets a module go; it is made anew when it is needed.
    pub(super) fn forget(&self, kind: ModelKind) {
        *self.slot(kind) = Slot::default();
    }

    /// Lets a module go of which nothing was ever compiled, so that mended files are read again.
    pub(super) fn forget_failed(&self, kind: ModelKind, module: &Arc<MutableModule>) {
        let mut slot = self.slot(kind);
        if module.engines() == 0 && std::ptr::eq(slot.alive.as_ptr(), Arc::as_ptr(module)) {
            *slot = Slot::default();
        }
    }

    fn slot(&self, kind: ModelKind) -> MutexGuard<'_, Slot> {
        let slot = self.0[kind as usize].lock();
        slot.unwrap_or_else(PoisonError::into_inner)
    }
}

impl FluxPipeline {
    /// The module of this kind with the weights that are live. Nothing is compiled yet.
    pub(super) fn module(&self, live: &Live, kind: ModelKind) -> Result<Arc<MutableModule>> {
        let make = || {
            let backend = Arc::clone(self.chosen_backend()?);
            let parameters = self.with_rewritten(kind, self.live_parameters(live, kind)?)?;
            let graph = self.full_graph(kind)?;
            let mut weights = Weights::new(parameters.clone());
            live.lay_overlays(self, kind, &mut weights)?;
            let builder = MutableModule::builder(backend, graph, parameters);
            Ok(builder
                .ranges(self.architecture().ranges(kind, &self.sizes))
                .options(self.options_of(kind))
                .weights(weights)
                .build())
        };
        self.modules.get(kind, !self.low_memory, make)
    }

    /// What the backend is told. With `low_memory` nothing waits for a change of weights, since the
    /// model goes before one can come.
    fn options_of(&self, kind: ModelKind) -> CompileOptions {
        let mut options = self.options[kind as usize].clone();
        if self.low_memory {
            options.frees_request_weights = true;
            if options.keep_weights == KeepWeights::Auto {
                options.keep_weights = KeepWeights::Disk;
            }
        }
        options
    }

    /// The graph of a model for the sizes that the pipeline compiles for, before any pass, as it was
    /// last rewritten.
    ///
    /// # Errors
    /// [`Error::Model`](crate::Error::Model) for a configuration of which no graph can be made.
    pub fn graph(&self, kind: ModelKind) -> Result<Graph> {
        let graph = self.architecture().graph(kind, self.dtype, &self.sizes)?;
        self.rewritten(kind, graph)
    }

    /// The graph for all sizes, which engines are narrowed from.
    pub(super) fn full_graph(&self, kind: ModelKind) -> Result<Graph> {
        let all = Sizes::default();
        let graph = self.architecture().graph(kind, self.dtype, &all)?;
        self.rewritten(kind, graph)
    }

    /// What the models compute, as the backend wants it if one is chosen.
    pub fn architecture(&self) -> Architecture {
        let configs = &self.configs;
        let architecture = Architecture {
            clip: configs.clip.clone(),
            clip_tokens: self.clip_tokens(),
            t5: configs.t5.clone(),
            transformer: configs.transformer.clone(),
            vae: configs.vae.clone(),
            euler_step: false,
        };
        match &self.backend {
            Some(backend) => architecture.for_backend(&backend.capabilities()),
            None => architecture,
        }
    }

    /// The number of tokens that CLIP sees: 77 in FLUX.1, fewer in a model made for short prompts.
    pub(super) fn clip_tokens(&self) -> usize {
        let positions = self.configs.clip.max_position_embeddings;
        positions.min(self.tokenizers.clip.model_max_length())
    }

    /// The parameters of a model under the names of its graph: those that were changed, or those
    /// of the files. None is read.
    pub(super) fn live_parameters(&self, live: &Live, kind: ModelKind) -> Result<Parameters> {
        let component = kind.component();
        if let Some(changed) = live.parameters.get(&component) {
            return Ok(changed.clone());
        }
        if let Some(path) = live.weight_files.get(&component) {
            return parameters_in(component, path);
        }
        let own = self.source.subfolder(component.name());
        named_as_in_graphs(component, &Checkpoint::from_files(&own)?, own.root())
    }
}

/// The parameters of a component in another file or folder.
pub(super) fn parameters_in(component: Component, path: &Path) -> Result<Parameters> {
    named_as_in_graphs(component, &Checkpoint::open(path)?, path)
}

fn named_as_in_graphs(
    component: Component,
    checkpoint: &Checkpoint,
    path: &Path,
) -> Result<Parameters> {
    let parameters = Parameters::from_checkpoint(checkpoint)?;
    match component {
        Component::TextEncoder => Ok(parameters.renamed(ClipTextConfig::canonical_name)?),
        Component::TextEncoder2 => {
            let contains = |name: &str| parameters.contains(name);
            Ok(parameters.renamed(|name| T5EncoderConfig::canonical_name(name, contains))?)
        }
        Component::Transformer => Ok(converted(layout::flux_transformer(&parameters)?, path)),
        _ => Ok(converted(layout::autoencoder(&parameters)?, path)),
    }
}

fn converted(converted: layout::Converted, path: &Path) -> Parameters {
    for name in &converted.unknown {
        tracing::warn!(
            "{}: tensor `{name}` is not part of the model",
            path.display()
        );
    }
    converted.parameters
}
