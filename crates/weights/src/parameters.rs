//! What graphs read their weights from.
//!
//! A value, not a shared cell: a clone is cheap and keeps seeing what it saw
//! when it was made. Reading is lazy and copies nothing unless the dtype
//! differs, halves are swapped, or a scale is applied. How parameters change is
//! in `edit` and `change`; how they come to be, in `builder`.
//!
//! ```no_run
//! # fn main() -> Result<(), tintype_weights::Error> {
//! use tintype_tensor::{DType, Shape};
//! let parameters = tintype_weights::Parameters::open("FLUX.1-dev/transformer")?;
//! let weight = parameters.expect("x_embedder.weight", DType::BF16, &Shape::from([3072, 64]))?;
//! # Ok(())
//! # }
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tintype_tensor::{DType, Shape, Tensor};

use crate::entry::{Entries, Entry};
use crate::error::shown;
use crate::source::Base;
use crate::{
    Checkpoint, CheckpointIdentity, ContentHash, Error, ParameterIdentity, ParametersBuilder,
    Result, SafetensorsFile,
};

/// Named tensors in files and in memory. Cloning is cheap.
#[derive(Debug, Clone, Default)]
pub struct Parameters {
    pub(crate) entries: Arc<Entries>,
}

/// What is known of a parameter without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParameterInfo {
    /// The dtype that [`Parameters::get`] gives.
    pub dtype: DType,
    /// Sizes of the axes, outermost first.
    pub shape: Shape,
    /// The file that holds it, if one does.
    pub file: Option<PathBuf>,
    /// The name in that file, which may differ from the parameter's.
    pub name_in_file: Option<String>,
    /// The change that made it, counted over the whole process.
    pub generation: u64,
}

impl Parameters {
    /// A builder without layers.
    pub fn builder() -> ParametersBuilder {
        ParametersBuilder::default()
    }

    /// All tensors of a file, an index or a folder; see [`Checkpoint::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::from_checkpoint(&Checkpoint::open(path)?)
    }

    /// All tensors of a checkpoint under the names that they have there.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self> {
        Self::builder().checkpoint(checkpoint)?.build()
    }

    pub(crate) fn from_entries(entries: Entries) -> Self {
        Self {
            entries: Arc::new(entries),
        }
    }

    /// All names in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.entries.keys().map(|name| &**name)
    }

    /// The number of parameters.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether there is a parameter of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The tensor in its own dtype, sharing its bytes where its view allows.
    pub fn get(&self, name: &str) -> Result<Tensor> {
        self.entry(name)?.source.read(name)
    }

    /// The tensor in `dtype`, each value rounded once; shares the bytes if that
    /// is the dtype it has.
    pub fn read_as(&self, name: &str, dtype: DType) -> Result<Tensor> {
        let entry = self.entry(name)?;
        let tensor = entry.source.read(name)?;
        tensor
            .to_dtype(dtype)
            .map_err(|source| entry.source.base().value_error(name, source))
    }

    /// The tensor in `dtype`, or an error if its shape is not `shape`, or if floats
    /// are expected and it holds something else.
    pub fn expect(&self, name: &str, dtype: DType, shape: &Shape) -> Result<Tensor> {
        self.check(name, dtype, shape)?;
        self.read_as(name, dtype)
    }

    /// The same checks, but a tensor whose stored dtype is a smaller float dtype is given
    /// as it is stored, for readers that widen as they go: every one of its values is a
    /// value of `dtype`, so nothing is lost and nothing is copied.
    pub fn expect_in_place(&self, name: &str, dtype: DType, shape: &Shape) -> Result<Tensor> {
        let stored = self.check(name, dtype, shape)?;
        let is_part = dtype == DType::F32 && stored.is_float();
        if is_part {
            self.get(name)
        } else {
            self.read_as(name, dtype)
        }
    }

    /// The stored dtype of a tensor, or an error if its shape is not `shape`, or if floats are
    /// expected and it holds something else. Nothing is read.
    pub fn check(&self, name: &str, dtype: DType, shape: &Shape) -> Result<DType> {
        let source = &self.entry(name)?.source;
        if source.shape() != shape {
            return Err(Error::Shape {
                origin: source.base().origin(),
                tensor: shown(name),
                expected: shape.clone(),
                found: source.shape().clone(),
            });
        }
        let stored = source.dtype()?;
        if dtype.is_float() && !stored.is_float() {
            return Err(Error::Parameter {
                origin: source.base().origin(),
                tensor: shown(name),
                expected: "floats".to_owned(),
                found: stored.to_string(),
            });
        }
        Ok(stored)
    }

    /// Dtype, shape and place, without reading; an error also for a dtype that
    /// cannot be read.
    pub fn info(&self, name: &str) -> Result<ParameterInfo> {
        let entry = self.entry(name)?;
        let (file, name_in_file) = match entry.source.base() {
            Base::File { file, name } => (Some(file.path().to_owned()), Some(name.clone())),
            Base::Memory(_) => (None, None),
        };
        Ok(ParameterInfo {
            dtype: entry.source.dtype()?,
            shape: entry.source.shape().clone(),
            file,
            name_in_file,
            generation: entry.generation,
        })
    }

    /// The shape alone, which is known even where the dtype cannot be read.
    pub fn shape(&self, name: &str) -> Result<&Shape> {
        Ok(self.entry(name)?.source.shape())
    }

    /// What a tensor's stored codes of 8 bits are multiplied with: f32 `[1]`, which is 1 where
    /// the file gives no scale, or `[rows]`; `None` if it is stored in another dtype.
    pub fn f8_scale(&self, name: &str) -> Result<Option<Tensor>> {
        self.entry(name)?.source.f8_scale(name)
    }

    /// The change that made this parameter, counted over the whole process.
    pub fn generation(&self, name: &str) -> Result<u64> {
        Ok(self.entry(name)?.generation)
    }

    /// Which version of which tensor this parameter is; reads nothing.
    pub fn identity_of(&self, name: &str) -> Result<ParameterIdentity> {
        Ok(self.entry(name)?.identity())
    }

    /// blake3 of dtype, shape and bytes, computed once for each generation.
    pub fn hash(&self, name: &str) -> Result<ContentHash> {
        self.entry(name)?.content_hash(name)
    }

    /// The hash, if it was ever computed for this generation.
    pub fn known_hash(&self, name: &str) -> Result<Option<ContentHash>> {
        Ok(self.entry(name)?.hash.get().copied())
    }

    /// The open files that parameters lie in, each once.
    pub fn files(&self) -> Vec<SafetensorsFile> {
        let mut files: Vec<SafetensorsFile> = Vec::new();
        for entry in self.entries.values() {
            if let Base::File { file, .. } = entry.source.base()
                && !files.iter().any(|known| known.is_same(file))
            {
                files.push(file.clone());
            }
        }
        files.sort_by(|a, b| a.path().cmp(b.path()));
        files
    }

    /// Whether all files are still what they were when they were opened.
    pub fn verify(&self) -> Result<()> {
        self.files().iter().try_for_each(SafetensorsFile::verify)
    }

    /// Size, modification time and header hash of every file; says nothing of
    /// parameters in memory.
    pub fn identity(&self) -> CheckpointIdentity {
        CheckpointIdentity {
            files: self.files().iter().map(SafetensorsFile::identity).collect(),
        }
    }

    /// The files that parameters lie in, and `memory` if some do, for messages.
    pub fn origin(&self) -> String {
        let mut origins: Vec<String> = Vec::new();
        for entry in self.entries.values() {
            let origin = entry.source.base().origin();
            if !origins.contains(&origin) {
                origins.push(origin);
            }
        }
        match origins.len() {
            0 => "no parameters".to_owned(),
            1..=3 => origins.join(", "),
            count => format!("{} and {} more", origins[0], count - 1),
        }
    }

    /// The parameters whose names begin with `prefix`, without it.
    #[must_use]
    pub fn subset(&self, prefix: &str) -> Self {
        let stripped = self.entries.iter().filter_map(|(name, entry)| {
            let name = name.strip_prefix(prefix)?;
            Some((name.into(), Arc::clone(entry)))
        });
        Self::from_entries(stripped.collect())
    }

    /// The parameters under the names that `rename` gives; `None` leaves one out.
    pub fn renamed(&self, rename: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let mut entries = Entries::new();
        for (name, entry) in &*self.entries {
            let Some(renamed) = rename(name) else {
                continue;
            };
            insert_new(&mut entries, renamed, Arc::clone(entry))?;
        }
        Ok(Self::from_entries(entries))
    }

    pub(crate) fn entry(&self, name: &str) -> Result<&Arc<Entry>> {
        self.entries.get(name).ok_or_else(|| Error::Missing {
            origin: self.origin(),
            tensor: shown(name),
            count: self.entries.len(),
        })
    }
}

/// Inserts under a name that must be free.
pub(crate) fn insert_new(
    entries: &mut Entries,
    name: impl Into<Arc<str>>,
    entry: Arc<Entry>,
) -> Result<()> {
    let name = name.into();
    if entries.contains_key(&name) {
        return Err(Error::Duplicate {
            origin: entry.source.base().origin(),
            tensor: shown(&name),
        });
    }
    entries.insert(name, entry);
    Ok(())
}
