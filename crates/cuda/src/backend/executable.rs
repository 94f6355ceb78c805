//! A compiled graph: its weights, and its programs for the sizes that were met.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tintype_backend::{
    AttachedProgram, Changes, CompileOptions, Executable, KeepWeights, RefitReport, Result, Scope,
    Session, WeightPrograms,
};
use tintype_ir::{Binding, Evaluator, Stage, StagedGraph};
use tintype_weights::Parameters;

use super::exchange::{Exchange, Inputs, Sources};
use super::session::CudaSession;
use crate::run::lane::Lane;
use crate::run::machine::Machine;
use crate::run::program::Program;
use crate::run::weights::WeightSet;

/// A compiled graph.
pub(super) struct CudaExecutable<M: Machine> {
    shared: Arc<Shared<M>>,
}

/// What an executable and its sessions have in common.
pub(super) struct Shared<M: Machine> {
    pub(super) graph: StagedGraph,
    weight_programs: WeightPrograms,
    pub(super) machine: Arc<M>,
    pub(super) weights: Exchange<M>,
    evaluator: Arc<dyn Evaluator + Send + Sync>,
    /// The latest used last.
    programs: Mutex<Vec<Sized<M>>>,
    /// Held by a refit: what a second one starts from is what the first one leaves.
    origin: Mutex<Option<Origin>>,
}

/// A program for some sizes.
struct Sized<M: Machine> {
    stage: Stage,
    binding: Binding,
    program: Arc<Program<M>>,
}

/// What the weights were computed from.
struct Origin {
    parameters: Parameters,
    program: Arc<AttachedProgram>,
}

impl<M: Machine> CudaExecutable<M> {
    pub(super) fn new(
        machine: Arc<M>,
        graph: StagedGraph,
        evaluator: Arc<dyn Evaluator + Send + Sync>,
        options: &CompileOptions,
    ) -> Self {
        if let Some(folder) = &options.folder {
            machine.look_into(folder);
        }
        if options.keep_weights == KeepWeights::Device
            && let Err(error) = machine.keep_freed()
        {
            tracing::warn!("refits may be slower: {error}");
        }
        Self {
            shared: Arc::new(Shared {
                weights: Exchange::new(Arc::clone(&machine), &graph, options),
                weight_programs: WeightPrograms::new(&graph),
                graph,
                machine,
                evaluator,
                programs: Mutex::default(),
                origin: Mutex::default(),
            }),
        }
    }
}

impl<M: Machine> Executable for CudaExecutable<M> {
    fn graph(&self) -> &StagedGraph {
        &self.shared.graph
    }

    fn refit(&self, changes: &Changes<'_>) -> Result<RefitReport> {
        let start = Instant::now();
        let shared = &self.shared;
        let mut origin = lock(&shared.origin);
        let program = shared.weight_programs.with(changes.overlays)?;
        let names = shared.changed(&program, &changes.scope);
        program.check(changes.parameters, &names)?;
        let old = origin.as_ref();
        let sources = Sources {
            new: shared.inputs(&program, changes.parameters),
            old: old.map(|old| shared.inputs(&old.program, &old.parameters)),
        };
        let moved = shared.weights.bring(&names, &sources)?;
        let report = RefitReport {
            weights: names.len(),
            bytes: program.bytes(&names),
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
        let lane = Lane::new(Arc::clone(&self.shared.machine))?;
        Ok(Box::new(CudaSession::new(Arc::clone(&self.shared), lane)))
    }

    /// What was chosen and compiled for the sizes that were met.
    fn save(&self, folder: &Path) -> Result<Vec<String>> {
        let programs = lock(&self.shared.programs);
        let programs = programs.iter().map(|known| Arc::clone(&known.program));
        let programs: Vec<_> = programs.collect();
        let mut names = BTreeSet::new();
        for program in programs {
            names.extend(program.save(folder)?);
        }
        Ok(names.into_iter().collect())
    }
}

impl<M: Machine> Shared<M> {
    /// All weights: what steps have let go is computed anew.
    pub(super) fn whole_weights(&self) -> Result<Arc<WeightSet<M>>> {
        if !self.weights.frees() {
            return self.weights.weights();
        }
        // A refit would leave others.
        let origin = lock(&self.origin);
        let Some(origin) = &*origin else {
            return self.weights.weights();
        };
        let inputs = self.inputs(&origin.program, &origin.parameters);
        self.weights.bring_back(&inputs)
    }

    /// The program of a stage for these sizes, made in `lane` if need be; others wait for it.
    pub(super) fn program(
        &self,
        stage: Stage,
        binding: &Binding,
        lane: &mut Lane<M>,
    ) -> Result<Arc<Program<M>>> {
        let mut programs = lock(&self.programs);
        let is_it = |known: &Sized<M>| known.stage == stage && known.binding == *binding;
        let known = match programs.iter().position(is_it) {
            Some(index) => programs.remove(index),
            None => Sized {
                stage,
                binding: binding.clone(),
                program: Arc::new(Program::new(
                    &*self.machine,
                    lane.stream_mut(),
                    self.graph.program(stage),
                    binding,
                )?),
            },
        };
        let program = Arc::clone(&known.program);
        programs.push(known);
        if programs.len() > MOST_PROGRAMS {
            // Sessions that run it keep it.
            programs.remove(0);
        }
        Ok(program)
    }

    fn inputs<'a>(
        &'a self,
        program: &'a AttachedProgram,
        parameters: &'a Parameters,
    ) -> Inputs<'a> {
        Inputs {
            program,
            parameters,
            evaluator: &*self.evaluator,
        }
    }

    /// The weights that a change may reach; all if there are none yet.
    fn changed(&self, program: &AttachedProgram, scope: &Scope) -> BTreeSet<String> {
        match scope {
            Scope::Names(names) if self.weights.is_ready() => {
                self.weight_programs.reached(program, names)
            }
            _ => program.names(),
        }
    }
}

/// What these locks protect is whole between calls, also after a panic elsewhere.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sizes that are ready at once, of request and step together.
const MOST_PROGRAMS: usize = 16;
