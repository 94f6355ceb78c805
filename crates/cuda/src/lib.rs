//! The native CUDA backend: what it plans and generates, and how it runs.
//!
//! A program becomes a [`Plan`] for given sizes: calls of libraries for products, attention and
//! convolutions, and generated kernels for everything between them, on one static workspace.
//! Planning and generating need no GPU and no NVIDIA software; [`CudaBackend`] runs plans on a GPU.
//!
//! | module | holds |
//! |---|---|
//! | `plan::prepare` | rewrites that let more be written in place |
//! | `plan::codes` | linear layers on 8-bit floats with their scales |
//! | `plan::groups` | which operations run together |
//! | `plan::lower` | views and places: strided results, copies where strides cannot say it |
//! | `plan::express` | the instructions of a group's kernel |
//! | `plan::branches` | which steps run side by side |
//! | `plan::patterns` | the names of fusions |
//! | `plan::reuse`, `plan::workspace` | memory shared by lifetimes, results written over operands |
//! | `plan::listing` | the plan as text |
//! | `generate` | CUDA C++ of a group |
//! | `kernels` | kernels of our own for all other steps, and loading kernels |
//! | `libraries` | cuBLASLt and cuDNN |
//! | `run` | plans made ready, memory at fixed addresses, captured graphs |
//! | `backend` | compiled graphs, refits, sessions |
//!
//! ```
//! use tintype_cuda::Plan;
//! use tintype_ir::{Binding, parse};
//!
//! let graph = parse("graph g { input step %x: f32[8] %0: f32[8] = exp %x output y = %0 }")?;
//! let plan = Plan::new(&graph, &Binding::new())?;
//! assert_eq!(plan.count_of("kernel"), 1);
//! # Ok::<(), tintype_cuda::Error>(())
//! ```

mod backend;
mod error;
mod generate;
mod kernels;
mod libraries;
mod plan;
mod run;

pub use backend::{CudaBackend, CudaOptions, capabilities, forecast};
pub use error::Error;
pub use generate::{
    Expression, Generated, Instruction, KernelArgument, Store, generate, generate_split,
};
pub use kernels::{Machine, own_kernels};
pub use plan::{
    ALIGNMENT, AttentionCall, Axis, BRANCHES, Codes, Convolution, Fork, Index, Lifetime, Matrices,
    Place, Plan, PlanOptions, Product, Step, View, Work, Workspace, pattern_of,
};
pub use run::profile::{Profile, ProfileLine};

/// The result of every fallible function of this crate.
pub type Result<T> = std::result::Result<T, Error>;
