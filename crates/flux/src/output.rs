//! What a request gives.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tintype_tensor::Tensor;

use crate::image::{Image, Metadata};
use crate::{Error, Request, Result};

/// Pictures and what led to them.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Output {
    /// The request, with its seed and the defaults filled in.
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
    /// Reading, compiling and refitting models, and waiting for a change that was under way.
    pub load: Duration,
    /// Text encoders.
    pub encode: Duration,
    /// What the transformer computes once per request.
    pub prepare: Duration,
    /// Each step. Where latents stay on a device nobody waits between steps, and each has the
    /// mean.
    pub steps: Vec<Duration>,
    /// The autoencoder.
    pub decode: Duration,
}

impl Timings {
    /// The time since `start` but for what has been loaded since `load` was `loaded`.
    pub(crate) fn since(&self, start: Instant, loaded: Duration) -> Duration {
        let elapsed = start.elapsed();
        elapsed.saturating_sub(self.load.saturating_sub(loaded))
    }
}

impl Output {
    /// The pictures in 8 bits; empty if only latents were asked for.
    ///
    /// # Errors
    /// [`Error::Argument`] if `pixels` was replaced by something that is no
    /// `[pictures, 3, height, width]`.
    pub fn images(&self) -> Result<Vec<Image>> {
        let Some(pixels) = &self.pixels else {
            return Ok(Vec::new());
        };
        let &[batch, 3, height, width] = &**pixels.shape() else {
            let expected = "[pictures, 3, height, width]";
            return Err(Error::argument("pixels", expected, pixels.shape()));
        };
        Image::from_nchw(&pixels.to_f32()?, batch, height, width)
    }

    /// Writes the pictures as PNG with the request in their metadata, to the paths
    /// that [`picture_paths`] gives.
    ///
    /// # Errors
    /// [`Error::Write`] with nothing half written; what [`Output::images`] may give.
    ///
    /// # Panics
    /// Never: a request is plain data, which JSON can always hold.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
        let images = self.images()?;
        let request = serde_json::to_string(&self.request).expect("a request is plain data");
        let description = self.request.describe();
        let metadata = Metadata {
            request: Some(&request),
            parameters: Some(&description),
        };
        let paths = picture_paths(path.as_ref(), images.len());
        for (image, path) in images.iter().zip(&paths) {
            image.write_png(path, metadata)?;
        }
        Ok(paths)
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

/// Where [`Output::save`] writes `count` pictures: one goes to `path`, several to
/// `path` with `-1`, `-2`, … before the extension.
pub fn picture_paths(path: &Path, count: usize) -> Vec<PathBuf> {
    if count == 1 {
        return vec![path.to_owned()];
    }
    (1..=count).map(|number| numbered(path, number)).collect()
}

/// `name-2.png` of `name.png`; names need not be Unicode.
fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = OsString::from(path.file_stem().unwrap_or_default());
    name.push(format!("-{number}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}
