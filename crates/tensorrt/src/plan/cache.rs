//! A folder of plans.
//!
//! | file | is |
//! |---|---|
//! | `<key>.plan` | an entry; its time of modification is that of its last use |
//! | `<key>.<random>.tmp` | an entry that is being written, or was when its process ended |
//! | `<key>.lock` | held while `<key>` is built |
//! | `cache.lock` | held while uses are recorded and entries let go |
//! | `<key>.<gpu>.kernels` | see [`KernelFile`] |
//! | `<library>-<gpu>.timing` | see [`PlanCache::timing_cache`] |
//!
//! An entry appears by renaming and is never changed, so that it is whole or not there. Several
//! processes may use one folder.

use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use tintype_device::KernelCache;

use super::entry::{EntryWriter, PlanEntry};
use super::kernels::{KernelFile, plain};
use super::lock::{FileLock, is_at};
use super::{PlanKey, eviction};
use crate::{Error, Result};

/// A folder of plans, bounded in size: those used longest ago go first.
#[derive(Debug, Clone)]
pub struct PlanCache {
    folder: PathBuf,
    limit: u64,
}

/// What lies under a key.
enum Found {
    Entry(PlanEntry),
    Nothing,
    Damaged(File),
}

impl PlanCache {
    /// A cache in this folder, which is made when something is written, of [`DEFAULT_LIMIT`].
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            limit: DEFAULT_LIMIT,
        }
    }

    /// The user's own: `plans` beside the compiled kernels of [`KernelCache::of_user`].
    pub fn of_user() -> Self {
        Self::new(KernelCache::of_user().folder().with_file_name("plans"))
    }

    /// The same with room for so many bytes. The plan used last stays, whatever its size.
    #[must_use]
    pub fn with_limit(mut self, bytes: u64) -> Self {
        self.limit = bytes;
        self
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file of a plan, which need not be there.
    pub fn path(&self, key: &PlanKey) -> PathBuf {
        self.folder.join(format!("{key}.plan"))
    }

    /// The kernels that the library compiled when the engine of a plan ran on this model of GPU.
    pub fn kernels(&self, key: &PlanKey, gpu: &str) -> KernelFile {
        KernelFile::new(&self.folder, key, gpu)
    }

    /// Where the library's times of kernels are kept, by its kind and version, as
    /// `enterprise-11.4.0`, and the model of GPU. They belong to no plan and are never removed.
    pub fn timing_cache(&self, library: &str, gpu: &str) -> PathBuf {
        let name = format!("{library}-{}.timing", plain(gpu));
        self.folder.join(name)
    }

    /// The plan of this key, if it is there and whole. A damaged one is removed.
    pub fn get(&self, key: &PlanKey) -> Option<PlanEntry> {
        match self.look(key) {
            Found::Entry(entry) => Some(entry),
            Found::Nothing => None,
            Found::Damaged(file) => {
                // While somebody builds it, it is about to be replaced.
                if let Ok(Some(_lock)) = FileLock::try_take(&self.lock_path(key)) {
                    self.remove_damaged(key, &file);
                }
                None
            }
        }
    }

    /// The plan of this key, built if it is not there. `build` writes the plan and gives its
    /// manifest. Of several processes and threads that ask for one key at once, one builds and
    /// the others wait for it. If the folder cannot be used, the plan is built all the same, and
    /// a warning tells.
    ///
    /// # Errors
    /// What `build` says; [`Error::Cache`] if its plan cannot be written. There is then no entry.
    pub fn get_or_build(
        &self,
        key: &PlanKey,
        build: impl FnOnce(&mut (dyn Write + Send)) -> Result<Vec<u8>>,
    ) -> Result<PlanEntry> {
        if let Some(entry) = self.get(key) {
            return Ok(entry);
        }
        let lock = match self.lock(key) {
            Ok(lock) => lock,
            Err(error) => {
                tracing::warn!("plans cannot be kept in {}: {error}", self.folder.display());
                return build_unkept(key, build);
            }
        };
        // Whoever had the lock before may have built it.
        match self.look(key) {
            Found::Entry(entry) => return Ok(entry),
            Found::Damaged(file) => self.remove_damaged(key, &file),
            Found::Nothing => {}
        }
        // Only the holder of the lock writes such files.
        eviction::remove_temporaries(&self.folder, key);
        let entry = self.build(key, build)?;
        drop(lock);
        Ok(entry)
    }

    /// Lets entries go until the rest fits, and removes what was left by processes that ended.
    pub fn trim(&self) -> io::Result<()> {
        let _lock = self.lock_uses()?;
        eviction::evict(&self.folder, self.limit, None)
    }

    fn look(&self, key: &PlanKey) -> Found {
        let path = self.path(key);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!("{}: {error}", path.display());
                }
                return Found::Nothing;
            }
        };
        match PlanEntry::open(&mut file, key) {
            Ok(entry) => {
                self.record_use(&file);
                Found::Entry(entry)
            }
            Err(reason) => {
                let path = path.display();
                tracing::warn!("{path} is damaged and is made anew: {reason}");
                Found::Damaged(file)
            }
        }
    }

    /// Removes a damaged entry, unless it has been replaced meanwhile.
    fn remove_damaged(&self, key: &PlanKey, damaged: &File) {
        let path = self.path(key);
        if !is_at(damaged, &path) {
            return;
        }
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!("cannot remove {}: {error}", path.display());
        }
    }

    fn build(
        &self,
        key: &PlanKey,
        build: impl FnOnce(&mut (dyn Write + Send)) -> Result<Vec<u8>>,
    ) -> Result<PlanEntry> {
        let path = self.path(key);
        let failed = |source: io::Error| Error::Cache {
            path: path.clone(),
            source,
        };
        let temporary = eviction::temporary(&self.folder, key).map_err(failed)?;
        let (file, temporary) = temporary.into_parts();
        let file = write(file, key, build, &failed)?;
        // A name for a file whose bytes are not on disk would outlive a loss of power.
        file.sync_all().map_err(failed)?;
        let whole = NamedTempFile::from_parts(file, temporary);
        let file = self.persist(whole, &path).map_err(failed)?;
        PlanEntry::written(file, key).map_err(failed)
    }

    /// Gives a whole file its name, and makes room for it.
    fn persist(&self, whole: NamedTempFile, path: &Path) -> io::Result<File> {
        let lock = self.lock_uses();
        let file = whole.persist(path).map_err(|error| error.error)?;
        match lock {
            Ok(_lock) => {
                eviction::record_use(&self.folder, &file);
                if let Err(error) = eviction::evict(&self.folder, self.limit, Some(path)) {
                    tracing::warn!("{}: {error}", self.folder.display());
                }
            }
            Err(error) => tracing::warn!("{}: {error}", self.folder.display()),
        }
        Ok(file)
    }

    /// A use that cannot be recorded, as in a folder of another user, does no harm.
    fn record_use(&self, file: &File) {
        match self.lock_uses() {
            Ok(_lock) => eviction::record_use(&self.folder, file),
            Err(error) => tracing::debug!("{}: {error}", self.folder.display()),
        }
    }

    fn lock(&self, key: &PlanKey) -> io::Result<FileLock> {
        fs::create_dir_all(&self.folder)?;
        FileLock::wait(&self.lock_path(key), || {
            tracing::info!("plan {key} is being built by another; waiting for it");
        })
    }

    fn lock_uses(&self) -> io::Result<FileLock> {
        FileLock::wait(&self.folder.join("cache.lock"), || ())
    }

    fn lock_path(&self, key: &PlanKey) -> PathBuf {
        eviction::lock_path(&self.folder, key)
    }
}

/// Builds into a file without a name.
fn build_unkept(
    key: &PlanKey,
    build: impl FnOnce(&mut (dyn Write + Send)) -> Result<Vec<u8>>,
) -> Result<PlanEntry> {
    let failed = |source: io::Error| Error::Cache {
        path: std::env::temp_dir(),
        source,
    };
    let file = tempfile::tempfile().map_err(failed)?;
    let file = write(file, key, build, &failed)?;
    PlanEntry::written(file, key).map_err(failed)
}

/// Has a plan written into `file`; gives the whole entry.
fn write<W: Write + Seek + Send>(
    file: W,
    key: &PlanKey,
    build: impl FnOnce(&mut (dyn Write + Send)) -> Result<Vec<u8>>,
    failed: &impl Fn(io::Error) -> Error,
) -> Result<W> {
    let mut writer = EntryWriter::new(file, key).map_err(failed)?;
    let built = build(&mut writer);
    // A full disk is the reason of whatever the library then says.
    if let Some(failure) = writer.failure() {
        return Err(failed(failure));
    }
    let manifest = built?;
    writer.finish(&manifest).map_err(failed)
}

/// 2 GiB, thousands of plans of large models.
pub const DEFAULT_LIMIT: u64 = 2 << 30;

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
