//! Bytes with an owner: a vector of elements, or a part of a mapped file.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Something that owns bytes which never change while it lives.
pub trait ByteOwner: Send + Sync {
    /// All bytes of the owner.
    fn bytes(&self) -> &[u8];
}

/// A shared range of an owner's bytes. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Storage {
    owner: Arc<dyn ByteOwner>,
    range: Range<usize>,
}

impl Storage {
    pub(crate) fn from_vec<T: bytemuck::NoUninit + Send + Sync>(values: Vec<T>) -> Self {
        let owner: Arc<dyn ByteOwner> = Arc::new(VecOwner(values));
        let range = 0..owner.bytes().len();
        Self { owner, range }
    }

    /// `None` if `range` does not lie within the owner's bytes.
    pub(crate) fn from_owner(owner: Arc<dyn ByteOwner>, range: Range<usize>) -> Option<Self> {
        owner.bytes().get(range.clone())?;
        Some(Self { owner, range })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.owner.bytes()[self.range.clone()]
    }

    /// A part of this storage; the caller keeps `range` within it.
    pub(crate) fn part(&self, range: &Range<usize>) -> Self {
        debug_assert!(range.end <= self.range.len());
        Self {
            owner: Arc::clone(&self.owner),
            range: self.range.start + range.start..self.range.start + range.end,
        }
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.range.len())
    }
}

struct VecOwner<T>(Vec<T>);

impl<T: bytemuck::NoUninit + Send + Sync> ByteOwner for VecOwner<T> {
    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}
