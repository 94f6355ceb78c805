//! AutoencoderKL: latents to image, image to the moments of latents.
//!
//! Two graphs of one configuration; each reads its half of the checkpoint. Sampling
//! from the moments, tiling and packing belong to pipelines.
//!
//! ```
//! use tintype_models::{AutoencoderKlConfig, DecoderOptions, EncoderOptions};
//! let config = AutoencoderKlConfig::flux();
//! let decoder = config.decoder(&DecoderOptions::default())?;
//! let encoder = config.encoder(&EncoderOptions::default())?;
//! assert_eq!(decoder.parameters().len() + encoder.parameters().len(), 244);
//! # Ok::<(), tintype_models::Error>(())
//! ```

mod blocks;
mod config;
mod decoder;
mod encoder;

pub use config::AutoencoderKlConfig;
pub use decoder::DecoderOptions;
pub use encoder::EncoderOptions;

const MODEL: &str = "autoencoder";
