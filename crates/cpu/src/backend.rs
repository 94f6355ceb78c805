//! The CPU as a backend.

use tintype_backend::{
    Backend, Capabilities, CompileOptions, Error, Executable, Forecast, Result, values_at_once,
};
use tintype_ir::{Binding, Evaluator, Op, StagedGraph, verify};

use crate::CpuEvaluator;
use crate::executable::CpuExecutable;

/// Runs graphs on the CPU with all threads of rayon's global pool.
///
/// It needs no library and is always available.
#[derive(Debug, Clone, Copy, Default)]
pub struct CpuBackend;

impl CpuBackend {
    /// The backend.
    pub fn new() -> Self {
        Self
    }
}

impl Backend for CpuBackend {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn capabilities(&self) -> Capabilities {
        // One product for q, k and v would copy their weights out of the mapped file.
        Capabilities::default()
    }

    fn supports(&self, _op: &Op) -> bool {
        true
    }

    fn evaluator(&self) -> Option<&dyn Evaluator> {
        Some(&CpuEvaluator)
    }

    fn compile(
        &self,
        graph: &StagedGraph,
        options: &CompileOptions,
    ) -> Result<Box<dyn Executable>> {
        if options.verify {
            verify(&graph.source)?;
        }
        for node in graph.source.nodes() {
            if let Op::Attention(_) = node.op {
                let dims = |index: usize| &graph.source.type_of(node.operands[index]).dims[3];
                if dims(0) != dims(2) {
                    let what = format!(
                        "attention with heads of {} and values of {}",
                        dims(0),
                        dims(2)
                    );
                    return Err(Error::Unsupported {
                        backend: "cpu",
                        what,
                    });
                }
            }
        }
        Ok(Box::new(CpuExecutable::new(graph.clone(), options)))
    }

    /// Nothing is compiled ahead, and all operations run here. Fusion needs less memory than is
    /// told. Weights that are parameters as they are lie in the mapped file.
    fn forecast(
        &self,
        graph: &StagedGraph,
        _options: &CompileOptions,
        sizes: &Binding,
    ) -> Result<Forecast> {
        let mut forecast = Forecast::of_graph(graph, sizes)?;
        let mut most = 0;
        for program in &forecast.programs {
            // They run one after another.
            most = most.max(values_at_once(graph.program(program.stage), sizes)?);
        }
        forecast.memory.workspace = Some(most);
        Ok(forecast)
    }
}
