//! The traits of `tintype-backend`, by TensorRT.
//!
//! | part | does |
//! |---|---|
//! | [`build_plans`] | plans of the request and step program of a graph, for any targets, without a GPU |
//! | [`TensorrtBackend`] | plans for the GPU at hand, loaded as engines |
//! | refit | runs the reached part of the weight program on the device, hands it to engines by name |
//! | sessions | run engines in a stream of their own |
//!
//! What the traits demand, and how it is met:
//!
//! - **A request state keeps the weights it was prepared with.** What the request computes, it
//!   computes at once. For its steps the state holds their engine, and a refit changes only
//!   engines that nobody holds. Where one is held, another one is made of the same plan, so that
//!   both take their memory until the last state of the old one goes. No refit waits for a
//!   session; a `prepare` waits for a refit that is just writing, some milliseconds.
//! - **A failed refit leaves the old weights.** Parameters and overlays are checked and all new
//!   weights computed before the first is written. If writing fails, the old weights are computed
//!   again from the parameters and overlays of before and written; if that fails too, the
//!   executable refuses to run until a refit of all weights, which makes new engines.
//! - **What must be set is known from our own list** (the [`Manifest`] beside each plan), and
//!   compared before and after every refit: the engine must want all of it and nothing else. The
//!   library's answer to what is missing is only ever added: it tells of weights that it has
//!   merged with those that changed, which are then computed and set too.
//!
//! New weights lie beside the engine's while they are handed over. Where the memory of the device
//! does not suffice for that, parameters that are used as they are go from their mapped file.
//!
//! ```no_run
//! # fn f(graph: tintype_ir::Graph, parameters: tintype_weights::Parameters,
//! #      evaluator: std::sync::Arc<dyn tintype_ir::Evaluator + Send + Sync>)
//! #     -> Result<(), Box<dyn std::error::Error>> {
//! use tintype_backend::{Backend, Changes, CompileOptions};
//! use tintype_tensorrt::backend::{BuildOptions, TensorrtBackend, TensorrtOptions};
//! use tintype_tensorrt::plan::PlanCache;
//!
//! let build = BuildOptions::new(PlanCache::of_user());
//! let backend = TensorrtBackend::new(TensorrtOptions::new(evaluator, build))?;
//! let staged = tintype_ir::StagedGraph::split(&graph)?;
//! let executable = backend.compile(&staged, &CompileOptions::default())?;
//! executable.refit(&Changes::all(&parameters))?;
//! let session = executable.session()?;
//! # Ok(()) }
//! ```

mod change;
mod exchange;
mod executable;
mod f8_weights;
mod failure;
mod implementation;
mod instance;
mod manifest;
mod plans;
mod required;
mod session;
mod weights;

pub use f8_weights::F8Weights;
pub use implementation::{TensorrtBackend, TensorrtOptions, capabilities};
pub use manifest::{Manifest, ManifestInput, ManifestOutput, ManifestWeight};
pub use plans::{BuildOptions, BuiltPlan, Follow, build_plans, has_plans};

/// The name by which users choose it.
const NAME: &str = "tensorrt";
