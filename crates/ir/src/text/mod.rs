//! The text form: one operation a line, types shown, parameters by name.
//!
//! ```text
//! graph "name" {
//!   dim batch = 1..=4
//!   param @proj.weight: bf16[64, 32]
//!   input step %x: bf16[batch, 32]
//!   %0: bf16[batch, 64] = linear %x, @proj.weight  # proj
//!   %1: bf16[batch, 64] = layer_norm %0 {epsilon = 1e-6}
//!   output y = %1
//! }
//! ```
//!
//! A label follows `#`. Names that are not plain are written in quotes (`@"a b"`).
//! What a result's type shows is not repeated as an attribute: the dimensions of
//! `reshape`, the dtype of `cast`. A line that begins with `;` is a comment.

mod attributes;
mod lexer;
mod parser;
mod printer;

pub(crate) use attributes::{Attribute, attributes};
pub use parser::parse;
