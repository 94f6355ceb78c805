//! One plan as a file: what is in it, written piece by piece.
//!
//! ```text
//! magic 16 | plan's length 8 | its length in the file 8 | manifest's length 8 | checksum 32 | plan | manifest
//! ```
//!
//! The plan is a zstd frame: a plan without weights says the same for each block of a model, so
//! that a hundredth of its bytes is left. Lengths are little endian. The checksum covers them and
//! all that follows, and is keyed with the plan's key, so that an entry under another name is as
//! bad as a damaged one.

use std::fs::File;
use std::io::{self, BufWriter, Cursor, Read, Seek, SeekFrom, Write};

use zstd::stream::read::Decoder;
use zstd::stream::write::Encoder;

use super::PlanKey;

/// A plan that was found or has just been built: reads and seeks within the plan.
///
/// It is in memory, also if the cache lets the entry go.
#[derive(Debug)]
pub struct PlanEntry {
    plan: Cursor<Vec<u8>>,
    manifest: Vec<u8>,
    is_new: bool,
}

impl PlanEntry {
    /// What was stored beside the plan: the list of what must be set in it.
    pub fn manifest(&self) -> &[u8] {
        &self.manifest
    }

    /// The plan's length in bytes.
    pub fn len(&self) -> u64 {
        self.plan.get_ref().len() as u64
    }

    /// Whether the plan has no bytes.
    pub fn is_empty(&self) -> bool {
        self.plan.get_ref().is_empty()
    }

    /// Whether it was built by the call that gave it.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// The plan.
    pub(super) fn bytes(&self) -> &[u8] {
        self.plan.get_ref()
    }

    /// The plan.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.plan.into_inner()
    }

    /// The entry in a file; `Err` with the reason if it is not whole.
    pub(super) fn open(file: &mut File, key: &PlanKey) -> Result<Self, String> {
        let told = |error: io::Error| error.to_string();
        let size = file.metadata().map_err(told)?.len();
        let mut header = [0; HEADER];
        file.seek(SeekFrom::Start(0)).map_err(told)?;
        let read = file.read_exact(&mut header);
        read.map_err(|_| format!("it has {size} bytes, fewer than a header"))?;
        let (magic, rest) = header.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err("it does not begin as a plan of this version".to_owned());
        }
        let (lengths, checksum) = rest.split_at(24);
        let mut lengths = lengths.chunks_exact(8).map(|bytes| {
            let bytes = bytes.try_into().expect("eight bytes");
            u64::from_le_bytes(bytes)
        });
        let lengths = [(); 3].map(|()| lengths.next().expect("three lengths"));
        let [len, stored, manifest_len] = lengths;
        let expected = (HEADER as u64).checked_add(stored);
        let expected = expected.and_then(|sum| sum.checked_add(manifest_len));
        if expected != Some(size) {
            return Err(format!(
                "it has {size} bytes, expected {stored} of plan and {manifest_len} of manifest"
            ));
        }
        // No longer than the file, as the lengths were compared with it.
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(told)?;
        let mut hasher = blake3::Hasher::new_keyed(key.as_bytes());
        hasher.update(&bytes);
        if sealed(hasher, lengths).as_bytes() != checksum {
            return Err("its checksum is wrong".to_owned());
        }
        let manifest = bytes.split_off(bytes.len() - manifest_len as usize);
        let mut plan = Vec::new();
        let decoder = Decoder::with_buffer(&bytes[..]).map_err(told)?;
        let decoded = decoder.take(len.saturating_add(1)).read_to_end(&mut plan);
        match decoded.map_err(told)? as u64 {
            found if found == len => Ok(Self {
                plan: Cursor::new(plan),
                manifest,
                is_new: false,
            }),
            found => Err(format!("its plan has {found} bytes, expected {len}")),
        }
    }

    /// The same of an entry that has just been written.
    pub(super) fn written(mut file: File, key: &PlanKey) -> io::Result<Self> {
        let entry = Self::open(&mut file, key).map_err(io::Error::other)?;
        Ok(Self {
            is_new: true,
            ..entry
        })
    }
}

/// The checksum of what was hashed and the lengths.
fn sealed(mut hasher: blake3::Hasher, lengths: [u64; 3]) -> blake3::Hash {
    for length in lengths {
        hasher.update(&length.to_le_bytes());
    }
    hasher.finalize()
}

impl Read for PlanEntry {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.plan.read(bytes)
    }
}

impl Seek for PlanEntry {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.plan.seek(to)
    }
}

/// Writes an entry. The library that builds a plan may go on after a failed write and report
/// success: the first failure is kept, and [`EntryWriter::finish`] gives it.
pub(super) struct EntryWriter<W: Write + Seek> {
    encoder: Encoder<'static, Hashed<W>>,
    len: u64,
    failure: Option<io::Error>,
}

/// What goes into the file, behind a checksum.
struct Hashed<W: Write> {
    file: BufWriter<W>,
    hasher: blake3::Hasher,
    len: u64,
}

impl<W: Write + Seek> EntryWriter<W> {
    /// A writer whose plan comes next; the header is written last.
    pub(super) fn new(file: W, key: &PlanKey) -> io::Result<Self> {
        let mut file = BufWriter::with_capacity(BUFFER, file);
        file.write_all(&[0; HEADER])?;
        let hashed = Hashed {
            file,
            hasher: blake3::Hasher::new_keyed(key.as_bytes()),
            len: 0,
        };
        Ok(Self {
            encoder: Encoder::new(hashed, LEVEL)?,
            len: 0,
            failure: None,
        })
    }

    /// Why writing failed, if it did.
    pub(super) fn failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    /// Completes the file: manifest, then header.
    pub(super) fn finish(self, manifest: &[u8]) -> io::Result<W> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let mut hashed = self.encoder.finish()?;
        let lengths = [self.len, hashed.len, manifest.len() as u64];
        hashed.write_all(manifest)?;
        let mut header = MAGIC.to_vec();
        header.extend(lengths.map(u64::to_le_bytes).as_flattened());
        header.extend(sealed(hashed.hasher, lengths).as_bytes());
        let file = hashed.file.into_inner();
        let mut file = file.map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&header)?;
        file.flush()?;
        Ok(file)
    }
}

impl<W: Write + Seek> Write for EntryWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(failure) = &self.failure {
            return Err(io::Error::new(failure.kind(), failure.to_string()));
        }
        match self.encoder.write(bytes) {
            Ok(count) => {
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
        self.encoder.flush()
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.len += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

const MAGIC: &[u8; 16] = b"tintype plan  2\n";

/// Magic, three lengths, checksum.
const HEADER: usize = 72;

/// Of compression: 52 MB of plan become 0.3 MB in 60 ms, and higher levels gain little.
const LEVEL: i32 = 3;

/// The library writes in pieces of any size.
const BUFFER: usize = 1 << 20;

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;
