//! Names of other projects' files → the names that our models use (diffusers').
//!
//! A conversion makes views of the parameters it is given: nothing is read or
//! copied. What it does not understand it names in [`Converted::unknown`];
//! what it needs and does not find is an error. Block counts come from the
//! names, sizes from the shapes.
//!
//! ```no_run
//! # fn main() -> Result<(), tintype_weights::Error> {
//! use tintype_weights::{Parameters, layout};
//! let file = Parameters::open("flux1-dev.safetensors")?;
//! let flux = layout::flux_transformer(&file)?;
//! assert!(flux.parameters.contains("transformer_blocks.0.attn.to_q.weight"));
//! # Ok(())
//! # }
//! ```

mod autoencoder;
mod components;
mod flux;
mod rules;

use std::fmt;

pub use autoencoder::{autoencoder, autoencoder_original_to_diffusers};
pub use components::{Components, components};
pub use flux::{flux_original_to_diffusers, flux_transformer};

use crate::Parameters;

/// Parameters under diffusers' names, and what was left over.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Converted {
    /// What was understood, under its new names.
    pub parameters: Parameters,
    /// Names that are understood and not needed, such as scales of activations.
    pub ignored: Vec<String>,
    /// Names that are not understood; a caller reports them.
    pub unknown: Vec<String>,
}

/// Whose names a set of parameters has.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Layout {
    /// diffusers' `FluxTransformer2DModel`.
    FluxDiffusers,
    /// Black Forest Labs' names behind a prefix, which is often empty.
    FluxOriginal {
        /// For example `model.diffusion_model.`.
        prefix: String,
    },
    /// A transformer with text encoders or an autoencoder in one file.
    AllInOne,
    /// diffusers' `AutoencoderKL`.
    AutoencoderDiffusers,
    /// The original autoencoder behind a prefix, which is often empty.
    AutoencoderOriginal {
        /// For example `first_stage_model.`.
        prefix: String,
    },
    /// transformers' `CLIPTextModel`.
    ClipText,
    /// transformers' `T5EncoderModel`.
    T5Encoder,
    /// None of these.
    Unknown,
}

impl Layout {
    /// Looks at names only.
    pub fn detect(parameters: &Parameters) -> Self {
        let prefix_of = |marker: &str| prefix_of(parameters, marker);
        let transformer = prefix_of(ORIGINAL_TRANSFORMER);
        let autoencoder = prefix_of(ORIGINAL_AUTOENCODER);
        let has_text_encoder = parameters
            .names()
            .any(|name| name.starts_with("text_encoders."));
        match (transformer, autoencoder) {
            (Some(_), Some(_)) => Self::AllInOne,
            (Some(_), None) if has_text_encoder => Self::AllInOne,
            (Some(prefix), None) => Self::FluxOriginal { prefix },
            (None, Some(prefix)) => Self::AutoencoderOriginal { prefix },
            (None, None) => {
                let known = DIFFUSERS.iter().find(|row| parameters.contains(row.0));
                known.map_or(Self::Unknown, |row| row.1.clone())
            }
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FluxDiffusers => f.write_str("the FLUX transformer of diffusers"),
            Self::FluxOriginal { .. } => f.write_str("the FLUX transformer of its authors"),
            Self::AllInOne => f.write_str("several models in one file"),
            Self::AutoencoderDiffusers => f.write_str("the autoencoder of diffusers"),
            Self::AutoencoderOriginal { .. } => f.write_str("the original autoencoder"),
            Self::ClipText => f.write_str("the CLIP text encoder"),
            Self::T5Encoder => f.write_str("the T5 encoder"),
            Self::Unknown => f.write_str("names of no known layout"),
        }
    }
}

/// What stands before `marker` in the one name that ends with it.
fn prefix_of(parameters: &Parameters, marker: &str) -> Option<String> {
    let mut prefixes = parameters
        .names()
        .filter_map(|name| name.strip_suffix(marker));
    // `xdouble_blocks` is another name, not a prefix.
    prefixes
        .find(|prefix| prefix.is_empty() || prefix.ends_with('.'))
        .map(str::to_owned)
}

const ORIGINAL_TRANSFORMER: &str = "double_blocks.0.img_attn.qkv.weight";
const ORIGINAL_AUTOENCODER: &str = "decoder.mid.block_1.conv1.weight";
/// A name that only this model has.
const DIFFUSERS: [(&str, Layout); 4] = [
    (
        "transformer_blocks.0.attn.add_q_proj.weight",
        Layout::FluxDiffusers,
    ),
    (
        "decoder.mid_block.resnets.0.conv1.weight",
        Layout::AutoencoderDiffusers,
    ),
    (
        "text_model.embeddings.position_embedding.weight",
        Layout::ClipText,
    ),
    (
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        Layout::T5Encoder,
    ),
];
