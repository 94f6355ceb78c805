//! One memory-mapped safetensors file.
//!
//! Opening checks the whole header and reads none of the data; a tensor is a
//! view of the mapping. Not a writer, and it knows no names of models.
//!
//! A file must not be truncated or written in place while it is open: its pages
//! are read when they are touched, so values would change or, behind the new
//! end, the process would be ended by the system (SIGBUS). Replace files by
//! renaming, which leaves the mapped one whole. [`SafetensorsFile::verify`]
//! tells whether the file is still the one that was opened.
//!
//! ```no_run
//! # fn main() -> Result<(), tintype_weights::Error> {
//! let file = tintype_weights::SafetensorsFile::open("ae.safetensors")?;
//! for (name, entry) in file.entries() {
//!     println!("{name}: {}{}", entry.dtype, entry.shape);
//! }
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tintype_tensor::{ByteOwner, Tensor};

use crate::error::shown;
use crate::header::{Header, StorageDType, TensorEntry};
use crate::mapping::Mapping;
use crate::{Error, Result};

/// An open safetensors file. Cloning is cheap; tensors keep the mapping alive.
#[derive(Debug, Clone)]
pub struct SafetensorsFile {
    path: Arc<Path>,
    bytes: Bytes,
    header: Arc<Header>,
}

#[derive(Debug, Clone)]
enum Bytes {
    Mapped(Arc<Mapping>),
    Memory(Arc<InMemory>),
}

/// What tells one checkpoint file from another without reading its data.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileIdentity {
    /// Where it was opened; not part of what makes two files the same.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// The time of the last modification, where the file system knows it.
    pub modified: Option<SystemTime>,
    /// blake3 of the header's JSON: names, dtypes, shapes and offsets.
    pub header_hash: [u8; 32],
}

impl SafetensorsFile {
    /// Maps a file and checks its header.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mapping = Mapping::open(path)?;
        Self::parse(path, Bytes::Mapped(Arc::new(mapping)))
    }

    /// A file that is in memory already, for example one embedded in a program
    /// (`&'static [u8]`) or a `Vec<u8>`. `label` stands for its path in messages.
    pub fn from_bytes<T>(label: impl AsRef<Path>, bytes: T) -> Result<Self>
    where
        T: AsRef<[u8]> + Send + Sync + 'static,
    {
        let bytes = InMemory(Box::new(bytes));
        Self::parse(label.as_ref(), Bytes::Memory(Arc::new(bytes)))
    }

    fn parse(path: &Path, bytes: Bytes) -> Result<Self> {
        let header = Header::parse(path, bytes.as_slice())?;
        Ok(Self {
            path: path.into(),
            bytes,
            header: Arc::new(header),
        })
    }

    /// The path that was opened, or the label of a file in memory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The strings under `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.header.metadata
    }

    /// Names in order, each with where and how it is stored.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (&str, &TensorEntry)> {
        self.header
            .tensors
            .iter()
            .map(|(name, entry)| (name.as_str(), entry))
    }

    /// Where and how `name` is stored.
    pub fn entry(&self, name: &str) -> Option<&TensorEntry> {
        self.header.tensors.get(name)
    }

    /// The tensor, as a view of the mapping; F64 is converted to f32.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let entry = self.entry(name).ok_or_else(|| Error::Missing {
            origin: self.path().display().to_string(),
            tensor: shown(name),
            count: self.header.tensors.len(),
        })?;
        let dtype = entry
            .dtype
            .read_as()
            .ok_or_else(|| Error::UnsupportedDType {
                file: self.path().to_owned(),
                tensor: shown(name),
                dtype: entry.dtype.name(),
            })?;
        let tensor = if entry.dtype == StorageDType::F64 {
            let bytes = &self.bytes.as_slice()[entry.range.clone()];
            Tensor::from_f32(entry.shape.clone(), f32_from_f64(bytes))
        } else {
            let owner = self.bytes.owner();
            Tensor::from_owner(dtype, entry.shape.clone(), owner, entry.range.clone())
        };
        tensor.map_err(|source| Error::Value {
            origin: self.path().display().to_string(),
            tensor: shown(name),
            source,
        })
    }

    /// An error if the file's size or time is no longer what it was at opening.
    pub fn verify(&self) -> Result<()> {
        match &self.bytes {
            Bytes::Mapped(mapping) => mapping.verify(),
            Bytes::Memory(_) => Ok(()),
        }
    }

    /// Whether its bytes were never on disk, so that its path is but a label.
    pub fn is_in_memory(&self) -> bool {
        matches!(self.bytes, Bytes::Memory(_))
    }

    /// Whether `self` and `other` are handles of one opening.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.header, &other.header)
    }

    /// Size, time and header hash.
    pub fn identity(&self) -> FileIdentity {
        FileIdentity {
            path: self.path().to_owned(),
            size: self.bytes.as_slice().len() as u64,
            modified: self.bytes.modified(),
            header_hash: *self.header.hash.as_bytes(),
        }
    }
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(mapping) => mapping.bytes(),
            Self::Memory(bytes) => bytes.bytes(),
        }
    }

    fn owner(&self) -> Arc<dyn ByteOwner> {
        match self {
            Self::Mapped(mapping) => mapping.clone(),
            Self::Memory(bytes) => bytes.clone(),
        }
    }

    fn modified(&self) -> Option<SystemTime> {
        match self {
            Self::Mapped(mapping) => mapping.modified(),
            Self::Memory(_) => None,
        }
    }
}

struct InMemory(Box<dyn AsRef<[u8]> + Send + Sync>);

impl ByteOwner for InMemory {
    fn bytes(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

impl fmt::Debug for InMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes in memory", self.bytes().len())
    }
}

fn f32_from_f64(bytes: &[u8]) -> Vec<f32> {
    let (chunks, _) = bytes.as_chunks::<8>();
    chunks
        .iter()
        .map(|&chunk| f64::from_le_bytes(chunk) as f32)
        .collect()
}
