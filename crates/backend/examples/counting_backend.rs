//! The smallest backend: it computes nothing and says how much each stage would run.
//!
//! ```sh
//! cargo run -p tintype-backend --example counting_backend
//! ```

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};

use tintype_backend::{
    Backend, Capabilities, Changes, CompileOptions, Error, Executable, RefitReport, RequestState,
    Result, Session, Tensors,
};
use tintype_ir::{Op, Stage, StagedGraph, parse};
use tintype_tensor::Tensor;
use tintype_weights::Parameters;

/// Counts the nodes of each program in place of running them.
struct Counting;

impl Backend for Counting {
    fn name(&self) -> &'static str {
        "counting"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn supports(&self, _op: &Op) -> bool {
        true
    }

    fn compile(&self, graph: &StagedGraph, _: &CompileOptions) -> Result<Box<dyn Executable>> {
        Ok(Box::new(Counter {
            graph: graph.clone(),
            has_weights: AtomicBool::new(false),
        }))
    }
}

struct Counter {
    graph: StagedGraph,
    has_weights: AtomicBool,
}

impl Executable for Counter {
    fn graph(&self) -> &StagedGraph {
        &self.graph
    }

    fn refit(&self, changes: &Changes<'_>) -> Result<RefitReport> {
        for parameter in self.graph.weight.parameters() {
            changes.parameters.info(&parameter.name)?;
        }
        self.has_weights.store(true, Ordering::Release);
        Ok(RefitReport {
            weights: self.graph.weight.outputs().len(),
            ..RefitReport::default()
        })
    }

    fn session(&self) -> Result<Box<dyn Session>> {
        if !self.has_weights.load(Ordering::Acquire) {
            return Err(Error::NoWeights(self.graph.source.name().to_owned()));
        }
        let count = |stage| self.graph.program(stage).nodes().len() as i64;
        Ok(Box::new(Counts {
            request: count(Stage::Request),
            step: count(Stage::Step),
        }))
    }
}

struct Counts {
    request: i64,
    step: i64,
}

impl Session for Counts {
    fn prepare(&mut self, _inputs: &Tensors) -> Result<Box<dyn RequestState>> {
        let outputs = Tensors::new().with("nodes", Tensor::scalar(self.request));
        Ok(Box::new(Prepared(outputs)))
    }

    fn step(&mut self, state: &dyn RequestState, _inputs: &Tensors) -> Result<Tensors> {
        if state.as_any().downcast_ref::<Prepared>().is_none() {
            return Err(Error::ForeignState);
        }
        Ok(Tensors::new().with("nodes", Tensor::scalar(self.step)))
    }
}

struct Prepared(Tensors);

impl RequestState for Prepared {
    fn outputs(&self) -> &Tensors {
        &self.0
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let graph = parse(
        r#"
graph "layer" {
  dim tokens = 1..=16
  param @gain: f32[4]
  input request %scale: f32[4]
  input step %x: f32[tokens, 4]
  %0: f32[4] = exp @gain
  %1: f32[4] = mul %0, %scale
  %2: f32[tokens, 4] = mul %x, %1
  %3: f32[tokens, 4] = gelu_tanh %2
  output y = %3
}"#,
    )?;
    let parameters = Parameters::builder()
        .tensor("gain", Tensor::from_f32([4], vec![0.0; 4])?)
        .build()?;
    // As a program holds backends: chosen at run time, by reference to the trait.
    let backend: &dyn Backend = &Counting;
    let executable = backend.compile(&StagedGraph::split(&graph)?, &CompileOptions::default())?;
    let report = executable.refit(&Changes::all(&parameters))?;
    let mut session = executable.session()?;
    let state = session.prepare(&Tensors::new())?;
    let nodes = |tensors: &Tensors| -> Result<i64> { Ok(tensors.host("nodes")?.to_i64_vec()?[0]) };
    println!("weights: {}", report.weights);
    println!("nodes per request: {}", nodes(state.outputs())?);
    let outputs = session.step(state.as_ref(), &Tensors::new())?;
    println!("nodes per step: {}", nodes(&outputs)?);
    Ok(())
}
