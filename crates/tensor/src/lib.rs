//! Dtypes with their rounding rules, shapes, host tensors, and torch-compatible noise.
//!
//! This crate knows bytes and numbers, nothing of graphs or devices. Everything
//! else in Tintype stands on it.
//!
//! ```
//! use tintype_tensor::{DType, Tensor};
//!
//! let tensor = Tensor::from_f32([2, 2], vec![1.0, 2.0, 3.0, 4.1])?;
//! let rounded = tensor.to_dtype(DType::BF16)?;
//! assert_eq!(rounded.to_f32_vec()?, [1.0, 2.0, 3.0, 4.09375]);
//! # Ok::<(), tintype_tensor::Error>(())
//! ```
#![forbid(unsafe_code)]

mod dtype;
mod error;
mod float4;
mod float8;
mod noise;
mod shape;
mod storage;
mod tensor;

pub use dtype::DType;
pub use error::Error;
pub use float4::{f4e2m1_from_f32, f4e2m1_to_f32};
pub use float8::{f8e4m3_from_f32, f8e4m3_to_f32};
pub use noise::TorchGenerator;
pub use shape::Shape;
pub use storage::ByteOwner;
pub use tensor::{Element, Tensor, relative_error};

/// The result of every fallible function of this crate.
pub type Result<T> = std::result::Result<T, Error>;
