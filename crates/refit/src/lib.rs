//! The mutable module: what you changed is what runs next, at the least possible cost.
//!
//! A [`MutableModule`] wraps a graph, its parameters and a backend. It compiles at the first call,
//! for the sizes that it sees or that were declared ([`Ranges`]). Later it notices what changed:
//!
//! | changed | noticed by | done |
//! |---|---|---|
//! | a parameter: set, replaced by a file, edited in place | generation, content where its hash is known | a refit of what it reaches |
//! | overlays: attached, scaled, detached | comparing them | a refit of what they reach |
//! | structure: another graph, argument, or input dtype | the graph's hash | a compilation, or an engine from before |
//! | sizes of inputs out of range | ranges of symbols | one more engine; the least recently used goes |
//!
//! Nothing is guessed from outputs, and nothing is remembered by name. A change that fails leaves
//! the weights as they were, bit for bit; a change waits for pictures under way.
//!
//! A module is [saved](MutableModule::save) as a folder that refers to the checkpoint, and
//! [loaded](MutableModule::load) by another process without compiling anything again.
//!
//! What it is not: a format of models (`ir` and `weights` are), a LoRA reader (`lora`), or a
//! cache of plans (each backend has its own).
//!
//! ```
//! use std::sync::Arc;
//! use tintype_backend::Tensors;
//! use tintype_cpu::CpuBackend;
//! use tintype_refit::MutableModule;
//! use tintype_tensor::Tensor;
//! use tintype_weights::Parameters;
//!
//! let graph = tintype_ir::parse(
//!     "graph scaled { dim n = 1..=64 param @scale: f32[1] input step %x: f32[n] \
//!      %0: f32[n] = broadcast @scale %1: f32[n] = mul %x, %0 output y = %1 }",
//! )?;
//! let parameters = Parameters::builder()
//!     .tensor("scale", Tensor::from_f32([1], vec![2.0])?)
//!     .build()?;
//! let module = MutableModule::builder(Arc::new(CpuBackend::new()), graph, parameters).build();
//! let x = Tensors::new().with("x", Tensor::from_f32([2], vec![1.0, 5.0])?);
//! let call = module.call(&Tensors::new(), &x)?;
//! assert_eq!(call.outputs.host("y")?.to_f32_vec()?, [2.0, 10.0]);
//! // In place, by a ten-thousandth: seen.
//! module.edit().edit("scale", |values| values[0] += 1e-4)?;
//! let call = module.call(&Tensors::new(), &x)?;
//! assert_eq!(call.outputs.host("y")?.to_f32_vec()?, [2.0001, 10.0005]);
//! assert_eq!(call.report.weights(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod bring;
mod builder;
mod change;
mod define;
mod engine;
mod error;
mod gate;
mod module;
mod picture;
mod ranges;
mod report;
mod saved;
mod signature;
mod structure;
mod turn;
mod weights;

pub use builder::ModuleBuilder;
pub use change::{Change, Edit};
pub use define::{Define, DefineError, Given};
pub use error::Error;
pub use module::{MutableModule, State};
pub use picture::{Call, Picture};
pub use ranges::Ranges;
pub use report::{Done, Noticed, Report};
pub use saved::{
    Ahead, ChangedFile, CompiledFile, LoadOptions, Loaded, SaveOptions, Saved, SavedModule,
    Verified,
};
pub use signature::Signature;
pub use weights::Weights;

/// The result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
