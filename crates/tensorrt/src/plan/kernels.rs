//! Files that the library fills and wants back in the next run.
//!
//! They are smaller than plans, worth having and never needed: what is missing or damaged is as
//! if it had never been there.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::entry::PlanEntry;
use super::folder::write_whole;
use super::lock::FileLock;
use super::{PlanKey, eviction};
use crate::{Error, Result};

/// The kernels that TensorRT-RTX compiles when the engine of a plan first runs on a model of GPU.
/// They go with the plan.
///
/// The last process that writes them wins; what another one added is then compiled again.
///
/// ```
/// use tintype_tensorrt::plan::{PlanCache, PlanKey, Recipe};
/// use tintype_tensorrt_sys::{Abi, Newer};
///
/// # let folder = tempfile::tempdir()?;
/// let graph = tintype_ir::parse("graph g { input step %x: f32[2] output y = %x }")?;
/// let recipe = Recipe::new(Abi::of_number(10701, Newer::Refuse)?, "sm120");
/// let cache = PlanCache::new(folder.path());
/// let kernels = cache.kernels(&PlanKey::new(&graph, &recipe), "NVIDIA GeForce RTX 5090");
/// assert_eq!(kernels.read(), None);
/// kernels.write(b"kernels")?;
/// assert_eq!(kernels.read().as_deref(), Some(&b"kernels"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct KernelFile {
    path: PathBuf,
    key: PlanKey,
}

impl KernelFile {
    pub(super) fn new(folder: &Path, key: &PlanKey, gpu: &str) -> Self {
        // The plan's key comes first, by which the file is found when the plan goes.
        let file = format!("{key}.{}.kernels", plain(gpu));
        Self {
            path: folder.join(file),
            key: PlanKey::of_name(&format!("kernels of {key} on {gpu}")),
        }
    }

    /// The file, which need not be there.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn key(&self) -> &PlanKey {
        &self.key
    }

    /// The bytes that were written last; `None` if there are none or they are damaged.
    pub fn read(&self) -> Option<Vec<u8>> {
        let mut file = File::open(&self.path).ok()?;
        let read = PlanEntry::open(&mut file, &self.key);
        read.map(PlanEntry::into_bytes)
            .inspect_err(|reason| {
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
        // Under a lock, so that what a process leaves that is killed here is removed one day.
        let _lock = FileLock::wait(&eviction::lock_path(folder, &self.key), || ())?;
        write_whole(&self.path, &self.key, bytes, &[])
    }
}

/// A text that can be part of a file's name.
pub(super) fn plain(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '.';
    let plain = |c: char| {
        if is_plain(c) {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    text.chars().map(plain).collect()
}
