//! Executes any Tintype graph on the CPU; the meaning of the IR.

#[doc(hidden)]
pub mod kernels;
