//! The hub's cache on disk: blobs by checksum, snapshots that point to them, references.
//!
//! The layout is that of the hub's own tools, so both see each other's files. A reference is
//! written after everything that it refers to; nothing here downloads.
//!
//! ```text
//! models--org--name/refs/main                        the commit
//! models--org--name/blobs/<etag>                     the bytes
//! models--org--name/snapshots/<commit>/vae/config.json -> ../../../blobs/<etag>
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::model_id::{ModelId, is_safe_part};
use super::remote::RemoteFile;
use super::select;
use super::settings::Settings;

/// The part of the cache that belongs to one repository.
pub(crate) struct Store {
    cache: CacheRepo,
    root: PathBuf,
    locks: PathBuf,
    revision: String,
}

impl Store {
    /// The store of `model` under the cache folder; touches no file.
    pub(crate) fn new(settings: &Settings, model: &ModelId) -> Self {
        let repo = Repo::with_revision(model.name.clone(), RepoType::Model, model.revision.clone());
        let folder = repo.folder_name();
        Self {
            cache: Cache::new(settings.cache.clone()).repo(repo),
            root: settings.cache.join(&folder),
            locks: settings.cache.join(".locks").join(folder),
            revision: model.revision.clone(),
        }
    }

    /// The folder of this repository in the cache.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The snapshot of the revision, if the cache has all of it.
    pub(crate) fn complete_snapshot(&self) -> Option<PathBuf> {
        let commit = match fs::read_to_string(self.reference()) {
            Ok(commit) => commit.trim().to_owned(),
            Err(_) => self.revision.clone(),
        };
        let folder = is_safe_part(&commit).then(|| self.snapshot(&commit))?;
        select::is_complete(&folder).then_some(folder)
    }

    /// The folder with the files of `commit`.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.cache.pointer_path(commit)
    }

    /// Where the bytes of `file` lie once they are complete.
    pub(crate) fn blob(&self, file: &RemoteFile) -> PathBuf {
        self.cache.blob_path(&file.etag)
    }

    /// Whether the bytes of `file` are there in full.
    pub(crate) fn has_blob(&self, file: &RemoteFile) -> bool {
        fs::metadata(self.blob(file))
            .is_ok_and(|data| data.is_file() && file.size.is_none_or(|size| size == data.len()))
    }

    /// Waits until no other process fetches `file`; the lock ends with the returned value.
    pub(crate) fn lock(&self, file: &RemoteFile) -> Result<File> {
        let path = self.locks.join(format!("{}.lock", file.etag));
        create_parent(&path)?;
        let lock =
            File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        lock.lock()
            .with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(lock)
    }

    /// Makes the blob of `file` visible under its name in the snapshot of `commit`.
    pub(crate) fn link(&self, commit: &str, file: &RemoteFile) -> Result<()> {
        let pointer = self.snapshot(commit).join(&file.name);
        create_parent(&pointer)?;
        let blob = self.blob(file);
        let depth = 2 + file.name.matches('/').count();
        let target = Path::new(&"../".repeat(depth))
            .join("blobs")
            .join(&file.etag);
        place(&blob, &target, &pointer)
            .with_context(|| format!("cannot link {} to {}", pointer.display(), blob.display()))
    }

    /// Notes that the revision is `commit` and complete. A commit needs no such note.
    pub(crate) fn write_reference(&self, commit: &str) -> Result<()> {
        if self.revision == commit {
            return Ok(());
        }
        let path = self.reference();
        let write = || -> io::Result<()> {
            let folder = path.parent().unwrap_or(&self.root);
            fs::create_dir_all(folder)?;
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            io::Write::write_all(&mut file, commit.as_bytes())?;
            file.persist(&path)?;
            Ok(())
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    fn reference(&self) -> PathBuf {
        self.root.join("refs").join(&self.revision)
    }
}

/// Creates the folder that `path` lies in.
pub(crate) fn create_parent(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// Puts a link under a temporary name and renames it, so that an older one is replaced whole.
#[cfg(unix)]
fn place(_blob: &Path, target: &Path, pointer: &Path) -> io::Result<()> {
    let temporary = temporary_name(pointer);
    remove_if_there(&temporary)?;
    std::os::unix::fs::symlink(target, &temporary)?;
    fs::rename(&temporary, pointer)
}

/// Where links need privileges the bytes are shared by a hard link instead.
#[cfg(not(unix))]
fn place(blob: &Path, _target: &Path, pointer: &Path) -> io::Result<()> {
    let temporary = temporary_name(pointer);
    remove_if_there(&temporary)?;
    fs::hard_link(blob, &temporary)?;
    fs::rename(&temporary, pointer)
}

fn temporary_name(pointer: &Path) -> PathBuf {
    let mut name = pointer.as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    PathBuf::from(name)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
