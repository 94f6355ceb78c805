//! The loaded library, from which all objects come.
//!
//! ```no_run
//! use tintype_tensorrt::{LoadOptions, Tensorrt};
//!
//! let tensorrt = Tensorrt::load(&LoadOptions::default())?;
//! println!("{} at {}", tensorrt.abi(), tensorrt.path().display());
//! # Ok::<(), tintype_tensorrt::Error>(())
//! ```

mod probe;

use std::path::Path;
use std::sync::Arc;

use tintype_device::Device;
use tintype_tensorrt_sys::{Abi, IBuilder, IRuntime, Library, Line, LoadOptions, Newer, Version};

pub use probe::{Probe, Support};

use crate::build::Builder;
use crate::calls::{Calls, Owned};
use crate::engine::Runtime;
use crate::log::logger;
use crate::{Result, Target};

/// A loaded library of TensorRT or TensorRT-RTX. A cheap handle, for any thread.
///
/// All libraries of a process share one logger, which hands what they say to `tracing` under
/// the target `tensorrt`.
#[derive(Clone, Debug)]
pub struct Tensorrt(Arc<Library>);

impl Tensorrt {
    /// Looks for a library, as the module `search` of `tintype-tensorrt-sys` says, and loads it.
    ///
    /// # Errors
    /// [`Error::Library`](crate::Error::Library) with the places that were searched, or what is wrong with the library
    /// that was named.
    pub fn load(options: &LoadOptions) -> Result<Self> {
        Ok(Self(Arc::new(Library::load(options)?)))
    }

    /// Loads one file.
    ///
    /// # Errors
    /// [`Error::Library`](crate::Error::Library) for what is no library, and for versions whose ABI is not known.
    pub fn open(path: &Path, newer: Newer) -> Result<Self> {
        Ok(Self(Arc::new(Library::open(path, newer)?)))
    }

    /// The ABI line and version, for instance `TensorRT-RTX 1.7.1`.
    pub fn abi(&self) -> Abi {
        self.0.abi()
    }

    /// The version.
    pub fn version(&self) -> Version {
        self.abi().version()
    }

    /// Whether it is TensorRT-RTX or TensorRT.
    pub fn line(&self) -> Line {
        self.abi().line()
    }

    /// The build number, for instance 116 of 1.7.1.116.
    pub fn build_number(&self) -> Option<u32> {
        self.0.build()
    }

    /// Kind and full version as a word for names of files, for instance `rtx-1.7.1.116`:
    /// plans and caches of another one are of no use.
    pub fn tag(&self) -> String {
        let kind = match self.line() {
            Line::Rtx => "rtx",
            _ => "enterprise",
        };
        let build = self.build_number();
        let build = build.map_or_else(String::new, |build| format!(".{build}"));
        format!("{kind}-{}{build}", self.version())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Whether it builds engines, or only runs them.
    pub fn has_builder(&self) -> bool {
        self.0.has_builder()
    }

    /// Whether constants may be built without values (null weights with a count): TensorRT-RTX
    /// from 1.7, TensorRT from 11.4. Elsewhere every constant needs memory of its own.
    pub fn takes_placeholders(&self) -> bool {
        // Both came with the same version.
        self.abi().has("IRefitter", "releaseRefitResources")
    }

    /// Whether it builds for targets that are named, without a GPU. If not, it builds for the
    /// GPU that is there.
    pub fn takes_targets(&self) -> bool {
        self.abi().has("IBuilderConfig", "setNbComputeCapabilities")
    }

    /// The targets that can be named.
    pub fn targets(&self) -> &'static [Target] {
        if self.takes_targets() {
            &Target::RTX
        } else {
            &[]
        }
    }

    /// Whether compiled kernels can be kept between runs.
    pub fn has_runtime_cache(&self) -> bool {
        self.abi().has("IRuntimeConfig", "createRuntimeCache")
    }

    /// Whether measured times of kernels can be kept between builds: TensorRT-RTX measures
    /// nothing, its functions for that do nothing.
    pub fn has_timing_cache(&self) -> bool {
        self.line() == Line::Enterprise
    }

    /// What is known of the library without a GPU.
    pub fn probe(&self) -> Probe {
        Probe::new(self)
    }

    /// A builder.
    ///
    /// # Errors
    /// [`Error::Library`](crate::Error::Library) if the library has none.
    pub fn builder(&self) -> Result<Builder> {
        Builder::new(self)
    }

    /// A runtime, whose engines are on `device`.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call) where there is no GPU that the library can use.
    pub fn runtime(&self, device: &Device) -> Result<Runtime> {
        Runtime::new(self, device)
    }

    pub(crate) fn create_builder(&self, calls: &Calls) -> Result<Owned<IBuilder>> {
        calls.run("creating a builder", || {
            // SAFETY: the logger is never dropped; the builder is owned by nobody else.
            unsafe {
                self.0
                    .create_builder(logger())
                    .map(|builder| Owned::new(builder))
            }
        })
    }

    pub(crate) fn create_runtime(&self, calls: &Calls) -> Result<Owned<IRuntime>> {
        calls.run("creating a runtime", || {
            // SAFETY: the logger is never dropped; the runtime is owned by nobody else.
            unsafe {
                self.0
                    .create_runtime(logger())
                    .map(|runtime| Owned::new(runtime))
            }
        })
    }

    /// The library behind it.
    pub(crate) fn library(&self) -> &Library {
        &self.0
    }
}
