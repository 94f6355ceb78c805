//! Builder, configuration, optimization profiles: from a network to a plan.
//!
//! A plan goes to a writer piece by piece, so that it never lies in memory as a whole. What is
//! not here: the network itself ([`crate::network`]), and where plans are kept
//! ([`crate::plan`]).
//!
//! ```no_run
//! use tintype_tensorrt::build::Flag;
//! use tintype_tensorrt::{LoadOptions, Tensorrt};
//!
//! let tensorrt = Tensorrt::load(&LoadOptions::default())?;
//! let builder = tensorrt.builder()?;
//! let network = builder.network()?;
//! // … layers …
//! let mut config = builder.config()?;
//! config.set_targets(&["sm89".parse()?])?;
//! config.set_flag(Flag::StripPlan, true)?;
//! config.set_flag(Flag::RefitIndividual, true)?;
//! let mut plan = Vec::new();
//! builder.build(&network, &config, &mut plan)?;
//! # Ok::<(), tintype_tensorrt::Error>(())
//! ```

mod builder;
mod config;
mod gate;
mod layers;
mod profile;
mod progress;
mod target;
mod timing_cache;
mod writer;

pub use builder::Builder;
pub use config::{Config, Flag, MemoryPool, Verbosity};
pub use layers::{EngineLayer, LayerTensor};
pub use profile::Profile;
pub use progress::Progress;
pub use target::Target;
