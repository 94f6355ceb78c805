//! A file mapped into memory: the one place of this crate that is not safe Rust.
//!
//! Not a parser and not a cache: it hands out bytes and knows whether the file
//! on disk is still the one that was mapped.
//!
//! ```text
//! let mapping = Mapping::open(path)?;   // pages are read when touched
//! mapping.verify()?;                    // size and time are as they were
//! ```

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::Mmap;
use tintype_tensor::ByteOwner;

use crate::{Error, Result};

/// The read-only bytes of one file.
#[derive(Debug)]
pub(crate) struct Mapping {
    path: PathBuf,
    file: File,
    modified: Option<SystemTime>,
    bytes: Mmap,
}

impl Mapping {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        // Before opening, which would wait for the other end of a pipe.
        let metadata = std::fs::metadata(path);
        let metadata = metadata.map_err(|error| Error::io(path, "opening", error))?;
        if !metadata.is_file() {
            return Err(Error::file(path, "a file", "something else"));
        }
        let file = File::open(path).map_err(|error| Error::io(path, "opening", error))?;
        let metadata = file
            .metadata()
            .map_err(|error| Error::io(path, "reading the size", error))?;
        // A mapping of nothing is an error on some systems, with a poor message.
        if metadata.len() == 0 {
            return Err(Error::file(path, "a safetensors file", "an empty one"));
        }
        let bytes = map(&file).map_err(|error| Error::io(path, "mapping", error))?;
        if bytes.len() as u64 != metadata.len() {
            let expected = format!("{} bytes", metadata.len());
            return Err(Error::file(path, expected, format!("{}", bytes.len())));
        }
        Ok(Self {
            path: path.to_owned(),
            modified: metadata.modified().ok(),
            file,
            bytes,
        })
    }

    pub(crate) fn modified(&self) -> Option<SystemTime> {
        self.modified
    }

    /// Asks the open file, not its path: a file that was replaced by renaming
    /// another over it is still whole under this mapping.
    pub(crate) fn verify(&self) -> Result<()> {
        let metadata = self
            .file
            .metadata()
            .map_err(|error| Error::io(&self.path, "reading the size", error))?;
        if metadata.len() != self.bytes.len() as u64 {
            let expected = format!("{} bytes, as when it was opened", self.bytes.len());
            return Err(Error::file(
                &self.path,
                expected,
                format!("{}", metadata.len()),
            ));
        }
        if metadata.modified().ok() != self.modified {
            let expected = "a file unchanged since it was opened";
            return Err(Error::file(
                &self.path,
                expected,
                "a later modification time",
            ));
        }
        Ok(())
    }
}

impl ByteOwner for Mapping {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The only `unsafe` block of this crate.
#[allow(unsafe_code, reason = "a mapping has no safe interface")]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the mapping is private and read-only, so nothing in this process
    // writes through it. Another process may write to or truncate the file:
    // then values change or the process gets SIGBUS. Reading 24 GB instead of
    // mapping them is worse, every loader of such files accepts this, and
    // checkpoints are replaced by renaming. The bytes are only ever read as
    // plain numbers, for which every bit pattern is valid, and every offset
    // was checked against the length of this mapping, which does not change.
    unsafe { Mmap::map(file) }
}
