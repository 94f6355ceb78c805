//! Reading of small files with a limit on their size.
//!
//! Knows nothing of what the files hold beyond JSON's syntax.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use crate::{Error, Result};

/// Reads a file of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let failed = |source: std::io::Error| match source.kind() {
        ErrorKind::NotFound => Error::Missing {
            path: path.to_owned(),
            expected: "a file".into(),
        },
        _ => Error::Read {
            path: path.to_owned(),
            source,
        },
    };
    let file = File::open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?.len();
    if found > limit {
        return Err(too_large(path, limit, found));
    }
    let mut bytes = Vec::new();
    // The limit holds too where the file grows meanwhile, or is no plain file.
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(too_large(path, limit, bytes.len() as u64));
    }
    Ok(bytes)
}

/// Reads a file as [`read`] does; `None` if there is none.
pub(crate) fn read_optional(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    match read(path, limit) {
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
