//! TensorRT as a backend: safe builder, runtime and refitter, lowering of graphs, weightless plans.
//!
//! | module | holds |
//! |---|---|
//! | [`build`] | builder, configuration, optimization profiles |
//! | [`engine`] | runtime, engine, context, refitter, inspector |
//! | [`network`] | a network under construction |
//! | [`lower`] | graphs to networks |
//! | [`plan`] | keys of plans and the folder they are kept in |
//! | [`backend`] | the traits of `tintype-backend` |

pub mod backend;
pub mod build;
pub mod engine;
mod error;
mod library;
pub mod lower;
pub mod network;
pub mod plan;

pub use error::Error;

/// The result of every fallible function of this crate.
pub type Result<T> = std::result::Result<T, Error>;
