//! A staged graph on the CPU: three programs, the weights, and sessions.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use tintype_backend::{
    Changes, Error, Executable, RefitReport, RequestState, Result, Scope, Session, Tensors,
};
use tintype_ir::{Binding, Graph, Stage, StagedGraph, Value as Reference};
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
    request: Program,
    step: Program,
    /// Replaced as a whole: a request state keeps those it began with.
    weights: RwLock<Option<Arc<Weights>>>,
}

impl CpuExecutable {
    pub(crate) fn new(graph: StagedGraph) -> Self {
        let request = Program::new(graph.request.clone());
        let step = Program::new(graph.step.clone());
        Self {
            shared: Arc::new(Shared {
                graph,
                request,
                step,
                weights: RwLock::new(None),
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
        let program = self.shared.graph.weight_with(changes.overlays)?;
        let old = self
            .shared
            .weights
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let wanted: Option<HashSet<&str>> = match (&changes.scope, &old) {
            (Scope::Names(names), Some(_)) => {
                let names: HashSet<&str> = names.iter().map(String::as_str).collect();
                // What an overlay reads changes with the parameter that it lies on.
                let mut changed = names.clone();
                for overlay in changes
                    .overlays
                    .iter()
                    .filter(|o| names.contains(o.parameter()))
                {
                    changed.extend(overlay.own_parameters().map(|own| own.name.as_str()));
                }
                Some(
                    StagedGraph::reached_weights(&program, &changed)
                        .into_iter()
                        .collect(),
                )
            }
            _ => None,
        };
        let computed = run_weights(&program, changes.parameters, wanted.as_ref())?;
        let mut report = RefitReport {
            weights: computed.len(),
            ..RefitReport::default()
        };
        let mut weights = old.map_or_else(Weights::new, |old| (*old).clone());
        for (name, value) in computed {
            report.bytes += value.shape.byte_len(value.dtype)?;
            weights.insert(name, value);
        }
        *self
            .shared
            .weights
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(weights));
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
    let program = Program::new(graph.clone());
    let pool = Arc::new(Pool::default());
    let leaf = |reference: Reference| parameter_value(graph, parameters, reference);
    let outputs = program.run(&Binding::new(), &leaf, wanted, &pool)?;
    let weights = outputs
        .into_iter()
        .map(|(name, value)| Ok((name, value.into_weight()?)))
        .collect();
    pool.clear();
    weights
}

/// The value of a parameter of `graph`, checked and converted on read.
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
    Value::stored(parameters.expect(&parameter.name, parameter.ty.dtype, &shape)?)
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
        let weights = shared
            .weights
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let weights =
            weights.ok_or_else(|| Error::NoWeights(shared.graph.source.name().to_owned()))?;
        let mut binding = Binding::new();
        let given = self.inputs(Stage::Request, inputs, &mut binding)?;
        let results = self.run(&shared.request, &binding, &given, &weights)?;
        let handed_names: HashSet<&str> = shared.graph.handed_to_step().collect();
        let mut handed: HashMap<String, Value> = HashMap::new();
        let mut outputs = Tensors::new();
        for (name, value) in results {
            if shared
                .graph
                .source
                .outputs()
                .iter()
                .any(|output| output.name == name)
            {
                outputs.insert(name.clone(), value.to_tensor()?);
            }
            if handed_names.contains(name.as_str()) {
                handed.insert(name, value);
            }
        }
        handed.extend(
            given
                .into_iter()
                .filter(|(name, _)| handed_names.contains(name.as_str())),
        );
        let shared = Arc::clone(shared);
        Ok(Box::new(CpuState {
            shared,
            weights,
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
        let mut binding = state.binding.clone();
        let mut given = self.inputs(Stage::Step, inputs, &mut binding)?;
        given.extend(
            state
                .handed
                .iter()
                .map(|(name, value)| (name.clone(), value.clone())),
        );
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
        let mut values = HashMap::new();
        for (name, tensor) in inputs.iter() {
            graph.expect_input(stage, name)?;
            binding.bind_input(&graph.source, name, tensor.dtype(), tensor.shape())?;
            values.insert(
                name.to_owned(),
                Value::widened(&tensor.to_host()?, &self.pool)?,
            );
        }
        // Once all symbols are bound, sizes that follow from several are checked too.
        for (name, tensor) in inputs.iter() {
            binding.bind_input(&graph.source, name, tensor.dtype(), tensor.shape())?;
        }
        match graph
            .inputs_of(stage)
            .find(|input| !values.contains_key(&input.name))
        {
            Some(missing) => Err(Error::MissingInput(missing.name.clone())),
            None => Ok(values),
        }
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

/// Inputs of a whole graph for [`crate::run`].
pub(crate) fn input_values(
    graph: &Graph,
    inputs: &[(&str, Tensor)],
    pool: &Arc<Pool>,
) -> Result<(Binding, HashMap<String, Value>)> {
    let mut binding = Binding::new();
    let mut values = HashMap::new();
    for _ in 0..2 {
        for (name, tensor) in inputs {
            binding.bind_input(graph, name, tensor.dtype(), tensor.shape())?;
            values.insert((*name).to_owned(), Value::widened(tensor, pool)?);
        }
    }
    match graph
        .inputs()
        .iter()
        .find(|input| !values.contains_key(&input.name))
    {
        Some(missing) => Err(Error::MissingInput(missing.name.clone())),
        None => Ok((binding, values)),
    }
}
