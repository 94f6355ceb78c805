//! A compiled graph: its plans, its engines, and the refit that changes them.
//!
//! A request state holds the engine of its steps. A refit changes an engine in place as long as
//! nobody holds it; otherwise it makes another engine of the same plan, with all weights, and
//! the old one goes with the last state. So a refit waits for no session, and a state keeps the
//! weights that it was prepared with, at the price of a second engine's memory while it lasts.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tintype_backend::{Changes, Error, Executable, RefitReport, Result, Scope, Session};
use tintype_device::WeightRunner;
use tintype_ir::{Evaluator, Graph, Overlay, Stage, StagedGraph};
use tintype_weights::Parameters;

use super::change::{Changed, change};
use super::instance::{Instance, NewWeights, Source, is_held, lock};
use super::plans::BuildOptions;
use super::session::TensorrtSession;
use super::weights::{Inputs, total_bytes};
use crate::engine::Runtime;

/// A compiled graph.
pub(super) struct TensorrtExecutable {
    pub(super) shared: Arc<Shared>,
}

/// What an executable and its sessions have in common.
pub(super) struct Shared {
    /// In its canonical form, as the plans are.
    pub(super) graph: StagedGraph,
    pub(super) runtime: Runtime,
    pub(super) build: BuildOptions,
    /// Of the request and of the step program; none for programs without outputs.
    sources: [Option<Source>; 2],
    evaluator: Arc<dyn Evaluator + Send + Sync>,
    current: Mutex<Current>,
    /// Held by a refit: what a second one starts from is what the first one leaves.
    refit: Mutex<Refit>,
    sessions: AtomicU64,
}

/// The engines of the request and of the step program.
pub(super) type Engines = [Option<Arc<Instance>>; 2];

enum Current {
    /// Loaded, and without weights.
    Bare(Engines),
    Ready(Engines),
    Poisoned {
        reason: String,
        again: String,
    },
}

struct Refit {
    runner: WeightRunner,
    /// What the engines' weights were computed from.
    origin: Option<Origin>,
}

struct Origin {
    parameters: Parameters,
    overlays: Vec<Overlay>,
}

/// What a refit does with an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// There is none, or no weight of it changes.
    Keep,
    /// It gets new weights.
    InPlace,
    /// Another one takes its place.
    Replace,
}

impl TensorrtExecutable {
    /// Loads both plans, so that one that does not run here is found out now.
    pub(super) fn new(
        graph: StagedGraph,
        runtime: Runtime,
        sources: [Option<Source>; 2],
        runner: WeightRunner,
        evaluator: Arc<dyn Evaluator + Send + Sync>,
        build: BuildOptions,
    ) -> Result<Self> {
        let load = |source: &Option<Source>| -> crate::Result<Option<Arc<Instance>>> {
            let Some(source) = source else {
                return Ok(None);
            };
            let instance = source.load(&runtime)?;
            instance.check(&graph.weight)?;
            Ok(Some(Arc::new(instance)))
        };
        let engines = [load(&sources[0])?, load(&sources[1])?];
        Ok(Self {
            shared: Arc::new(Shared {
                graph,
                runtime,
                build,
                sources,
                evaluator,
                current: Mutex::new(Current::Bare(engines)),
                refit: Mutex::new(Refit {
                    runner,
                    origin: None,
                }),
                sessions: AtomicU64::new(0),
            }),
        })
    }
}

impl Executable for TensorrtExecutable {
    fn graph(&self) -> &StagedGraph {
        &self.shared.graph
    }

    fn refit(&self, changes: &Changes<'_>) -> Result<RefitReport> {
        let start = Instant::now();
        let shared = &self.shared;
        let mut refit = lock(&shared.refit);
        let program = shared.graph.weight_with(changes.overlays)?;
        let inputs = shared.inputs(&program, changes.parameters);
        let names = shared.changed(&program, &changes.scope);
        inputs.check(&names)?;
        let mut report = shared.exchange(&inputs, &names, &mut refit)?;
        refit.origin = Some(Origin {
            parameters: changes.parameters.clone(),
            overlays: changes.overlays.to_vec(),
        });
        report.duration = start.elapsed();
        Ok(report)
    }

    fn session(&self) -> Result<Box<dyn Session>> {
        let shared = Arc::clone(&self.shared);
        let number = shared.sessions.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(TensorrtSession::new(shared, number)?))
    }
}

impl Shared {
    /// The engines with their weights; whoever has them keeps these weights.
    pub(super) fn engines(&self) -> Result<Engines> {
        let graph = self.graph.source.name().to_owned();
        match &*lock(&self.current) {
            Current::Ready(engines) => Ok(engines.clone()),
            Current::Bare(_) => Err(Error::NoWeights(graph)),
            Current::Poisoned { reason, again } => Err(Error::Poisoned {
                graph,
                reason: reason.clone(),
                again: again.clone(),
            }),
        }
    }

    fn inputs<'a>(&'a self, program: &'a Graph, parameters: &'a Parameters) -> Inputs<'a> {
        Inputs {
            program,
            parameters,
            evaluator: &*self.evaluator,
        }
    }

    /// The weights that a change may reach, in the program with overlays as in that without: an
    /// overlay need not read the parameter that it lies on. All of them if there are none yet.
    fn changed(&self, program: &Graph, scope: &Scope) -> BTreeSet<String> {
        let is_ready = matches!(&*lock(&self.current), Current::Ready(_));
        let all = || program.outputs().iter().map(|output| output.name.clone());
        let Scope::Names(names) = scope else {
            return all().collect();
        };
        if !is_ready {
            return all().collect();
        }
        let names: HashSet<&str> = names.iter().map(String::as_str).collect();
        let programs = [program, &self.graph.weight];
        let reached = programs
            .into_iter()
            .flat_map(|program| StagedGraph::reached_weights(program, &names));
        reached.map(str::to_owned).collect()
    }

    /// Brings the weights of `names` into the engines.
    fn exchange(
        &self,
        inputs: &Inputs<'_>,
        names: &BTreeSet<String>,
        refit: &mut Refit,
    ) -> Result<RefitReport> {
        let mut replaced = [false; 2];
        loop {
            let fates = self.fates(names, replaced);
            let wanted = self.wanted(names, fates);
            let weights =
                inputs.compute(&wanted, self.budget(inputs, fates)?, &mut refit.runner)?;
            let fresh = self.fresh_engines(fates, &weights, refit)?;
            let mut current = lock(&self.current);
            // Somebody may have taken an engine while the weights were computed.
            let taken = current.taken(fates);
            if taken.contains(&true) {
                replaced = std::array::from_fn(|index| replaced[index] || taken[index]);
                continue;
            }
            let report = RefitReport {
                weights: wanted.len(),
                bytes: total_bytes(inputs.program, wanted.iter().map(String::as_str)),
                ..RefitReport::default()
            };
            self.change_in_place(&mut current, fates, inputs, weights, &wanted, refit)?;
            current.put(fresh);
            return Ok(report);
        }
    }

    fn fates(&self, names: &BTreeSet<String>, replaced: [bool; 2]) -> [Fate; 2] {
        let current = lock(&self.current);
        std::array::from_fn(|index| {
            if self.sources[index].is_none() {
                return Fate::Keep;
            }
            let Some(instance) = current.instance(index) else {
                return Fate::Replace;
            };
            if current.is_ready() && instance.names().is_disjoint(names) {
                Fate::Keep
            } else if replaced[index] || is_held(instance) {
                Fate::Replace
            } else {
                Fate::InPlace
            }
        })
    }

    /// What must be computed: what has changed for an engine that stays, all for another.
    fn wanted(&self, names: &BTreeSet<String>, fates: [Fate; 2]) -> BTreeSet<String> {
        let current = lock(&self.current);
        let mut wanted = BTreeSet::new();
        for (index, stage) in STAGES.into_iter().enumerate() {
            let needed = self.graph.program(stage).parameters().iter();
            let needed = needed.map(|parameter| parameter.name.clone());
            match fates[index] {
                Fate::Keep => {}
                Fate::InPlace if current.is_ready() => {
                    wanted.extend(needed.filter(|name| names.contains(name)));
                }
                Fate::InPlace | Fate::Replace => wanted.extend(needed),
            }
        }
        wanted
    }

    /// How many bytes of weights may lie beside the engines.
    fn budget(&self, inputs: &Inputs<'_>, fates: [Fate; 2]) -> Result<usize> {
        let free = self
            .runtime
            .device()
            .free_memory()
            .map_err(crate::Error::from)?;
        // Engines allocate room for their weights when they first get them.
        let is_ready = lock(&self.current).is_ready();
        let new_engines: usize = STAGES
            .into_iter()
            .enumerate()
            .filter(|&(index, _)| match fates[index] {
                Fate::Keep => false,
                Fate::InPlace => !is_ready,
                Fate::Replace => true,
            })
            .map(|(_, stage)| {
                let names = self.graph.program(stage).parameters().iter();
                total_bytes(
                    inputs.program,
                    names.map(|parameter| parameter.name.as_str()),
                )
            })
            .sum();
        Ok(free
            .free
            .saturating_sub(new_engines)
            .saturating_sub(RESERVE))
    }

    fn fresh_engines(
        &self,
        fates: [Fate; 2],
        weights: &NewWeights,
        refit: &Refit,
    ) -> Result<Engines> {
        let mut fresh = [None, None];
        for (index, source) in self.sources.iter().enumerate() {
            if let (Fate::Replace, Some(source)) = (fates[index], source) {
                let instance = source.load(&self.runtime)?;
                self.write_all(&instance, weights, refit)?;
                fresh[index] = Some(Arc::new(instance));
            }
        }
        Ok(fresh)
    }

    /// Writes weights of which none is lacking.
    fn write_all(&self, instance: &Instance, weights: &NewWeights, refit: &Refit) -> Result<()> {
        let name = self.graph.source.name();
        let lacking = instance.write(name, weights, refit.runner.stream())?;
        if lacking.is_empty() {
            return Ok(());
        }
        Err(Error::from(crate::Error::Missing {
            action: format!("refitting `{name}`"),
            names: lacking,
        }))
    }

    /// Changes engines that nobody else has: `current` stays locked meanwhile.
    fn change_in_place(
        &self,
        current: &mut Current,
        fates: [Fate; 2],
        inputs: &Inputs<'_>,
        weights: NewWeights,
        wanted: &BTreeSet<String>,
        refit: &mut Refit,
    ) -> Result<()> {
        let in_place = (0..2).filter(|&index| fates[index] == Fate::InPlace);
        let instances: Vec<&Arc<Instance>> = in_place
            .filter_map(|index| current.instance(index))
            .collect();
        if instances.is_empty() {
            return Ok(());
        }
        let Refit { runner, origin } = refit;
        let budget = self.budget_of_few()?;
        let runner = std::cell::RefCell::new(runner);
        let old_program = origin
            .as_ref()
            .filter(|_| current.is_ready())
            .map(|origin| self.graph.weight_with(&origin.overlays))
            .transpose()?;
        let old = origin.as_ref().zip(old_program.as_ref());
        let old = old.map(|(origin, program)| self.inputs(program, &origin.parameters));
        let write = |batch: &Batch<'_>| batch.write(self, &instances, budget, &runner);
        let new = Batch { inputs, weights };
        let changed = change(&new, write, || {
            let Some(inputs) = &old else {
                return Err(Error::NoWeights(self.graph.source.name().to_owned()));
            };
            let weights = inputs.compute(wanted, budget, &mut runner.borrow_mut())?;
            Ok(Batch { inputs, weights })
        });
        match changed {
            Changed::New => {
                current.make_ready();
                Ok(())
            }
            Changed::Old(failure) => Err(failure),
            // Without old weights, nothing was lost: there are none, as before.
            Changed::Mixed { failure, .. } if old.is_none() => {
                *current = Current::Bare([None, None]);
                Err(failure)
            }
            Changed::Mixed { failure, again } => {
                let (reason, again) = (failure.to_string(), again.to_string());
                *current = Current::Poisoned {
                    reason: reason.clone(),
                    again: again.clone(),
                };
                Err(Error::Poisoned {
                    graph: self.graph.source.name().to_owned(),
                    reason,
                    again,
                })
            }
        }
    }

    fn budget_of_few(&self) -> Result<usize> {
        let free = self
            .runtime
            .device()
            .free_memory()
            .map_err(crate::Error::from)?;
        Ok(free.free.saturating_sub(RESERVE))
    }
}

/// Weights, and what more of them can be computed from.
struct Batch<'a> {
    inputs: &'a Inputs<'a>,
    weights: NewWeights,
}

impl Batch<'_> {
    /// Writes the weights to engines, with those that the library wants together with them.
    fn write(
        &self,
        shared: &Shared,
        instances: &[&Arc<Instance>],
        budget: usize,
        runner: &std::cell::RefCell<&mut WeightRunner>,
    ) -> Result<()> {
        let name = shared.graph.source.name();
        let stream = runner.borrow().stream().clone();
        let mut weights = self.weights.clone();
        for instance in instances {
            loop {
                let lacking = instance.write(name, &weights, &stream)?;
                if lacking.is_empty() {
                    break;
                }
                let more: BTreeSet<String> = lacking
                    .into_iter()
                    .filter(|name| !weights.contains_key(name))
                    .collect();
                tracing::debug!("{} more weights belong to those that changed", more.len());
                let known = more.iter().all(|more| {
                    let mut outputs = self.inputs.program.outputs().iter();
                    outputs.any(|output| output.name == *more)
                });
                if more.is_empty() || !known {
                    return Err(Error::from(crate::Error::Missing {
                        action: format!("refitting `{name}`"),
                        names: more.into_iter().collect(),
                    }));
                }
                weights.extend(
                    self.inputs
                        .compute(&more, budget, &mut runner.borrow_mut())?,
                );
            }
        }
        Ok(())
    }
}

impl Current {
    fn instance(&self, index: usize) -> Option<&Arc<Instance>> {
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
            fates[index] == Fate::InPlace && self.instance(index).is_none_or(is_held)
        })
    }

    /// The engines have their weights.
    fn make_ready(&mut self) {
        if let Self::Bare(engines) = self {
            *self = Self::Ready(std::mem::take(engines));
        }
    }

    /// Puts new engines in the places of old ones; all have their weights then.
    fn put(&mut self, fresh: Engines) {
        if matches!(self, Self::Poisoned { .. }) {
            *self = Self::Bare([None, None]);
        }
        self.make_ready();
        if let Self::Ready(engines) = self {
            for (engine, fresh) in engines.iter_mut().zip(fresh) {
                if fresh.is_some() {
                    *engine = fresh;
                }
            }
        }
    }
}

/// The programs that have engines, in the order in which these are kept.
const STAGES: [Stage; 2] = [Stage::Request, Stage::Step];

/// What else the device's memory is for while weights change: temporary values of the weight
/// program, and what the library needs.
const RESERVE: usize = 1 << 30;
