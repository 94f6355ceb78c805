//! A compiled graph: its plans, its engines, and the refit that changes them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tintype_backend::{
    AttachedProgram, Changes, CompileOptions, Executable, RefitReport, Result, Scope, Session,
    WeightPrograms,
};
use tintype_device::{
    DeviceBuffer, Error as DeviceError, KeptParameters, KeptRegistry, Sharing, Stream, WeightRunner,
};
use tintype_ir::{Evaluator, Stage, StagedGraph};
use tintype_weights::Parameters;

use super::exchange::{Engines, Exchange, Version, Workshop};
use super::instance::{Instance, NewWeight, NewWeights, Source, lock};
use super::plans::BuildOptions;
use super::session::TensorrtSession;
use super::weights::Inputs;
use crate::engine::Runtime;
use crate::plan::PlanFolder;

/// A compiled graph.
pub(super) struct TensorrtExecutable {
    shared: Arc<Shared>,
}

/// What an executable and its sessions have in common.
pub(super) struct Shared {
    /// In its canonical form, as the plans are.
    pub(super) graph: StagedGraph,
    programs: WeightPrograms,
    pub(super) common: Common,
    /// Of the request and of the step program; none for programs without outputs.
    sources: [Option<Source>; 2],
    engines: Exchange<Instance>,
    /// Whether the request's engine goes when the first step runs.
    frees_request: bool,
    /// What weights are computed from, as far as it waits for the next refit.
    kept: Arc<KeptParameters>,
    /// Held by a refit: what a second one starts from is what the first one leaves.
    origin: Mutex<Option<Origin>>,
    sessions: AtomicU64,
}

/// What the graphs of a backend have in common, and how the plans of one were built.
pub(super) struct Common {
    pub(super) runtime: Runtime,
    /// Runs the weight programs of all graphs, one after another.
    pub(super) runner: Arc<Mutex<WeightRunner>>,
    /// What all graphs keep.
    pub(super) registry: Arc<KeptRegistry>,
    pub(super) evaluator: Arc<dyn Evaluator + Send + Sync>,
    pub(super) build: BuildOptions,
    /// The library's times of kernels, if it keeps any.
    pub(super) timing_cache: PathBuf,
}

/// What the engines' weights were computed from.
struct Origin {
    parameters: Parameters,
    program: Arc<AttachedProgram>,
}

impl TensorrtExecutable {
    /// Loads both plans, so that one that does not run here is found out now.
    pub(super) fn new(
        graph: StagedGraph,
        sources: [Option<Source>; 2],
        common: Common,
        options: &CompileOptions,
    ) -> Result<Self> {
        let programs = WeightPrograms::new(&graph);
        let bare = programs.bare();
        common.make_room_for(&graph, bare.bytes(&bare.names()))?;
        let load = |source: &Option<Source>| -> crate::Result<Option<Arc<Instance>>> {
            let Some(source) = source else {
                return Ok(None);
            };
            let instance = source.load(&common.runtime)?;
            instance.check(&graph.weight)?;
            Ok(Some(Arc::new(instance)))
        };
        let engines = [load(&sources[0])?, load(&sources[1])?];
        // Engines have weights in memory of their own.
        let kept = KeptParameters::new(options.keep_weights, Sharing::Nothing, &graph.weight);
        let kept = Arc::new(kept);
        common.registry.add(&kept);
        Ok(Self {
            shared: Arc::new(Shared {
                engines: Exchange::new(graph.source.name(), engines),
                // A graph without steps has nothing else.
                frees_request: options.frees_request_weights && sources[1].is_some(),
                kept,
                programs,
                graph,
                common,
                sources,
                origin: Mutex::new(None),
                sessions: AtomicU64::new(0),
            }),
        })
    }
}

impl Common {
    /// Lets kept parameters go that are in the way of so many bytes.
    fn make_room(&self, bytes: usize) -> crate::Result<()> {
        let device = self.runtime.device();
        if device.free_memory()?.free < bytes.saturating_add(RESERVE) && self.registry.let_go() {
            // What was freed a moment ago is so for the driver only then.
            device.synchronize()?;
            device.trim()?;
        }
        Ok(())
    }

    /// The same for the weights of a graph, before anything of it is loaded.
    ///
    /// # Errors
    /// [`crate::Error::Memory`] if they certainly do not fit.
    fn make_room_for(&self, graph: &StagedGraph, needed: usize) -> crate::Result<()> {
        self.make_room(needed)?;
        let device = self.runtime.device();
        let free = device.available_memory()?;
        if needed <= free {
            return Ok(());
        }
        Err(crate::Error::Memory {
            graph: graph.source.name().to_owned(),
            device: format!("{device:?}"),
            needed,
            free,
            total: device.free_memory()?.total,
        })
    }

    /// Memory of a stream, if need be in place of parameters that need not be kept.
    pub(super) fn allocate(&self, stream: &Stream, bytes: usize) -> crate::Result<DeviceBuffer> {
        match DeviceBuffer::allocate(stream, bytes) {
            Err(DeviceError::OutOfMemory { .. }) => {
                self.make_room(bytes)?;
                Ok(DeviceBuffer::allocate(stream, bytes)?)
            }
            other => Ok(other?),
        }
    }
}

impl Executable for TensorrtExecutable {
    fn graph(&self) -> &StagedGraph {
        &self.shared.graph
    }

    fn refit(&self, changes: &Changes<'_>) -> Result<RefitReport> {
        let start = Instant::now();
        let shared = &self.shared;
        let mut origin = lock(&shared.origin);
        let program = shared.programs.with(changes.overlays)?;
        let names = shared.changed(&program, &changes.scope);
        program.check(changes.parameters, &names)?;
        let old = origin.as_ref();
        let mut work = Work {
            shared,
            new: shared.inputs(&program, changes.parameters),
            old: old.map(|old| shared.inputs(&old.program, &old.parameters)),
            runner: &mut lock(&shared.common.runner),
            moved: 0,
        };
        let brought = shared.engines.bring(&names, &mut work)?;
        let moved = work.moved;
        shared.kept.settle(changes.parameters);
        let report = RefitReport {
            weights: brought.len(),
            bytes: program.bytes(&brought),
            moved,
            duration: start.elapsed(),
        };
        *origin = Some(Origin {
            parameters: changes.parameters.clone(),
            program,
        });
        Ok(report)
    }

    fn session(&self) -> Result<Box<dyn Session>> {
        let shared = Arc::clone(&self.shared);
        let number = shared.sessions.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(TensorrtSession::new(shared, number)?))
    }

    fn save(&self, folder: &Path) -> Result<Vec<String>> {
        // What was compiled since is in memory still.
        for instance in self
            .shared
            .engines
            .engines()
            .into_iter()
            .flatten()
            .flatten()
        {
            instance.save_kernels();
        }
        let folder = PlanFolder::new(folder);
        let mut names = BTreeSet::new();
        for source in self.shared.sources.iter().flatten() {
            names.extend(source.save(&folder)?);
        }
        names.extend(folder.put_file(&self.shared.common.timing_cache)?);
        Ok(names.into_iter().collect())
    }
}

impl Shared {
    /// The engines with their weights; whoever has them keeps these weights. That of the request
    /// is made again if it went.
    pub(super) fn engines(&self) -> Result<Engines<Instance>> {
        loop {
            let engines = self.engines.engines()?;
            if engines[0].is_some() || self.sources[0].is_none() {
                return Ok(engines);
            }
            // A step of another session may let it go again before it is taken.
            let origin = lock(&self.origin);
            let origin = origin.as_ref().expect("engines that are ready had a refit");
            let mut work = Work {
                shared: self,
                new: self.inputs(&origin.program, &origin.parameters),
                old: None,
                runner: &mut lock(&self.common.runner),
                moved: 0,
            };
            self.engines.bring(&BTreeSet::new(), &mut work)?;
        }
    }

    /// Lets go of what steps do not need.
    pub(super) fn free_request(&self) {
        if self.frees_request {
            self.engines.free(0);
        }
    }

    fn inputs<'a>(
        &'a self,
        program: &'a AttachedProgram,
        parameters: &'a Parameters,
    ) -> Inputs<'a> {
        Inputs {
            program,
            parameters,
            evaluator: &*self.common.evaluator,
            kept: &self.kept,
        }
    }

    /// The weights that a change may reach; all of them if there are none yet.
    fn changed(&self, program: &AttachedProgram, scope: &Scope) -> BTreeSet<String> {
        match scope {
            Scope::Names(names) if self.engines.is_ready() => self.programs.reached(program, names),
            _ => program.names(),
        }
    }
}

/// A refit under way.
struct Work<'a> {
    shared: &'a Shared,
    new: Inputs<'a>,
    old: Option<Inputs<'a>>,
    runner: &'a mut WeightRunner,
    /// Bytes copied between host and device.
    moved: usize,
}

impl Workshop for Work<'_> {
    type Engine = Instance;
    type Weight = NewWeight;

    fn needed(&self, program: usize) -> Option<BTreeSet<String>> {
        self.shared.sources[program].as_ref()?;
        let parameters = self
            .shared
            .graph
            .program(STAGES[program])
            .parameters()
            .iter();
        Some(parameters.map(|parameter| parameter.name.clone()).collect())
    }

    fn load(&mut self, program: usize) -> Result<Instance> {
        let source = self.shared.sources[program].as_ref();
        let source = source.expect("only programs with a plan need weights");
        Ok(source.load(&self.shared.common.runtime)?)
    }

    fn compute(
        &mut self,
        version: Version,
        names: &BTreeSet<String>,
        empty: [bool; 2],
    ) -> Result<NewWeights> {
        let inputs = match (version, &self.old) {
            (Version::Old, Some(old)) => *old,
            _ => self.new,
        };
        // What this refit needs was looked at; another engine may need all.
        inputs.program.check(inputs.parameters, names)?;
        let room = self.room(empty)?;
        let (weights, moved) = inputs.compute(names, room, self.runner)?;
        self.moved += moved;
        Ok(weights)
    }

    fn write(&mut self, engine: &Instance, weights: &NewWeights) -> Result<Vec<String>> {
        let graph = self.shared.graph.source.name();
        let lacking = engine.write(graph, weights, self.runner.stream())?;
        if lacking.is_empty() {
            self.moved += engine.host_bytes(weights);
        }
        Ok(lacking)
    }
}

impl Work<'_> {
    /// How many bytes of weights may lie beside the engines, of which some have still to take
    /// memory for theirs.
    fn room(&self, empty: [bool; 2]) -> Result<usize> {
        let free = self.shared.common.runtime.device().free_memory();
        let free = free.map_err(crate::Error::from)?.free;
        let empty = (0..2).filter(|&program| empty[program]);
        let engines: usize = empty
            .filter_map(|program| self.needed(program))
            .map(|names| self.new.program.bytes(&names))
            .sum();
        Ok(free.saturating_sub(engines).saturating_sub(RESERVE))
    }
}

/// The programs that have engines, in the order in which these are kept.
const STAGES: [Stage; 2] = [Stage::Request, Stage::Step];

/// What else the device's memory is for while weights change: temporary values of the weight
/// program, and what the library needs.
const RESERVE: usize = 1 << 30;
