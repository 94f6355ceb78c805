//! What the models of a pipeline compute, apart from weights, tokenizers and files.
//!
//! ```
//! use tintype_flux::{Architecture, ModelKind, Sizes};
//! use tintype_tensor::DType;
//!
//! let graph = Architecture::flux_dev().graph(ModelKind::Clip, DType::BF16, &Sizes::default())?;
//! assert_eq!(graph.name(), "clip_text");
//! # Ok::<(), tintype_flux::Error>(())
//! ```

use std::ops::RangeInclusive;

use tintype_backend::Capabilities;
use tintype_ir::Graph;
use tintype_models::{
    AutoencoderKlConfig, ClipTextConfig, ClipTextOptions, DecoderOptions, EncoderOptions,
    FluxTransformerConfig, FluxTransformerOptions, T5EncoderConfig, T5EncoderOptions,
};
use tintype_refit::Ranges;
use tintype_tensor::DType;

use crate::{ModelKind, Result, Sizes};

/// The models of a pipeline as graphs can be made of them.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Architecture {
    /// The CLIP text encoder.
    pub clip: ClipTextConfig,
    /// How many tokens it is given: 77 in FLUX.1.
    pub clip_tokens: usize,
    /// The T5 text encoder.
    pub t5: T5EncoderConfig,
    /// The transformer.
    pub transformer: FluxTransformerConfig,
    /// The autoencoder.
    pub vae: AutoencoderKlConfig,
    /// Whether the Euler step belongs to the transformer's graph; see
    /// [`Architecture::for_backend`].
    pub euler_step: bool,
}

impl Architecture {
    /// FLUX.1-dev, without its files.
    pub fn flux_dev() -> Self {
        Self::flux(FluxTransformerConfig::dev())
    }

    /// FLUX.1-schnell, without its files.
    pub fn flux_schnell() -> Self {
        Self::flux(FluxTransformerConfig::schnell())
    }

    fn flux(transformer: FluxTransformerConfig) -> Self {
        let clip = ClipTextConfig::large();
        Self {
            clip_tokens: clip.max_position_embeddings,
            clip,
            t5: T5EncoderConfig::xxl(),
            transformer,
            vae: AutoencoderKlConfig::flux(),
            euler_step: false,
        }
    }

    /// The same as a backend of such capabilities wants it: where outputs lie on a device, the
    /// step to the next latents is computed there, too.
    #[must_use]
    pub fn for_backend(mut self, capabilities: &Capabilities) -> Self {
        let transformer = &self.transformer;
        let is_step = transformer.in_channels == transformer.out_channels;
        self.euler_step = capabilities.device_outputs && is_step;
        self
    }

    /// The graph of a model, before any pass.
    ///
    /// # Errors
    /// [`Error::Model`](crate::Error::Model) for a configuration of which no graph can be made.
    pub fn graph(&self, kind: ModelKind, dtype: DType, sizes: &Sizes) -> Result<Graph> {
        let [latent_height, latent_width] = sizes.latent_sides();
        let t5_tokens = up_to(&sizes.text_tokens, MAX_T5_TOKENS);
        Ok(match kind {
            ModelKind::Clip => self.clip.graph(&ClipTextOptions {
                dtype,
                batch: sizes.prompts.clone(),
                tokens: self.clip_tokens..=self.clip_tokens,
            })?,
            ModelKind::T5 => self.t5.graph(&T5EncoderOptions {
                dtype,
                batch: sizes.prompts.clone(),
                tokens: t5_tokens,
            })?,
            ModelKind::Transformer => self.transformer.graph(&FluxTransformerOptions {
                dtype,
                batch: sizes.pictures.clone(),
                image_tokens: sizes.image_tokens(),
                text_tokens: sizes.text_tokens.clone(),
                euler_step: self.euler_step,
                ..FluxTransformerOptions::default()
            })?,
            ModelKind::Decoder => self.vae.decoder(&DecoderOptions {
                dtype,
                // The pipeline gives pictures one by one.
                batch: 1..=1,
                latent_height,
                latent_width,
                unit_range: false,
                ..DecoderOptions::default()
            })?,
            ModelKind::Encoder => self.vae.encoder(&EncoderOptions {
                dtype,
                batch: 1..=1,
                latent_height,
                latent_width,
            })?,
        })
    }
}

impl Architecture {
    /// The ranges by which the graph for [`Sizes::default`] is narrowed to that for `sizes`.
    pub fn ranges(&self, kind: ModelKind, sizes: &Sizes) -> Ranges {
        let ranges = symbols(kind, sizes).into_iter();
        ranges.fold(Ranges::new(), |ranges, (symbol, range)| {
            ranges.symbol(symbol, range)
        })
    }
}

/// The symbols of a model's graph, as [`Architecture::graph`] declares them.
fn symbols(kind: ModelKind, sizes: &Sizes) -> Vec<(&'static str, RangeInclusive<usize>)> {
    let [latent_height, latent_width] = sizes.latent_sides();
    match kind {
        ModelKind::Clip => vec![("batch", sizes.prompts.clone())],
        ModelKind::T5 => vec![
            ("batch", sizes.prompts.clone()),
            ("tokens", up_to(&sizes.text_tokens, MAX_T5_TOKENS)),
        ],
        ModelKind::Transformer => vec![
            ("batch", sizes.pictures.clone()),
            ("image_tokens", sizes.image_tokens()),
            ("text_tokens", sizes.text_tokens.clone()),
            ("steps", FluxTransformerOptions::default().steps),
        ],
        ModelKind::Decoder | ModelKind::Encoder => vec![
            ("latent_height", latent_height),
            ("latent_width", latent_width),
        ],
    }
}

fn up_to(range: &RangeInclusive<usize>, most: usize) -> RangeInclusive<usize> {
    (*range.start()).min(most)..=(*range.end()).min(most)
}

/// What T5 was trained on, and the pipeline allows.
const MAX_T5_TOKENS: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_size_leaves_no_symbols_but_the_steps() {
        let sizes = Sizes {
            pictures: 1..=1,
            prompts: 1..=1,
            heights: 1024..=1024,
            widths: 768..=768,
            text_tokens: 512..=512,
            tiles: false,
        };
        for kind in ModelKind::ALL {
            let graph = Architecture::flux_schnell()
                .graph(kind, DType::BF16, &sizes)
                .unwrap();
            let symbols: Vec<_> = graph.symbols().keys().map(|symbol| &**symbol).collect();
            let expected: &[&str] = match kind {
                ModelKind::Transformer => &["steps"],
                _ => &[],
            };
            assert_eq!(symbols, expected, "{kind:?}");
        }
    }

    /// Plans are found by what they were compiled from, so both ways must give one graph.
    #[test]
    fn narrowed_graphs_are_those_for_fewer_sizes() {
        let one = Sizes {
            pictures: 1..=1,
            prompts: 1..=1,
            heights: 1024..=1024,
            widths: 768..=768,
            text_tokens: 512..=512,
            tiles: false,
        };
        let some = Sizes {
            pictures: 1..=4,
            heights: 512..=1024,
            tiles: true,
            ..one.clone()
        };
        let mut architecture = Architecture::flux_dev();
        // Depth changes nothing about sizes.
        architecture.transformer.num_layers = 2;
        architecture.transformer.num_single_layers = 2;
        architecture.t5.num_layers = 2;
        architecture.clip.num_hidden_layers = 2;
        for kind in ModelKind::ALL {
            let graph = |sizes: &Sizes| architecture.graph(kind, DType::BF16, sizes).unwrap();
            let all = graph(&Sizes::default());
            for sizes in [&one, &some, &Sizes::default()] {
                let ranges = symbols(kind, sizes).into_iter();
                let ranges = ranges
                    .map(|(symbol, range)| (symbol.into(), range))
                    .collect();
                let narrowed = all.narrowed(&ranges).unwrap();
                assert_eq!(narrowed.hash(), graph(sizes).hash(), "{kind:?} {sizes:?}");
                assert_eq!(narrowed, graph(sizes), "{kind:?} {sizes:?}");
            }
        }
    }

    #[test]
    fn dev_and_schnell_differ_in_guidance_alone() {
        let (dev, schnell) = (Architecture::flux_dev(), Architecture::flux_schnell());
        assert!(dev.transformer.guidance_embeds && !schnell.transformer.guidance_embeds);
        assert_eq!((dev.clip_tokens, &dev.t5), (77, &schnell.t5));
    }
}
