//! Sessions and request states.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tintype_backend::{DeviceTensor, Error, RequestState, Result, Session, Tensors};
use tintype_ir::{Binding, Stage};

use super::executable::Shared;
use crate::run::lane::{Given, Lane};
use crate::run::machine::Machine;
use crate::run::weights::WeightSet;

/// Runs the programs of one executable in a lane of its own.
pub(super) struct CudaSession<M: Machine> {
    lane: Lane<M>,
    shared: Arc<Shared<M>>,
}

/// What a request computed, and the weights of its steps.
struct CudaState<M: Machine> {
    shared: Arc<Shared<M>>,
    /// By which lanes know whose values lie in their slots.
    number: u64,
    /// Held, so that a refit leaves them alone.
    weights: Arc<WeightSet<M>>,
    binding: Binding,
    /// Request inputs and results of the request program that the step reads.
    handed: HashMap<String, DeviceTensor>,
    outputs: Tensors,
}

impl<M: Machine> RequestState for CudaState<M> {
    fn outputs(&self) -> &Tensors {
        &self.outputs
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl<M: Machine> CudaSession<M> {
    pub(super) fn new(shared: Arc<Shared<M>>, lane: Lane<M>) -> Self {
        Self { lane, shared }
    }

    /// Checks the inputs of a stage against the graph, and binds their symbols.
    fn bind(&self, stage: Stage, inputs: &Tensors, binding: &mut Binding) -> Result<()> {
        let graph = &self.shared.graph;
        // Twice: sizes that follow from several symbols are known when all are.
        for _ in 0..2 {
            for (name, tensor) in inputs.iter() {
                graph.expect_input(stage, name)?;
                binding.bind_input(&graph.source, name, tensor.dtype(), tensor.shape())?;
            }
        }
        let mut needed = graph.inputs_of(stage);
        match needed.find(|input| inputs.get(&input.name).is_none()) {
            Some(missing) => Err(Error::MissingInput(missing.name.clone())),
            None => Ok(()),
        }
    }

    /// Runs a program, if it has anything to give.
    fn run(
        &mut self,
        stage: Stage,
        binding: &Binding,
        given: Given<'_>,
        weights: &WeightSet<M>,
        into: &mut Tensors,
    ) -> Result<Vec<(String, DeviceTensor)>> {
        if self.shared.graph.program(stage).outputs().is_empty() {
            return Ok(Vec::new());
        }
        let program = self.shared.program(stage, binding, &mut self.lane)?;
        Ok(self.lane.run(&program, given, weights, into)?)
    }
}

impl<M: Machine> Session for CudaSession<M> {
    fn prepare(&mut self, inputs: &Tensors) -> Result<Box<dyn RequestState>> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let shared = Arc::clone(&self.shared);
        let weights = shared.whole_weights()?;
        let mut binding = Binding::new();
        self.bind(Stage::Request, inputs, &mut binding)?;
        let given = Given {
            inputs,
            handed: None,
        };
        let into = &mut Tensors::new();
        let results = self.run(Stage::Request, &binding, given, &weights, into)?;
        let graph_outputs = shared.graph.source.outputs();
        let (mut outputs, mut handed) = (Tensors::new(), HashMap::new());
        let is_handed = |name: &str| shared.graph.handed_to_step().any(|other| other == name);
        for (name, tensor) in inputs.iter().filter(|(name, _)| is_handed(name)) {
            handed.insert(name.to_owned(), self.lane.keep(tensor)?);
        }
        for (name, tensor) in results {
            if graph_outputs.iter().any(|output| output.name == name) {
                outputs.insert(name.clone(), tensor.clone());
            }
            if is_handed(&name) {
                handed.insert(name, tensor);
            }
        }
        let weights = shared.weights.of_steps(weights);
        Ok(Box::new(CudaState {
            shared,
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            weights,
            binding,
            handed,
            outputs,
        }))
    }

    fn step(&mut self, state: &dyn RequestState, inputs: &Tensors) -> Result<Tensors> {
        let mut outputs = Tensors::new();
        self.step_into(state, inputs, &mut outputs)?;
        Ok(outputs)
    }

    fn step_into(
        &mut self,
        state: &dyn RequestState,
        inputs: &Tensors,
        outputs: &mut Tensors,
    ) -> Result<()> {
        let state = state.as_any().downcast_ref::<CudaState<M>>();
        let state = state.filter(|state| Arc::ptr_eq(&state.shared, &self.shared));
        let state = state.ok_or(Error::ForeignState)?;
        self.shared.weights.free();
        let mut binding = state.binding.clone();
        self.bind(Stage::Step, inputs, &mut binding)?;
        let graph = &self.shared.graph;
        // Sizes of request inputs may follow from symbols that only step inputs bind.
        for input in graph.inputs_of(Stage::Request) {
            if let Some(tensor) = state.handed.get(&input.name) {
                let (dtype, shape) = (tensor.dtype(), tensor.shape());
                binding.bind_input(&graph.source, &input.name, dtype, shape)?;
            }
        }
        let given = Given {
            inputs,
            handed: Some((state.number, &state.handed)),
        };
        let mut old = std::mem::take(outputs);
        let results = self.run(Stage::Step, &binding, given, &state.weights, &mut old)?;
        *outputs = results.into_iter().collect();
        Ok(())
    }
}
