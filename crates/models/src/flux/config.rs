//! The configuration of a FLUX transformer.
//!
//! Read from `transformer/config.json` of diffusers. One class serves every FLUX.1
//! pipeline; `in_channels` and `guidance_embeds` tell them apart.
//!
//! ```
//! use tintype_models::FluxTransformerConfig;
//! let text = r#"{"_class_name": "FluxTransformer2DModel", "guidance_embeds": true}"#;
//! let config = FluxTransformerConfig::from_json("transformer/config.json", text)?;
//! assert_eq!(config, FluxTransformerConfig::dev());
//! # Ok::<(), tintype_models::Error>(())
//! ```

use serde_json::Value;

use crate::Result;
use crate::build::Heads;
use crate::fields::{Fields, MAX_LAYERS, MAX_SIZE, ensure};

/// What a FLUX transformer computes. Fields are named as in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FluxTransformerConfig {
    /// Channels of an image token: 64 for text-to-image, 384 for Fill, 128 for Control.
    pub in_channels: usize,
    /// Channels of the result.
    pub out_channels: usize,
    /// Number of double blocks.
    pub num_layers: usize,
    /// Number of single blocks.
    pub num_single_layers: usize,
    /// Size of an attention head.
    pub attention_head_dim: usize,
    /// Number of attention heads.
    pub num_attention_heads: usize,
    /// Channels of a text token.
    pub joint_attention_dim: usize,
    /// Channels of the pooled text embedding.
    pub pooled_projection_dim: usize,
    /// Whether the model is given the guidance scale.
    pub guidance_embeds: bool,
    /// How many dimensions of a head each axis of the ids turns.
    pub axes_dims_rope: Vec<usize>,
}

impl FluxTransformerConfig {
    /// Parses the text of `file`; the name is used in messages only.
    pub fn from_json(file: &str, text: &str) -> Result<Self> {
        let fields = Fields::parse(file, text)?;
        fields.class("FluxTransformer2DModel")?;
        fields.only("patch_size", &[Value::from(1)])?;
        let default = Self::schnell();
        let size = |field: &str, default: usize| fields.size(field, Some(default), 1..=MAX_SIZE);
        let layers =
            |field: &str, default: usize| fields.size(field, Some(default), 0..=MAX_LAYERS);
        let in_channels = size("in_channels", default.in_channels)?;
        let config = Self {
            in_channels,
            // The reference takes 0 for "as many as go in", as it does null.
            out_channels: match fields.size("out_channels", Some(0), 0..=MAX_SIZE)? {
                0 => in_channels,
                out_channels => out_channels,
            },
            num_layers: layers("num_layers", default.num_layers)?,
            num_single_layers: layers("num_single_layers", default.num_single_layers)?,
            attention_head_dim: size("attention_head_dim", default.attention_head_dim)?,
            num_attention_heads: size("num_attention_heads", default.num_attention_heads)?,
            joint_attention_dim: size("joint_attention_dim", default.joint_attention_dim)?,
            pooled_projection_dim: size("pooled_projection_dim", default.pooled_projection_dim)?,
            guidance_embeds: fields.flag("guidance_embeds", default.guidance_embeds)?,
            axes_dims_rope: fields.sizes(
                "axes_dims_rope",
                &default.axes_dims_rope,
                2..=MAX_SIZE,
            )?,
        };
        config.validate(file)?;
        Ok(config)
    }

    /// FLUX.1-dev.
    pub fn dev() -> Self {
        Self {
            guidance_embeds: true,
            ..Self::schnell()
        }
    }

    /// FLUX.1-schnell, which has diffusers' default for every field.
    pub fn schnell() -> Self {
        Self {
            in_channels: 64,
            out_channels: 64,
            num_layers: 19,
            num_single_layers: 38,
            attention_head_dim: 128,
            num_attention_heads: 24,
            joint_attention_dim: 4096,
            pooled_projection_dim: 768,
            guidance_embeds: false,
            axes_dims_rope: vec![16, 56, 56],
        }
    }

    /// The width of both streams: `num_attention_heads · attention_head_dim`.
    pub const fn inner_dim(&self) -> usize {
        self.num_attention_heads
            .saturating_mul(self.attention_head_dim)
    }

    pub(super) const fn heads(&self) -> Heads {
        Heads {
            count: self.num_attention_heads,
            size: self.attention_head_dim,
        }
    }

    /// What holds between fields, whether they come from a file or a program.
    pub(super) fn validate(&self, file: &str) -> Result<()> {
        let width = self.inner_dim();
        ensure(
            (1..=MAX_SIZE).contains(&width),
            file,
            "num_attention_heads",
            &format!("heads times their size in 1..={MAX_SIZE}"),
            width,
        )?;
        let axes = &self.axes_dims_rope;
        let total = axes
            .iter()
            .fold(0usize, |sum, &dim| sum.saturating_add(dim));
        let even = axes.iter().all(|dim| dim % 2 == 0);
        ensure(
            even && !axes.is_empty() && axes.len() <= MAX_AXES && total == self.attention_head_dim,
            file,
            "axes_dims_rope",
            &format!(
                "even numbers that add up to attention_head_dim {}",
                self.attention_head_dim
            ),
            axes,
        )?;
        let sizes = [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("joint_attention_dim", self.joint_attention_dim),
            ("pooled_projection_dim", self.pooled_projection_dim),
        ];
        for (field, size) in sizes {
            let expected = format!("a number in 1..={MAX_SIZE}");
            ensure((1..=MAX_SIZE).contains(&size), file, field, &expected, size)?;
        }
        Ok(())
    }
}

const MAX_AXES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        FluxTransformerConfig::from_json("config.json", text)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn out_channels_follow_in_channels_unless_given() {
        let read = |text| FluxTransformerConfig::from_json("config.json", text).unwrap();
        assert_eq!(
            read(r#"{"in_channels": 384, "out_channels": 64}"#).out_channels,
            64
        );
        assert_eq!(
            read(r#"{"in_channels": 32, "out_channels": null}"#).out_channels,
            32
        );
    }

    #[test]
    fn other_models_and_meanings_are_refused() {
        assert_eq!(
            message(r#"{"_class_name": "Flux2Transformer2DModel"}"#),
            "config.json: `_class_name`: expected \"FluxTransformer2DModel\", \
             found \"Flux2Transformer2DModel\""
        );
        assert!(message(r#"{"patch_size": 2}"#).contains("`patch_size`: expected 1, found 2"));
        assert!(message(r#"{"num_layers": 1e9}"#).contains("`num_layers`"));
        assert!(message(r#"{"axes_dims_rope": [16, 56, 55]}"#).contains("`axes_dims_rope`"));
        assert!(message(r#"{"axes_dims_rope": []}"#).contains("`axes_dims_rope`"));
        assert!(message(r#"{"num_attention_heads": 1000000}"#).contains("heads times their size"));
        assert!(message(r#"{"quantization_config": {"bits": 4}}"#).contains("not supported"));
        let of = |algorithm: &str| {
            let settings = r#""quant_method": "modelopt", "quant_algo""#;
            format!(r#"{{"quantization_config": {{{settings}: "{algorithm}"}}}}"#)
        };
        assert!(message(&of("NVFP4")).contains("not supported"));
        assert!(FluxTransformerConfig::from_json("config.json", &of("FP8")).is_ok());
    }
}
