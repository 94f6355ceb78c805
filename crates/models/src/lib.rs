//! CLIP, T5, the FLUX transformer and AutoencoderKL as Tintype graphs.
//!
//! Each model is a configuration, read from the `config.json` beside its weights,
//! and a function that builds its [`Graph`](tintype_ir::Graph). Parameters bear
//! the names that diffusers and transformers give them in checkpoints, nodes the
//! names of their modules. The crate reads no files, holds no weights and runs
//! nothing.
//!
//! | model | configuration | inputs (stage) | outputs |
//! |---|---|---|---|
//! | FLUX transformer | [`FluxTransformerConfig`] | timesteps, guidance, pooled, prompt_embeds, text_ids, image_ids (request), step_index, hidden_states (step) | sample |
//! | CLIP text encoder | [`ClipTextConfig`] | input_ids (request) | hidden_states, pooled |
//! | T5 encoder | [`T5EncoderConfig`] | input_ids (request) | hidden_states |
//! | AutoencoderKL | [`AutoencoderKlConfig`] | latents or image (request) | image, or mean and log_variance |
//!
//! ```
//! use tintype_models::{T5EncoderConfig, T5EncoderOptions};
//!
//! let text = r#"{"architectures": ["T5EncoderModel"], "model_type": "t5", "d_model": 32, "d_ff": 64,
//!     "d_kv": 8, "num_heads": 4, "num_layers": 2, "vocab_size": 400, "feed_forward_proj": "gated-gelu"}"#;
//! let config = T5EncoderConfig::from_json("text_encoder_2/config.json", text)?;
//! let graph = config.graph(&T5EncoderOptions::default())?;
//! assert!(graph.parameter("encoder.block.1.layer.0.SelfAttention.q.weight").is_some());
//! # Ok::<(), tintype_models::Error>(())
//! ```
#![forbid(unsafe_code)]

pub mod autoencoder;
mod build;
mod clip;
mod error;
mod fields;
pub mod flux;
mod t5;

pub use autoencoder::{AutoencoderKlConfig, DecoderOptions, EncoderOptions};
pub use build::Activation;
pub use clip::{ClipTextConfig, ClipTextOptions};
pub use error::Error;
pub use flux::{FluxTransformerConfig, FluxTransformerOptions};
pub use t5::{T5EncoderConfig, T5EncoderOptions};

/// The result of every fallible function of this crate.
pub type Result<T> = std::result::Result<T, Error>;
