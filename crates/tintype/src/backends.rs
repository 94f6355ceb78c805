//! The list of backends, by name. No other crate knows it.
//!
//! ```
//! let cpu = tintype::backends::choose("cpu")?;
//! assert_eq!(cpu.name(), "cpu");
//! assert!(tintype::backends::choose("abacus").is_err());
//! # Ok::<(), tintype_backend::Error>(())
//! ```

use std::path::PathBuf;
use std::sync::Arc;

use tintype_backend::{Backend, Error, Result};
use tintype_cpu::CpuBackend;

/// A backend that this build knows of.
#[derive(Clone, Copy)]
pub struct Entry {
    /// The name by which it is chosen.
    pub name: &'static str,
    probe: fn(&Options) -> Result<Found>,
}

/// What some backends are told. The others take no notice.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Options {
    /// Where compiled plans are looked for and kept, in place of the user's own folder of them.
    pub plans: Option<PathBuf>,
    /// Is told how far the build of a plan is.
    pub follow: Option<Follow>,
}

/// Is told how far the build of a plan is, from whichever thread builds.
pub type Follow = Arc<dyn Fn(Building<'_>) + Send + Sync>;

/// A plan that is being built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Building<'a> {
    /// The program, `request` or `step`.
    pub program: &'a str,
    /// What is being done, in the library's words.
    pub phase: &'a str,
    /// How many of the phase's steps are done.
    pub done: usize,
    /// How many steps the phase has.
    pub steps: usize,
}

/// A backend that can be used, and on what.
pub struct Found {
    /// The backend.
    pub backend: Arc<dyn Backend>,
    /// Its library and version, and the device.
    pub description: String,
}

/// Every backend, the best first: `auto` takes the first that is available. So it never takes
/// `cuda`, which has drawn no whole picture on a GPU yet and is there for those who name it.
pub const ENTRIES: &[Entry] = &[
    Entry {
        name: "tensorrt",
        probe: tensorrt,
    },
    Entry {
        name: "cpu",
        probe: |_| Ok(cpu()),
    },
    Entry {
        name: "cuda",
        probe: |_| cuda(),
    },
];

impl Entry {
    /// The backend, or why it is not available.
    pub fn probe(&self) -> Result<Found> {
        self.probe_with(&Options::default())
    }

    /// The same with options.
    pub fn probe_with(&self, options: &Options) -> Result<Found> {
        (self.probe)(options)
    }
}

impl Options {
    /// The same with a folder of plans.
    #[must_use]
    pub fn with_plans(mut self, folder: impl Into<PathBuf>) -> Self {
        self.plans = Some(folder.into());
        self
    }

    /// The same with someone who is told how far a build is.
    #[must_use]
    pub fn with_follow(mut self, follow: Follow) -> Self {
        self.follow = Some(follow);
        self
    }
}

/// The backend of this name; `auto` for the best that is available.
pub fn choose(name: &str) -> Result<Arc<dyn Backend>> {
    choose_with(name, &Options::default())
}

/// The same with options.
pub fn choose_with(name: &str, options: &Options) -> Result<Arc<dyn Backend>> {
    if name == "auto" {
        let mut found = ENTRIES
            .iter()
            .filter_map(|entry| entry.probe_with(options).ok());
        return Ok(found.next().expect("the CPU is always available").backend);
    }
    if let Some(entry) = ENTRIES.iter().find(|entry| entry.name == name) {
        return Ok(entry.probe_with(options)?.backend);
    }
    let names: Vec<_> = ENTRIES.iter().map(|entry| entry.name).collect();
    Err(Error::Unsupported {
        backend: "auto",
        what: format!("`{name}`; known are {}", names.join(", ")),
    })
}

#[cfg(feature = "tensorrt")]
fn tensorrt(options: &Options) -> Result<Found> {
    let backend = crate::tensorrt::open(options)?;
    let description = backend.description();
    Ok(Found {
        backend: Arc::new(backend),
        description,
    })
}

#[cfg(not(feature = "tensorrt"))]
fn tensorrt(_options: &Options) -> Result<Found> {
    Err(not_built("tensorrt"))
}

#[cfg(feature = "cuda")]
fn cuda() -> Result<Found> {
    let options = tintype_cuda::CudaOptions::new(Arc::new(tintype_cpu::CpuEvaluator));
    let backend = tintype_cuda::CudaBackend::new(options)?;
    let description = backend.description();
    Ok(Found {
        backend: Arc::new(backend),
        description,
    })
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Result<Found> {
    Err(not_built("cuda"))
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

#[cfg(not(all(feature = "cuda", feature = "tensorrt")))]
fn not_built(backend: &'static str) -> Error {
    Error::Unavailable {
        backend,
        reason: "this version of tintype does not contain it".to_owned(),
        remedy: "use --backend cpu".to_owned(),
    }
}
