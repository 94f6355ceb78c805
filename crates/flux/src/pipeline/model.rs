//! One model on the backend: compiled, with its weights, and a session.

use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

use tintype_backend::{
    Backend, Changes, CompileOptions, Executable, RequestState, Session, Tensors, programs_for,
};
use tintype_ir::{Graph, Overlay};
use tintype_models::{ClipTextConfig, T5EncoderConfig};
use tintype_weights::{Checkpoint, Parameters, layout};

use super::check::Run;
use super::{FluxPipeline, Models};
use crate::model_index::Component;
use crate::{Architecture, Observer, Part, Result};

/// A model that can run.
pub(super) struct Model {
    executable: Box<dyn Executable>,
    session: Box<dyn Session>,
    parameters: Parameters,
}

impl Model {
    fn compile(
        backend: &dyn Backend,
        options: &CompileOptions,
        graph: &Graph,
        parameters: Parameters,
    ) -> Result<Self> {
        let staged = programs_for(backend, graph)?;
        let executable = backend.compile(&staged, options)?;
        let session = executable.session()?;
        Ok(Self {
            executable,
            session,
            parameters,
        })
    }

    /// Runs the weight program for these overlays; `changed` names the parameters
    /// they lie or lay on, `None` all.
    pub(super) fn refit(
        &self,
        overlays: &[Overlay],
        own: &Parameters,
        changed: Option<HashSet<String>>,
    ) -> Result<()> {
        let parameters = if overlays.is_empty() {
            self.parameters.clone()
        } else {
            Parameters::builder()
                .parameters(&self.parameters)
                .parameters(own)
                .build()?
        };
        let mut changes = Changes::all(&parameters).with_overlays(overlays);
        if let Some(changed) = changed {
            changes = changes.only_names(changed);
        }
        self.executable.refit(&changes)?;
        Ok(())
    }

    pub(super) fn prepare(&mut self, inputs: &Tensors) -> Result<Box<dyn RequestState>> {
        Ok(self.session.prepare(inputs)?)
    }

    pub(super) fn step(&mut self, state: &dyn RequestState, inputs: &Tensors) -> Result<Tensors> {
        Ok(self.session.step(state, inputs)?)
    }

    /// Runs a graph that has no step inputs.
    pub(super) fn run(&mut self, inputs: &Tensors) -> Result<Tensors> {
        Ok(self.prepare(inputs)?.outputs().clone())
    }
}

/// The models of a pipeline; the autoencoder is two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

impl Models {
    pub(super) fn slot(&mut self, kind: ModelKind) -> &mut Option<Model> {
        match kind {
            ModelKind::Clip => &mut self.clip,
            ModelKind::T5 => &mut self.t5,
            ModelKind::Transformer => &mut self.transformer,
            ModelKind::Decoder => &mut self.decoder,
            ModelKind::Encoder => &mut self.encoder,
        }
    }
}

impl FluxPipeline {
    /// The model of this kind, loaded if it is not.
    pub(super) fn model(
        &mut self,
        kind: ModelKind,
        run: &mut Run,
        observer: &mut dyn Observer,
    ) -> Result<&mut Model> {
        if self.models.slot(kind).is_none() {
            let start = Instant::now();
            observer.begin(Part::Load(kind.component().name()), 0);
            let model = self.load(kind)?;
            *self.models.slot(kind) = Some(model);
            run.timings.load += start.elapsed();
        }
        Ok(self.models.slot(kind).as_mut().expect("loaded just now"))
    }

    fn load(&self, kind: ModelKind) -> Result<Model> {
        let graph = self.graph(kind)?;
        let parameters = self.with_rewritten(kind, self.parameters(kind)?)?;
        let backend = self.chosen_backend()?;
        let model = Model::compile(
            backend.as_ref(),
            &self.options[kind as usize],
            &graph,
            parameters,
        )?;
        let (overlays, own) = self.adapters.overlays(kind.component(), &graph)?;
        model.refit(&overlays, &own, None)?;
        Ok(model)
    }

    /// The graph of a model, before any pass, as it was last rewritten.
    pub fn graph(&self, kind: ModelKind) -> Result<Graph> {
        let graph = self.architecture().graph(kind, self.dtype, &self.sizes)?;
        self.rewritten(kind, graph)
    }

    /// What the models compute.
    pub fn architecture(&self) -> Architecture {
        let configs = &self.configs;
        Architecture {
            clip: configs.clip.clone(),
            clip_tokens: self.clip_tokens(),
            t5: configs.t5.clone(),
            transformer: configs.transformer.clone(),
            vae: configs.vae.clone(),
        }
    }

    /// The number of tokens that CLIP sees: 77 in FLUX.1, fewer in a model made for short prompts.
    pub(super) fn clip_tokens(&self) -> usize {
        let positions = self.configs.clip.max_position_embeddings;
        positions.min(self.tokenizers.clip.model_max_length())
    }

    /// The parameters of a model under the names of its graph.
    pub(super) fn parameters(&self, kind: ModelKind) -> Result<Parameters> {
        let component = kind.component();
        let own_file = match kind {
            ModelKind::Transformer => self.weight_files.transformer.as_deref(),
            ModelKind::Decoder | ModelKind::Encoder => self.weight_files.vae.as_deref(),
            ModelKind::Clip | ModelKind::T5 => None,
        };
        let own = self.source.subfolder(component.name());
        let (path, checkpoint) = match own_file {
            Some(path) => (path, Checkpoint::open(path)?),
            None => (own.root(), Checkpoint::from_files(&own)?),
        };
        let parameters = Parameters::from_checkpoint(&checkpoint)?;
        match kind {
            ModelKind::Clip => Ok(parameters.renamed(ClipTextConfig::canonical_name)?),
            ModelKind::T5 => {
                let contains = |name: &str| parameters.contains(name);
                Ok(parameters.renamed(|name| T5EncoderConfig::canonical_name(name, contains))?)
            }
            ModelKind::Transformer => Ok(converted(layout::flux_transformer(&parameters)?, path)),
            ModelKind::Decoder | ModelKind::Encoder => {
                Ok(converted(layout::autoencoder(&parameters)?, path))
            }
        }
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
