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

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::sync::{Arc, OnceLock};

use crate::entry::{Entries, Entry};
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
    entries: BTreeMap<Arc<str>, Moment>,
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
            (Arc::clone(name), moment)
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
                None => changes.added.insert(name.to_string()),
                Some(moment) if entry.is_same(moment.generation, &moment.views) => false,
                Some(_) => changes.changed.insert(name.to_string()),
            };
        }
        let gone = before.entries.keys().filter(|name| !self.contains(name));
        changes.removed.extend(gone.map(ToString::to_string));
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
        self.compare(other, |name, _, _| {
            _ = changes.changed.insert(name.to_owned());
        })
        .add_to(&mut changes);
        changes
    }

    /// [`Parameters::changes_from`] without what was found to have the contents that it had, and
    /// the names of that. Contents are compared where both hashes are known or a tensor has at
    /// most `small` bytes, and elsewhere taken for others.
    ///
    /// # Errors
    /// A small tensor that cannot be read.
    pub fn changes_and_equals_from(
        &self,
        other: &Self,
        small: usize,
    ) -> Result<(ChangeSet, BTreeSet<String>)> {
        let (mut changes, mut equal) = (ChangeSet::default(), BTreeSet::new());
        let mut failure = None;
        let apart = self.compare(other, |name, new, old| {
            match new.is_equal_if_cheap(name, old, small) {
                Ok(true) => _ = equal.insert(name.to_owned()),
                Ok(false) => _ = changes.changed.insert(name.to_owned()),
                Err(error) => failure = Some(error),
            }
        });
        apart.add_to(&mut changes);
        match failure {
            None => Ok((changes, equal)),
            Some(error) => Err(error),
        }
    }

    /// The first name that both have.
    pub fn common_name<'a>(&'a self, other: &'a Self) -> Option<&'a str> {
        let (one, other) = (self.entries.iter(), other.entries.iter());
        joined(one.peekable(), other.peekable()).find_map(|pair| match pair {
            Joined::Both(name, _) => Some(name),
            Joined::New(_) | Joined::Old(_) => None,
        })
    }

    /// Tells of each parameter of both whose generation differs; gives the names of the others.
    fn compare<'a>(
        &'a self,
        other: &'a Self,
        mut differs: impl FnMut(&str, &Entry, &Entry),
    ) -> Apart<'a> {
        let mut apart = Apart::default();
        if self.is_same(other) {
            return apart;
        }
        let (new, old) = (self.entries.iter(), other.entries.iter());
        for pair in joined(new.peekable(), old.peekable()) {
            match pair {
                Joined::New(name) => apart.added.push(name),
                Joined::Old(name) => apart.removed.push(name),
                Joined::Both(_, [new, old])
                    if Arc::ptr_eq(new, old) || new.is_same(old.generation, old.source.views()) => {
                }
                Joined::Both(name, [new, old]) => differs(name, new, old),
            }
        }
        apart
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
        entries: impl IntoIterator<Item = (Arc<str>, Arc<Entry>)>,
    ) {
        Arc::make_mut(&mut self.entries).extend(entries);
    }

    /// The same for many that are in order, in the time that it takes to go through both.
    pub(crate) fn replace_all(&mut self, mut entries: Entries) {
        if entries.len() < self.len() / FEW {
            self.replace_entries(entries);
        } else {
            Arc::make_mut(&mut self.entries).append(&mut entries);
        }
    }
}

/// Names that only one of two states has.
#[derive(Default)]
struct Apart<'a> {
    added: Vec<&'a str>,
    removed: Vec<&'a str>,
}

impl Apart<'_> {
    fn add_to(self, changes: &mut ChangeSet) {
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        changes.added = owned(self.added);
        changes.removed = owned(self.removed);
    }
}

/// A name of one state or of both.
enum Joined<'a> {
    New(&'a str),
    Old(&'a str),
    Both(&'a str, [&'a Arc<Entry>; 2]),
}

/// An entry with its name, as maps give it.
type Named<'a> = (&'a Arc<str>, &'a Arc<Entry>);

/// Goes through two states side by side, by name.
fn joined<'a>(
    mut new: Peekable<impl Iterator<Item = Named<'a>>>,
    mut old: Peekable<impl Iterator<Item = Named<'a>>>,
) -> impl Iterator<Item = Joined<'a>> {
    std::iter::from_fn(move || {
        let order = match (new.peek(), old.peek()) {
            // States of which one came from the other share most names.
            (Some((new, _)), Some((old, _))) if Arc::ptr_eq(new, old) => Ordering::Equal,
            (Some((new, _)), Some((old, _))) => new.cmp(old),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return None,
        };
        let from_new = if order.is_le() { new.next() } else { None };
        let from_old = if order.is_ge() { old.next() } else { None };
        match (from_new, from_old) {
            (Some((name, new)), Some((_, old))) => Some(Joined::Both(name, [new, old])),
            (Some((name, _)), None) => Some(Joined::New(name)),
            (None, Some((name, _))) => Some(Joined::Old(name)),
            (None, None) => None,
        }
    })
}

/// What part of a map is few: less is inserted one by one.
const FEW: usize = 8;
