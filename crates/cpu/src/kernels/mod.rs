//! The arithmetic of every operation, on plain slices.
//!
//! Nothing here knows the IR: a kernel takes an options struct first, then
//! row-major `f32` slices, then the slice to write. Values are already rounded to
//! their dtype; a kernel computes in f32 and rounds once, to `rounding`, in the
//! pass that writes. The same inputs give the same bits with any number of
//! threads, because work is cut by shape and never by the number of threads.
//!
//! Kernels check lengths and panic on a mismatch; the executor has verified the
//! graph before it calls them, so such a panic is a bug in the executor.
//!
//! ```
//! use tintype_cpu::kernels::{Unary, unary};
//! use tintype_tensor::DType;
//!
//! let mut out = [0.0; 2];
//! unary(Unary::Relu, DType::F32, &[-1.0, 2.0], &mut out);
//! assert_eq!(out, [0.0, 2.0]);
//! ```

#![allow(
    clippy::inline_always,
    reason = "a body is compiled for an instruction set only where it is inlined"
)]

#[macro_use]
mod simd;

mod attention;
mod attention_block;
mod binary;
mod convolution;
mod elementwise;
mod engine;
mod group_norm;
mod layout;
mod linear;
mod math;
mod matmul;
mod modulation;
mod norm;
mod panels;
mod parallel;
mod patches;
mod product;
mod reduce;
mod rotary;
mod rounding;
mod softmax;
#[cfg(test)]
mod testing;
mod transpose;
mod weights;

pub use attention::{Attention, AttentionBias, Strides, attention};
pub use binary::{Binary, binary};
pub use convolution::{Conv2d, conv2d, upsample_nearest2};
pub use elementwise::{Activation, Unary, unary};
pub use group_norm::{GroupNorm, group_norm};
pub use layout::{concat, gather_rows, permute, slice};
pub use linear::{Linear, linear};
pub use matmul::{Matmul, matmul};
pub use modulation::{Modulation, gated_residual, layer_norm_modulate, modulate};
pub use norm::{Norm, layer_norm, rms_norm};
pub use product::{Matrix, Product, product};
pub use reduce::{Reduce, reduce};
pub use rotary::{Rotary, rotary, rotary_table};
pub use softmax::softmax;
pub use weights::Weights;
