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
pub mod fp8;
pub mod operations;
mod run;
mod tolerance;

pub use case::{Callback, Case, Expected, KindOfCase, Lora, RequestRecord, SeedRecord};
pub use error::Error;
pub use run::{Errors, request_of, run_case};
pub use tolerance::Tolerance;

/// Has log lines go to stderr, those too that say which step a library did not take and who runs
/// it instead. `TINTYPE_LOG` sets another filter.
pub fn log_to_stderr() {
    let usual = "warn,tintype_cuda=info,tintype_device=info,tintype_tensorrt=info";
    let filter = tracing_subscriber::EnvFilter::try_from_env("TINTYPE_LOG");
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(usual));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(false)
        .without_time();
    // Whoever has set up another one before keeps it.
    let _ = subscriber.with_writer(std::io::stderr).try_init();
}

/// The result of every fallible function of this crate.
pub type Result<T> = std::result::Result<T, Error>;
