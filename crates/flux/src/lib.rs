//! FLUX pipelines: tokenizers, scheduler, pipeline, images.
//!
//! [`FluxPipeline`] reads a model in diffusers' layout, in a folder or inside the
//! program ([`ModelFiles`]), and makes the pictures that
//! diffusers makes with the same seed, on any [`Backend`](tintype_backend::Backend).
//!
//! ```no_run
//! # fn f(cpu: impl tintype_backend::Backend + 'static) -> Result<(), tintype_flux::Error> {
//! use tintype_flux::{FluxPipeline, Request, StepEnd};
//!
//! let pipeline = FluxPipeline::from_pretrained("flux-dev")?.backend(cpu);
//! pipeline.load_lora("style.safetensors", "style")?;
//! pipeline.set_adapters(&[("style", 0.8)])?;
//! let request = Request::new("a red fox in the snow").size(512, 768).steps(20).seed(7);
//! let output = pipeline.generate_with(&request, &mut |step: &mut StepEnd| {
//!     println!("step {} of {}", step.index + 1, step.count);
//! })?;
//! output.save("fox.png")?;
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

mod architecture;
mod callback;
mod defaults;
mod error;
mod files;
pub mod image;
pub mod latents;
pub mod model_index;
mod output;
mod pipeline;
mod request;
pub mod scheduler;
mod sizes;
pub mod tokenizer;

pub use architecture::Architecture;
pub use callback::{Observer, Part, StepEnd};
pub use defaults::ModelDefaults;
pub use error::Error;
pub use output::{Output, Timings, picture_paths};
pub use pipeline::{AdapterReport, ChangeReport, FluxPipeline, ModelKind, PromptFeed, Rewrite};
pub use request::{ImageSource, InitialImage, Request, RequestTensors, Seed};
pub use sizes::Sizes;
pub use tintype_backend::KeepWeights;
pub use tintype_lora::{AdapterScale, Blocks};
pub use tintype_weights::{EmbeddedFile, ModelFiles};

/// The result of every fallible function of this crate.
pub type Result<T> = std::result::Result<T, Error>;
