//! Quantization of models: what to quantize, with which scales, and at what loss.
//!
//! - A [`Recipe`] says which layers are quantized and how, by full names.
//! - [`calibrate`] runs a model on a [`Feed`] of what it meets in use and measures what its
//!   layers read; a [`ScaleTable`] keeps that in a file.
//! - [`quantize`] is the pass that puts quantize and dequantize into a graph. Weights are
//!   quantized by the weight program, so that a LoRA gets a fresh scale.
//! - [`compare`] measures what it costs, layer by layer and step by step; [`keep_worst`]
//!   leaves out what costs most until a bound holds.
//!
//! Everything runs on any backend and knows no model. `examples/calibrate.rs` goes the whole
//! way on the CPU.
#![forbid(unsafe_code)]

mod calibrate;
mod compare;
mod error;
mod feed;
mod histogram;
mod import;
mod insert;
mod keep;
mod observe;
mod pattern;
mod picture;
mod rebuild;
mod recipe;
mod report;
mod scales;
mod sites;
mod table;

pub use calibrate::{Calibrated, Calibration, Method, calibrate};
pub use compare::compare;
pub use error::Error;
pub use feed::{Examples, Feed, Moment, Seen};
pub use histogram::Histogram;
pub use import::{Imported, import};
pub use insert::{QuantizedGraph, quantize};
pub use keep::{Kept, keep_worst};
pub use pattern::Pattern;
pub use picture::{psnr, ssim};
pub use recipe::{Format, Granularity, Recipe, Rule};
pub use report::{Errors, LayerReport, OutputReport, Report, Spread};
pub use scales::{E4M3_MAX, Scales, power_of_two_above};
pub use sites::layer_names;
pub use table::{ModelIdentity, ScaleTable, Source};

/// The result of every fallible function of this crate.
pub type Result<T> = std::result::Result<T, Error>;
