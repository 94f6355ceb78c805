//! The models of a pipeline that a LoRA may change, and the formats of files.

use std::fmt;

/// A model of a FLUX pipeline, named as in diffusers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// The denoising transformer.
    Transformer,
    /// The first text encoder, CLIP.
    TextEncoder,
    /// The second text encoder, T5.
    TextEncoder2,
}

impl Component {
    /// Every one, in declaration order.
    pub const ALL: [Self; 3] = [Self::Transformer, Self::TextEncoder, Self::TextEncoder2];

    /// The name of its folder in diffusers' layout.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transformer => "transformer",
            Self::TextEncoder => "text_encoder",
            Self::TextEncoder2 => "text_encoder_2",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A way in which LoRA files name their tensors. One file may mix several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Format {
    /// `lora_unet_…`, `lora_te1_…`: flattened names, mostly the original ones.
    Kohya,
    /// `lora_transformer_…`: flattened names of diffusers.
    FlatTransformer,
    /// `lycoris_…`: flattened names of diffusers.
    Lycoris,
    /// `double_blocks.0.processor.qkv_lora1.down.weight`.
    XLabs,
    /// Query and key norms beside the pairs, under original names.
    BflControl,
    /// `lora_A` and `lora_B`, behind any prefix.
    Peft,
    /// `lora_down` and `lora_up` behind a prefix with dots.
    DownUp,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kohya => "Kohya",
            Self::FlatTransformer => "lora_transformer",
            Self::Lycoris => "LyCORIS",
            Self::XLabs => "XLabs",
            Self::BflControl => "BFL control",
            Self::Peft => "PEFT",
            Self::DownUp => "lora_down and lora_up",
        })
    }
}
