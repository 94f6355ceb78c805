//! Sessions and request states.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

use tintype_backend::{DeviceMemory, DeviceTensor, Error, RequestState, Result, Session, Tensors};
use tintype_device::{CudaTensor, DeviceBuffer, Staging, Stream};
use tintype_ir::{Binding, Error as IrError, Stage};
use tintype_tensor::{DType, Shape};

use super::executable::Shared;
use super::instance::{Instance, SessionContext};
use crate::engine::Context;

/// A stream, contexts in it, and memory that these share, since they run one after another.
pub(super) struct TensorrtSession {
    shared: Arc<Shared>,
    /// By which engines know the session's contexts.
    number: u64,
    stream: Stream,
    staging: Staging,
    scratch: Option<Arc<DeviceBuffer>>,
    /// The engines in which it has contexts.
    used: Vec<Weak<Instance>>,
}

/// What a request computed, and the engine of its steps.
struct TensorrtState {
    shared: Arc<Shared>,
    /// Held, so that a refit leaves its weights alone.
    step: Option<Arc<Instance>>,
    binding: Binding,
    /// Request inputs and results of the request program that the step reads.
    handed: HashMap<String, CudaTensor>,
    outputs: Tensors,
}

impl RequestState for TensorrtState {
    fn outputs(&self) -> &Tensors {
        &self.outputs
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl TensorrtSession {
    pub(super) fn new(shared: Arc<Shared>, number: u64) -> crate::Result<Self> {
        let stream = shared.common.runtime.device().new_stream()?;
        Ok(Self {
            shared,
            number,
            staging: Staging::with_sizes(&stream, 2, STAGING)?,
            stream,
            scratch: None,
            used: Vec::new(),
        })
    }
}

impl Session for TensorrtSession {
    fn prepare(&mut self, inputs: &Tensors) -> Result<Box<dyn RequestState>> {
        let shared = Arc::clone(&self.shared);
        let [request, step] = shared.engines()?;
        let mut binding = Binding::new();
        let given = self.inputs(Stage::Request, inputs, &mut binding)?;
        let results = match &request {
            Some(instance) => self.run(instance, &given, &binding, &mut Tensors::new())?,
            None => Vec::new(),
        };
        let is_handed = |name: &str| shared.graph.handed_to_step().any(|other| other == name);
        let graph_outputs = shared.graph.source.outputs();
        let mut outputs = Tensors::new();
        let mut handed: HashMap<String, CudaTensor> = given;
        handed.retain(|name, _| is_handed(name));
        for (name, tensor) in results {
            if graph_outputs.iter().any(|output| output.name == name) {
                outputs.insert(name.clone(), tensor.clone());
            }
            if is_handed(&name) {
                handed.insert(name, tensor);
            }
        }
        Ok(Box::new(TensorrtState {
            shared,
            step,
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
        let state = state.as_any().downcast_ref::<TensorrtState>();
        let state = state.ok_or(Error::ForeignState)?;
        if !Arc::ptr_eq(&state.shared, &self.shared) {
            return Err(Error::ForeignState);
        }
        self.shared.free_request();
        let mut binding = state.binding.clone();
        let mut given = self.inputs(Stage::Step, inputs, &mut binding)?;
        self.check_request_inputs(state, &mut binding)?;
        for (name, tensor) in &state.handed {
            given.insert(name.clone(), tensor.clone());
        }
        let mut old = std::mem::take(outputs);
        let results = match &state.step {
            Some(instance) => self.run(instance, &given, &binding, &mut old)?,
            None => Vec::new(),
        };
        *outputs = results.into_iter().collect();
        Ok(())
    }
}

impl TensorrtSession {
    /// The inputs of a stage, checked against the graph, on the device, with their symbols bound.
    fn inputs(
        &mut self,
        stage: Stage,
        inputs: &Tensors,
        binding: &mut Binding,
    ) -> Result<HashMap<String, CudaTensor>> {
        let graph = &self.shared.graph;
        // Twice: sizes that follow from several symbols are known when all are.
        for _ in 0..2 {
            for (name, tensor) in inputs.iter() {
                graph.expect_input(stage, name)?;
                binding.bind_input(&graph.source, name, tensor.dtype(), tensor.shape())?;
            }
        }
        if let Some(missing) = graph
            .inputs_of(stage)
            .find(|input| inputs.get(&input.name).is_none())
        {
            return Err(Error::MissingInput(missing.name.clone()));
        }
        self.check_ranges(binding)?;
        let mut given = HashMap::new();
        for (name, tensor) in inputs.iter() {
            given.insert(name.to_owned(), self.on_device(tensor)?);
        }
        Ok(given)
    }

    /// A plan may be for fewer sizes than the graph.
    fn check_ranges(&self, binding: &Binding) -> Result<()> {
        for (symbol, range) in self.shared.common.build.ranges() {
            if let Some(found) = binding.get(symbol)
                && !(range.min..=range.max).contains(&found)
            {
                return Err(Error::Ir(IrError::Range {
                    input: format!("the plan of {}", self.shared.graph.source.name()),
                    symbol: symbol.clone(),
                    min: range.min,
                    max: range.max,
                    found,
                }));
            }
        }
        Ok(())
    }

    /// Sizes of request inputs may follow from symbols that only step inputs bind.
    fn check_request_inputs(&self, state: &TensorrtState, binding: &mut Binding) -> Result<()> {
        let graph = &self.shared.graph;
        for input in graph.inputs_of(Stage::Request) {
            if let Some(tensor) = state.handed.get(&input.name) {
                let (dtype, shape) = (tensor.dtype(), tensor.shape());
                binding.bind_input(&graph.source, &input.name, dtype, shape)?;
            }
        }
        Ok(())
    }

    /// The tensor on this device, uploaded if it lies elsewhere.
    fn on_device(&mut self, tensor: &DeviceTensor) -> Result<CudaTensor> {
        if let Some(tensor) = CudaTensor::of(tensor, self.shared.common.runtime.device()) {
            return Ok(tensor.clone());
        }
        let tensor = CudaTensor::upload(&tensor.to_host()?, &mut self.staging);
        Ok(tensor.map_err(crate::Error::from)?)
    }

    /// Runs a program in the session's stream. Outputs go into the memory of tensors that are taken
    /// from `into`, as far as nobody else has it.
    fn run(
        &mut self,
        instance: &Arc<Instance>,
        inputs: &HashMap<String, CudaTensor>,
        binding: &Binding,
        into: &mut Tensors,
    ) -> Result<Vec<(String, CudaTensor)>> {
        let weak = Arc::downgrade(instance);
        self.used.retain(|used| used.strong_count() > 0);
        if !self.used.iter().any(|used| used.ptr_eq(&weak)) {
            self.used.push(weak);
        }
        let outputs = instance.with_context(self.number, |own| {
            let sizes = self.give_inputs(instance, &mut own.context, inputs, binding)?;
            self.give_memory(own, sizes)?;
            let lent = self.lend_outputs(instance, &mut own.context, into);
            let enqueued = lent.and_then(|()| Ok(own.context.enqueue(&self.stream)?));
            // The caller's from now on, or nobody's.
            for output in &instance.manifest().outputs {
                own.context.set_output(&output.tensor, None)?;
            }
            enqueued
        })?;
        let outputs = instance.manifest().outputs.iter().map(|output| {
            let tensor = outputs[output.tensor.as_str()].clone();
            (output.name.clone(), tensor)
        });
        Ok(outputs.collect())
    }

    /// Binds all inputs; gives their sizes.
    fn give_inputs(
        &self,
        instance: &Instance,
        context: &mut Context,
        inputs: &HashMap<String, CudaTensor>,
        binding: &Binding,
    ) -> Result<Vec<Shape>> {
        let mut sizes = Vec::new();
        for input in &instance.manifest().inputs {
            let tensor = if let Some(symbol) = &input.symbol {
                let size = binding.get(symbol);
                let size = size.ok_or_else(|| Error::Ir(IrError::Unbound(symbol.clone())))?;
                self.only_size(size)?
            } else {
                let tensor = inputs.get(&input.name).cloned();
                tensor.ok_or_else(|| Error::MissingInput(input.name.clone()))?
            };
            context.set_input(&input.tensor, &tensor)?;
            sizes.push(tensor.shape().clone());
        }
        Ok(sizes)
    }

    /// Binds outputs to memory that the caller has given back and that is large enough; others get
    /// new memory.
    fn lend_outputs(
        &self,
        instance: &Instance,
        context: &mut Context,
        into: &mut Tensors,
    ) -> Result<()> {
        for output in &instance.manifest().outputs {
            let Some(tensor) = into.take(&output.name) else {
                continue;
            };
            let known = context.engine().tensor(&output.tensor);
            let known = known.map(|known| known.dtype);
            // Sizes that are known only after a run take new memory.
            let sizes = context.output_sizes(&output.tensor);
            let (Some(dtype), Ok(sizes)) = (known, sizes) else {
                continue;
            };
            let needed = context.output_len(&output.tensor)?;
            let (device, shape) = (self.shared.common.runtime.device(), Shape::from(sizes));
            let buffer = CudaTensor::reclaim(tensor, device, dtype, &shape);
            if let Some(buffer) = buffer.filter(|buffer| buffer.len() >= needed) {
                buffer.write_in(&self.stream).map_err(crate::Error::from)?;
                context.set_output(&output.tensor, Some(buffer))?;
            }
        }
        Ok(())
    }

    /// A tensor whose size alone is read.
    fn only_size(&self, size: usize) -> crate::Result<CudaTensor> {
        let shape = Shape::from([size]);
        let bytes = shape
            .byte_len(DType::I32)
            .map_err(tintype_device::Error::from)?;
        let buffer = Arc::new(DeviceBuffer::allocate(&self.stream, bytes)?);
        Ok(CudaTensor::new(DType::I32, shape, buffer, &self.stream)?)
    }

    /// Lends a context the session's memory. How much it needs changes with the sizes only, and
    /// asking costs time.
    fn give_memory(&mut self, own: &mut SessionContext, sizes: Vec<Shape>) -> crate::Result<()> {
        let is_given = match (&own.memory, &self.scratch) {
            (Some(given), Some(scratch)) => Arc::ptr_eq(given, scratch),
            _ => false,
        };
        if is_given && own.sizes == sizes {
            return Ok(());
        }
        let needed = own.context.needed_bytes()?;
        let scratch = match self.scratch.take() {
            Some(scratch) if scratch.len() >= needed => scratch,
            _ => Arc::new(self.shared.common.allocate(&self.stream, needed)?),
        };
        own.context.set_memory(Arc::clone(&scratch))?;
        own.memory = Some(Arc::clone(&scratch));
        own.sizes = sizes;
        self.scratch = Some(scratch);
        Ok(())
    }
}

impl Drop for TensorrtSession {
    fn drop(&mut self) {
        for instance in self.used.drain(..).filter_map(|used| used.upgrade()) {
            instance.end_session(self.number);
        }
    }
}

/// Inputs are small; weights do not come this way.
const STAGING: usize = 4 << 20;
