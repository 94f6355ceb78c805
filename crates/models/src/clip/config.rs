//! The configuration of a CLIP text encoder, `text_encoder/config.json` of transformers.
//!
//! ```
//! use tintype_models::ClipTextConfig;
//! let text = r#"{"architectures": ["CLIPTextModel"], "hidden_size": 64, "num_attention_heads": 4}"#;
//! let config = ClipTextConfig::from_json("text_encoder/config.json", text)?;
//! assert_eq!(config.hidden_size, 64);
//! # Ok::<(), tintype_models::Error>(())
//! ```

use crate::build::Heads;
use crate::fields::{Fields, MAX_LAYERS, MAX_SIZE, ensure};
use crate::{Activation, Result};

/// What a CLIP text encoder computes. Fields are named as in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipTextConfig {
    /// Number of tokens known.
    pub vocab_size: usize,
    /// Width of the stream.
    pub hidden_size: usize,
    /// Width inside of the feed-forward.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of attention heads.
    pub num_attention_heads: usize,
    /// Most tokens of a prompt.
    pub max_position_embeddings: usize,
    /// Activation of the feed-forward.
    pub hidden_act: Activation,
    /// Epsilon of each LayerNorm.
    pub layer_norm_eps: f32,
    /// The end token; 2 stands for the greatest id of each prompt.
    pub eos_token_id: i64,
}

impl ClipTextConfig {
    /// Parses the text of `file`; the name is used in messages only.
    pub fn from_json(file: &str, text: &str) -> Result<Self> {
        let fields = Fields::parse(file, text)?;
        fields.architecture(&["CLIPTextModel"], &["clip_text_model"])?;
        let size = |field: &str, default: usize| fields.size(field, Some(default), 1..=MAX_SIZE);
        let config = Self {
            vocab_size: size("vocab_size", 49408)?,
            hidden_size: size("hidden_size", 512)?,
            intermediate_size: size("intermediate_size", 2048)?,
            num_hidden_layers: fields.size("num_hidden_layers", Some(12), 0..=MAX_LAYERS)?,
            num_attention_heads: size("num_attention_heads", 8)?,
            max_position_embeddings: size("max_position_embeddings", 77)?,
            hidden_act: fields.choice("hidden_act", "quick_gelu", ACTIVATIONS)?,
            layer_norm_eps: fields.number("layer_norm_eps", 1e-5)?,
            eos_token_id: fields.size("eos_token_id", Some(49407), 0..=MAX_SIZE)? as i64,
        };
        config.validate(file)?;
        Ok(config)
    }

    /// CLIP-L, the encoder of FLUX.
    pub const fn large() -> Self {
        Self {
            vocab_size: 49408,
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            max_position_embeddings: 77,
            hidden_act: Activation::GeluQuick,
            layer_norm_eps: 1e-5,
            eos_token_id: 2,
        }
    }

    /// The graph's name of a parameter that a checkpoint calls `name`.
    ///
    /// Files come with and without the prefix `text_model.`. `None`: not a parameter of
    /// this model but a table or a projection that it does not read.
    pub fn canonical_name(name: &str) -> Option<String> {
        let bare = name.strip_prefix("text_model.").unwrap_or(name);
        let unused = [
            "embeddings.position_ids",
            "text_projection.weight",
            "logit_scale",
        ];
        (!unused.contains(&bare)).then(|| format!("text_model.{bare}"))
    }

    pub(super) const fn heads(&self) -> Heads {
        Heads {
            count: self.num_attention_heads,
            size: self.hidden_size / self.num_attention_heads,
        }
    }

    /// What holds between fields, whether they come from a file or a program.
    pub(super) fn validate(&self, file: &str) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_attention_heads", self.num_attention_heads),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        for (field, size) in sizes {
            let expected = format!("a number in 1..={MAX_SIZE}");
            ensure((1..=MAX_SIZE).contains(&size), file, field, &expected, size)?;
        }
        ensure(
            self.hidden_size.is_multiple_of(self.num_attention_heads),
            file,
            "num_attention_heads",
            &format!("a divisor of hidden_size {}", self.hidden_size),
            self.num_attention_heads,
        )?;
        let epsilon = self.layer_norm_eps;
        let fits = epsilon.is_finite() && epsilon >= 0.0;
        ensure(fits, file, "layer_norm_eps", "a number from 0 on", epsilon)
    }
}

/// transformers' names of activations.
const ACTIVATIONS: &[(&str, Activation)] = &[
    ("quick_gelu", Activation::GeluQuick),
    ("gelu", Activation::GeluErf),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        ClipTextConfig::from_json("config.json", text)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn other_models_and_meanings_are_refused() {
        assert_eq!(
            message(r#"{"architectures": ["CLIPModel"]}"#),
            "config.json: `architectures`: expected \"CLIPTextModel\", found [\"CLIPModel\"]"
        );
        assert!(message(r#"{"model_type": "clip"}"#).contains("`model_type`"));
        assert!(message(r#"{"hidden_act": "relu"}"#).contains("`hidden_act`"));
        assert!(message(r#"{"num_attention_heads": 7}"#).contains("divisor of hidden_size 512"));
        assert!(message(r#"{"layer_norm_eps": -1}"#).contains("`layer_norm_eps`"));
    }

    #[test]
    fn both_spellings_of_parameters_are_known() {
        let expected = Some("text_model.final_layer_norm.bias".to_owned());
        for name in ["final_layer_norm.bias", "text_model.final_layer_norm.bias"] {
            assert_eq!(ClipTextConfig::canonical_name(name), expected);
        }
        let table = "text_model.embeddings.position_ids";
        assert_eq!(ClipTextConfig::canonical_name(table), None);
    }
}
