//! A folder of plans that goes with a module: looked into, and never changed but by saving.
//!
//! Its files are those of a [`PlanCache`](super::PlanCache), byte for byte. It is no cache: it has
//! no bound, no locks and no uses, so it may be read-only, and a damaged plan in it stays where it
//! is and counts as none.
//!
//! ```
//! use std::io::Write;
//! use tintype_tensorrt::plan::{PlanCache, PlanFolder, PlanKey, Recipe};
//! use tintype_tensorrt_sys::{Abi, Newer};
//!
//! # let cache = tempfile::tempdir()?;
//! # let folder = tempfile::tempdir()?;
//! let graph = tintype_ir::parse("graph g { input step %x: f32[2] output y = %x }")?;
//! let recipe = Recipe::new(Abi::of_number(10701, Newer::Refuse)?, "sm120");
//! let key = PlanKey::new(&graph, &recipe);
//! let entry = PlanCache::new(cache.path()).get_or_build(&key, |plan| {
//!     plan.write_all(b"what the library builds").expect("the cache tells of its failures");
//!     Ok(b"what must be set in it".to_vec())
//! })?;
//! let folder = PlanFolder::new(folder.path());
//! assert_eq!(folder.put(&key, &entry)?, format!("{key}.plan"));
//! assert_eq!(folder.get(&key).expect("just written").manifest(), entry.manifest());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::PlanKey;
use super::entry::{EntryWriter, PlanEntry};
use super::kernels::KernelFile;
use crate::{Error, Result};

/// A folder of plans that goes with a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanFolder {
    folder: PathBuf,
}

impl PlanFolder {
    /// This folder, which need not be there to be looked into.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// The file of a plan, which need not be there.
    pub fn path(&self, key: &PlanKey) -> PathBuf {
        self.folder.join(format!("{key}.plan"))
    }

    /// The plan of this key, if it is there and whole.
    pub fn get(&self, key: &PlanKey) -> Option<PlanEntry> {
        let path = self.path(key);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!("{}: {error}", path.display());
                }
                return None;
            }
        };
        let entry = PlanEntry::open(&mut file, key);
        let entry = entry.inspect_err(|reason| {
            tracing::warn!("{} is damaged and not used: {reason}", path.display());
        });
        entry.ok()
    }

    /// The kernels that the library compiled for a plan on this model of GPU.
    pub fn kernels(&self, key: &PlanKey, gpu: &str) -> KernelFile {
        KernelFile::new(&self.folder, key, gpu)
    }

    /// Writes a plan, packed; gives the file's name.
    ///
    /// # Errors
    /// [`Error::Cache`] if the folder is not there or cannot be written; what was there stays.
    pub fn put(&self, key: &PlanKey, entry: &PlanEntry) -> Result<String> {
        let path = self.path(key);
        write_whole(&path, key, entry.bytes(), entry.manifest())
            .map_err(|source| Error::Cache {
                path: path.clone(),
                source,
            })
            .map(|()| name_of(&path))
    }

    /// Writes the bytes of a plan's kernels under the name of their file, and gives it.
    ///
    /// # Errors
    /// As [`PlanFolder::put`].
    pub fn put_kernels(&self, kernels: &KernelFile, bytes: &[u8]) -> Result<String> {
        let path = self.folder.join(name_of(kernels.path()));
        let written = write_whole(&path, kernels.key(), bytes, &[]);
        written.map_err(|source| Error::Cache {
            path: path.clone(),
            source,
        })?;
        Ok(name_of(&path))
    }

    /// The file of this name, which need not be there.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Copies a file that is kept as it is, if it is there; gives its name.
    ///
    /// # Errors
    /// As [`PlanFolder::put`].
    pub fn put_file(&self, source: &Path) -> Result<Option<String>> {
        let name = name_of(source);
        let path = self.file(&name);
        let copied = match fs::read(source) {
            Ok(bytes) => crate::files::write_and_rename(&path, &bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => Err(error),
        };
        copied.map_err(|source| Error::Cache { path, source })?;
        Ok(Some(name))
    }
}

/// Writes an entry under a temporary name and renames it.
pub(super) fn write_whole(
    path: &Path,
    key: &PlanKey,
    plan: &[u8],
    manifest: &[u8],
) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let (file, temporary) = super::eviction::temporary(folder, key)?.into_parts();
    let mut writer = EntryWriter::new(file, key)?;
    writer.write_all(plan)?;
    let file = writer.finish(manifest)?;
    // A name for a file whose bytes are not on disk would outlive a loss of power.
    file.sync_all()?;
    let whole = NamedTempFile::from_parts(file, temporary);
    whole.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
