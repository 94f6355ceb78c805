//! How new weights come into engines while others use these.
//!
//! A program's engine is changed in place as long as nobody holds it. Otherwise another one is
//! made with all weights, and the old one goes with its last holder. Here is the order in which
//! that happens; what an engine is, and where weights come from, is the [`Workshop`]'s.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tintype_backend::{Error, Result};

use super::change::{Changed, change};

/// The engines of the request and of the step program; none for a program without a plan.
pub(super) type Engines<E> = [Option<Arc<E>>; 2];

/// Weights by name.
pub(super) type Weights<W> = HashMap<String, W>;

/// From which parameters and overlays weights are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// Those that a refit brings.
    New,
    /// Those of the refit before.
    Old,
}

/// Makes engines and weights.
pub(super) trait Workshop {
    type Engine;
    type Weight: Clone;

    /// Names of the weights that a program's engine needs; none if there is no plan of it.
    fn needed(&self, program: usize) -> Option<BTreeSet<String>>;

    /// An engine without weights.
    fn load(&mut self, program: usize) -> Result<Self::Engine>;

    /// Computes weights. The engines of some programs are without weights still, and will need
    /// memory for them.
    fn compute(
        &mut self,
        version: Version,
        names: &BTreeSet<String>,
        empty: [bool; 2],
    ) -> Result<Weights<Self::Weight>>;

    /// Writes those weights that the engine needs, or gives the names of more that belong to
    /// them, and has then written nothing. After an error some may have been written.
    fn write(
        &mut self,
        engine: &Self::Engine,
        weights: &Weights<Self::Weight>,
    ) -> Result<Vec<String>>;
}

/// The engines that an executable has now.
#[derive(Debug)]
pub(super) struct Exchange<E> {
    graph: String,
    current: Mutex<Current<E>>,
}

#[derive(Debug)]
enum Current<E> {
    /// Perhaps loaded, and without weights.
    Bare(Engines<E>),
    Ready(Engines<E>),
    Poisoned {
        reason: String,
        again: String,
    },
}

/// What happens to an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// There is none, or no weight of it changes.
    Keep,
    /// It gets new weights.
    InPlace,
    /// Another one takes its place.
    Replace,
}

impl<E> Exchange<E> {
    /// Engines that were loaded and have no weights.
    pub(super) fn new(graph: &str, engines: Engines<E>) -> Self {
        Self {
            graph: graph.to_owned(),
            current: Mutex::new(Current::Bare(engines)),
        }
    }

    /// The engines with their weights, which stay as long as somebody has them.
    ///
    /// # Errors
    /// [`Error::NoWeights`], [`Error::Poisoned`].
    pub(super) fn engines(&self) -> Result<Engines<E>> {
        match &*self.lock() {
            Current::Ready(engines) => Ok(engines.clone()),
            Current::Bare(_) => Err(Error::NoWeights(self.graph.clone())),
            Current::Poisoned { reason, again } => Err(self.poisoned(reason, again)),
        }
    }

    /// Lets go of a program's engine, which ends with those who run it. The next
    /// [`Exchange::bring`] makes another.
    pub(super) fn free(&self, program: usize) {
        let engine = match &mut *self.lock() {
            Current::Ready(engines) => engines[program].take(),
            _ => None,
        };
        // It may wait for the device, and others need not.
        drop(engine);
    }

    /// Whether the engines have their weights.
    pub(super) fn is_ready(&self) -> bool {
        self.lock().is_ready()
    }

    /// Brings weights into the engines: those of `names`, and all into engines that have none.
    /// Gives the names of what was written.
    pub(super) fn bring<S: Workshop<Engine = E>>(
        &self,
        names: &BTreeSet<String>,
        shop: &mut S,
    ) -> Result<BTreeSet<String>> {
        let needed = [shop.needed(0), shop.needed(1)];
        let mut replaced = [false; 2];
        loop {
            let (fates, is_ready) = self.fates(names, &needed, replaced);
            let empty = fates.map(|fate| match fate {
                Fate::Keep => false,
                Fate::InPlace => !is_ready,
                Fate::Replace => true,
            });
            let wanted = wanted(names, &needed, fates, is_ready);
            let weights = shop.compute(Version::New, &wanted, empty)?;
            let fresh = self.fresh(fates, &weights, shop)?;
            let mut current = self.lock();
            // Somebody may have taken an engine while the weights were computed.
            let taken = current.taken(fates);
            if taken.contains(&true) {
                replaced = std::array::from_fn(|index| replaced[index] || taken[index]);
                continue;
            }
            self.change_in_place(&mut current, fates, &wanted, weights, shop)?;
            current.put(fresh);
            return Ok(wanted);
        }
    }

    fn fates(
        &self,
        names: &BTreeSet<String>,
        needed: &[Option<BTreeSet<String>>; 2],
        replaced: [bool; 2],
    ) -> ([Fate; 2], bool) {
        let current = self.lock();
        let is_ready = current.is_ready();
        let fates = std::array::from_fn(|index| {
            let Some(needed) = &needed[index] else {
                return Fate::Keep;
            };
            match current.engine(index) {
                None => Fate::Replace,
                Some(_) if is_ready && needed.is_disjoint(names) => Fate::Keep,
                Some(engine) if replaced[index] || is_held(engine) => Fate::Replace,
                Some(_) => Fate::InPlace,
            }
        });
        (fates, is_ready)
    }

    /// Engines in place of those that are held or missing.
    fn fresh<S: Workshop<Engine = E>>(
        &self,
        fates: [Fate; 2],
        weights: &Weights<S::Weight>,
        shop: &mut S,
    ) -> Result<Engines<E>> {
        let mut fresh = [None, None];
        for (index, fate) in fates.into_iter().enumerate() {
            if fate == Fate::Replace {
                let engine = shop.load(index)?;
                let lacking = shop.write(&engine, weights)?;
                self.expect_none(lacking)?;
                fresh[index] = Some(Arc::new(engine));
            }
        }
        Ok(fresh)
    }

    /// Changes engines that nobody else has: `current` stays locked meanwhile.
    fn change_in_place<S: Workshop<Engine = E>>(
        &self,
        current: &mut Current<E>,
        fates: [Fate; 2],
        wanted: &BTreeSet<String>,
        weights: Weights<S::Weight>,
        shop: &mut S,
    ) -> Result<()> {
        let engines: Vec<Arc<E>> = (0..2)
            .filter(|&index| fates[index] == Fate::InPlace)
            .filter_map(|index| current.engine(index).cloned())
            .collect();
        if engines.is_empty() {
            return Ok(());
        }
        let was_ready = current.is_ready();
        let shop = std::cell::RefCell::new(shop);
        let write = |(version, weights): &(Version, Weights<S::Weight>)| {
            self.write(&engines, *version, weights, &mut **shop.borrow_mut())
        };
        let changed = change(&(Version::New, weights), write, || {
            if !was_ready {
                return Err(Error::NoWeights(self.graph.clone()));
            }
            let old = shop
                .borrow_mut()
                .compute(Version::Old, wanted, [false; 2])?;
            Ok((Version::Old, old))
        });
        match changed {
            Changed::New => Ok(()),
            Changed::Old(failure) => Err(failure),
            // There were no weights, as there are none now. The next refit makes new engines.
            Changed::Mixed { failure, .. } if !was_ready => {
                *current = Current::Bare([None, None]);
                Err(failure)
            }
            Changed::Mixed { failure, again } => {
                let (reason, again) = (failure.to_string(), again.to_string());
                let error = self.poisoned(&reason, &again);
                *current = Current::Poisoned { reason, again };
                Err(error)
            }
        }
    }

    /// Writes weights to engines, with those that belong to them.
    fn write<S: Workshop<Engine = E>>(
        &self,
        engines: &[Arc<E>],
        version: Version,
        weights: &Weights<S::Weight>,
        shop: &mut S,
    ) -> Result<()> {
        let mut weights = weights.clone();
        for engine in engines {
            loop {
                let lacking = shop.write(engine, &weights)?;
                if lacking.is_empty() {
                    break;
                }
                let known = [shop.needed(0), shop.needed(1)].into_iter().flatten();
                let known: BTreeSet<String> = known.flatten().collect();
                let is_new = |name: &String| known.contains(name) && !weights.contains_key(name);
                if !lacking.iter().all(is_new) {
                    return self.expect_none(lacking);
                }
                tracing::debug!(
                    "{} more weights belong to those that changed",
                    lacking.len()
                );
                let more = shop.compute(version, &lacking.into_iter().collect(), [false; 2])?;
                weights.extend(more);
            }
        }
        Ok(())
    }

    fn expect_none(&self, lacking: Vec<String>) -> Result<()> {
        if lacking.is_empty() {
            return Ok(());
        }
        Err(Error::from(crate::Error::Missing {
            action: format!("refitting `{}`", self.graph),
            names: lacking,
        }))
    }

    fn poisoned(&self, reason: &str, again: &str) -> Error {
        Error::Poisoned {
            graph: self.graph.clone(),
            reason: reason.to_owned(),
            again: again.to_owned(),
        }
    }

    /// A panic elsewhere leaves what is here whole: it is replaced in one step.
    fn lock(&self) -> MutexGuard<'_, Current<E>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E> Current<E> {
    fn engine(&self, index: usize) -> Option<&Arc<E>> {
        match self {
            Self::Bare(engines) | Self::Ready(engines) => engines[index].as_ref(),
            Self::Poisoned { .. } => None,
        }
    }

    fn is_ready(&self) -> bool {
        matches!(self, Self::Ready(_))
    }

    /// Which engines that are to be changed in place are in use after all.
    fn taken(&self, fates: [Fate; 2]) -> [bool; 2] {
        std::array::from_fn(|index| {
            fates[index] == Fate::InPlace && self.engine(index).is_none_or(is_held)
        })
    }

    /// Puts new engines in the places of old ones; all have their weights now.
    fn put(&mut self, fresh: Engines<E>) {
        let mut engines = match std::mem::replace(self, Self::Bare([None, None])) {
            Self::Bare(engines) | Self::Ready(engines) => engines,
            Self::Poisoned { .. } => [None, None],
        };
        for (engine, fresh) in engines.iter_mut().zip(fresh) {
            if fresh.is_some() {
                *engine = fresh;
            }
        }
        *self = Self::Ready(engines);
    }
}

/// What must be computed: what has changed for an engine that stays, all for one without weights.
fn wanted(
    names: &BTreeSet<String>,
    needed: &[Option<BTreeSet<String>>; 2],
    fates: [Fate; 2],
    is_ready: bool,
) -> BTreeSet<String> {
    let mut wanted = BTreeSet::new();
    for (needed, fate) in needed.iter().zip(fates) {
        let needed = needed.iter().flatten();
        match fate {
            Fate::Keep => {}
            Fate::InPlace if is_ready => {
                wanted.extend(needed.filter(|name| names.contains(*name)).cloned());
            }
            Fate::InPlace | Fate::Replace => wanted.extend(needed.cloned()),
        }
    }
    wanted
}

/// Whether somebody beside the executable has it.
fn is_held<E>(engine: &Arc<E>) -> bool {
    Arc::strong_count(engine) > 1
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
