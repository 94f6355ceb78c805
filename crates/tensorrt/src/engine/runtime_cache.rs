//! Kernels that TensorRT-RTX compiles when an engine is run, kept between runs of the program.
//!
//! A cache belongs to one engine. One that is damaged or of another version, GPU or driver is
//! begun anew: it costs time, never a wrong result.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use tintype_tensorrt_sys::IRuntimeCache;

use super::{Engine, HostMemory};
use crate::calls::Owned;
use crate::files::write_and_rename;
use crate::{Error, Result};

/// Compiled kernels of an engine. A cheap handle.
///
/// ```no_run
/// use tintype_tensorrt::engine::{ContextOptions, Engine};
///
/// # fn f(engine: &Engine, path: &std::path::Path) -> tintype_tensorrt::Result<()> {
/// let cache = engine.runtime_cache()?;
/// cache.load(path)?;
/// let options = ContextOptions {
///     runtime_cache: Some(cache.clone()),
///     ..ContextOptions::default()
/// };
/// let context = engine.context(&options)?;
/// // … runs …
/// cache.save(path)?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct RuntimeCache(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// First, so that it is destroyed before the engine.
    object: Owned<IRuntimeCache>,
    engine: Engine,
}

// SAFETY: a cache belongs to no thread. Calls of it exclude each other and runs of its engine,
// which use it, by the engine's gate; contexts of that engine alone have it.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl RuntimeCache {
    pub(super) fn new(engine: &Engine) -> Result<Self> {
        engine.device().bind()?;
        let calls = engine.calls();
        let config = calls.object("creating a runtime configuration", || {
            // SAFETY: the engine is alive.
            unsafe { engine.raw().create_runtime_config() }
        })?;
        // SAFETY: the caller owns a runtime configuration; the engine outlives this function.
        let config = unsafe { Owned::new(config) };
        let object = calls.object("creating a runtime cache", || {
            // SAFETY: the configuration is alive.
            unsafe { config.create_runtime_cache() }
        })?;
        Ok(Self(Arc::new(Shared {
            // SAFETY: the caller owns a cache; it is destroyed before the engine.
            object: unsafe { Owned::new(object) },
            engine: engine.clone(),
        })))
    }

    /// The engine whose kernels it has.
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// Takes the kernels of a file and says whether it did: not if there is none, or if it is
    /// not for this engine, GPU and driver.
    ///
    /// # Errors
    /// [`Error::Read`] for a file that is there and cannot be read.
    pub fn load(&self, path: &Path) -> Result<bool> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(source) => {
                return Err(Error::Read {
                    action: format!("reading {}", path.display()),
                    source,
                });
            }
        };
        let taken = self.read(&bytes);
        if let Err(error) = &taken {
            tracing::warn!("{} is begun anew: {error}", path.display());
        }
        Ok(taken.is_ok())
    }

    /// Writes the kernels to a file, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Cache`] if it cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let written = write_and_rename(path, &self.to_bytes()?);
        written.map_err(|source| Error::Cache {
            path: path.to_owned(),
            source,
        })
    }

    /// Takes kernels that [`RuntimeCache::to_bytes`] gave.
    ///
    /// # Errors
    /// [`Error::Call`] for those of another version, GPU or driver, and for damaged ones; the
    /// cache is then as it was.
    pub fn read(&self, bytes: &[u8]) -> Result<()> {
        self.alone(|engine| {
            engine.calls().done("reading a runtime cache", || {
                // SAFETY: the cache is alive, and the bytes are until the call returns.
                unsafe {
                    self.0
                        .object
                        .deserialize(bytes.as_ptr().cast(), bytes.len())
                }
            })
        })
    }

    /// The kernels so far.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        self.alone(|engine| {
            let memory = engine.calls().object("serializing a runtime cache", || {
                // SAFETY: the cache is alive, and the caller owns the memory.
                unsafe {
                    let memory = self.0.object.serialize();
                    memory.map(|memory| memory.map(|memory| HostMemory::new(memory)))
                }
            })?;
            Ok(memory.bytes()?.to_vec())
        })
    }

    pub(super) fn raw(&self) -> IRuntimeCache {
        self.0.object.raw()
    }

    /// Runs something while no run is being enqueued.
    fn alone<T>(&self, what: impl FnOnce(&Engine) -> Result<T>) -> Result<T> {
        let engine = &self.0.engine;
        engine.device().bind()?;
        engine.order().alone(|| what(engine))
    }
}
