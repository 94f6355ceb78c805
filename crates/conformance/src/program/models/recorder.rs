//! The CPU, which keeps what it is asked and what it answers.

use std::sync::{Arc, Mutex, PoisonError};

use tintype_backend::{
    Backend, Capabilities, Changes, CompileOptions, Executable, RefitReport, RequestState, Result,
    Session, Tensors,
};
use tintype_cpu::CpuBackend;
use tintype_ir::{Evaluator, Op, StagedGraph};
use tintype_weights::Parameters;

/// Runs on the CPU graphs that are made for another backend.
pub(super) struct Recorder {
    cpu: CpuBackend,
    like: Arc<dyn Backend>,
    models: Mutex<Vec<Shared>>,
}

/// A model while it is recorded.
type Shared = Arc<Mutex<Recorded>>;

/// A model: what it was compiled from, its weights, and what it was called with.
#[derive(Clone)]
pub(super) struct Recorded {
    pub(super) graph: StagedGraph,
    pub(super) parameters: Parameters,
    pub(super) calls: Vec<Call>,
}

/// A request, or a step of one, with what the CPU made of it.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) request: Tensors,
    outputs: Tensors,
    pub(super) step: Option<(Tensors, Tensors)>,
}

impl Recorder {
    pub(super) fn new(like: Arc<dyn Backend>) -> Self {
        Self {
            cpu: CpuBackend::new(),
            like,
            models: Mutex::default(),
        }
    }

    /// The models in the order in which they were compiled.
    pub(super) fn recorded(&self) -> Vec<Recorded> {
        let models = lock(&self.models);
        models.iter().map(|model| lock(model).clone()).collect()
    }
}

impl Recorded {
    /// Whether another is the same model, perhaps in another dtype.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.graph.source.name() == other.graph.source.name()
    }
}

impl Call {
    /// Whether it says something of the request program, or of the step program.
    pub(super) fn has_outputs(&self, is_step: bool) -> bool {
        match &self.step {
            Some(_) => is_step,
            None => !is_step && self.outputs.iter().next().is_some(),
        }
    }

    pub(super) fn outputs(&self, is_step: bool) -> &Tensors {
        match &self.step {
            Some((_, outputs)) if is_step => outputs,
            _ => &self.outputs,
        }
    }
}

impl Backend for Recorder {
    fn name(&self) -> &'static str {
        self.cpu.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.like.capabilities()
    }

    fn supports(&self, op: &Op) -> bool {
        self.cpu.supports(op) && self.like.supports(op)
    }

    fn evaluator(&self) -> Option<&dyn Evaluator> {
        self.cpu.evaluator()
    }

    fn compile(
        &self,
        graph: &StagedGraph,
        options: &CompileOptions,
    ) -> Result<Box<dyn Executable>> {
        let recorded = Arc::new(Mutex::new(Recorded {
            graph: graph.clone(),
            parameters: Parameters::default(),
            calls: Vec::new(),
        }));
        lock(&self.models).push(Arc::clone(&recorded));
        let inner = self.cpu.compile(graph, options)?;
        Ok(Box::new(RecordingExecutable { inner, recorded }))
    }
}

struct RecordingExecutable {
    inner: Box<dyn Executable>,
    recorded: Shared,
}

impl Executable for RecordingExecutable {
    fn graph(&self) -> &StagedGraph {
        self.inner.graph()
    }

    fn refit(&self, changes: &Changes<'_>) -> Result<RefitReport> {
        lock(&self.recorded).parameters = changes.parameters.clone();
        self.inner.refit(changes)
    }

    fn session(&self) -> Result<Box<dyn Session>> {
        Ok(Box::new(RecordingSession {
            inner: self.inner.session()?,
            recorded: Arc::clone(&self.recorded),
            request: None,
        }))
    }
}

struct RecordingSession {
    inner: Box<dyn Session>,
    recorded: Shared,
    /// The last one; the pipelines here have one at a time.
    request: Option<Tensors>,
}

impl Session for RecordingSession {
    fn prepare(&mut self, inputs: &Tensors) -> Result<Box<dyn RequestState>> {
        let state = self.inner.prepare(inputs)?;
        lock(&self.recorded).calls.push(Call {
            request: inputs.clone(),
            outputs: state.outputs().clone(),
            step: None,
        });
        self.request = Some(inputs.clone());
        Ok(state)
    }

    fn step(&mut self, state: &dyn RequestState, inputs: &Tensors) -> Result<Tensors> {
        let outputs = self.inner.step(state, inputs)?;
        lock(&self.recorded).calls.push(Call {
            request: self.request.clone().unwrap_or_default(),
            outputs: Tensors::new(),
            step: Some((inputs.clone(), outputs.clone())),
        });
        Ok(outputs)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
