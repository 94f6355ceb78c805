//! The list of backends, by name. No other crate knows it.
//!
//! ```
//! let cpu = tintype::backends::choose("cpu")?;
//! assert_eq!(cpu.name(), "cpu");
//! assert!(tintype::backends::choose("abacus").is_err());
//! # Ok::<(), tintype_backend::Error>(())
//! ```

use std::sync::Arc;

use tintype_backend::{Backend, Error, Result};
use tintype_cpu::CpuBackend;

/// A backend that this build knows of.
#[derive(Clone, Copy)]
pub struct Entry {
    /// The name by which it is chosen.
    pub name: &'static str,
    probe: fn() -> Result<Found>,
}

/// A backend that can be used, and on what.
pub struct Found {
    /// The backend.
    pub backend: Arc<dyn Backend>,
    /// Its library and version, and the device.
    pub description: String,
}

/// Every backend, the best first: `auto` takes the first that is available.
pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "tensorrt",
        probe: || Err(not_built("tensorrt")),
    },
    Entry {
        name: "cuda",
        probe: || Err(not_built("cuda")),
    },
    Entry {
        name: "cpu",
        probe: || Ok(cpu()),
    },
];

impl Entry {
    /// The backend, or why it is not available.
    pub fn probe(&self) -> Result<Found> {
        (self.probe)()
    }
}

/// The backend of this name; `auto` for the best that is available.
pub fn choose(name: &str) -> Result<Arc<dyn Backend>> {
    if name == "auto" {
        let mut found = ENTRIES.iter().filter_map(|entry| entry.probe().ok());
        return Ok(found.next().expect("the CPU is always available").backend);
    }
    if let Some(entry) = ENTRIES.iter().find(|entry| entry.name == name) {
        return Ok(entry.probe()?.backend);
    }
    let names: Vec<_> = ENTRIES.iter().map(|entry| entry.name).collect();
    Err(Error::Unsupported {
        backend: "auto",
        what: format!("`{name}`; known are {}", names.join(", ")),
    })
}

fn cpu() -> Found {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let description = format!(
        "{} {}, {threads} threads",
        std::env::consts::ARCH,
        vector_width()
    );
    Found {
        backend: Arc::new(CpuBackend::new()),
        description,
    }
}

#[cfg(target_arch = "x86_64")]
fn vector_width() -> &'static str {
    if std::arch::is_x86_feature_detected!("avx512f") {
        "with AVX-512"
    } else if std::arch::is_x86_feature_detected!("avx2") {
        "with AVX2"
    } else {
        "without AVX2"
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn vector_width() -> &'static str {
    "with its baseline instructions"
}

fn not_built(backend: &'static str) -> Error {
    Error::Unavailable {
        backend,
        reason: "this version of tintype does not contain it".to_owned(),
        remedy: "use --backend cpu".to_owned(),
    }
}
