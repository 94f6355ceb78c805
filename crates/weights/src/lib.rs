//! Named parameters: memory-mapped safetensors, generations, content hashes, change sets.
//!
//! [`Parameters`] is what graphs read their weights from: a cheap handle to a
//! map from names to tensors that lie in mapped files or in memory, possibly
//! renamed, sliced or rescaled on the way ([`View`]). [`Checkpoint`] finds and
//! checks files, [`SafetensorsFile`] is one of them, [`layout`] gives files of
//! other projects the names that our models use.
//!
//! This crate computes no more than such views need: merging, fusing and
//! quantizing are the business of weight programs. It knows nothing of graphs.
//!
//! ```
//! use tintype_tensor::{DType, Shape, Tensor};
//! use tintype_weights::Parameters;
//!
//! let mut parameters = Parameters::builder()
//!     .tensor("proj.weight", Tensor::from_f32([2, 2], vec![1.0, 2.0, 3.0, 4.0])?)
//!     .build()?;
//! let before = parameters.snapshot();
//! parameters.edit("proj.weight", |values| values[0] = 5.0)?;
//! assert!(parameters.changes_since(&before).contains("proj.weight"));
//! let weight = parameters.expect("proj.weight", DType::BF16, &Shape::from([2, 2]))?;
//! assert_eq!(weight.to_f32_vec()?, [5.0, 2.0, 3.0, 4.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
// Not `forbid`: the mapping function is the one exception.
#![deny(unsafe_code)]

mod builder;
mod change;
mod checkpoint;
mod edit;
mod entry;
mod error;
mod file;
mod header;
mod index;
pub mod layout;
mod mapping;
mod model_files;
mod parameters;
mod place;
mod scaled;
mod source;
mod view;

pub use builder::ParametersBuilder;
pub use change::{ChangeSet, Snapshot};
pub use checkpoint::{Checkpoint, CheckpointIdentity};
pub use edit::ChangeOptions;
pub use entry::{ContentHash, ParameterIdentity};
pub use error::Error;
pub use file::{FileIdentity, SafetensorsFile};
pub use header::{StorageDType, TensorEntry};
pub use model_files::{EmbeddedFile, ModelFiles};
pub use parameters::{ParameterInfo, Parameters};
pub use place::{FileTensor, Place};
pub use view::View;

/// The result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
