//! Cases times backends with one tolerance table.
//!
//! A [`Case`] is a request with what diffusers made of it; [`run_case`] runs it on a
//! backend and measures how far the result is. The cases and the small pipelines
//! they use lie in `fixtures/`, recorded by `tools/fixtures/`. [`operations`] has a graph of
//! every operation. The program of this crate runs all of them where there is no cargo.
//!
//! ```no_run
//! use std::sync::Arc;
//! use tintype_conformance::{Case, Tolerance, run_case};
//! use tintype_cpu::CpuBackend;
//! use tintype_tensor::DType;
//!
//! let fixtures = std::path::Path::new("crates/conformance/fixtures");
//! let backend: Arc<dyn tintype_backend::Backend> = Arc::new(CpuBackend::new());
//! for case in Case::read_all(fixtures)? {
//!     let errors = run_case(fixtures, &case, &backend, DType::F32)?;
//!     Tolerance::of("cpu", DType::F32).check(&errors)?;
//! }
//! # Ok::<(), tintype_conformance::Error>(())
//! ```
#![forbid(unsafe_code)]

mod case;
mod error;
pub mod operations;
mod run;
mod tolerance;

pub use case::{Callback, Case, Expected, KindOfCase, Lora, RequestRecord, SeedRecord};
pub use error::Error;
pub use run::{Errors, request_of, run_case};
pub use tolerance::Tolerance;

/// The result of every fallible function of this crate.
pub type Result<T> = std::result::Result<T, Error>;
