//! A staged graph on the CPU: three programs, the weights, and sessions.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use tintype_backend::{
    AttachedProgram, Changes, CompileOptions, Error, Executable, RefitReport, RequestState, Result,
    Scope, Session, Tensors, WeightPrograms,
};
use tintype_ir::{Binding, Graph, Input, Stage, StagedGraph, Value as Reference};
use tintype_tensor::Tensor;
use tintype_weights::Parameters;

use crate::buffer::Pool;
use crate::program::Program;
use crate::value::Value;

/// The weights of one refit, by name.
type Weights = HashMap<String, Value>;

/// A compiled graph.
pub(crate) struct CpuExecutable {
    shared: Arc<Shared>,
}

struct Shared {
    graph: StagedGraph,
    programs: WeightPrograms,
    request: Program,
    step: Program,
    /// Names of the graph's outputs.
    outputs: HashSet<String>,
    /// Names of what the request hands to the step.
    handed: HashSet<String>,
    /// Names of weights that go when the first step runs.
    freed: HashSet<String>,
    /// Replaced as a whole: a request state keeps those it began with.
    weights: RwLock<Option<Arc<Weights>>>,
    /// What the weights were computed from. Held by a refit: what a second one starts from is
    /// what the first one leaves.
    origin: Mutex<Option<Origin>>,
}

/// What weights were computed from.
struct Origin {
    parameters: Parameters,
    program: Arc<AttachedProgram>,
}

impl Shared {
    fn weights(&self) -> Option<Arc<Weights>> {
        let weights = self.weights.read();
        weights.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_weights(&self, weights: Weights) {
        let mut current = self.weights.write().unwrap_or_else(PoisonError::into_inner);
        *current = Some(Arc::new(weights));
    }

    /// All weights; those that went are computed anew.
    fn whole_weights(&self) -> Result<Arc<Weights>> {
        let no_weights = || Error::NoWeights(self.graph.source.name().to_owned());
        if self.freed.is_empty() {
            return self.weights().ok_or_else(no_weights);
        }
        let origin = self.origin.lock().unwrap_or_else(PoisonError::into_inner);
        let weights = self.weights().ok_or_else(no_weights)?;
        let gone = self.freed.iter().map(String::as_str);
        let gone: HashSet<&str> = gone.filter(|name| !weights.contains_key(*name)).collect();
        let (false, Some(origin)) = (gone.is_empty(), &*origin) else {
            return Ok(weights);
        };
        let computed = run_weights(origin.program.graph(), &origin.parameters, Some(&gone))?;
        let mut weights = (*weights).clone();
        weights.extend(computed);
        self.set_weights(weights.clone());
        Ok(Arc::new(weights))
    }

    /// Those of the weights that steps need.
    fn step_weights(&self, weights: Arc<Weights>) -> Arc<Weights> {
        if self.freed.is_empty() {
            return weights;
        }
        let needed = weights
            .iter()
            .filter(|(name, _)| !self.freed.contains(*name));
        let needed = needed.map(|(name, value)| (name.clone(), value.clone()));
        Arc::new(needed.collect())
    }

    /// Lets go of the weights that no step needs.
    fn free_weights(&self) {
        let is_there = |weights: &Arc<Weights>| {
            let mut freed = self.freed.iter();
            freed.any(|name| weights.contains_key(name))
        };
        if self.freed.is_empty() || !self.weights().as_ref().is_some_and(is_there) {
            return;
        }
        let mut current = self.weights.write().unwrap_or_else(PoisonError::into_inner);
        *current = current.take().map(|weights| self.step_weights(weights));
    }
}

impl CpuExecutable {
    pub(crate) fn new(graph: StagedGraph, options: &CompileOptions) -> Self {
        let freed = graph
            .request_weights()
            .filter(|_| options.frees_request_weights);
        let freed = freed.map(str::to_owned).collect();
        let request = Program::new(graph.request.clone());
        let step = Program::new(graph.step.clone());
        let outputs = graph.source.outputs().iter();
        let outputs = outputs.map(|output| output.name.clone()).collect();
        let handed = graph.handed_to_step().map(str::to_owned).collect();
        Self {
            shared: Arc::new(Shared {
                programs: WeightPrograms::new(&graph),
                graph,
                request,
                step,
                outputs,
                handed,
                freed,
                weights: RwLock::new(None),
                origin: Mutex::new(None),
            }),
        }
    }
}

impl Executable for CpuExecutable {
    fn graph(&self) -> &StagedGraph {
        &self.shared.graph
    }

    fn refit(&self, changes: &Changes<'_>) -> Result<RefitReport> {
        let start = Instant::now();
        let shared = &self.shared;
        let mut origin = shared.origin.lock().unwrap_or_else(PoisonError::into_inner);
        let program = shared.programs.with(changes.overlays)?;
        let old = shared.weights();
        let wanted = match (&changes.scope, &old) {
            (Scope::Names(names), Some(_)) => Some(shared.programs.reached(&program, names)),
            _ => None,
        };
        let wanted: Option<HashSet<&str>> = wanted
            .as_ref()
            .map(|names| names.iter().map(String::as_str).collect());
        let computed = run_weights(program.graph(), changes.parameters, wanted.as_ref())?;
        let mut report = RefitReport {
            weights: computed.len(),
            ..RefitReport::default()
        };
        let mut weights = old.map_or_else(Weights::new, |old| (*old).clone());
        for (name, value) in computed {
            report.bytes += value.shape.byte_len(value.dtype)?;
            weights.insert(name, value);
        }
        shared.set_weights(weights);
        *origin = Some(Origin {
            parameters: changes.parameters.clone(),
            program,
        });
        report.duration = start.elapsed();
        Ok(report)
    }

    fn session(&self) -> Result<Box<dyn Session>> {
        Ok(Box::new(CpuSession {
            shared: Arc::clone(&self.shared),
            pool: Arc::default(),
        }))
    }
}

/// Runs the weight program for the wanted outputs, or all.
fn run_weights(
    graph: &Graph,
    parameters: &Parameters,
    wanted: Option<&HashSet<&str>>,
) -> Result<Vec<(String, Value)>> {
    let program = Program::new(graph.clone()).storing_outputs();
    let pool = Arc::new(Pool::default());
    let leaf = |reference: Reference| parameter_value(graph, parameters, reference);
    let outputs = program.run(&Binding::new(), &leaf, wanted, &pool)?;
    // Parameters that are handed on as they are come from no node.
    outputs
        .into_iter()
        .map(|(name, value)| Ok((name, value.into_weight()?)))
        .collect()
}

/// The value of a parameter of `graph`, checked. It stays where it lies if each of its
/// values is one of the dtype asked for: a bf16 file serves f32 without a copy.
pub(crate) fn parameter_value(
    graph: &Graph,
    parameters: &Parameters,
    reference: Reference,
) -> Result<Value> {
    let Reference::Parameter(index) = reference else {
        unreachable!("weight programs have no inputs")
    };
    let parameter = &graph.parameters()[index];
    let shape = parameter
        .ty
        .static_shape()
        .expect("parameters have static types");
    let dtype = parameter.ty.dtype;
    let tensor = parameters.expect_in_place(&parameter.name, dtype, &shape)?;
    Value::stored_as(dtype, tensor)
}

struct CpuSession {
    shared: Arc<Shared>,
    pool: Arc<Pool>,
}

struct CpuState {
    shared: Arc<Shared>,
    weights: Arc<Weights>,
    binding: Binding,
    /// Request inputs and results of the request program that the step reads.
    handed: HashMap<String, Value>,
    outputs: Tensors,
}

impl RequestState for CpuState {
    fn outputs(&self) -> &Tensors {
        &self.outputs
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Session for CpuSession {
    fn prepare(&mut self, inputs: &Tensors) -> Result<Box<dyn RequestState>> {
        let shared = &self.shared;
        let weights = shared.whole_weights()?;
        let mut binding = Binding::new();
        let given = self.inputs(Stage::Request, inputs, &mut binding)?;
        let results = self.run(&shared.request, &binding, &given, &weights)?;
        let mut handed: HashMap<String, Value> = HashMap::new();
        let mut outputs = Tensors::new();
        for (name, value) in results {
            if shared.outputs.contains(&name) {
                outputs.insert(name.clone(), value.to_tensor()?);
            }
            if shared.handed.contains(&name) {
                handed.insert(name, value);
            }
        }
        let read = |(name, _): &(String, Value)| shared.handed.contains(name);
        handed.extend(given.into_iter().filter(read));
        Ok(Box::new(CpuState {
            shared: Arc::clone(shared),
            weights: shared.step_weights(weights),
            binding,
            handed,
            outputs,
        }))
    }

    fn step(&mut self, state: &dyn RequestState, inputs: &Tensors) -> Result<Tensors> {
        let state = state
            .as_any()
            .downcast_ref::<CpuState>()
            .ok_or(Error::ForeignState)?;
        if !Arc::ptr_eq(&state.shared, &self.shared) {
            return Err(Error::ForeignState);
        }
        self.shared.free_weights();
        let mut binding = state.binding.clone();
        let mut given = self.inputs(Stage::Step, inputs, &mut binding)?;
        self.check_request_inputs(state, &mut binding)?;
        let handed = state.handed.iter();
        given.extend(handed.map(|(name, value)| (name.clone(), value.clone())));
        let results = self.run(&self.shared.step, &binding, &given, &state.weights)?;
        results
            .into_iter()
            .map(|(name, value)| Ok((name, value.to_tensor()?)))
            .collect()
    }
}

impl CpuSession {
    /// The inputs of a stage, checked against the graph, with their symbols bound.
    fn inputs(
        &self,
        stage: Stage,
        inputs: &Tensors,
        binding: &mut Binding,
    ) -> Result<HashMap<String, Value>> {
        let graph = &self.shared.graph;
        let mut given = Vec::new();
        for (name, tensor) in inputs.iter() {
            graph.expect_input(stage, name)?;
            given.push((name, tensor.to_host()?));
        }
        let expected = graph.inputs_of(stage);
        input_values(&graph.source, expected, &given, binding, &self.pool)
    }

    /// Sizes of request inputs may follow from symbols that only step inputs bind.
    fn check_request_inputs(&self, state: &CpuState, binding: &mut Binding) -> Result<()> {
        let source = &self.shared.graph.source;
        for input in self.shared.graph.inputs_of(Stage::Request) {
            if let Some(value) = state.handed.get(&input.name) {
                binding.bind_input(source, &input.name, value.dtype, &value.shape)?;
            }
        }
        Ok(())
    }

    fn run(
        &self,
        program: &Program,
        binding: &Binding,
        inputs: &HashMap<String, Value>,
        weights: &Weights,
    ) -> Result<Vec<(String, Value)>> {
        let graph = program.graph();
        let leaf = |reference: Reference| match reference {
            Reference::Input(index) => {
                let name = &graph.inputs()[index].name;
                inputs
                    .get(name)
                    .cloned()
                    .ok_or_else(|| Error::MissingInput(name.clone()))
            }
            Reference::Parameter(index) => {
                let name = &graph.parameters()[index].name;
                let missing = || Error::NoWeights(graph.name().to_owned());
                weights.get(name).cloned().ok_or_else(missing)
            }
            Reference::Node(_) => unreachable!("results are not leaves"),
        };
        program.run(binding, &leaf, None, &self.pool)
    }
}

/// Values of inputs of `graph`, widened, with the symbols they bind; each of `expected`
/// must be given.
pub(crate) fn input_values<'i>(
    graph: &Graph,
    mut expected: impl Iterator<Item = &'i Input>,
    inputs: &[(&str, Tensor)],
    binding: &mut Binding,
    pool: &Arc<Pool>,
) -> Result<HashMap<String, Value>> {
    let mut values = HashMap::new();
    for (name, tensor) in inputs {
        binding.bind_input(graph, name, tensor.dtype(), tensor.shape())?;
        values.insert((*name).to_owned(), Value::widened(tensor, pool)?);
    }
    // Once all symbols are bound, sizes that follow from several are checked too.
    for (name, tensor) in inputs {
        binding.bind_input(graph, name, tensor.dtype(), tensor.shape())?;
    }
    match expected.find(|input| !values.contains_key(&input.name)) {
        Some(missing) => Err(Error::MissingInput(missing.name.clone())),
        None => Ok(values),
    }
}

#[cfg(test)]
mod tests;
