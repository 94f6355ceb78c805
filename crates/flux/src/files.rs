//! Reading of small files with a limit on their size, from a folder or from the program.
//!
//! Knows nothing of what the files hold beyond JSON's syntax.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::path::Path;

use tintype_weights::ModelFiles;

use crate::{Error, Result};

/// Reads a file of at most `limit` bytes.
pub(crate) fn read(
    files: &ModelFiles,
    name: impl AsRef<Path>,
    limit: u64,
) -> Result<Cow<'static, [u8]>> {
    let name = name.as_ref();
    let path = &files.path(name);
    let failed = |source: std::io::Error| match source.kind() {
        ErrorKind::NotFound => Error::Missing {
            path: path.clone(),
            expected: "a file".into(),
        },
        _ => Error::Read {
            path: path.clone(),
            source,
        },
    };
    let found = files.size(name).map_err(failed)?;
    if found > limit {
        return Err(too_large(path, limit, found));
    }
    let bytes = files.read(name, limit + 1).map_err(failed)?;
    // A file may grow meanwhile.
    if bytes.len() as u64 > limit {
        return Err(too_large(path, limit, bytes.len() as u64));
    }
    Ok(bytes)
}

/// Reads a file that belongs to no model as [`read`] does.
pub(crate) fn read_path(path: &Path, limit: u64) -> Result<Cow<'static, [u8]>> {
    read(&ModelFiles::folder(""), path, limit)
}

/// Reads a file as [`read`] does; `None` if there is none.
pub(crate) fn read_optional(
    files: &ModelFiles,
    name: &str,
    limit: u64,
) -> Result<Option<Cow<'static, [u8]>>> {
    match read(files, name, limit) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Error::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Parses the object that a JSON file must hold at its top.
pub(crate) fn json_object(
    bytes: &[u8],
    path: &Path,
) -> Result<serde_json::Map<String, serde_json::Value>> {
    serde_json::from_slice(bytes).map_err(|source| Error::Json {
        path: path.to_owned(),
        source,
    })
}

fn too_large(path: &Path, limit: u64, found: u64) -> Error {
    Error::TooLarge {
        path: path.to_owned(),
        limit,
        found,
    }
}

/// The most that is read of a configuration file, in bytes.
pub(crate) const CONFIG_LIMIT: u64 = 16 << 20;
/// The most that is read of a tokenizer's file, in bytes.
pub(crate) const TOKENIZER_LIMIT: u64 = 256 << 20;
