//! FLUX pipelines: tokenizers, scheduler, pipeline, images.
#![forbid(unsafe_code)]

mod error;
mod files;
pub mod image;
pub mod latents;
pub mod model_index;
pub mod scheduler;
pub mod tokenizer;

pub use error::Error;

/// The result of every fallible function of this crate.
pub type Result<T> = std::result::Result<T, Error>;
