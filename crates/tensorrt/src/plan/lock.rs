//! Locks between processes, and between threads of one.
//!
//! A lock is a file that is made to be locked and removed afterwards. The system frees it when
//! its process ends, however that happens.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub(super) struct FileLock {
    file: File,
    path: PathBuf,
}

impl FileLock {
    /// Waits until the lock can be taken; `waits` is called once if that is not at once.
    pub(super) fn wait(path: &Path, waits: impl FnOnce()) -> io::Result<Self> {
        if let Some(lock) = Self::try_take(path)? {
            return Ok(lock);
        }
        waits();
        loop {
            let file = open(path)?;
            file.lock()?;
            if let Some(lock) = Self::taken(file, path) {
                return Ok(lock);
            }
        }
    }

    /// The lock, unless another holds it.
    pub(super) fn try_take(path: &Path) -> io::Result<Option<Self>> {
        loop {
            let file = open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            if let Some(lock) = Self::taken(file, path) {
                return Ok(Some(lock));
            }
        }
    }

    /// The holder before may have removed the file between our opening and locking it: what we
    /// then hold is no longer the lock of this name.
    fn taken(file: File, path: &Path) -> Option<Self> {
        is_at(&file, path).then(|| Self {
            file,
            path: path.to_owned(),
        })
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Where an open file cannot be removed it stays, and can be locked again.
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!("{}: {error}", self.path.display());
        }
        if let Err(error) = self.file.unlock() {
            tracing::debug!("{}: {error}", self.path.display());
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
}

/// Whether an open file is the one that lies at `path` now.
#[cfg(unix)]
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => open.dev() == there.dev() && open.ino() == there.ino(),
        _ => false,
    }
}

/// Elsewhere an open file is neither removed nor replaced.
#[cfg(not(unix))]
pub(super) fn is_at(_file: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn one_holds_the_lock_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.lock");
        let (inside, rounds) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let lock = FileLock::wait(&path, || ()).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        rounds.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        assert_eq!(rounds.into_inner(), 1600);
        assert!(!path.exists(), "the file of a lock goes with it");
    }

    #[test]
    fn a_lock_that_is_held_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.lock");
        let held = FileLock::try_take(&path).unwrap().unwrap();
        assert!(FileLock::try_take(&path).unwrap().is_none());
        drop(held);
        assert!(FileLock::try_take(&path).unwrap().is_some());
    }
}
