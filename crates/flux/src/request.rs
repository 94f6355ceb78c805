//! What a picture is asked for with: the arguments of diffusers' FluxPipeline.

use serde::Serialize;
use tintype_tensor::Tensor;

use crate::image::Image;

/// A request. What is left unset gets the model's own default
/// ([`FluxPipeline::defaults`](crate::FluxPipeline::defaults)), or that of diffusers'
/// pipelines where a model has none; the request in an [`Output`](crate::Output) says
/// what was used.
///
/// ```
/// use tintype_flux::Request;
///
/// let request = Request::new("a red fox in the snow").size(768, 1024).steps(20).seed(7);
/// assert_eq!(request.height, Some(768));
/// ```
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct Request {
    /// The prompts; each gives [`Request::num_images`] pictures.
    pub prompt: Vec<String>,
    /// Prompts for T5, where they differ from CLIP's; as many as prompts, or one for all.
    /// A single empty one counts as none, as it does in diffusers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_2: Option<Vec<String>>,
    /// What the pictures shall not show, for true classifier-free guidance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_prompt: Option<Vec<String>>,
    /// The same for T5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_prompt_2: Option<Vec<String>>,
    /// Strength of true classifier-free guidance: it takes effect above 1 and with a
    /// negative prompt (or embeddings), and costs a second forward per step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub true_cfg_scale: Option<f32>,
    /// Height in pixels, floored to a multiple of 16. Default: the model's; FLUX's is 1024.
    pub height: Option<usize>,
    /// Width in pixels, floored to a multiple of 16. Default: the model's; FLUX's is 1024.
    pub width: Option<usize>,
    /// Number of steps. Default: the model's; FLUX's is 28.
    pub steps: Option<usize>,
    /// Noise levels before shifting, in place of evenly spaced ones; they set the number of steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigmas: Option<Vec<f64>>,
    /// The guidance that the model was distilled with; ignored by models without.
    /// Default: the model's; FLUX's is 3.5, and 7 with an image.
    pub guidance_scale: Option<f32>,
    /// Pictures for each prompt. Default 1.
    pub num_images: Option<usize>,
    /// Where noise comes from.
    pub seed: Seed,
    /// The number of tokens that T5 sees, at most 512. Default: the model's; FLUX's is 512.
    /// More than the model was made for is taken, with a warning.
    pub max_sequence_length: Option<usize>,
    /// A common factor of all LoRAs. Default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_scale: Option<f32>,
    /// Decode by overlapping tiles, which bounds memory for large pictures.
    pub vae_tiling: bool,
    /// A picture to begin from.
    #[serde(skip)]
    pub image: Option<InitialImage>,
    /// Tensors in place of what the pipeline would compute.
    #[serde(skip)]
    pub tensors: RequestTensors,
    /// Stop before decoding: the output holds latents only.
    #[serde(skip)]
    pub latents_only: bool,
}

/// A picture to begin from, and how far to leave it.
#[derive(Debug, Clone)]
pub struct InitialImage {
    /// The picture.
    pub image: ImageSource,
    /// From 0 (keep the picture) to 1 (only its noise level remains). diffusers' default is 0.6.
    pub strength: f64,
}

/// A picture in 8 bits or in floats.
#[derive(Debug, Clone)]
pub enum ImageSource {
    /// Resized to the request's size.
    Image(Image),
    /// f32 `[1, 3, height, width]` in 0..=1, of the request's floored size.
    Pixels(Tensor),
}

/// Tensors that a caller may give. Host tensors of any float dtype.
#[derive(Debug, Clone, Default)]
pub struct RequestTensors {
    /// Packed noise or latents, `[pictures, height/16 · width/16, channels]`.
    pub latents: Option<Tensor>,
    /// T5's result, `[prompts, tokens, width]`, in place of prompts.
    pub prompt_embeds: Option<Tensor>,
    /// CLIP's pooled result, `[prompts, width]`; needed with `prompt_embeds`.
    pub pooled_prompt_embeds: Option<Tensor>,
    /// As `prompt_embeds`, for the negative prompt.
    pub negative_prompt_embeds: Option<Tensor>,
    /// As `pooled_prompt_embeds`, for the negative prompt.
    pub negative_pooled_prompt_embeds: Option<Tensor>,
}

/// Where noise comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Seed {
    /// From a seed that the output tells.
    #[default]
    Random,
    /// One generator draws the noise of all pictures.
    One(u64),
    /// A generator for each picture.
    PerImage(Vec<u64>),
}

impl Request {
    /// A request for one picture of one prompt.
    pub fn new(prompt: impl Into<String>) -> Self {
        Self {
            prompt: vec![prompt.into()],
            ..Self::default()
        }
    }

    /// A request for pictures of several prompts.
    pub fn with_prompts<P: Into<String>>(prompts: impl IntoIterator<Item = P>) -> Self {
        Self {
            prompt: prompts.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// A request without a prompt, from embeddings computed before.
    pub fn with_embeds(prompt_embeds: Tensor, pooled_prompt_embeds: Tensor) -> Self {
        let tensors = RequestTensors {
            prompt_embeds: Some(prompt_embeds),
            pooled_prompt_embeds: Some(pooled_prompt_embeds),
            ..RequestTensors::default()
        };
        Self {
            tensors,
            ..Self::default()
        }
    }

    /// Another prompt for T5.
    #[must_use]
    pub fn prompt_2(mut self, prompt: impl Into<String>) -> Self {
        self.prompt_2 = Some(vec![prompt.into()]);
        self
    }

    /// A negative prompt and the strength of true classifier-free guidance.
    #[must_use]
    pub fn negative_prompt(mut self, prompt: impl Into<String>, true_cfg_scale: f32) -> Self {
        self.negative_prompt = Some(vec![prompt.into()]);
        self.true_cfg_scale = Some(true_cfg_scale);
        self
    }

    /// Height and width in pixels.
    #[must_use]
    pub fn size(mut self, height: usize, width: usize) -> Self {
        self.height = Some(height);
        self.width = Some(width);
        self
    }

    /// The number of steps.
    #[must_use]
    pub fn steps(mut self, steps: usize) -> Self {
        self.steps = Some(steps);
        self
    }

    /// Noise levels before shifting.
    #[must_use]
    pub fn sigmas(mut self, sigmas: impl Into<Vec<f64>>) -> Self {
        self.sigmas = Some(sigmas.into());
        self
    }

    /// The guidance scale.
    #[must_use]
    pub fn guidance_scale(mut self, scale: f32) -> Self {
        self.guidance_scale = Some(scale);
        self
    }

    /// The number of pictures for each prompt.
    #[must_use]
    pub fn num_images(mut self, count: usize) -> Self {
        self.num_images = Some(count);
        self
    }

    /// One seed for all pictures.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Seed::One(seed);
        self
    }

    /// The number of tokens that T5 sees.
    #[must_use]
    pub fn max_sequence_length(mut self, tokens: usize) -> Self {
        self.max_sequence_length = Some(tokens);
        self
    }

    /// Begins from a picture; `strength` from 0 to 1.
    #[must_use]
    pub fn image(mut self, image: Image, strength: f64) -> Self {
        self.image = Some(InitialImage {
            image: ImageSource::Image(image),
            strength,
        });
        self
    }

    /// Begins from pixels in floats; `strength` from 0 to 1.
    #[must_use]
    pub fn pixels(mut self, pixels: Tensor, strength: f64) -> Self {
        self.image = Some(InitialImage {
            image: ImageSource::Pixels(pixels),
            strength,
        });
        self
    }

    /// Decodes by overlapping tiles.
    #[must_use]
    pub fn vae_tiling(mut self, tiling: bool) -> Self {
        self.vae_tiling = tiling;
        self
    }
}
