//! The traits between a graph and what runs it.
//!
//! A [`Backend`] compiles a [`StagedGraph`](tintype_ir::StagedGraph) to an
//! [`Executable`], which holds no weights until [`Executable::refit`] gives it
//! some. A [`Session`] of it runs the request program once per picture
//! ([`Session::prepare`]) and the step program in the hot loop
//! ([`Session::step`]).
//!
//! Backends are values, chosen at run time; no type here has a backend as a
//! parameter, and no backend knows another. What must hold of every one:
//!
//! - A request state keeps the weights it was prepared with: no picture is made
//!   with mixed weights, whatever is refitted meanwhile.
//! - A failed refit leaves the old weights.
//! - A missing library is [`Error::Unavailable`], never a panic.
//!
//! ```no_run
//! # fn f(backend: &dyn tintype_backend::Backend, graph: tintype_ir::Graph,
//! #      parameters: tintype_weights::Parameters, x: tintype_tensor::Tensor)
//! #      -> Result<(), Box<dyn std::error::Error>> {
//! use tintype_backend::{Changes, CompileOptions, Tensors};
//!
//! let staged = tintype_ir::StagedGraph::split(&graph)?;
//! let executable = backend.compile(&staged, &CompileOptions::default())?;
//! executable.refit(&Changes::all(&parameters))?;
//! let mut session = executable.session()?;
//! let state = session.prepare(&Tensors::new())?;
//! let outputs = session.step(state.as_ref(), &Tensors::new().with("x", x))?;
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

mod changes;
mod error;
mod forecast;
mod keep;
mod programs;
mod tensors;
mod traits;
mod weight_programs;

pub use changes::{Changes, RefitReport, Scope};
pub use error::Error;
pub use forecast::{Forecast, MemoryForecast, ProgramForecast, values_at_once};
pub use keep::KeepWeights;
pub use programs::{programs, programs_for};
pub use tensors::{DeviceMemory, DeviceTensor, Tensors};
pub use traits::{Backend, Capabilities, CompileOptions, Executable, RequestState, Session};
pub use weight_programs::{AttachedProgram, WeightPrograms};

/// The result of every fallible function of this crate.
pub type Result<T> = std::result::Result<T, Error>;
