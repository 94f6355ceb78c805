//! Measured times of kernels, kept between builds.
//!
//! Only TensorRT measures; with TensorRT-RTX these functions do nothing. A cache that is damaged
//! or of another version or GPU is begun anew: it costs time, never a wrong engine.

use std::fs;
use std::path::Path;

use tintype_tensorrt_sys::ITimingCache;

use super::{Builder, Config};
use crate::calls::Owned;
use crate::engine::HostMemory;
use crate::files::write_and_rename;
use crate::{Error, Result};

impl Config<'_> {
    /// Uses the times in a file, if it is there and good, and collects new ones.
    pub fn load_timing_cache(&mut self, path: &Path) -> Result<()> {
        if !self.builder().tensorrt().has_timing_cache() {
            return Ok(());
        }
        let bytes = fs::read(path).unwrap_or_default();
        if !bytes.is_empty() {
            match self.use_timing_cache(&bytes) {
                Ok(()) => return Ok(()),
                Err(error) => tracing::warn!("{} is begun anew: {error}", path.display()),
            }
        }
        self.use_timing_cache(&[])
    }

    /// Writes the times to a file, together with those that others have written there since.
    ///
    /// # Errors
    /// [`Error::Cache`] if the file cannot be written; it is then as it was.
    pub fn save_timing_cache(&self, path: &Path) -> Result<()> {
        let builder = self.builder();
        if !builder.tensorrt().has_timing_cache() {
            return Ok(());
        }
        let calls = builder.calls();
        // SAFETY: the configuration is alive; the cache is the builder's.
        let cache = calls.run("asking for the timing cache", || unsafe {
            self.raw().get_timing_cache()
        })?;
        let Some(cache) = cache else {
            return Ok(());
        };
        if let Some(others) = fs::read(path).ok().filter(|bytes| !bytes.is_empty()) {
            self.combine(cache, &others);
        }
        let bytes = calls.object("serializing the timing cache", || {
            // SAFETY: the cache is alive; the memory is owned here.
            unsafe {
                cache
                    .serialize()
                    .map(|memory| memory.map(|memory| HostMemory::new(memory)))
            }
        })?;
        let written = write_and_rename(path, bytes.bytes()?);
        written.map_err(|source| Error::Cache {
            path: path.to_owned(),
            source,
        })
    }

    fn use_timing_cache(&mut self, bytes: &[u8]) -> Result<()> {
        let builder = self.builder();
        let cache = self.timing_cache(bytes)?;
        builder.calls().done("using a timing cache", || {
            // SAFETY: both are alive, and the builder keeps the cache as long as itself.
            unsafe { self.raw().set_timing_cache(cache, false) }
        })
    }

    /// A cache of what was serialized, or an empty one. The builder keeps it.
    fn timing_cache(&self, bytes: &[u8]) -> Result<ITimingCache> {
        let builder: &Builder = self.builder();
        let cache = builder.calls().object("reading a timing cache", || {
            // SAFETY: the configuration is alive and the bytes live longer than the call; the
            // cache is owned by the caller.
            unsafe {
                let pointer = bytes.as_ptr().cast();
                let cache = self.raw().create_timing_cache(pointer, bytes.len());
                cache.map(|cache| cache.map(|cache| Owned::new(cache)))
            }
        })?;
        let raw = cache.raw();
        builder.keep(cache);
        Ok(raw)
    }

    /// Adds what others have measured; what does not fit is left out.
    fn combine(&self, cache: ITimingCache, others: &[u8]) {
        let combined = self.timing_cache(others).and_then(|others| {
            self.builder().calls().done("combining timing caches", || {
                // SAFETY: both are kept by the builder.
                unsafe { cache.combine(others, false) }
            })
        });
        if let Err(error) = combined {
            tracing::debug!("times of others are left out: {error}");
        }
    }
}
