//! The configuration of an AutoencoderKL, `vae/config.json` of diffusers.
//!
//! ```
//! use tintype_models::AutoencoderKlConfig;
//! let text = r#"{"_class_name": "AutoencoderKL", "block_out_channels": [32, 64],
//!     "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
//!     "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"]}"#;
//! let config = AutoencoderKlConfig::from_json("vae/config.json", text)?;
//! assert_eq!(config.pixels_per_latent(), 2);
//! # Ok::<(), tintype_models::Error>(())
//! ```

use crate::Result;
use crate::fields::{Fields, MAX_SIZE, ensure, invalid};

/// What an AutoencoderKL computes. Fields are named as in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct AutoencoderKlConfig {
    /// Channels of the image that is encoded.
    pub in_channels: usize,
    /// Channels of the image that is decoded.
    pub out_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels of each level, from the image inwards; each but the last halves the size.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of each level of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Groups of each GroupNorm.
    pub norm_num_groups: usize,
    /// Latents are multiplied by it on their way to the transformer.
    pub scaling_factor: f32,
    /// Subtracted from latents before that.
    pub shift_factor: f32,
    /// Whether a 1×1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// Whether a 1×1 convolution precedes the decoder.
    pub use_post_quant_conv: bool,
    /// Whether the middle blocks attend.
    pub mid_block_add_attention: bool,
}

impl AutoencoderKlConfig {
    /// Parses the text of `file`; the name is used in messages only.
    pub fn from_json(file: &str, text: &str) -> Result<Self> {
        let fields = Fields::parse(file, text)?;
        fields.class("AutoencoderKL")?;
        fields.choice("act_fn", "silu", &[("silu", ()), ("swish", ())])?;
        for field in ["latents_mean", "latents_std"] {
            fields.absent(field)?;
        }
        let size =
            |field: &str, default: usize| fields.size(field, Some(default), 1..=MAX_CHANNELS);
        let config = Self {
            in_channels: size("in_channels", 3)?,
            out_channels: size("out_channels", 3)?,
            latent_channels: size("latent_channels", 4)?,
            block_out_channels: fields.sizes("block_out_channels", &[64], 1..=MAX_CHANNELS)?,
            layers_per_block: fields.size("layers_per_block", Some(1), 1..=MAX_BLOCKS)?,
            norm_num_groups: size("norm_num_groups", 32)?,
            scaling_factor: fields.number("scaling_factor", 0.18215)?,
            shift_factor: fields.number("shift_factor", 0.0)?,
            use_quant_conv: fields.flag("use_quant_conv", true)?,
            use_post_quant_conv: fields.flag("use_post_quant_conv", true)?,
            mid_block_add_attention: fields.flag("mid_block_add_attention", true)?,
        };
        let levels = config.block_out_channels.len();
        for (field, class) in [
            ("down_block_types", "DownEncoderBlock2D"),
            ("up_block_types", "UpDecoderBlock2D"),
        ] {
            let count = fields.all(field, class)?.unwrap_or(1);
            if count != levels {
                let expected = format!("as many as block_out_channels, {levels}");
                return Err(invalid(file, field, &expected, &count.to_string()));
            }
        }
        config.validate(file)?;
        Ok(config)
    }

    /// The autoencoder of FLUX.1.
    pub fn flux() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            latent_channels: 16,
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            norm_num_groups: 32,
            scaling_factor: 0.3611,
            shift_factor: 0.1159,
            use_quant_conv: false,
            use_post_quant_conv: false,
            mid_block_add_attention: true,
        }
    }

    /// Pixels along each side of what becomes one latent: 8 for FLUX.
    pub fn pixels_per_latent(&self) -> usize {
        1 << self
            .block_out_channels
            .len()
            .saturating_sub(1)
            .min(MAX_LEVELS)
    }

    /// The innermost level's channels.
    pub(super) fn innermost(&self) -> usize {
        self.block_out_channels.last().copied().unwrap_or(0)
    }

    /// The outermost level's channels.
    pub(super) fn outermost(&self) -> usize {
        self.block_out_channels.first().copied().unwrap_or(0)
    }

    /// What holds between fields, whether they come from a file or a program.
    pub(super) fn validate(&self, file: &str) -> Result<()> {
        let channels = &self.block_out_channels;
        let groups = self.norm_num_groups;
        let fits = |&count: &usize| {
            (1..=MAX_CHANNELS).contains(&count) && groups >= 1 && count.is_multiple_of(groups)
        };
        ensure(
            (1..=MAX_LEVELS).contains(&channels.len()) && channels.iter().all(fits),
            file,
            "block_out_channels",
            &format!("1 to {MAX_LEVELS} multiples of norm_num_groups {groups}"),
            channels,
        )?;
        let sizes = [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("latent_channels", self.latent_channels),
        ];
        for (field, size) in sizes {
            let expected = format!("a number in 1..={MAX_CHANNELS}");
            ensure(
                (1..=MAX_CHANNELS).contains(&size),
                file,
                field,
                &expected,
                size,
            )?;
        }
        let scale = self.scaling_factor;
        let fits = scale.is_finite() && scale != 0.0;
        ensure(
            fits,
            file,
            "scaling_factor",
            "a finite number, not 0",
            scale,
        )?;
        let shift = self.shift_factor;
        ensure(
            shift.is_finite(),
            file,
            "shift_factor",
            "a finite number",
            shift,
        )
    }
}

const MAX_CHANNELS: usize = MAX_SIZE >> 4;
const MAX_BLOCKS: usize = 64;
const MAX_LEVELS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        AutoencoderKlConfig::from_json("config.json", text)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn other_models_and_meanings_are_refused() {
        assert!(message(r#"{"_class_name": "AutoencoderTiny"}"#).contains("`_class_name`"));
        assert!(message(r#"{"act_fn": "mish"}"#).contains("expected \"silu\" or \"swish\""));
        assert!(message(r#"{"latents_mean": [0.0]}"#).contains("not supported"));
        assert!(message(r#"{"block_out_channels": [64, 65]}"#).contains("as many as"));
        assert!(
            message(r#"{"block_out_channels": [65]}"#).contains("multiples of norm_num_groups 32")
        );
        assert!(
            message(r#"{"down_block_types": ["AttnDownEncoderBlock2D"]}"#)
                .contains("DownEncoderBlock2D")
        );
        assert!(message(r#"{"scaling_factor": 0}"#).contains("`scaling_factor`"));
        assert!(message(r#"{"norm_num_groups": 0}"#).contains("`norm_num_groups`"));
    }
}
