//! The CPU, watched: how often it compiles and refits, and refits that fail on demand.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tintype_backend::{
    Backend, Capabilities, Changes, CompileOptions, Error, Executable, RefitReport, Result, Session,
};
use tintype_cpu::CpuBackend;
use tintype_ir::{Evaluator, Op, StagedGraph};

#[derive(Default)]
pub struct Watch {
    pub compiles: AtomicUsize,
    pub refits: AtomicUsize,
    /// Whether the next refits fail.
    fail: Mutex<VecDeque<bool>>,
    /// Whether refits panic.
    pub panics: AtomicBool,
    /// Whether graphs are compiled for ranges of sizes.
    compiles_sizes: bool,
}

impl Watch {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn for_sizes() -> Arc<Self> {
        Arc::new(Self {
            compiles_sizes: true,
            ..Self::default()
        })
    }

    /// The next refits fail where this says so; those after them do not.
    pub fn fail(&self, fail: &[bool]) {
        *self.fail.lock().unwrap() = fail.iter().copied().collect();
    }

    /// How many of the failures that were asked for did not come.
    pub fn failures_left(&self) -> usize {
        let left = self.fail.lock().unwrap();
        left.iter().filter(|fails| **fails).count()
    }

    pub fn compiles(&self) -> usize {
        self.compiles.load(Ordering::Relaxed)
    }

    pub fn refits(&self) -> usize {
        self.refits.load(Ordering::Relaxed)
    }
}

pub struct Watched(pub CpuBackend, pub Arc<Watch>);

struct WatchedExecutable(Box<dyn Executable>, Arc<Watch>);

impl Backend for Watched {
    fn name(&self) -> &'static str {
        "watched"
    }

    fn capabilities(&self) -> Capabilities {
        let capabilities = self.0.capabilities();
        capabilities.with_compiles_sizes(self.1.compiles_sizes)
    }

    fn supports(&self, op: &Op) -> bool {
        self.0.supports(op)
    }

    fn evaluator(&self) -> Option<&dyn Evaluator> {
        self.0.evaluator()
    }

    fn compile(
        &self,
        graph: &StagedGraph,
        options: &CompileOptions,
    ) -> Result<Box<dyn Executable>> {
        self.1.compiles.fetch_add(1, Ordering::Relaxed);
        let inner = self.0.compile(graph, options)?;
        Ok(Box::new(WatchedExecutable(inner, Arc::clone(&self.1))))
    }
}

impl Executable for WatchedExecutable {
    fn graph(&self) -> &StagedGraph {
        self.0.graph()
    }

    fn refit(&self, changes: &Changes<'_>) -> Result<RefitReport> {
        self.1.refits.fetch_add(1, Ordering::Relaxed);
        let fails = self.1.fail.lock().unwrap().pop_front();
        assert!(
            !self.1.panics.load(Ordering::Relaxed),
            "as the test asked for"
        );
        if fails == Some(true) {
            return Err(Error::Device {
                backend: "watched",
                source: "out of memory, as the test asked for".into(),
            });
        }
        self.0.refit(changes)
    }

    fn session(&self) -> Result<Box<dyn Session>> {
        self.0.session()
    }
}
