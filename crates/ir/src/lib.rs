//! Tintype's intermediate representation: one graph for a model, and what
//! follows from what each value depends on.
//!
//! A [`Graph`] has inputs (each with the [`Stage`] at which it is known),
//! parameters by name, nodes in execution order, and outputs. [`StagedGraph`]
//! splits it into the weight, request and step programs. The text form
//! (its [`Display`](std::fmt::Display), and [`parse`]) is the whole truth: printing and parsing
//! are inverse. [`verify`] lists what holds of every graph.
//!
//! The meaning of the operations is what `tintype-cpu` computes. This crate does
//! no arithmetic on tensors; what constant folding must evaluate, it gets
//! through [`Evaluator`].
//!
//! ```
//! let text = r#"
//! graph "scale" {
//!   dim tokens = 1..=16
//!   param @gain: f32[4]
//!   input step %x: f32[tokens, 4]
//!   %0: f32[4] = exp @gain
//!   %1: f32[tokens, 4] = mul %x, %0
//!   output y = %1
//! }
//! "#;
//! let graph = tintype_ir::parse(text)?;
//! tintype_ir::verify(&graph)?;
//! assert_eq!(tintype_ir::parse(&graph.to_string())?, graph);
//! let staged = tintype_ir::StagedGraph::split(&graph)?;
//! assert_eq!(staged.weight.nodes().len(), 1);
//! # Ok::<(), tintype_ir::Error>(())
//! ```
#![forbid(unsafe_code)]

mod binding;
mod builder;
mod constant;
mod decompose;
mod dim;
mod error;
mod evaluate;
mod graph;
mod hash;
mod infer;
mod narrow;
mod op;
mod overlay;
pub mod passes;
mod quantized;
mod stage;
mod staged;
mod text;
mod types;
mod verify;

pub use binding::Binding;
pub use builder::GraphBuilder;
pub use constant::Constant;
pub use decompose::{MAX_KERNEL, decompose};
pub use dim::{Dim, Symbol};
pub use error::Error;
pub use evaluate::Evaluator;
pub use graph::{Graph, Input, Node, Output, Parameter, Value};
pub use hash::GraphHash;
pub use infer::{broadcast_dims, infer};
pub use op::{Attention, BinaryOp, Conv2d, Op, ReduceOp, RelativeBuckets, UnaryOp};
pub use overlay::Overlay;
pub use quantized::{Dequantized, Quantized};
pub use stage::Stage;
pub use staged::StagedGraph;
pub use text::parse;
pub use types::TensorType;
pub use verify::verify;

/// The result of every fallible function of this crate.
pub type Result<T> = std::result::Result<T, Error>;
