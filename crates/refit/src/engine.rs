//! One compiled graph with its weights and its idle sessions.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tintype_backend::{
    Backend, Changes, CompileOptions, Error as BackendError, Executable, RefitReport, Scope,
    Session, programs_for,
};
use tintype_ir::{Binding, GraphHash, Stage};

use crate::ranges::{EngineRanges, holds};
use crate::structure::Structure;
use crate::{Result, Weights};

/// A compiled graph for a range of sizes.
pub(crate) struct Engine {
    /// Tells it from others of its module.
    pub(crate) number: u64,
    pub(crate) structure: GraphHash,
    pub(crate) ranges: EngineRanges,
    pub(crate) executable: Box<dyn Executable>,
    /// What its weights were computed from; none before the first refit, and after one of which
    /// nobody knows what it left.
    weights: Mutex<Option<Weights>>,
    sessions: Mutex<Vec<Box<dyn Session>>>,
    last_used: AtomicU64,
}

impl Engine {
    /// Compiles; the engine has no weights yet.
    pub(crate) fn compile(
        number: u64,
        backend: &dyn Backend,
        options: &CompileOptions,
        structure: &Structure,
        ranges: EngineRanges,
    ) -> Result<Self> {
        let graph = structure.graph.narrowed(&ranges)?;
        let staged = programs_for(backend, &graph)?;
        let executable = backend.compile(&staged, options)?;
        Ok(Self {
            number,
            structure: structure.hash,
            ranges,
            executable,
            weights: Mutex::new(None),
            sessions: Mutex::default(),
            last_used: AtomicU64::new(0),
        })
    }

    /// Whether it is of this structure and runs these sizes.
    pub(crate) fn fits(&self, structure: GraphHash, sizes: &Binding) -> bool {
        self.structure == structure && holds(&self.ranges, sizes)
    }

    /// What its weights were computed from.
    pub(crate) fn weights(&self) -> Option<Weights> {
        lock(&self.weights).clone()
    }

    /// Whether its weights are those.
    pub(crate) fn has(&self, weights: &Weights) -> bool {
        lock(&self.weights)
            .as_ref()
            .is_some_and(|own| own.is_same(weights))
    }

    /// Notes that other handles hold what the weights were computed from.
    pub(crate) fn note(&self, weights: &Weights) {
        *lock(&self.weights) = Some(weights.clone());
    }

    /// Brings weights: those that `names` reach, or all if there are none. Nobody may run the
    /// engine meanwhile. After an error the old weights are there, unless
    /// [`Engine::weights`] gives none.
    pub(crate) fn refit(&self, weights: &Weights, names: BTreeSet<String>) -> Result<RefitReport> {
        let parameters = weights.all()?;
        let mut changes = Changes::all(&parameters).with_overlays(&weights.overlays);
        // A backend that panics leaves nobody knows what.
        let before = lock(&self.weights).take();
        if before.is_some() {
            changes.scope = Scope::Names(names);
        }
        let result = self.executable.refit(&changes);
        *lock(&self.weights) = match &result {
            Ok(_) => Some(weights.clone()),
            Err(BackendError::Poisoned { .. }) => None,
            Err(_) => before,
        };
        Ok(result?)
    }

    /// A session that is idle, or a new one.
    pub(crate) fn session(&self) -> Result<Box<dyn Session>> {
        let idle = lock(&self.sessions).pop();
        Ok(match idle {
            Some(session) => session,
            None => self.executable.session()?,
        })
    }

    /// Takes a session back for the next picture.
    pub(crate) fn give_back(&self, session: Box<dyn Session>) {
        lock(&self.sessions).push(session);
    }

    /// Whether the graph has a step program.
    pub(crate) fn has_steps(&self) -> bool {
        let step = self.executable.graph().program(Stage::Step);
        !step.outputs().is_empty()
    }

    /// Notes a use; `now` counts them.
    pub(crate) fn touch(&self, now: u64) {
        self.last_used.store(now, Ordering::Relaxed);
    }

    pub(crate) fn last_used(&self) -> u64 {
        self.last_used.load(Ordering::Relaxed)
    }

    /// Its ranges for people, as `batch = 1..=4, tokens = 77`.
    pub(crate) fn told_ranges(&self) -> String {
        told_ranges(&self.ranges)
    }
}

/// Ranges for people.
pub(crate) fn told_ranges(ranges: &EngineRanges) -> String {
    if ranges.is_empty() {
        return "all sizes".to_owned();
    }
    let told = ranges.iter().map(|(symbol, range)| {
        if range.start() == range.end() {
            format!("{symbol} = {}", range.start())
        } else {
            format!("{symbol} = {range:?}")
        }
    });
    told.collect::<Vec<_>>().join(", ")
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Times a piece of work.
pub(crate) fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, std::time::Duration)> {
    let start = Instant::now();
    let result = work()?;
    Ok((result, start.elapsed()))
}
