//! How new weights take the place of old ones while states hold these.
//!
//! | who holds weights | a refit |
//! |---|---|
//! | nobody has any yet | loads all |
//! | no state, and no kept parameter is in what changes | computes new values where the old ones are |
//! | no state | computes new values elsewhere and writes them over the old ones |
//! | some state, or weights were one value that are two from now on | makes a version with new memory for what changes |
//! | nobody knows (a refit failed twice) | loads all |
//!
//! Addresses stay in all but the first and the last but one, so captured graphs stay valid.
//!
//! Where steps shall run without the weights that the request program alone reads, two versions
//! share memory: the whole one for requests that are prepared, and that of the steps, which states
//! hold. The whole one goes with the first step, and comes back for the next request.
//!
//! Parameters that lie in weights as they are wait there for the next refit
//! ([`KeptParameters`]), so writing over weights goes by way of these. After the first switch of
//! a LoRA they have memory of their own, and further ones take none but for temporary values.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tintype_backend::{AttachedProgram, CompileOptions, Error as BackendError, Result};
use tintype_device::{Keeping, KeptParameters, Sharing};
use tintype_ir::{Evaluator, StagedGraph};
use tintype_weights::Parameters;

use crate::Error;
use crate::run::machine::{KeepingOn, KeptOn, Machine, WeightJob};
use crate::run::weights::{Tensors, WeightSet};

/// The weights that an executable has now.
pub(super) struct Exchange<M: Machine> {
    machine: Arc<M>,
    graph: String,
    /// What weights are computed from, as far as it waits for the next refit.
    kept: Arc<KeptOn<M>>,
    /// Names of weights that go when the first step runs.
    freed: BTreeSet<String>,
    current: Mutex<Current<M>>,
}

struct Current<M: Machine> {
    weights: Held<M>,
    /// The same without those that go, once a state wants them.
    of_steps: Option<Arc<WeightSet<M>>>,
    /// Versions before, as long as states hold them: they share memory with the present one.
    older: Vec<Weak<WeightSet<M>>>,
}

enum Held<M: Machine> {
    None,
    Ready(Arc<WeightSet<M>>),
    Poisoned { reason: String, again: String },
}

/// A weight program with what it reads.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) program: &'a AttachedProgram,
    pub(super) parameters: &'a Parameters,
    /// Computes what has no kernel.
    pub(super) evaluator: &'a dyn Evaluator,
}

/// What weights are computed from: now, and in the refit before.
pub(super) struct Sources<'a> {
    pub(super) new: Inputs<'a>,
    pub(super) old: Option<Inputs<'a>>,
}

impl<M: Machine> Exchange<M> {
    pub(super) fn new(machine: Arc<M>, graph: &StagedGraph, options: &CompileOptions) -> Self {
        let policy = options.keep_weights;
        let kept = KeptParameters::new(policy, Sharing::Weights, &graph.weight);
        let kept = Arc::new(kept);
        machine.kept().add(&kept);
        let freed = graph.request_weights();
        let freed = freed.filter(|_| options.frees_request_weights);
        Self {
            machine,
            graph: graph.source.name().to_owned(),
            kept,
            freed: freed.map(str::to_owned).collect(),
            current: Mutex::new(Current {
                weights: Held::None,
                of_steps: None,
                older: Vec::new(),
            }),
        }
    }

    /// The weights, which stay as they are while somebody has them.
    ///
    /// # Errors
    /// [`BackendError::NoWeights`], [`BackendError::Poisoned`].
    pub(super) fn weights(&self) -> Result<Arc<WeightSet<M>>> {
        match &self.lock().weights {
            Held::Ready(weights) => Ok(Arc::clone(weights)),
            Held::None => Err(BackendError::NoWeights(self.graph.clone())),
            Held::Poisoned { reason, again } => Err(self.poisoned(reason, again)),
        }
    }

    /// Whether weights go when the first step runs.
    pub(super) fn frees(&self) -> bool {
        !self.freed.is_empty()
    }

    /// The part of the present weights that steps need: what a state holds.
    pub(super) fn of_steps(&self, weights: Arc<WeightSet<M>>) -> Arc<WeightSet<M>> {
        let mut current = self.lock();
        let is_present =
            matches!(&current.weights, Held::Ready(present) if Arc::ptr_eq(present, &weights));
        if !self.frees() || !is_present {
            return weights;
        }
        let of_steps = current.of_steps.take();
        let of_steps = of_steps.unwrap_or_else(|| Arc::new(weights.without(&self.freed)));
        current.of_steps = Some(Arc::clone(&of_steps));
        of_steps
    }

    /// Lets go of the weights that no step needs; those who prepare a request keep theirs.
    pub(super) fn free(&self) {
        if self.frees() {
            let mut current = self.lock();
            if let Some(of_steps) = current.of_steps.take() {
                let whole = std::mem::replace(&mut current.weights, Held::Ready(of_steps));
                if let Held::Ready(whole) = whole {
                    current.older.push(Arc::downgrade(&whole));
                }
            }
        }
    }

    /// All weights; what went is computed again from what it was computed from.
    pub(super) fn bring_back(&self, inputs: &Inputs<'_>) -> Result<Arc<WeightSet<M>>> {
        let weights = self.weights()?;
        let gone = self.gone_from(&weights);
        if gone.is_empty() {
            return Ok(weights);
        }
        let needed = inputs.program.bytes(&gone);
        let free = self.machine.make_room(needed.saturating_add(RESERVE))?;
        if free < needed {
            return Err(self.too_little("weights of the request", needed, free));
        }
        let (tensors, _) = self.compute(inputs, &gone, false)?;
        let whole = Arc::new(weights.with(tensors));
        let mut current = self.lock();
        current.weights = Held::Ready(Arc::clone(&whole));
        current.of_steps = Some(weights);
        Ok(whole)
    }

    /// The names of weights that are not there.
    fn gone_from(&self, weights: &WeightSet<M>) -> BTreeSet<String> {
        let gone = self.freed.iter().filter(|name| !weights.contains(name));
        gone.cloned().collect()
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.lock().weights, Held::Ready(_))
    }

    /// Brings the weights of these names, whose parameters were checked; gives the bytes that
    /// were copied between host and device. One refit at a time.
    pub(super) fn bring(&self, names: &BTreeSet<String>, sources: &Sources<'_>) -> Result<usize> {
        let moved = self.bring_all(names, sources)?;
        self.kept.settle(sources.new.parameters);
        Ok(moved)
    }

    fn bring_all(&self, names: &BTreeSet<String>, sources: &Sources<'_>) -> Result<usize> {
        if !self.is_ready() {
            return self.load(names, sources);
        }
        // What went comes back from the latest parameters.
        let gone = self.gone_from(&*self.weights()?);
        let names = &names.difference(&gone).cloned().collect();
        if BTreeSet::is_empty(names) {
            return Ok(0);
        }
        let mut current = self.lock();
        let is_tied = current.ready().is_tied(sources.new.program.graph());
        if !current.is_held() && !is_tied && self.is_apart(current.ready(), names) {
            current.of_steps = None;
            return self.compute_in_place(&mut current, names, sources);
        }
        // Requests are prepared while weights are computed elsewhere.
        drop(current);
        let needed = sources.new.program.bytes(names);
        let room = self.room(needed)?;
        if needed > room {
            return self.change_in_groups(names, sources, room, is_tied);
        }
        let (new, moved) = self.compute(&sources.new, names, true)?;
        let mut current = self.lock();
        if current.is_held() || is_tied {
            current.replace(new);
            return Ok(moved);
        }
        current.of_steps = None;
        let written = current.ready().overwrite(&new, self.keeping(true));
        drop(new);
        match written {
            Ok(()) => Ok(moved),
            Err(failure) => self.go_back(&mut current, failure.into(), &[names], sources, room),
        }
    }

    /// Whether no parameter is kept in weights of these names, so that they may be written while
    /// parameters are read.
    fn is_apart(&self, weights: &WeightSet<M>, names: &BTreeSet<String>) -> bool {
        let addresses = names.iter().filter_map(|name| weights.address(name).ok());
        self.kept.lies_outside(addresses)
    }

    /// Computes weights where the old ones are, while no request can be prepared.
    fn compute_in_place(
        &self,
        current: &mut Current<M>,
        names: &BTreeSet<String>,
        sources: &Sources<'_>,
    ) -> Result<usize> {
        let is_begun = AtomicBool::new(false);
        let wanted = wanted(names);
        let job = sources.new.job(&wanted);
        let computed = current
            .ready()
            .compute_in_place(&job, &is_begun, self.keeping(true));
        match computed {
            Ok(moved) => Ok(moved),
            Err(failure) if is_begun.into_inner() => {
                let room = self.room(sources.new.program.bytes(names)).unwrap_or(0);
                self.go_back(current, failure.into(), &[names], sources, room)
            }
            Err(failure) => Err(failure.into()),
        }
    }

    /// The first weights, or all of them anew.
    fn load(&self, names: &BTreeSet<String>, sources: &Sources<'_>) -> Result<usize> {
        // Weights that are mixed serve nobody, and take memory.
        let mut current = self.lock();
        (current.weights, current.of_steps) = (Held::None, None);
        drop(current);
        self.kept.reset();
        let needed = sources.new.program.bytes(names);
        let free = self.machine.make_room(needed.saturating_add(RESERVE))?;
        if free < needed {
            return Err(self.too_little("its weights", needed, free));
        }
        let (tensors, moved) = self.compute(&sources.new, names, true)?;
        let weights = WeightSet::new(Arc::clone(&self.machine), tensors);
        self.lock().weights = Held::Ready(Arc::new(weights));
        Ok(moved)
    }

    /// Computes and writes a few weights after others, while no request can be prepared.
    fn change_in_groups(
        &self,
        names: &BTreeSet<String>,
        sources: &Sources<'_>,
        room: usize,
        is_tied: bool,
    ) -> Result<usize> {
        let mut current = self.lock();
        if current.is_held() || is_tied {
            let what = if is_tied {
                "new weights beside those that were one"
            } else {
                "new weights beside those that requests still hold"
            };
            return Err(self.too_little(what, sources.new.program.bytes(names), room));
        }
        current.of_steps = None;
        let groups = sources.new.program.groups(names, room);
        tracing::debug!(
            "`{}`: weights change in {} groups",
            self.graph,
            groups.len()
        );
        let mut moved = 0;
        for (index, group) in groups.iter().enumerate() {
            let new = self.compute(&sources.new, group, false);
            let is_written = new.is_ok();
            let written = new.and_then(|(new, bytes)| {
                moved += bytes;
                Ok(current.ready().overwrite(&new, self.keeping(false))?)
            });
            if let Err(failure) = written {
                // Nothing of a group that was not computed is new.
                let end = index + usize::from(is_written);
                let changed: Vec<_> = groups[..end].iter().collect();
                return self.go_back(&mut current, failure, &changed, sources, room);
            }
        }
        Ok(moved)
    }

    /// Writes old weights over new ones; gives the failure, or says that both are mixed.
    fn go_back(
        &self,
        current: &mut Current<M>,
        failure: BackendError,
        changed: &[&BTreeSet<String>],
        sources: &Sources<'_>,
        room: usize,
    ) -> Result<usize> {
        let old = sources.old.as_ref().expect("weights came from somewhere");
        let restored = changed.iter().try_for_each(|names| {
            let mut groups = old.program.groups(names, room.max(1)).into_iter();
            groups.try_for_each(|group| {
                let (tensors, _) = self.compute(old, &group, false)?;
                Ok(current.ready().overwrite(&tensors, self.keeping(false))?)
            })
        });
        let Err(again) = restored else {
            return Err(failure);
        };
        let again: BackendError = again;
        let (reason, again) = (failure.to_string(), again.to_string());
        let error = self.poisoned(&reason, &again);
        current.weights = Held::Poisoned { reason, again };
        Err(error)
    }

    /// Weights, and how many bytes were copied for them.
    fn compute(
        &self,
        inputs: &Inputs<'_>,
        names: &BTreeSet<String>,
        grows: bool,
    ) -> Result<(Tensors<M>, usize)> {
        let wanted = wanted(names);
        let computed = self
            .machine
            .compute(&inputs.job(&wanted), None, self.keeping(grows));
        // What is kept may be half a parameter now.
        let computed = computed.inspect_err(|_| self.kept.clear())?;
        Ok((computed.weights.into_iter().collect(), computed.moved))
    }

    fn keeping(&self, grows: bool) -> KeepingOn<'_, M> {
        let store = &self.kept;
        Keeping { store, grows }
    }

    /// How many bytes of new weights may lie beside the old ones.
    fn room(&self, needed: usize) -> Result<usize> {
        let free = self.machine.free_bytes(needed.saturating_add(RESERVE))?;
        Ok(free.saturating_sub(RESERVE))
    }

    fn too_little(&self, what: &'static str, needed: usize, free: usize) -> BackendError {
        let error = Error::Memory {
            graph: self.graph.clone(),
            what,
            device: self.machine.name().to_owned(),
            needed,
            free,
        };
        error.into()
    }

    fn poisoned(&self, reason: &str, again: &str) -> BackendError {
        BackendError::Poisoned {
            graph: self.graph.clone(),
            reason: reason.to_owned(),
            again: again.to_owned(),
        }
    }

    /// A panic elsewhere leaves what is here whole: it is replaced in one step.
    fn lock(&self) -> MutexGuard<'_, Current<M>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Inputs<'a> {
    /// What a machine computes for some of these weights.
    fn job(&self, wanted: &'a HashSet<&'a str>) -> WeightJob<'a> {
        WeightJob {
            program: self.program.graph(),
            parameters: self.parameters,
            evaluator: self.evaluator,
            wanted,
        }
    }
}

fn wanted(names: &BTreeSet<String>) -> HashSet<&str> {
    names.iter().map(String::as_str).collect()
}

impl<M: Machine> Current<M> {
    fn ready(&self) -> &Arc<WeightSet<M>> {
        match &self.weights {
            Held::Ready(weights) => weights,
            _ => unreachable!("only weights that are there change"),
        }
    }

    /// Whether somebody has these weights, or others that share memory with them.
    fn is_held(&mut self) -> bool {
        self.older.retain(|older| older.strong_count() > 0);
        let is_shared = |weights: &Arc<WeightSet<M>>| Arc::strong_count(weights) > 1;
        let of_steps = self.of_steps.as_ref().is_some_and(is_shared);
        !self.older.is_empty() || is_shared(self.ready()) || of_steps
    }

    /// Puts another version in place of the present one, which stays with those who hold it.
    fn replace(&mut self, changed: Tensors<M>) {
        let next = Arc::new(self.ready().with(changed));
        self.older.push(Arc::downgrade(self.ready()));
        let of_steps = self.of_steps.take();
        self.older.extend(of_steps.as_ref().map(Arc::downgrade));
        self.weights = Held::Ready(next);
    }
}

/// What else the device's memory is for while weights change: temporary values of the weight
/// program.
pub(super) const RESERVE: usize = 256 << 20;
