//! The decoder: latents to image.
//!
//! ```
//! use tintype_models::{AutoencoderKlConfig, DecoderOptions};
//! let graph = AutoencoderKlConfig::flux().decoder(&DecoderOptions::default())?;
//! assert_eq!(graph.outputs()[0].name, "image");
//! # Ok::<(), tintype_models::Error>(())
//! ```

use std::ops::RangeInclusive;

use tintype_ir::{BinaryOp, Dim, Graph, GraphBuilder, Op, Stage, TensorType, Value};
use tintype_tensor::DType;

use super::blocks::{POINT, SAME, convolution, mid_block, norm_silu, residual_block};
use super::{AutoencoderKlConfig, MODEL};
use crate::Result;
use crate::build::{check_dtype, finish, symbol};

/// How the graph of a decoder is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecoderOptions {
    /// The dtype of parameters and activations: f32, bf16 or f16.
    pub dtype: DType,
    /// Pictures at once. As for each range: one size alone is built into the graph.
    pub batch: RangeInclusive<usize>,
    /// Rows of latents.
    pub latent_height: RangeInclusive<usize>,
    /// Columns of latents.
    pub latent_width: RangeInclusive<usize>,
    /// Whether the graph begins with `latents / scaling_factor + shift_factor`,
    /// which takes a transformer's latents to those of the autoencoder.
    pub unscale_latents: bool,
    /// Whether the image is brought from −1..=1 to 0..=1 and clamped there.
    pub unit_range: bool,
}

impl Default for DecoderOptions {
    /// f32, any size up to 8192 pixels for FLUX, a transformer's latents in, an image in 0..=1 out.
    fn default() -> Self {
        Self {
            dtype: DType::F32,
            batch: 1..=64,
            latent_height: 1..=1024,
            latent_width: 1..=1024,
            unscale_latents: true,
            unit_range: true,
        }
    }
}

impl AutoencoderKlConfig {
    /// The graph of the decoder.
    ///
    /// Request input: `latents: [batch, latent_channels, latent_height, latent_width]` of the
    /// dtype of the options. Output: `image: f32[batch, out_channels, height, width]`, NCHW,
    /// [`AutoencoderKlConfig::pixels_per_latent`] times as high and wide.
    pub fn decoder(&self, options: &DecoderOptions) -> Result<Graph> {
        self.validate(crate::fields::IN_MEMORY)?;
        check_dtype(MODEL, options.dtype)?;
        let mut b = GraphBuilder::new("autoencoder_kl_decoder");
        let dims = [
            symbol(&mut b, MODEL, "batch", &options.batch)?,
            Dim::from(self.latent_channels),
            symbol(&mut b, MODEL, "latent_height", &options.latent_height)?,
            symbol(&mut b, MODEL, "latent_width", &options.latent_width)?,
        ];
        let ty = TensorType::new(options.dtype, dims);
        let mut x = b.input("latents", Stage::Request, ty);
        if options.unscale_latents {
            x = self.unscaled(&mut b, x);
        }
        if self.use_post_quant_conv {
            x = convolution(&mut b, "post_quant_conv", x, self.latent_channels, POINT);
        }
        let x = self.decode(&mut b, x);
        let image = b.labelled("image_processor", |b| image_of(b, x, options.unit_range));
        b.output("image", image);
        finish(MODEL, b)
    }

    /// `x / scaling_factor + shift_factor`, in f32 and rounded once.
    fn unscaled(&self, b: &mut GraphBuilder, x: Value) -> Value {
        let dtype = b.type_of(x).dtype;
        b.labelled("scaling", |b| {
            let x = b.cast(x, DType::F32);
            let scale = b.scalar(DType::F32, self.scaling_factor);
            let x = b.binary(BinaryOp::Div, x, scale);
            let shift = b.scalar(DType::F32, self.shift_factor);
            let x = b.add(x, shift);
            b.cast(x, dtype)
        })
    }

    fn decode(&self, b: &mut GraphBuilder, x: Value) -> Value {
        let x = convolution(b, "decoder.conv_in", x, self.innermost(), SAME);
        let mut x = mid_block(b, self, "decoder.mid_block", x);
        let last = self.block_out_channels.len() - 1;
        for (level, &width) in self.block_out_channels.iter().rev().enumerate() {
            let module = format!("decoder.up_blocks.{level}");
            for index in 0..=self.layers_per_block {
                x = residual_block(b, self, &format!("{module}.resnets.{index}"), x, width);
            }
            if level < last {
                let module = format!("{module}.upsamplers.0");
                x = b.labelled(&module, |b| b.op(Op::UpsampleNearest { factor: 2 }, &[x]));
                x = convolution(b, &format!("{module}.conv"), x, width, SAME);
            }
        }
        let x = norm_silu(b, self, "decoder.conv_norm_out", x);
        convolution(b, "decoder.conv_out", x, self.out_channels, SAME)
    }
}

/// f32 from here on: half a step of 8 bits is finer than bf16 near 1.
fn image_of(b: &mut GraphBuilder, x: Value, unit_range: bool) -> Value {
    let x = b.cast(x, DType::F32);
    if !unit_range {
        return x;
    }
    let half = b.scalar(DType::F32, 0.5);
    let x = b.mul(x, half);
    let x = b.add(x, half);
    b.op(Op::Clamp { min: 0.0, max: 1.0 }, &[x])
}
