//! The configuration of a T5 encoder, `text_encoder_2/config.json` of transformers.
//!
//! ```
//! use tintype_models::{Activation, T5EncoderConfig};
//! let text = r#"{"architectures": ["T5EncoderModel"], "feed_forward_proj": "gated-gelu"}"#;
//! let config = T5EncoderConfig::from_json("text_encoder_2/config.json", text)?;
//! assert!(config.is_gated && config.activation == Activation::GeluTanh);
//! # Ok::<(), tintype_models::Error>(())
//! ```

use serde_json::Value;

use crate::build::Heads;
use crate::fields::{Fields, MAX_LAYERS, MAX_SIZE, ensure};
use crate::{Activation, Result};

/// What a T5 encoder computes. Fields are named as in the file, but for the last two.
#[derive(Debug, Clone, PartialEq)]
pub struct T5EncoderConfig {
    /// Number of tokens known.
    pub vocab_size: usize,
    /// Width of the stream.
    pub d_model: usize,
    /// Size of an attention head.
    pub d_kv: usize,
    /// Width inside of the feed-forward.
    pub d_ff: usize,
    /// Number of blocks.
    pub num_layers: usize,
    /// Number of attention heads.
    pub num_heads: usize,
    /// Number of buckets of relative positions, both directions together.
    pub relative_attention_num_buckets: usize,
    /// Distance from which on all share the last bucket.
    pub relative_attention_max_distance: usize,
    /// Epsilon of each RMSNorm.
    pub layer_norm_epsilon: f32,
    /// Activation of the feed-forward (from `feed_forward_proj`).
    pub activation: Activation,
    /// Whether a second linear layer is multiplied in (from `feed_forward_proj`).
    pub is_gated: bool,
}

impl T5EncoderConfig {
    /// Parses the text of `file`; the name is used in messages only.
    pub fn from_json(file: &str, text: &str) -> Result<Self> {
        let fields = Fields::parse(file, text)?;
        fields.architecture(
            &["T5EncoderModel", "T5Model", "T5ForConditionalGeneration"],
            &["t5"],
        )?;
        fields.only("is_decoder", &[Value::from(false)])?;
        let (activation, is_gated) = fields.choice("feed_forward_proj", "relu", PROJECTIONS)?;
        let size = |field: &str, default: usize| fields.size(field, Some(default), 1..=MAX_SIZE);
        let config = Self {
            vocab_size: size("vocab_size", 32128)?,
            d_model: size("d_model", 512)?,
            d_kv: size("d_kv", 64)?,
            d_ff: size("d_ff", 2048)?,
            num_layers: fields.size("num_layers", Some(6), 1..=MAX_LAYERS)?,
            num_heads: size("num_heads", 8)?,
            relative_attention_num_buckets: size("relative_attention_num_buckets", 32)?,
            relative_attention_max_distance: size("relative_attention_max_distance", 128)?,
            layer_norm_epsilon: fields.number("layer_norm_epsilon", 1e-6)?,
            activation,
            is_gated,
        };
        config.validate(file)?;
        Ok(config)
    }

    /// T5 1.1 XXL, the encoder of FLUX.
    pub const fn xxl() -> Self {
        Self {
            vocab_size: 32128,
            d_model: 4096,
            d_kv: 64,
            d_ff: 10240,
            num_layers: 24,
            num_heads: 64,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
            activation: Activation::GeluTanh,
            is_gated: true,
        }
    }

    /// The graph's name of a parameter that a checkpoint calls `name`.
    ///
    /// The token table stands in files as `shared.weight`, as `encoder.embed_tokens.weight`
    /// or as both, which are equal then; `contains` says whether the checkpoint has a name.
    /// `None`: not a parameter of the encoder, or one that it has already.
    pub fn canonical_name(name: &str, contains: impl Fn(&str) -> bool) -> Option<String> {
        match name {
            TABLE => Some(name.to_owned()),
            TABLE_OF_ENCODER => (!contains(TABLE)).then(|| TABLE.to_owned()),
            _ => name.starts_with("encoder.").then(|| name.to_owned()),
        }
    }

    pub(super) const fn heads(&self) -> Heads {
        Heads {
            count: self.num_heads,
            size: self.d_kv,
        }
    }

    /// What holds between fields, whether they come from a file or a program.
    pub(super) fn validate(&self, file: &str) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("d_model", self.d_model),
            ("d_kv", self.d_kv),
            ("d_ff", self.d_ff),
            ("num_heads", self.num_heads),
            ("num_heads", self.num_heads.saturating_mul(self.d_kv)),
        ];
        for (field, size) in sizes {
            let expected = format!("sizes and the width of all heads in 1..={MAX_SIZE}");
            ensure((1..=MAX_SIZE).contains(&size), file, field, &expected, size)?;
        }
        let buckets = self.relative_attention_num_buckets;
        ensure(
            (4..=MAX_SIZE).contains(&buckets) && buckets.is_multiple_of(4),
            file,
            "relative_attention_num_buckets",
            "a multiple of 4",
            buckets,
        )?;
        ensure(
            self.relative_attention_max_distance > buckets / 2,
            file,
            "relative_attention_max_distance",
            &format!("more than half of the {buckets} buckets"),
            self.relative_attention_max_distance,
        )?;
        let epsilon = self.layer_norm_epsilon;
        let fits = epsilon.is_finite() && epsilon >= 0.0;
        ensure(
            fits,
            file,
            "layer_norm_epsilon",
            "a number from 0 on",
            epsilon,
        )
    }
}

/// The token table where encoder and decoder share it.
const TABLE: &str = "shared.weight";

/// The same, as the encoder calls it.
const TABLE_OF_ENCODER: &str = "encoder.embed_tokens.weight";

/// transformers' feed-forwards: the activation and whether it is gated. `gated-gelu`
/// means the tanh form there, `gelu` alone the exact one.
const PROJECTIONS: &[(&str, (Activation, bool))] = &[
    ("relu", (Activation::Relu, false)),
    ("gelu", (Activation::GeluErf, false)),
    ("gelu_new", (Activation::GeluTanh, false)),
    ("silu", (Activation::Silu, false)),
    ("gated-gelu", (Activation::GeluTanh, true)),
    ("gated-gelu_new", (Activation::GeluTanh, true)),
    ("gated-relu", (Activation::Relu, true)),
    ("gated-silu", (Activation::Silu, true)),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        T5EncoderConfig::from_json("config.json", text)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn other_models_and_meanings_are_refused() {
        assert!(message(r#"{"architectures": ["UMT5EncoderModel"]}"#).contains("`architectures`"));
        assert!(message(r#"{"model_type": "umt5"}"#).contains("expected \"t5\", found \"umt5\""));
        assert!(message(r#"{"feed_forward_proj": "gated-x"}"#).contains("`feed_forward_proj`"));
        assert!(message(r#"{"is_decoder": true}"#).contains("`is_decoder`"));
        let few = r#"{"relative_attention_max_distance": 16}"#;
        assert!(message(few).contains("more than half of the 32 buckets"));
        assert!(message(r#"{"d_kv": 1048576}"#).contains("`num_heads`"));
    }

    #[test]
    fn the_token_table_is_read_once_under_either_name() {
        let canonical = |name, shared| {
            T5EncoderConfig::canonical_name(name, |other| shared && other == "shared.weight")
        };
        let table = Some("shared.weight".to_owned());
        assert_eq!(canonical("shared.weight", true), table);
        assert_eq!(canonical("encoder.embed_tokens.weight", false), table);
        assert_eq!(canonical("encoder.embed_tokens.weight", true), None);
        assert_eq!(canonical("decoder.final_layer_norm.weight", true), None);
    }
}
