//! Files that the library fills and wants back in the next run.
//!
//! They are smaller than plans, worth having and never needed: what is missing or damaged is as
//! if it had never been there.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use tintype_tensorrt_sys::Abi;

use super::entry::{EntryWriter, PlanEntry};
use super::lock::FileLock;
use super::{PlanKey, eviction};
use crate::{Error, Result};

/// What the library keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kept {
    /// Kernels that TensorRT-RTX compiles for a GPU when the engine of this plan first runs
    /// there. They go with the plan.
    Runtime(PlanKey),
    /// Times that TensorRT measured while it built.
    Timing,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Runtime(key) => return write!(f, "{key}.runtime"),
            Self::Timing => "timing",
        })
    }
}

/// A file of one kind for one version of the library on one model of GPU.
///
/// The last process that writes it wins; what another one added is then made again.
///
/// ```
/// use tintype_tensorrt::plan::{Kept, PlanCache};
/// use tintype_tensorrt_sys::{Abi, Newer};
///
/// # let folder = tempfile::tempdir()?;
/// let cache = PlanCache::new(folder.path());
/// let abi = Abi::of_number(10701, Newer::Refuse)?;
/// let kept = cache.kept(Kept::Timing, abi, "NVIDIA GeForce RTX 5090 sm120");
/// assert_eq!(kept.read(), None);
/// kept.write(b"kernels")?;
/// assert_eq!(kept.read().as_deref(), Some(&b"kernels"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct KeptFile {
    path: PathBuf,
    key: PlanKey,
}

impl KeptFile {
    pub(super) fn new(folder: &Path, kind: Kept, abi: Abi, gpu: &str) -> Self {
        let name = format!("{kind} {abi} {gpu}");
        // Those of a plan begin with its key, by which they are found when the plan goes.
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '.';
        let file: String = name
            .chars()
            .map(|c| {
                if plain(c) {
                    c.to_ascii_lowercase()
                } else {
                    '-'
                }
            })
            .collect();
        Self {
            path: folder.join(format!("{file}.kept")),
            key: PlanKey::of_name(&name),
        }
    }

    /// The file, which need not be there.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes that were written last; `None` if there are none or they are damaged.
    pub fn read(&self) -> Option<Vec<u8>> {
        let file = File::open(&self.path).ok()?;
        let read = PlanEntry::open(file, &self.key).and_then(|mut entry| {
            let mut bytes = Vec::new();
            let read = entry.read_to_end(&mut bytes);
            read.map(|_| bytes).map_err(|error| error.to_string())
        });
        read.inspect_err(|reason| {
            tracing::warn!(
                "{} is damaged and is made anew: {reason}",
                self.path.display()
            );
        })
        .ok()
    }

    /// Keeps these bytes instead of those before.
    ///
    /// # Errors
    /// [`Error::Cache`] if they cannot be written; what was there before stays.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        self.try_write(bytes).map_err(|source| Error::Cache {
            path: self.path.clone(),
            source,
        })
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        // Under its lock, so that what a process leaves that is killed here is removed one day.
        let _lock = FileLock::wait(&eviction::lock_path(folder, &self.key), || ())?;
        let temporary = eviction::temporary(folder, &self.key)?;
        let (file, temporary) = temporary.into_parts();
        let mut writer = EntryWriter::new(file, &self.key);
        writer.write_all(bytes)?;
        let written = writer.finish(&[])?;
        written.file.sync_all()?;
        let whole = tempfile::NamedTempFile::from_parts(written.file, temporary);
        whole.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }
}
