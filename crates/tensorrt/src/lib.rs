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
mod calls;
mod dtype;
pub mod engine;
mod error;
mod files;
mod library;
mod log;
pub mod lower;
pub mod network;
pub mod plan;

pub use build::{Builder, Config, Flag, Profile, Progress, Target};
pub use engine::{Context, ContextOptions, Engine, Inspector, Refitter, Runtime, RuntimeCache};
pub use error::{Code, Error};
pub use library::{Probe, Support, Tensorrt};
pub use network::{Network, Value};
pub use tintype_tensorrt_sys::{Abi, Line, LoadOptions, Newer, Version};

/// The result of every fallible function of this crate.
pub type Result<T> = std::result::Result<T, Error>;
