//! Opening a pipeline: configurations and tokenizers are read and checked, weights are not.

use std::path::{Path, PathBuf};

use tintype_models::{AutoencoderKlConfig, ClipTextConfig, FluxTransformerConfig, T5EncoderConfig};
use tintype_tensor::DType;

use super::{Adapters, Configs, Files, FluxPipeline, Models, Tokenizers};
use crate::files::{self, CONFIG_LIMIT};
use crate::model_index::{Component, ModelIndex};
use crate::scheduler::FlowMatchEulerConfig;
use crate::tokenizer::{ClipTokenizer, T5Tokenizer};
use crate::{Error, Result};

impl FluxPipeline {
    /// Opens a folder in diffusers' layout.
    pub fn from_pretrained(folder: impl Into<PathBuf>) -> Result<Self> {
        let folder = folder.into();
        ModelIndex::from_dir(&folder)?;
        let configs = Configs::read(&folder)?;
        let tokenizers = Tokenizers {
            clip: ClipTokenizer::from_dir(&Component::Tokenizer.folder(&folder))?,
            t5: T5Tokenizer::from_dir(&Component::Tokenizer2.folder(&folder))?,
        };
        configs.check(&folder)?;
        Ok(Self {
            folder,
            files: Files::default(),
            configs,
            tokenizers,
            backend: None,
            dtype: DType::F32,
            low_memory: false,
            adapters: Adapters::default(),
            models: Models::default(),
        })
    }

    /// Takes the transformer's weights from another file or folder, in diffusers' or
    /// the original layout (`flux1-dev.safetensors`).
    #[must_use]
    pub fn transformer_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.files.transformer = Some(path.into());
        self.models.transformer = None;
        self
    }

    /// Takes the autoencoder's weights from another file or folder, in diffusers' or
    /// the original layout (`ae.safetensors`).
    #[must_use]
    pub fn vae_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.files.vae = Some(path.into());
        self.models.decoder = None;
        self.models.encoder = None;
        self
    }
}

impl Configs {
    fn read(folder: &Path) -> Result<Self> {
        let config = |component: Component| component.folder(folder).join("config.json");
        let (clip_name, clip_text) = read_text(&config(Component::TextEncoder))?;
        let (t5_name, t5_text) = read_text(&config(Component::TextEncoder2))?;
        let (transformer_name, transformer_text) = read_text(&config(Component::Transformer))?;
        let (vae_name, vae_text) = read_text(&config(Component::Vae))?;
        Ok(Self {
            clip: ClipTextConfig::from_json(&clip_name, &clip_text)?,
            t5: T5EncoderConfig::from_json(&t5_name, &t5_text)?,
            transformer: FluxTransformerConfig::from_json(&transformer_name, &transformer_text)?,
            vae_sample_size: sample_size(&vae_text),
            vae: AutoencoderKlConfig::from_json(&vae_name, &vae_text)?,
            scheduler: FlowMatchEulerConfig::from_dir(&Component::Scheduler.folder(folder))?,
        })
    }

    /// Widths that models hand to each other fit.
    fn check(&self, folder: &Path) -> Result<()> {
        let path = Component::Transformer.folder(folder).join("config.json");
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
        let path = Component::Vae.folder(folder).join("config.json");
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

fn read_text(path: &Path) -> Result<(String, String)> {
    let bytes = files::read(path, CONFIG_LIMIT)?;
    let text = String::from_utf8(bytes)
        .map_err(|error| Error::invalid(path, "the text", "UTF-8", error.utf8_error()))?;
    Ok((path.display().to_string(), text))
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
