//! Which parameters changed: exact, by generation, and by content where asked.
//!
//! Equal generations of equal views mean the same content. Unequal ones mean
//! that someone changed the parameter, perhaps to what it was: the `content_`
//! functions compare hashes then. Nothing here looks at names.
//!
//! ```
//! use tintype_tensor::Tensor;
//! use tintype_weights::Parameters;
//! let tensor = Tensor::from_f32([2], vec![1.0, 2.0])?;
//! let mut parameters = Parameters::builder().tensor("a", tensor.clone()).build()?;
//! let before = parameters.snapshot_with_content()?;
//! parameters.set("a", tensor)?;
//! assert!(parameters.changes_since(&before).contains("a"));
//! assert!(parameters.content_changes_since(&before)?.is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use crate::entry::Entry;
use crate::{ContentHash, Parameters, Result, View};

/// Names of parameters that differ between two states.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChangeSet {
    /// In both, with another generation or content.
    pub changed: BTreeSet<String>,
    /// Only in the later state.
    pub added: BTreeSet<String>,
    /// Only in the earlier state.
    pub removed: BTreeSet<String>,
}

/// Generations, and the hashes that are known, of all parameters at one moment.
/// It holds no tensors, so it keeps no memory alive.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    entries: BTreeMap<String, Moment>,
}

#[derive(Debug, Clone)]
struct Moment {
    generation: u64,
    views: Vec<View>,
    /// Shared with the entry: a hash that is computed later is known here too.
    hash: Arc<OnceLock<ContentHash>>,
}

impl ChangeSet {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.added.is_empty() && self.removed.is_empty()
    }

    /// Whether `name` changed, was added or removed.
    pub fn contains(&self, name: &str) -> bool {
        [&self.changed, &self.added, &self.removed]
            .iter()
            .any(|names| names.contains(name))
    }

    /// All names: changed, then added, then removed.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let names = self.changed.iter().chain(&self.added).chain(&self.removed);
        names.map(String::as_str)
    }
}

impl Snapshot {
    /// The generation of `name` at that moment.
    pub fn generation(&self, name: &str) -> Option<u64> {
        self.entries.get(name).map(|moment| moment.generation)
    }

    /// The content hash of `name` at that moment, if it was ever computed.
    pub fn hash(&self, name: &str) -> Option<ContentHash> {
        self.entries.get(name)?.hash.get().copied()
    }
}

impl Parameters {
    /// This moment, without reading any tensor.
    pub fn snapshot(&self) -> Snapshot {
        let entries = self.entries.iter().map(|(name, entry)| {
            let moment = Moment {
                generation: entry.generation,
                views: entry.source.views().to_vec(),
                hash: Arc::clone(&entry.hash),
            };
            (name.clone(), moment)
        });
        Snapshot {
            entries: entries.collect(),
        }
    }

    /// This moment with the hash of every tensor; reads those not yet hashed.
    pub fn snapshot_with_content(&self) -> Result<Snapshot> {
        for (name, entry) in &*self.entries {
            entry.content_hash(name)?;
        }
        Ok(self.snapshot())
    }

    /// What was changed, added or removed since `before`, by generation.
    pub fn changes_since(&self, before: &Snapshot) -> ChangeSet {
        let mut changes = ChangeSet::default();
        for (name, entry) in &*self.entries {
            match before.entries.get(name) {
                None => changes.added.insert(name.clone()),
                Some(moment) if entry.is_same(moment.generation, &moment.views) => false,
                Some(_) => changes.changed.insert(name.clone()),
            };
        }
        let gone = before.entries.keys().filter(|name| !self.contains(name));
        changes.removed.extend(gone.cloned());
        changes
    }

    /// The same without those whose content is equal. Where the earlier hash was
    /// never computed, a changed generation counts as a change.
    pub fn content_changes_since(&self, before: &Snapshot) -> Result<ChangeSet> {
        self.without_equal(self.changes_since(before), |name| Ok(before.hash(name)))
    }

    /// Whether both are the same state for sure, without looking at any parameter: clones
    /// between which nothing was changed.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.entries, &other.entries)
    }

    /// What differs from `other`, by generation; parameters of two openings of
    /// one file differ all: see [`Parameters::content_changes_from`].
    pub fn changes_from(&self, other: &Self) -> ChangeSet {
        let mut changes = ChangeSet::default();
        if self.is_same(other) {
            return changes;
        }
        for (name, entry) in &*self.entries {
            match other.entries.get(name) {
                None => changes.added.insert(name.clone()),
                Some(old) if entry.is_same(old.generation, old.source.views()) => false,
                Some(_) => changes.changed.insert(name.clone()),
            };
        }
        let gone = other.names().filter(|name| !self.contains(name));
        changes.removed.extend(gone.map(str::to_owned));
        changes
    }

    /// What differs from `other` in content; hashes on both sides only what
    /// differs by generation.
    pub fn content_changes_from(&self, other: &Self) -> Result<ChangeSet> {
        let hash = |name: &str| other.hash(name).map(Some);
        self.without_equal(self.changes_from(other), hash)
    }

    fn without_equal(
        &self,
        mut changes: ChangeSet,
        earlier: impl Fn(&str) -> Result<Option<ContentHash>>,
    ) -> Result<ChangeSet> {
        for name in std::mem::take(&mut changes.changed) {
            // The later tensor is read only if there is something to compare with.
            let equal = match earlier(&name)? {
                Some(hash) => self.hash(&name)? == hash,
                None => false,
            };
            if !equal {
                changes.changed.insert(name);
            }
        }
        Ok(changes)
    }

    pub(crate) fn replace_entries(
        &mut self,
        entries: impl IntoIterator<Item = (String, Arc<Entry>)>,
    ) {
        Arc::make_mut(&mut self.entries).extend(entries);
    }
}
