//! One plan as a file: what is in it, written and read piece by piece.
//!
//! ```text
//! magic 16 | plan's length 8 | manifest's length 8 | checksum 32 | plan | manifest
//! ```
//!
//! Lengths are little endian. The checksum covers the lengths and all that follows, and is keyed
//! with the plan's key, so that an entry under another name is as bad as a damaged one.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};

use super::PlanKey;

/// A plan that was found or has just been built: reads and seeks within the plan.
///
/// The file stays readable while this lives, also if the cache lets the entry go.
#[derive(Debug)]
pub struct PlanEntry {
    file: File,
    manifest: Vec<u8>,
    len: u64,
    position: u64,
    is_new: bool,
}

impl PlanEntry {
    /// What was stored beside the plan: the list of what must be set in it.
    pub fn manifest(&self) -> &[u8] {
        &self.manifest
    }

    /// The plan's length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the plan has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it was built by the call that gave it.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// The entry in a file; `Err` with the reason if it is not whole.
    pub(super) fn open(mut file: File, key: &PlanKey) -> Result<Self, String> {
        let size = file.metadata().map_err(|error| error.to_string())?.len();
        let mut header = [0; HEADER];
        let read = file.read_exact(&mut header);
        read.map_err(|_| format!("it has {size} bytes, fewer than a header"))?;
        let (magic, rest) = header.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err("it does not begin as a plan of this version".to_owned());
        }
        let (lengths, checksum) = rest.split_at(16);
        let length = |bytes: &[u8]| {
            bytes
                .try_into()
                .map(u64::from_le_bytes)
                .expect("eight bytes")
        };
        let (len, manifest_len) = (length(&lengths[..8]), length(&lengths[8..]));
        let expected = (HEADER as u64).checked_add(len);
        let expected = expected.and_then(|sum| sum.checked_add(manifest_len));
        if expected != Some(size) {
            return Err(format!(
                "it has {size} bytes, expected {len} of plan and {manifest_len} of manifest"
            ));
        }
        let (found, manifest) =
            hash(&mut file, key, [len, manifest_len]).map_err(|error| error.to_string())?;
        if found.as_bytes() != checksum {
            return Err("its checksum is wrong".to_owned());
        }
        Self::at_start(file, len, manifest, false).map_err(|error| error.to_string())
    }

    /// An entry that has just been written.
    pub(super) fn written(file: File, len: u64, manifest: Vec<u8>) -> io::Result<Self> {
        Self::at_start(file, len, manifest, true)
    }

    fn at_start(mut file: File, len: u64, manifest: Vec<u8>, is_new: bool) -> io::Result<Self> {
        file.seek(SeekFrom::Start(HEADER as u64))?;
        Ok(Self {
            file,
            manifest,
            len,
            position: 0,
            is_new,
        })
    }
}

/// The checksum of what follows the header, and the manifest. The plan goes through a buffer.
fn hash(
    file: &mut File,
    key: &PlanKey,
    [len, manifest_len]: [u64; 2],
) -> io::Result<(blake3::Hash, Vec<u8>)> {
    let mut hasher = blake3::Hasher::new_keyed(key.as_bytes());
    hasher.update_reader((&mut *file).take(len))?;
    // No longer than the file, as the lengths were compared with it.
    let mut manifest = Vec::new();
    file.take(manifest_len).read_to_end(&mut manifest)?;
    hasher.update(&manifest);
    Ok((checksum(hasher, len, manifest_len), manifest))
}

fn checksum(mut hasher: blake3::Hasher, len: u64, manifest_len: u64) -> blake3::Hash {
    hasher.update(&len.to_le_bytes());
    hasher.update(&manifest_len.to_le_bytes());
    hasher.finalize()
}

impl Read for PlanEntry {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let left = self.len.saturating_sub(self.position);
        let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = self.file.read(&mut bytes[..count])?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for PlanEntry {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.len.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        let in_file = position.and_then(|position| position.checked_add(HEADER as u64));
        let (Some(position), Some(in_file)) = (position, in_file) else {
            let message = "a place before the plan or beyond all files";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        };
        self.file.seek(SeekFrom::Start(in_file))?;
        self.position = position;
        Ok(position)
    }
}

/// Writes an entry. The library that builds a plan may go on after a failed write and report
/// success: the first failure is kept, and [`EntryWriter::finish`] gives it.
#[derive(Debug)]
pub(super) struct EntryWriter<W: Write + Seek> {
    file: BufWriter<W>,
    hasher: blake3::Hasher,
    len: u64,
    failure: Option<io::Error>,
}

impl<W: Write + Seek> EntryWriter<W> {
    /// A writer whose plan comes next; the header is written last.
    pub(super) fn new(file: W, key: &PlanKey) -> Self {
        let mut writer = Self {
            file: BufWriter::with_capacity(BUFFER, file),
            hasher: blake3::Hasher::new_keyed(key.as_bytes()),
            len: 0,
            failure: None,
        };
        let begun = writer.file.write_all(&[0; HEADER]);
        writer.failure = begun.err();
        writer
    }

    /// Why writing failed, if it did.
    pub(super) fn failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    /// Completes the file: manifest, then header.
    pub(super) fn finish(mut self, manifest: &[u8]) -> io::Result<Written<W>> {
        let len = self.len;
        self.write_all(manifest)?;
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let manifest_len = manifest.len() as u64;
        let mut header = Vec::with_capacity(HEADER);
        header.extend(MAGIC);
        header.extend(len.to_le_bytes());
        header.extend(manifest_len.to_le_bytes());
        header.extend(checksum(self.hasher, len, manifest_len).as_bytes());
        let mut file = self
            .file
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&header)?;
        file.flush()?;
        Ok(Written { file, len })
    }
}

impl<W: Write + Seek> Write for EntryWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(failure) = &self.failure {
            return Err(io::Error::new(failure.kind(), failure.to_string()));
        }
        match self.file.write(bytes) {
            Ok(count) => {
                self.hasher.update(&bytes[..count]);
                self.len += count as u64;
                Ok(count)
            }
            Err(error) => {
                let told = io::Error::new(error.kind(), error.to_string());
                if error.kind() != io::ErrorKind::Interrupted {
                    self.failure = Some(error);
                }
                Err(told)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A whole entry, and the length of its plan.
#[derive(Debug)]
pub(super) struct Written<W> {
    pub(super) file: W,
    pub(super) len: u64,
}

const MAGIC: &[u8; 16] = b"tintype plan  1\n";

/// Magic, two lengths, checksum.
const HEADER: usize = 64;

/// The library writes in pieces of any size.
const BUFFER: usize = 1 << 20;

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;
