//! Which entries were used when, and which ones go.
//!
//! The last use of an entry is the time of modification of its file. It is set under the folder's
//! lock and always to a later time than that of every other entry, so that the order is that of
//! the uses even if the clock is turned back or two uses fall into one tick.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::NamedTempFile;

use super::PlanKey;
use super::lock::FileLock;

/// The lock of a key.
pub(super) fn lock_path(folder: &Path, key: &PlanKey) -> PathBuf {
    folder.join(format!("{key}.lock"))
}

/// A file to write an entry into. The key is locked.
pub(super) fn temporary(folder: &Path, key: &PlanKey) -> io::Result<NamedTempFile> {
    let prefix = format!("{key}.");
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(".tmp");
    // Plans are no secret: who may read the folder may read them.
    #[cfg(unix)]
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    #[cfg(unix)]
    builder.permissions(permissions);
    builder.tempfile_in(folder)
}

struct Entry {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

/// Makes the entry in `file` the one used last. The folder is locked.
pub(super) fn record_use(folder: &Path, file: &File) {
    if let Err(error) = try_record_use(folder, file) {
        tracing::debug!("{}: recording a use: {error}", folder.display());
    }
}

fn try_record_use(folder: &Path, file: &File) -> io::Result<()> {
    let latest = entries(folder)?.into_iter().map(|entry| entry.used).max();
    let Some(latest) = latest else {
        return file.set_modified(SystemTime::now());
    };
    // Some file systems keep seconds, or two of them.
    let steps = [1_000, 1_000_000, 1_000_000_000, 2_000_000_000];
    for step in steps.map(Duration::from_nanos) {
        file.set_modified(SystemTime::now().max(latest + step))?;
        if file.metadata()?.modified()? > latest {
            break;
        }
    }
    Ok(())
}

/// Removes what was used longest ago until the rest fits into `limit` bytes, all but `keep`; and
/// files of processes that ended while they wrote. The folder is locked.
pub(super) fn evict(folder: &Path, limit: u64, keep: Option<&Path>) -> io::Result<()> {
    remove_abandoned(folder)?;
    let mut entries = entries(folder)?;
    entries.sort_by(|a, b| a.used.cmp(&b.used).then_with(|| a.path.cmp(&b.path)));
    let mut total: u64 = entries.iter().map(|entry| entry.bytes).sum();
    for entry in entries {
        if total <= limit {
            break;
        }
        if keep == Some(&entry.path) {
            continue;
        }
        remove_kernels(folder, &entry.path);
        match fs::remove_file(&entry.path) {
            Ok(()) => tracing::debug!("{} goes: the cache is full", entry.path.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!("cannot remove {}: {error}", entry.path.display());
                continue;
            }
        }
        total -= entry.bytes;
    }
    Ok(())
}

/// Removes what the library compiled for a plan.
fn remove_kernels(folder: &Path, plan: &Path) {
    let Ok(items) = fs::read_dir(folder) else {
        return;
    };
    for path in items.flatten().map(|item| item.path()) {
        let is_kernels = path.extension() == Some(OsStr::new("kernels"));
        if is_kernels
            && key_of(&path) == key_of(plan)
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::warn!("cannot remove {}: {error}", path.display());
        }
    }
}

/// Removes files that were being written for `key`. The key is locked.
pub(super) fn remove_temporaries(folder: &Path, key: &PlanKey) {
    let temporaries = temporaries(folder).unwrap_or_default();
    for (_, path) in temporaries.iter().filter(|(other, _)| other == key) {
        if let Err(error) = fs::remove_file(path) {
            tracing::warn!("cannot remove {}: {error}", path.display());
        }
    }
}

/// A file that is being written belongs to whoever holds the lock of its key.
fn remove_abandoned(folder: &Path) -> io::Result<()> {
    for (key, _) in temporaries(folder)? {
        if let Ok(Some(_lock)) = FileLock::try_take(&lock_path(folder, &key)) {
            remove_temporaries(folder, &key);
        }
    }
    Ok(())
}

fn entries(folder: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for item in fs::read_dir(folder)? {
        let path = item?.path();
        if path.extension() != Some(OsStr::new("plan")) || key_of(&path).is_none() {
            continue;
        }
        // Another process may have removed it.
        let Ok(metadata) = fs::metadata(&path) else {
            continue;
        };
        entries.push(Entry {
            bytes: metadata.len(),
            used: metadata.modified()?,
            path,
        });
    }
    Ok(entries)
}

fn temporaries(folder: &Path) -> io::Result<Vec<(PlanKey, PathBuf)>> {
    let mut temporaries = Vec::new();
    for item in fs::read_dir(folder)? {
        let path = item?.path();
        let is_temporary = path.extension() == Some(OsStr::new("tmp"));
        if let (true, Some(key)) = (is_temporary, key_of(&path)) {
            temporaries.push((key, path));
        }
    }
    Ok(temporaries)
}

/// The key that a file's name begins with.
fn key_of(path: &Path) -> Option<PlanKey> {
    let name = path.file_name()?.to_str()?;
    PlanKey::from_hex(name.split('.').next()?)
}
