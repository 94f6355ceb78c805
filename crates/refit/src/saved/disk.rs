//! Files of a folder: written whole, named plainly, one writer at a time.
//!
//! What it is not: a judge of what the files hold.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use crate::{Error, Result};

/// A folder that nobody else writes to, or that nobody writes to, until it is dropped.
#[derive(Debug)]
pub(super) struct Locked {
    _file: Option<File>,
}

impl Locked {
    /// Waits until this is the only writer, and nobody reads the list.
    pub(super) fn to_write(folder: &Path) -> Result<Self> {
        let path = folder.join(LOCK);
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|error| Error::io(&path, "making the lock", error))?;
        let locked = file.lock();
        locked.map_err(|error| Error::io(&path, "locking", error))?;
        Ok(Self { _file: Some(file) })
    }

    /// Waits until nobody writes. A folder without a lock, or one that cannot be locked, as on
    /// some network drives, is read all the same.
    pub(super) fn to_read(folder: &Path) -> Self {
        let file = File::open(folder.join(LOCK)).ok();
        Self {
            _file: file.filter(|file| file.lock_shared().is_ok()),
        }
    }
}

/// Makes a folder and those above it.
pub(super) fn make_folder(folder: &Path) -> Result<()> {
    if folder.exists() && !folder.is_dir() {
        return Err(Error::saved(folder, "a folder", "a file"));
    }
    fs::create_dir_all(folder).map_err(|error| Error::io(folder, "making the folder", error))
}

/// These bytes under a name of the folder, when all of them are on disk.
pub(super) fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    write_with(folder, name, |path| fs::write(path, bytes))
}

/// What `fill` writes to the path that it is given, under a name of the folder, when all of it is
/// on disk.
pub(super) fn write_with(
    folder: &Path,
    name: &str,
    fill: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<()> {
    let path = folder.join(name);
    let temporary = folder.join(format!("{TEMPORARY}{name}"));
    let written = || {
        fill(&temporary)?;
        OpenOptions::new()
            .write(true)
            .open(&temporary)?
            .sync_all()?;
        fs::rename(&temporary, &path)?;
        sync_folder(folder)
    };
    written().map_err(|error| {
        // What cannot be removed now goes with the next save.
        let _ = fs::remove_file(&temporary);
        Error::io(&path, "writing", error)
    })
}

/// A name for a file must not be on disk before the file is.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

/// The bytes of a file that has at most so many.
pub(super) fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let failed = |error| Error::io(path, "reading", error);
    // Before opening, which would wait for the other end of a pipe.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(Error::saved(path, "a file", "something else"));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > most {
        let expected = format!("at most {most} bytes");
        return Err(Error::saved(path, expected, "more"));
    }
    Ok(bytes)
}

/// blake3 of a file, and its size.
pub(super) fn hash(path: &Path) -> Result<(u64, String)> {
    let failed = |error| Error::io(path, "reading", error);
    let mut file = File::open(path).map_err(failed)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 16];
    let mut size = 0;
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok((size, hasher.finalize().to_hex().to_string())),
            count => {
                hasher.update(&buffer[..count]);
                size += count as u64;
            }
        }
    }
}

/// Removes files of a folder by name; `is_needless` is asked of plain files alone.
pub(super) fn remove(folder: &Path, is_needless: impl Fn(&str) -> bool) {
    let Ok(items) = fs::read_dir(folder) else {
        return;
    };
    for item in items.flatten() {
        let is_file = item.file_type().is_ok_and(|kind| kind.is_file());
        let name = item.file_name();
        let Some(name) = name.to_str() else { continue };
        if is_file
            && is_needless(name)
            && let Err(error) = fs::remove_file(item.path())
        {
            tracing::warn!("cannot remove {}: {error}", item.path().display());
        }
    }
}

/// Whether a name is that of a file that is being written, or was when its process ended.
pub(super) fn is_temporary(name: &str) -> bool {
    // Files of tensors are first written beside their name under one that the library chooses.
    let is_of_library = name.strip_prefix(".tmp").is_some_and(|rest| {
        rest.len() == 6 && rest.bytes().all(|byte| byte.is_ascii_alphanumeric())
    });
    is_of_library || name.starts_with(TEMPORARY)
}

/// Whether a name from a list is a plain name of a file and no way to another folder.
pub(super) fn is_plain(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let first = components.next();
    matches!(first, Some(Component::Normal(only)) if only == name)
        && components.next().is_none()
        && !name.contains(['\\', ':', '\0'])
        && name.len() <= LONGEST_NAME
}

/// How a file is told from a folder: by a path from there if it lies in or beside the folder, so
/// that both can be moved together, else by its absolute path.
pub(super) fn path_from(folder: &Path, file: &Path) -> Result<String> {
    let failed = |error| Error::io(file, "finding", error);
    let folder = fs::canonicalize(folder).map_err(failed)?;
    let file_name = file.file_name().unwrap_or_default();
    let parent = file
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    // The file itself may be a link into a store that has no readable names.
    let parent = fs::canonicalize(parent.unwrap_or(Path::new("."))).map_err(failed)?;
    let absolute = parent.join(file_name);
    let beside = folder.parent().unwrap_or(&folder);
    let relative = match (
        absolute.strip_prefix(&folder),
        absolute.strip_prefix(beside),
    ) {
        (Ok(inside), _) => Some(inside.to_owned()),
        (_, Ok(beside)) => Some(Path::new("..").join(beside)),
        _ => None,
    };
    let told = relative.as_ref().unwrap_or(&absolute).to_str();
    let told = told.ok_or_else(|| Error::saved(file, "a path in UTF-8", "another"))?;
    Ok(if relative.is_some() && cfg!(windows) {
        told.replace('\\', "/")
    } else {
        told.to_owned()
    })
}

/// The file that a path of a list means; nothing for one that leads elsewhere than [`path_from`]
/// would.
pub(super) fn path_to(folder: &Path, path: &str) -> Option<PathBuf> {
    let told = Path::new(path);
    if told.is_absolute() {
        let is_straight = !told
            .components()
            .any(|component| matches!(component, Component::ParentDir));
        return is_straight.then(|| told.to_owned());
    }
    let mut names = 0;
    for (index, component) in told.components().enumerate() {
        match component {
            Component::ParentDir if index == 0 => {}
            Component::Normal(_) => names += 1,
            _ => return None,
        }
    }
    (names > 0).then(|| folder.join(told))
}

/// Held while a list is read or written; it stays.
const LOCK: &str = "module.lock";
const TEMPORARY: &str = ".tintype-new-";
const LONGEST_NAME: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_in_and_beside_the_folder_are_told_from_there() {
        let root = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(root.path()).unwrap();
        let folder = root.join("a/module");
        fs::create_dir_all(folder.join("inner")).unwrap();
        fs::create_dir_all(root.join("a/beside")).unwrap();
        let file = |name: &str| {
            fs::write(root.join(name), "").unwrap();
            root.join(name)
        };
        let told = |name: &str| path_from(&folder, &file(name)).unwrap();
        assert_eq!(told("a/module/inner/w"), "inner/w");
        assert_eq!(told("a/beside/w"), "../beside/w");
        assert_eq!(told("a/w"), "../w");
        assert_eq!(Path::new(&told("w")), root.join("w"));
        for name in ["a/module/inner/w", "a/beside/w", "a/w", "w"] {
            let found = path_to(&folder, &told(name)).unwrap();
            assert_eq!(fs::canonicalize(found).unwrap(), root.join(name));
        }
    }

    #[test]
    fn paths_that_lead_elsewhere_are_none() {
        let folder = Path::new("/folder");
        for path in [
            "../../w",
            "a/../w",
            "..",
            "",
            "/a/../w",
            "a/../../w",
            "./..",
        ] {
            assert_eq!(path_to(folder, path), None, "{path}");
        }
        for name in ["../w", "a/b", "", ".", "..", "/w", "a\\b", "c:w", "w/"] {
            assert!(!is_plain(name), "{name}");
        }
        assert!(is_plain("graph-1.txt") && is_plain("a b"));
    }

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "a", b"one").unwrap();
        let failing = |path: &Path| {
            fs::write(path, "tw")?;
            Err(io::Error::other("full"))
        };
        let error = write_with(folder.path(), "a", failing).unwrap_err();
        assert!(error.to_string().contains("full"), "{error}");
        assert_eq!(fs::read(folder.path().join("a")).unwrap(), b"one");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(read(&folder.path().join("a"), 2).is_err());
    }
}
