//! Which requests the models of a pipeline are compiled for.
//!
//! A backend that plans ahead makes better code for one size than for all, and code for all may
//! be more than it can make. A backend that does not, as the CPU's, loses nothing by all of them.
//!
//! ```
//! use tintype_flux::Sizes;
//!
//! let sizes = Sizes { heights: 1024..=1024, widths: 768..=1024, ..Sizes::default() };
//! assert_eq!(sizes.image_tokens(), 64 * 48..=64 * 64);
//! ```

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::latents::{MAX_SIDE, PIXELS_PER_TOKEN};
use crate::{Error, ModelDefaults, Request, Result};

/// The requests that models are compiled for: all there can be, unless it is said otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// Pictures made at once: prompts times pictures of each.
    pub pictures: RangeInclusive<usize>,
    /// Prompts encoded at once.
    pub prompts: RangeInclusive<usize>,
    /// Heights of pictures, in pixels.
    pub heights: RangeInclusive<usize>,
    /// Widths of pictures, in pixels.
    pub widths: RangeInclusive<usize>,
    /// Tokens that T5 sees.
    pub text_tokens: RangeInclusive<usize>,
    /// Whether the autoencoder also takes parts of pictures, as for `vae_tiling`.
    pub tiles: bool,
}

impl Default for Sizes {
    /// Every use of FLUX.
    fn default() -> Self {
        Self {
            pictures: 1..=MAX_PICTURES,
            prompts: 1..=MAX_PICTURES,
            heights: PIXELS_PER_TOKEN..=MAX_SIDE,
            widths: PIXELS_PER_TOKEN..=MAX_SIDE,
            text_tokens: 1..=MAX_TEXT_TOKENS,
            tiles: true,
        }
    }
}

impl Sizes {
    /// The sizes of one request; of what it leaves unset, the defaults of the model. Embeddings
    /// that it brings may have any number of tokens. What the request may not ask for counts as
    /// unset: running it will tell.
    pub fn of_request(request: &Request, defaults: &ModelDefaults) -> Self {
        let all = Self::default();
        let only = |value: usize, range: &RangeInclusive<usize>| {
            if range.contains(&value) {
                value..=value
            } else {
                range.clone()
            }
        };
        let side =
            |side: Option<usize>, default: usize| floored(side.unwrap_or(default)).min(MAX_SIDE);
        // Embeddings in place of prompts count as no prompt, so that any number is compiled for.
        let prompts = request.prompt.len();
        let pictures = prompts.saturating_mul(request.num_images.unwrap_or(1));
        let brings_tokens = request.tensors.prompt_embeds.is_some()
            || request.tensors.negative_prompt_embeds.is_some();
        let tokens = request
            .max_sequence_length
            .unwrap_or(defaults.max_sequence_length);
        Self {
            pictures: only(pictures, &all.pictures),
            prompts: only(prompts, &all.prompts),
            heights: only(side(request.height, defaults.height), &all.heights),
            widths: only(side(request.width, defaults.width), &all.widths),
            text_tokens: if brings_tokens {
                all.text_tokens
            } else {
                only(tokens, &all.text_tokens)
            },
            tiles: request.vae_tiling,
        }
    }

    /// The same with sides that are multiples of 16, as requests are.
    ///
    /// # Errors
    /// [`Error::Argument`] for a range that is empty or reaches beyond what models can do.
    pub fn checked(self) -> Result<Self> {
        let all = Self::default();
        for (name, range, limits) in [
            ("pictures", &self.pictures, &all.pictures),
            ("prompts", &self.prompts, &all.prompts),
            ("height", &self.heights, &all.heights),
            ("width", &self.widths, &all.widths),
            ("max_sequence_length", &self.text_tokens, &all.text_tokens),
        ] {
            let is_within = limits.contains(range.start()) && limits.contains(range.end());
            if range.is_empty() || !is_within {
                let expected = format!("{} to {}", limits.start(), limits.end());
                return Err(Error::argument(name, expected, told(range)));
            }
        }
        Ok(Self {
            heights: floored(*self.heights.start())..=floored(*self.heights.end()),
            widths: floored(*self.widths.start())..=floored(*self.widths.end()),
            ..self
        })
    }

    /// Image tokens of all pictures: `height/16 · width/16`.
    pub fn image_tokens(&self) -> RangeInclusive<usize> {
        let tokens = |height: usize, width: usize| {
            (height / PIXELS_PER_TOKEN).saturating_mul(width / PIXELS_PER_TOKEN)
        };
        let least = tokens(*self.heights.start(), *self.widths.start()).min(MAX_IMAGE_TOKENS);
        let most = tokens(*self.heights.end(), *self.widths.end()).min(MAX_IMAGE_TOKENS);
        least..=most
    }

    /// Heights and widths that the autoencoder takes at once, in latents.
    pub fn latent_sides(&self) -> [RangeInclusive<usize>; 2] {
        let latents = |side: usize| side / PIXELS_PER_TOKEN * 2;
        [&self.heights, &self.widths].map(|sides| {
            let least = if self.tiles {
                1
            } else {
                latents(*sides.start())
            };
            least..=latents(*sides.end())
        })
    }

    /// Whether all that `other` asks for is among what these are.
    ///
    /// # Errors
    /// [`Error::Argument`], which says what is not.
    pub fn expect(&self, other: &Self) -> Result<()> {
        for (name, here, there) in [
            ("num_images", &self.pictures, &other.pictures),
            ("prompts", &self.prompts, &other.prompts),
            ("height", &self.heights, &other.heights),
            ("width", &self.widths, &other.widths),
            ("max_sequence_length", &self.text_tokens, &other.text_tokens),
        ] {
            if !(here.contains(there.start()) && here.contains(there.end())) {
                let expected = format!("{}, which the models are compiled for", told(here));
                return Err(Error::argument(name, expected, told(there)));
            }
        }
        if other.tiles && !self.tiles {
            let expected = "no tiles, as the models are compiled for whole pictures";
            return Err(Error::argument("vae_tiling", expected, "tiles"));
        }
        Ok(())
    }
}

fn floored(side: usize) -> usize {
    side / PIXELS_PER_TOKEN * PIXELS_PER_TOKEN
}

/// `a` or `a to b`.
fn told(range: &RangeInclusive<usize>) -> String {
    if range.start() == range.end() {
        range.start().to_string()
    } else {
        format!("{} to {}", range.start(), range.end())
    }
}

/// The most pictures of one request.
const MAX_PICTURES: usize = 64;

/// Text tokens where embeddings are given; T5 itself sees fewer.
const MAX_TEXT_TOKENS: usize = 4096;

/// As many as the transformer's graph is made for.
const MAX_IMAGE_TOKENS: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_one_size() {
        let defaults = ModelDefaults::default();
        let sizes = Sizes::of_request(&Request::new("fox").size(72, 1024), &defaults);
        assert_eq!(
            (sizes.heights.clone(), sizes.widths.clone()),
            (64..=64, 1024..=1024)
        );
        assert_eq!(sizes.image_tokens(), 256..=256);
        assert_eq!(sizes.latent_sides(), [8..=8, 128..=128]);
        assert_eq!(
            (sizes.pictures.clone(), sizes.text_tokens.clone()),
            (1..=1, 512..=512)
        );
        let tiled = Request::new("fox").vae_tiling(true);
        let tiled = Sizes::of_request(&tiled, &defaults);
        assert_eq!(tiled.latent_sides(), [1..=128, 1..=128]);
        assert!(tiled.clone().checked().is_ok());
    }

    #[test]
    fn what_no_request_may_ask_for_is_not_compiled_for() {
        let defaults = ModelDefaults::default();
        let sizes = Sizes::of_request(&Request::new("fox").size(0, 1 << 40), &defaults);
        assert_eq!(sizes.heights, Sizes::default().heights);
        assert!(sizes.checked().is_ok());
        for bad in [
            Sizes {
                heights: 0..=64,
                ..Sizes::default()
            },
            Sizes {
                widths: 64..=1 << 20,
                ..Sizes::default()
            },
            Sizes {
                text_tokens: RangeInclusive::new(9, 8),
                ..Sizes::default()
            },
            Sizes {
                pictures: 1..=65,
                ..Sizes::default()
            },
        ] {
            assert!(bad.checked().is_err());
        }
    }

    #[test]
    fn all_there_can_be_holds_everything() {
        let all = Sizes::default();
        assert_eq!(all.clone().checked().unwrap(), all);
        assert!(all.expect(&all).is_ok());
        let one = Sizes::of_request(&Request::new("fox"), &ModelDefaults::default());
        assert!(all.expect(&one).is_ok());
        let error = one.expect(&all).unwrap_err().to_string();
        assert!(error.contains("compiled for"), "{error}");
        let tiles = Sizes {
            tiles: true,
            ..one.clone()
        };
        assert!(
            one.expect(&tiles)
                .unwrap_err()
                .to_string()
                .contains("tiles")
        );
    }
}
