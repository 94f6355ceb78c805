//! One version of one parameter: its source, its generation, its content hash.
//!
//! An entry never changes: a change makes a new one. So the hash is computed at
//! most once for each generation, and clones of [`crate::Parameters`] share it.
//!
//! ```text
//! entry 17: blocks.0.qkv.weight, rows 0..3072, generation 4211, hash not yet known
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use tintype_tensor::Tensor;

use crate::source::Source;
use crate::{Result, View};

/// Parameters by name. Names are shared by all maps that have them: states that differ in little,
/// as those of two LoRAs, are made of others often.
pub(crate) type Entries = BTreeMap<Arc<str>, Arc<Entry>>;

/// A parameter as it is between two changes.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) source: Source,
    pub(crate) generation: u64,
    pub(crate) hash: Arc<OnceLock<ContentHash>>,
    /// Set once all values were found to be finite.
    pub(crate) finite: Arc<OnceLock<()>>,
}

/// Which version of which tensor a parameter is: equal ones have the same bytes, which nobody
/// had to read for it. The same bytes may have several, as those of a file that is opened twice.
///
/// ```
/// use tintype_tensor::Tensor;
/// use tintype_weights::Parameters;
/// let mut parameters = Parameters::builder().tensor("a", Tensor::scalar(1.0f32)).build()?;
/// let before = parameters.identity_of("a")?;
/// assert_eq!(parameters.clone().identity_of("a")?, before);
/// parameters.set("a", Tensor::scalar(1.0f32))?;
/// assert_ne!(parameters.identity_of("a")?, before);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ParameterIdentity {
    generation: u64,
    views: Vec<View>,
}

/// blake3 of a tensor's dtype, shape and bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash([u8; 32]);

impl Entry {
    /// An entry of a new generation.
    pub(crate) fn new(source: Source) -> Arc<Self> {
        Arc::new(Self {
            source,
            generation: next_generation(),
            hash: Arc::default(),
            finite: Arc::default(),
        })
    }

    /// The same content as a change that is made now.
    pub(crate) fn renewed(&self) -> Arc<Self> {
        Arc::new(Self {
            source: self.source.clone(),
            generation: next_generation(),
            hash: Arc::clone(&self.hash),
            finite: Arc::clone(&self.finite),
        })
    }

    pub(crate) fn identity(&self) -> ParameterIdentity {
        ParameterIdentity {
            generation: self.generation,
            views: self.source.views().to_vec(),
        }
    }

    /// Whether two entries have the same content for sure, without reading:
    /// views of one tensor share its generation, so they are compared too.
    pub(crate) fn is_same(&self, generation: u64, views: &[View]) -> bool {
        self.generation == generation && self.source.views() == views
    }

    /// A view is as old as what it looks at.
    pub(crate) fn viewed(&self, name: &str, view: View) -> Result<Arc<Self>> {
        let source = self.source.viewed(view);
        let source = source.map_err(|error| self.source.base().value_error(name, error))?;
        // Parts of what is finite are.
        let finite = self.finite.get().copied();
        Ok(Arc::new(Self {
            source,
            generation: self.generation,
            hash: Arc::default(),
            finite: Arc::new(finite.map_or_else(OnceLock::new, OnceLock::from)),
        }))
    }

    /// Whether both have one content, as far as that is known or costs no more than reading
    /// `small` bytes.
    pub(crate) fn is_equal_if_cheap(&self, name: &str, other: &Self, small: usize) -> Result<bool> {
        let may_be = self.source.shape() == other.source.shape()
            && self.has_cheap_hash(small)
            && other.has_cheap_hash(small);
        Ok(may_be && self.content_hash(name)? == other.content_hash(name)?)
    }

    /// What cannot be read, and need not be, has no dtype.
    fn has_cheap_hash(&self, small: usize) -> bool {
        let bytes = || self.source.shape().byte_len(self.source.dtype().ok()?).ok();
        self.hash.get().is_some() || bytes().is_some_and(|bytes| bytes <= small)
    }

    /// The content hash; reads the tensor the first time.
    pub(crate) fn content_hash(&self, name: &str) -> Result<ContentHash> {
        if let Some(hash) = self.hash.get() {
            return Ok(*hash);
        }
        let hash = ContentHash::of(&self.source.read(name)?);
        Ok(*self.hash.get_or_init(|| hash))
    }
}

impl ContentHash {
    /// The hash of a tensor's dtype, shape and bytes, on one thread.
    pub fn of(tensor: &Tensor) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{}{};", tensor.dtype(), tensor.shape()).as_bytes());
        hasher.update(tensor.bytes());
        hasher.finalize().into()
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<blake3::Hash> for ContentHash {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Rises with every change in this process, so that equal generations of a
/// whole tensor mean the same content wherever they come from.
fn next_generation() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
