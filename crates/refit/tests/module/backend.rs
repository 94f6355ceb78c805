//! The CPU as a backend that compiles for sizes, counts what it is asked for, and fails on demand.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tintype_backend::{
    Backend, Capabilities, Changes, CompileOptions, Error, Executable, RefitReport, Result, Scope,
    Session,
};
use tintype_cpu::CpuBackend;
use tintype_ir::{Evaluator, Op, StagedGraph};

/// The CPU, watched.
#[derive(Default)]
pub(crate) struct Spy {
    compiles_sizes: bool,
    log: Arc<Log>,
}

/// What a backend was asked for.
#[derive(Default)]
pub(crate) struct Log {
    compilations: AtomicUsize,
    refits: AtomicUsize,
    weights: AtomicUsize,
    executables: AtomicUsize,
    fault: Mutex<Option<(Fault, usize)>>,
    /// How long each refit takes besides.
    pub(crate) delay: Mutex<Duration>,
}

/// How a compilation or refit fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing is compiled.
    Compile,
    /// The old weights stay.
    Refit,
    /// The new weights are there, which nobody may know or use.
    Poison,
    /// As [`Fault::Poison`], and the backend panics.
    Panic,
}

impl Spy {
    /// One graph runs all sizes.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A graph is compiled for ranges of sizes.
    pub(crate) fn of_sizes() -> Self {
        Self {
            compiles_sizes: true,
            ..Self::default()
        }
    }

    pub(crate) fn log(&self) -> Arc<Log> {
        Arc::clone(&self.log)
    }
}

impl Log {
    /// Compilations, refits and weights that refits computed since this was asked last.
    pub(crate) fn take(&self) -> (usize, usize, usize) {
        (
            self.compilations.swap(0, Ordering::SeqCst),
            self.refits.swap(0, Ordering::SeqCst),
            self.weights.swap(0, Ordering::SeqCst),
        )
    }

    /// How many compiled graphs are alive.
    pub(crate) fn executables(&self) -> usize {
        self.executables.load(Ordering::SeqCst)
    }

    /// Lets one compilation or refit fail, after so many that do not.
    pub(crate) fn fail(&self, fault: Fault, after: usize) {
        *self.fault.lock().unwrap() = Some((fault, after));
    }

    fn fault(&self, of: &[Fault]) -> Option<Fault> {
        let mut fault = self.fault.lock().unwrap();
        match &mut *fault {
            Some((kind, _)) if !of.contains(kind) => None,
            Some((_, after)) if *after > 0 => {
                *after -= 1;
                None
            }
            _ => fault.take().map(|(kind, _)| kind),
        }
    }
}

fn failed(what: &str) -> Error {
    Error::Device {
        backend: "spy",
        source: format!("no memory for {what}").into(),
    }
}

impl Backend for Spy {
    fn name(&self) -> &'static str {
        "spy"
    }

    fn capabilities(&self) -> Capabilities {
        CpuBackend
            .capabilities()
            .with_compiles_sizes(self.compiles_sizes)
    }

    fn supports(&self, op: &Op) -> bool {
        CpuBackend.supports(op)
    }

    fn evaluator(&self) -> Option<&dyn Evaluator> {
        Some(&tintype_cpu::CpuEvaluator)
    }

    fn compile(
        &self,
        graph: &StagedGraph,
        options: &CompileOptions,
    ) -> Result<Box<dyn Executable>> {
        if self.log.fault(&[Fault::Compile]).is_some() {
            return Err(failed("an engine"));
        }
        self.log.compilations.fetch_add(1, Ordering::SeqCst);
        self.log.executables.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Watched {
            inner: CpuBackend.compile(graph, options)?,
            log: self.log(),
        }))
    }
}

struct Watched {
    inner: Box<dyn Executable>,
    log: Arc<Log>,
}

impl Executable for Watched {
    fn graph(&self) -> &StagedGraph {
        self.inner.graph()
    }

    fn refit(&self, changes: &Changes<'_>) -> Result<RefitReport> {
        self.log.refits.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(*self.log.delay.lock().unwrap());
        let fault = self.log.fault(&[Fault::Refit, Fault::Poison, Fault::Panic]);
        if fault == Some(Fault::Refit) {
            return Err(failed("weights"));
        }
        let report = self.inner.refit(changes)?;
        match fault {
            Some(Fault::Poison) => Err(Error::Poisoned {
                graph: self.graph().source.name().to_owned(),
                reason: "no memory".to_owned(),
                again: "no memory".to_owned(),
            }),
            Some(Fault::Panic) => panic!("a backend is broken"),
            _ => {
                if changes.scope == Scope::All {
                    assert_eq!(report.weights, self.graph().weight.outputs().len());
                }
                self.log.weights.fetch_add(report.weights, Ordering::SeqCst);
                Ok(report)
            }
        }
    }

    fn session(&self) -> Result<Box<dyn Session>> {
        self.inner.session()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.log.executables.fetch_sub(1, Ordering::SeqCst);
    }
}
