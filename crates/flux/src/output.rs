//! What a request gives.

use std::path::Path;
use std::time::Duration;

use tintype_tensor::Tensor;

use crate::image::{Image, Metadata};
use crate::{Request, Result};

/// Pictures and what led to them.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Output {
    /// The request, with its seed filled in.
    pub request: Request,
    /// The last latents, packed, f32 `[pictures, tokens, channels]`.
    pub latents: Tensor,
    /// Pictures as f32 NCHW in 0..=1; `None` if only latents were asked for.
    pub pixels: Option<Tensor>,
    /// T5's result, f32 `[pictures, tokens, width]`.
    pub prompt_embeds: Tensor,
    /// CLIP's pooled result, f32 `[pictures, width]`.
    pub pooled_prompt_embeds: Tensor,
    /// How long each part took.
    pub timings: Timings,
}

/// Wall-clock times of one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timings {
    /// Reading, compiling and refitting models that were not loaded.
    pub load: Duration,
    /// Text encoders.
    pub encode: Duration,
    /// What the transformer computes once per request.
    pub prepare: Duration,
    /// Each step.
    pub steps: Vec<Duration>,
    /// The autoencoder.
    pub decode: Duration,
}

impl Output {
    /// The pictures in 8 bits; empty if only latents were asked for.
    pub fn images(&self) -> Result<Vec<Image>> {
        let Some(pixels) = &self.pixels else {
            return Ok(Vec::new());
        };
        let &[batch, _, height, width] = &**pixels.shape() else {
            unreachable!("pixels are NCHW");
        };
        Image::from_nchw(&pixels.to_f32()?, batch, height, width)
    }

    /// Writes the pictures as PNG with the request in their metadata. One picture
    /// goes to `path`, several to `path` with `-1`, `-2`, … before the extension.
    pub fn save(&self, path: &Path) -> Result<Vec<std::path::PathBuf>> {
        let images = self.images()?;
        let request = serde_json::to_string(&self.request).expect("a request is plain data");
        let description = self.request.describe();
        let metadata = Metadata {
            request: Some(&request),
            parameters: Some(&description),
        };
        let mut written = Vec::new();
        for (index, image) in images.iter().enumerate() {
            let path = if images.len() == 1 {
                path.to_owned()
            } else {
                numbered(path, index + 1)
            };
            image.write_png(&path, metadata)?;
            written.push(path);
        }
        Ok(written)
    }
}

impl Request {
    /// The request in a line for people.
    pub fn describe(&self) -> String {
        let seed = match &self.seed {
            crate::Seed::Random => "random".to_owned(),
            crate::Seed::One(seed) => seed.to_string(),
            crate::Seed::PerImage(seeds) => format!("{seeds:?}"),
        };
        let size = self
            .height
            .zip(self.width)
            .map(|(height, width)| format!(", size: {width}x{height}"));
        let steps = self.steps.map(|steps| format!(", steps: {steps}"));
        let guidance = self
            .guidance_scale
            .map(|scale| format!(", guidance: {scale}"));
        let parts = [size, steps, guidance]
            .into_iter()
            .flatten()
            .collect::<String>();
        format!("{}\nseed: {seed}{parts}", self.prompt.join("\n"))
    }
}

fn numbered(path: &Path, number: usize) -> std::path::PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path
        .extension()
        .map(|extension| format!(".{}", extension.to_string_lossy()));
    path.with_file_name(format!("{stem}-{number}{}", extension.unwrap_or_default()))
}
