//! LoRA files of every common format as overlays on parameters.
//!
//! [`LoraFile`] understands the names of a file, whoever wrote it: Kohya,
//! XLabs, PEFT and ai-toolkit, Black Forest Labs' control files, `LyCORIS`.
//! [`overlays`] binds [`Adapter`]s to a model's graph: an overlay for each
//! parameter that changes, with which the weight program computes
//!
//! ```text
//! W' = W + Σ scale · (alpha / rank) · up · down
//! ```
//!
//! in f32 from the untouched parameter, rounded once to its dtype. Scales are
//! parameters of the fragment, so that changing one changes no graph.
//!
//! What changes often is bound once: a [`BoundAdapter`] for each file and model, which a
//! [`Mixer`] puts together under any [`AdapterScale`]s.
//!
//! This crate computes nothing itself, and knows of models only the names of
//! their modules.
//!
//! ```
//! use tintype_ir::{GraphBuilder, Stage, TensorType};
//! use tintype_lora::{Adapter, Component, LoraFile, overlays};
//! use tintype_tensor::{DType, Tensor};
//! use tintype_weights::Parameters;
//!
//! let file = LoraFile::from_parameters(
//!     &Parameters::builder()
//!         .tensor("transformer.proj_out.lora_A.weight", Tensor::from_f32([1, 4], vec![1.0; 4])?)
//!         .tensor("transformer.proj_out.lora_B.weight", Tensor::from_f32([2, 1], vec![0.5; 2])?)
//!         .build()?,
//! )?;
//! let mut b = GraphBuilder::new("transformer");
//! let x = b.input("x", Stage::Step, TensorType::new(DType::BF16, [1, 4]));
//! let y = b.linear_named("proj_out", x, 2, 4, false);
//! b.output("y", y);
//! let graph = b.finish()?;
//!
//! let mut bound = overlays(Component::Transformer, &graph, &[Adapter::new("style", file, 0.8)])?;
//! assert_eq!(bound.overlays[0].parameter(), "proj_out.weight");
//! assert!(bound.report.is_complete());
//! let changed = bound.set_scale("style", -1.0)?;
//! assert_eq!(changed, ["lora.style.proj_out.weight.scale"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod adapter;
mod bind;
mod bound;
mod component;
mod error;
mod file;
mod fragment;
mod group;
mod key;
mod mix;
mod names;
mod own;
mod products;
mod report;
mod rows;
mod scale;
mod settings;
mod target;

pub use adapter::Adapter;
pub use bind::{LoraOverlays, overlays};
pub use bound::{BoundAdapter, LoraModel};
pub use component::{Component, Format};
pub use error::Error;
pub use file::LoraFile;
pub use mix::{Mixed, Mixer};
pub use report::{AdapterReport, Report};
pub use rows::Rows;
pub use scale::{AdapterScale, Blocks};
pub use target::{Factor, LoraTarget, Pair, Stored, Update};

/// The result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
