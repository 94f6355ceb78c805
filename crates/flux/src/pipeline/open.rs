//! Opening a pipeline: configurations and tokenizers are read and checked, weights are not.

use std::path::PathBuf;
use std::sync::{Mutex, RwLock};

use tintype_models::{AutoencoderKlConfig, ClipTextConfig, FluxTransformerConfig, T5EncoderConfig};
use tintype_tensor::DType;
use tintype_weights::ModelFiles;

use super::{Binder, Configs, FluxPipeline, Live, ModelKind, Modules, Tokenizers};
use crate::files::{self, CONFIG_LIMIT};
use crate::model_index::{Component, ModelIndex};
use crate::scheduler::FlowMatchEulerConfig;
use crate::tokenizer::{ClipTokenizer, T5Tokenizer};
use crate::{Error, ModelDefaults, Result, Sizes};

impl FluxPipeline {
    /// Opens a folder in diffusers' layout.
    ///
    /// # Errors
    /// As [`FluxPipeline::from_files`].
    pub fn from_pretrained(folder: impl Into<PathBuf>) -> Result<Self> {
        Self::from_files(ModelFiles::folder(folder))
    }

    /// Opens a model in diffusers' layout, in a folder or inside the program.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Read`], [`Error::TooLarge`] for a file that is not
    /// there or cannot be read; [`Error::Json`], [`Error::Invalid`],
    /// [`Error::UnknownClass`], [`Error::Model`] for one that is wrong. Weights are not
    /// looked at before they are needed.
    pub fn from_files(source: ModelFiles) -> Result<Self> {
        ModelIndex::from_files(&source)?;
        let part = |component: Component| source.subfolder(component.name());
        let configs = Configs::read(part)?;
        let tokenizers = Tokenizers {
            clip: ClipTokenizer::from_files(&part(Component::Tokenizer))?,
            t5: T5Tokenizer::from_files(&part(Component::Tokenizer2))?,
        };
        configs.check(part)?;
        Ok(Self {
            defaults: ModelDefaults::from_files(&source)?,
            source,
            configs,
            tokenizers,
            backend: None,
            dtype: DType::F32,
            sizes: Sizes::default(),
            low_memory: false,
            options: Default::default(),
            live: RwLock::new(Live::default()),
            changing: Mutex::new(Binder::default()),
            modules: Modules::default(),
            rewrite: None,
        })
    }

    /// Takes the transformer's weights from another file or folder, in diffusers' or
    /// the original layout (`flux1-dev.safetensors`).
    #[must_use]
    pub fn transformer_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.modules.forget(ModelKind::Transformer);
        self.set_weight_file(Component::Transformer, path.into());
        self
    }

    /// Takes the autoencoder's weights from another file or folder, in diffusers' or
    /// the original layout (`ae.safetensors`).
    #[must_use]
    pub fn vae_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.modules.forget(ModelKind::Decoder);
        self.modules.forget(ModelKind::Encoder);
        self.set_weight_file(Component::Vae, path.into());
        self
    }

    fn set_weight_file(&mut self, component: Component, path: PathBuf) {
        let live = self.live_mut();
        live.parameters.remove(&component);
        live.weight_files.insert(component, path);
    }
}

impl Configs {
    fn read(part: impl Fn(Component) -> ModelFiles) -> Result<Self> {
        let (clip_name, clip_text) = read_text(&part(Component::TextEncoder))?;
        let (t5_name, t5_text) = read_text(&part(Component::TextEncoder2))?;
        let (transformer_name, transformer_text) = read_text(&part(Component::Transformer))?;
        let (vae_name, vae_text) = read_text(&part(Component::Vae))?;
        Ok(Self {
            clip: ClipTextConfig::from_json(&clip_name, &clip_text)?,
            t5: T5EncoderConfig::from_json(&t5_name, &t5_text)?,
            transformer: FluxTransformerConfig::from_json(&transformer_name, &transformer_text)?,
            vae_sample_size: sample_size(&vae_text),
            vae: AutoencoderKlConfig::from_json(&vae_name, &vae_text)?,
            scheduler: FlowMatchEulerConfig::from_files(&part(Component::Scheduler))?,
        })
    }

    /// Widths that models hand to each other fit.
    fn check(&self, part: impl Fn(Component) -> ModelFiles) -> Result<()> {
        let path = part(Component::Transformer).path(CONFIG);
        let transformer = &self.transformer;
        let expect = |field: &str, expected: usize, found: usize| {
            if expected == found {
                Ok(())
            } else {
                Err(Error::invalid(&path, field, expected.to_string(), found))
            }
        };
        expect(
            "joint_attention_dim",
            self.t5.d_model,
            transformer.joint_attention_dim,
        )?;
        expect(
            "pooled_projection_dim",
            self.clip.hidden_size,
            transformer.pooled_projection_dim,
        )?;
        expect(
            "in_channels",
            4 * self.vae.latent_channels,
            transformer.in_channels,
        )?;
        expect(
            "out_channels",
            4 * self.vae.latent_channels,
            transformer.out_channels,
        )?;
        expect("axes_dims_rope", 3, transformer.axes_dims_rope.len())?;
        let path = part(Component::Vae).path(CONFIG);
        if self.vae.pixels_per_latent() != 8
            || self.vae.in_channels != 3
            || self.vae.out_channels != 3
        {
            let found = format!("{:?}", self.vae.block_out_channels);
            return Err(Error::invalid(
                &path,
                "block_out_channels",
                "4 levels between 3 channels",
                found,
            ));
        }
        Ok(())
    }
}

fn read_text(part: &ModelFiles) -> Result<(String, String)> {
    let path = part.path(CONFIG);
    let bytes = files::read(part, CONFIG, CONFIG_LIMIT)?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|error| Error::invalid(&path, "the text", "UTF-8", error))?;
    Ok((path.display().to_string(), text.to_owned()))
}

/// `sample_size` of the autoencoder, which sets the size of tiles: a number or a list.
/// It changes no weight, so anything odd falls back to diffusers' default.
fn sample_size(text: &str) -> usize {
    let config: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let field = &config["sample_size"];
    let size = field.as_u64().or_else(|| field[0].as_u64());
    size.and_then(|size| usize::try_from(size).ok())
        .filter(|size| (8..=16384).contains(size))
        .unwrap_or(32)
}

const CONFIG: &str = "config.json";
