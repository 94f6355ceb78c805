//! The encoder: image to mean and logarithm of the variance of latents.
//!
//! ```
//! use tintype_models::{AutoencoderKlConfig, EncoderOptions};
//! let graph = AutoencoderKlConfig::flux().encoder(&EncoderOptions::default())?;
//! let image = &graph.inputs()[0].ty;
//! assert_eq!(image.to_string(), "f32[batch, 3, latent_height, 8, latent_width, 8]");
//! # Ok::<(), tintype_models::Error>(())
//! ```

use std::ops::RangeInclusive;

use tintype_ir::{Dim, Graph, GraphBuilder, Op, Stage, TensorType, Value};
use tintype_tensor::DType;

use super::blocks::{HALVE, POINT, SAME, convolution, mid_block, norm_silu, residual_block};
use super::{AutoencoderKlConfig, MODEL};
use crate::Result;
use crate::build::{check_dtype, finish, symbol};

/// How the graph of an encoder is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncoderOptions {
    /// The dtype of parameters and activations: f32, bf16 or f16.
    pub dtype: DType,
    /// Pictures at once. As for each range: one size alone is built into the graph.
    pub batch: RangeInclusive<usize>,
    /// Rows of latents.
    pub latent_height: RangeInclusive<usize>,
    /// Columns of latents.
    pub latent_width: RangeInclusive<usize>,
}

impl Default for EncoderOptions {
    /// f32, any size up to 8192 pixels for FLUX.
    fn default() -> Self {
        Self {
            dtype: DType::F32,
            batch: 1..=64,
            latent_height: 1..=1024,
            latent_width: 1..=1024,
        }
    }
}

impl AutoencoderKlConfig {
    /// The graph of the encoder.
    ///
    /// Request input: `image: [batch, in_channels, latent_height, f, latent_width, f]` in
    /// −1..=1, of the dtype of the options, where `f` is [`AutoencoderKlConfig::pixels_per_latent`].
    /// This is an NCHW image whose height and width are written as products, the same
    /// elements in the same order: sizes that `f` does not divide have no such shape.
    ///
    /// Outputs: `mean` and `log_variance` (within −30..=20), each
    /// `f32[batch, latent_channels, latent_height, latent_width]`. Latents are
    /// `mean + exp(log_variance/2)·noise`, then `(latents − shift_factor)·scaling_factor`.
    pub fn encoder(&self, options: &EncoderOptions) -> Result<Graph> {
        self.validate(crate::fields::IN_MEMORY)?;
        check_dtype(MODEL, options.dtype)?;
        let mut b = GraphBuilder::new("autoencoder_kl_encoder");
        let batch = symbol(&mut b, MODEL, "batch", &options.batch)?;
        let height = symbol(&mut b, MODEL, "latent_height", &options.latent_height)?;
        let width = symbol(&mut b, MODEL, "latent_width", &options.latent_width)?;
        let factor = Dim::from(self.pixels_per_latent());
        let channels = Dim::from(self.in_channels);
        let blocks = [
            batch.clone(),
            channels.clone(),
            height.clone(),
            factor.clone(),
            width.clone(),
            factor.clone(),
        ];
        let ty = TensorType::new(options.dtype, blocks);
        let image = b.input("image", Stage::Request, ty);
        let dims = [batch, channels, height * factor.clone(), width * factor];
        let image = b.labelled("image_processor", |b| b.reshape(image, dims));
        let mut moments = self.encode(&mut b, image);
        if self.use_quant_conv {
            let count = 2 * self.latent_channels;
            moments = convolution(&mut b, "quant_conv", moments, count, POINT);
        }
        self.output_moments(&mut b, moments);
        finish(MODEL, b)
    }

    fn encode(&self, b: &mut GraphBuilder, image: Value) -> Value {
        let mut x = convolution(b, "encoder.conv_in", image, self.outermost(), SAME);
        let last = self.block_out_channels.len() - 1;
        for (level, &width) in self.block_out_channels.iter().enumerate() {
            let module = format!("encoder.down_blocks.{level}");
            for index in 0..self.layers_per_block {
                x = residual_block(b, self, &format!("{module}.resnets.{index}"), x, width);
            }
            if level < last {
                x = convolution(b, &format!("{module}.downsamplers.0.conv"), x, width, HALVE);
            }
        }
        let x = mid_block(b, self, "encoder.mid_block", x);
        let x = norm_silu(b, self, "encoder.conv_norm_out", x);
        convolution(b, "encoder.conv_out", x, 2 * self.latent_channels, SAME)
    }

    fn output_moments(&self, b: &mut GraphBuilder, moments: Value) {
        let count = self.latent_channels;
        let (mean, log_variance) = b.labelled("latent_dist", |b| {
            let moments = b.cast(moments, DType::F32);
            let log_variance = b.slice(moments, 1, count, 2 * count);
            let (min, max) = LOG_VARIANCE;
            let log_variance = b.op(Op::Clamp { min, max }, &[log_variance]);
            (b.slice(moments, 1, 0, count), log_variance)
        });
        b.output("mean", mean);
        b.output("log_variance", log_variance);
    }
}

/// Bounds of the logarithm of the variance.
const LOG_VARIANCE: (f32, f32) = (-30.0, 20.0);
