//! Tintype: diffusion models as graphs, run on any backend, changeable while they run.
//!
//! This crate is the facade: one name for what most programs need. The layers
//! below can be used one by one: [`tintype_ir`] (graphs), [`tintype_weights`]
//! (checkpoints), [`tintype_cpu`] (execution), [`tintype_models`] (networks),
//! [`tintype_lora`], [`tintype_quant`] (quantization), [`tintype_refit`] (the mutable module), and
//! [`tintype_flux`] (the pipeline).
//!
//! ```no_run
//! use tintype::{CpuBackend, FluxPipeline, Request};
//!
//! let pipeline = FluxPipeline::from_pretrained("flux-dev")?.backend(CpuBackend::new());
//! let output = pipeline.generate(&Request::new("a red fox in the snow").seed(7))?;
//! output.save("fox.png")?;
//! # Ok::<(), tintype::Error>(())
//! ```
//!
//! A pipeline is shared between threads, and changes while it runs; each picture is made with one
//! state of all models:
//!
//! ```no_run
//! # let pipeline = tintype::FluxPipeline::from_pretrained("flux-dev")?;
//! pipeline.load_lora("style.safetensors", "style")?;
//! let report = pipeline.set_adapters(&[("style", 0.8)])?;
//! println!("{report}");
//! # Ok::<(), tintype::Error>(())
//! ```
//!
//! With the feature `shapes`, which is on by default, a small model is part of the program:
//! `tintype::shapes()` opens it.
//!
//! With the features `tensorrt` and `cuda`, also on by default, graphs run on NVIDIA's TensorRT and on
//! CUDA where these are installed; building this crate needs nothing of them.
//!
//! The program `tintype` is documented by `tintype --help` and in docs/cli.md of
//! the repository.
#![forbid(unsafe_code)]

pub mod backends;
pub mod built_in;
#[doc(hidden)]
pub mod hub;
#[cfg(feature = "tensorrt")]
pub mod tensorrt;

#[cfg(feature = "shapes")]
pub use built_in::shapes;
pub use tintype_backend::{Backend, KeepWeights};
pub use tintype_cpu::CpuBackend;
pub use tintype_flux::image::Image;
pub use tintype_flux::{
    AdapterReport, AdapterScale, Architecture, Blocks, ChangeReport, Error, FluxPipeline,
    ModelDefaults, ModelFiles, ModelKind, Observer, Output, Part, PromptFeed, Request,
    RequestTensors, Result, Seed, Sizes, StepEnd, Timings,
};
#[doc(inline)]
pub use tintype_quant as quant;
/// Graphs of your own that change while they run: [`MutableModule`] and what belongs to it.
pub use tintype_refit as refit;
pub use tintype_refit::MutableModule;
pub use tintype_tensor::{DType, Tensor};
