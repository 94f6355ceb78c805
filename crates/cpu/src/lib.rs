//! Executes any Tintype graph on the CPU. What this crate computes is the
//! meaning of the IR: every operation computes in f32 and rounds once to its
//! result's dtype; operations that are joined into one kernel drop the rounding
//! between them and add none.
//!
//! [`CpuBackend`] is a [`Backend`](tintype_backend::Backend) like any other.
//! [`run`] executes a whole graph at once, for tests and small tools;
//! [`CpuEvaluator`] serves constant folding.
//!
//! Weights that the weight program hands on as they are stay where they lie in
//! the mapped file, in their own dtype.
//!
//! ```
//! use tintype_ir::parse;
//! use tintype_tensor::Tensor;
//! use tintype_weights::Parameters;
//!
//! let graph = parse(r#"
//! graph "scale" {
//!   param @gain: f32[2]
//!   input step %x: f32[2]
//!   %0: f32[2] = mul %x, @gain
//!   output y = %0
//! }"#)?;
//! let parameters = Parameters::builder().tensor("gain", Tensor::from_f32([2], vec![2.0, 3.0])?).build()?;
//! let inputs = [("x", Tensor::from_f32([2], vec![1.0, 1.0])?)];
//! let outputs = tintype_cpu::run(&graph, &parameters, &inputs)?;
//! assert_eq!(outputs.host("y")?.to_f32_vec()?, [2.0, 3.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod backend;
mod buffer;
mod evaluate;
mod executable;
#[doc(hidden)]
pub mod kernels;
mod program;
mod run;
mod value;

pub use backend::CpuBackend;
pub use run::{CpuEvaluator, run};
