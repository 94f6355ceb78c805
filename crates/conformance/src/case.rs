//! The recorded cases, as `fixtures/cases/cases.json` has them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::{Error, Result};

/// A request and what diffusers made of it.
#[derive(Debug, Clone, Deserialize)]
pub struct Case {
    /// Its name, unique.
    pub name: String,
    /// The pipeline's folder below the fixtures.
    pub pipeline: String,
    /// Which pipeline class made it.
    pub kind: KindOfCase,
    /// The arguments.
    pub request: RequestRecord,
    /// LoRAs, in the order in which they were loaded.
    pub loras: Vec<Lora>,
    /// Where the results lie.
    pub expected: Expected,
}

/// The class of pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KindOfCase {
    /// `FluxPipeline`.
    TextToImage,
    /// `FluxImg2ImgPipeline`.
    ImageToImage,
}

/// Arguments of a request; what is absent has diffusers' default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RequestRecord {
    /// Prompts.
    pub prompt: Vec<String>,
    /// Prompts for T5.
    pub prompt_2: Option<Vec<String>>,
    /// Negative prompts.
    pub negative_prompt: Option<Vec<String>>,
    /// Negative prompts for T5.
    pub negative_prompt_2: Option<Vec<String>>,
    /// Strength of true classifier-free guidance.
    pub true_cfg_scale: Option<f32>,
    /// In pixels.
    pub height: Option<usize>,
    /// In pixels.
    pub width: Option<usize>,
    /// Number of steps.
    pub steps: Option<usize>,
    /// Custom noise levels.
    pub sigmas: Option<Vec<f64>>,
    /// Distilled guidance.
    pub guidance: Option<f32>,
    /// Pictures per prompt.
    pub num_images: Option<usize>,
    /// One seed, or one for each picture.
    pub seed: Option<SeedRecord>,
    /// Tokens of T5.
    pub max_sequence_length: Option<usize>,
    /// A common factor of the LoRAs.
    pub lora_scale: Option<f32>,
    /// Whether the autoencoder decodes by tiles.
    pub vae_tiling: bool,
    /// How far to leave the image that was given.
    pub strength: Option<f64>,
    /// `latent`, or absent for pictures.
    pub output_type: Option<String>,
    /// What a callback did.
    pub callback: Option<Callback>,
    /// Arguments that are tensors: their names in the expected file.
    pub tensors: BTreeMap<String, String>,
}

/// One seed, or one for each picture.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum SeedRecord {
    /// One generator.
    One(u64),
    /// A generator for each picture.
    Many(Vec<u64>),
}

/// Acts once, after a step.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Callback {
    /// The step, from 0.
    pub after_step: usize,
    /// Factor of the latents.
    pub scale_latents: Option<f32>,
    /// Factor of T5's result.
    pub scale_prompt_embeds: Option<f32>,
    /// Skip the rest.
    #[serde(default)]
    pub interrupt: bool,
}

/// A LoRA file and its scale.
#[derive(Debug, Clone, Deserialize)]
pub struct Lora {
    /// Below the fixtures.
    pub file: String,
    /// Its scale.
    pub scale: f32,
}

/// Where the results of a case lie.
#[derive(Debug, Clone, Deserialize)]
pub struct Expected {
    /// The safetensors file below the fixtures.
    pub file: String,
    /// The tensor of the last latents, packed.
    pub latents: String,
    /// The tensor of pictures, NCHW: floats in 0..=1, or u8. Absent for latent output.
    pub images: Option<String>,
}

impl Case {
    /// All cases below a folder of fixtures.
    pub fn read_all(fixtures: &Path) -> Result<Vec<Self>> {
        let path = fixtures.join("cases/cases.json");
        let failed = |message: String| Error::Fixture {
            path: path.display().to_string(),
            message,
        };
        let text = std::fs::read_to_string(&path).map_err(|error| failed(error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| failed(error.to_string()))
    }
}
