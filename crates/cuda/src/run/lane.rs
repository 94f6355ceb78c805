//! A stream with one workspace, in which the programs of a session run one after another.
//!
//! Inputs are copied to slots that stay, so that captured graphs find them; what a request hands
//! to its steps is copied once, when the lane turns to that request. Outputs are copied to tensors
//! of their own, new ones or those that the caller gives back, so that callers may keep them. Both are copies within the device, of what a step
//! reads and gives: some hundred kilobytes of latents.
//!
//! ```text
//! caller's tensors ──copy──▶ slots ──▶ steps in the workspace ──copy──▶ new tensors
//!                                      weights of one version
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tintype_backend::{DeviceTensor, Error as BackendError, Tensors};
use tintype_device::Error as DeviceError;

use super::captures::{Captures, Next};
use super::machine::Machine;
use super::program::{Bases, Program};
use super::weights::WeightSet;
use crate::{Error, Result};

/// A stream with one workspace.
pub(crate) struct Lane<M: Machine> {
    machine: Arc<M>,
    number: u64,
    stream: M::Stream,
    workspace: Option<(M::Memory, usize)>,
    /// The latest used last.
    instances: Vec<Instance<M>>,
}

/// What a lane has of a program.
struct Instance<M: Machine> {
    captures: Captures<M::Graph>,
    slots: M::Memory,
    offsets: Vec<usize>,
    /// The request whose values lie in the slots.
    holds: Option<u64>,
    /// The addresses of weights in a layout: a model has a thousand.
    weights: Option<(u64, Arc<[u64]>)>,
    program: Arc<Program<M>>,
}

/// What a program is given.
#[derive(Clone, Copy)]
pub(crate) struct Given<'a> {
    /// Copied at every run.
    pub(crate) inputs: &'a Tensors,
    /// Values of a request and its number; they stay the same.
    pub(crate) handed: Option<(u64, &'a HashMap<String, DeviceTensor>)>,
}

impl<M: Machine> Lane<M> {
    /// A new stream, without a workspace yet.
    pub(crate) fn new(machine: Arc<M>) -> Result<Self> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Ok(Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            stream: machine.stream()?,
            machine,
            workspace: None,
            instances: Vec::new(),
        })
    }

    /// The stream.
    pub(crate) fn stream_mut(&mut self) -> &mut M::Stream {
        &mut self.stream
    }

    /// A tensor of the device, for the steps of a request.
    pub(crate) fn keep(&mut self, tensor: &DeviceTensor) -> Result<DeviceTensor> {
        self.machine.keep(&mut self.stream, tensor)
    }

    /// Runs a program with these inputs and weights; waits for nothing. Outputs go into the memory
    /// of tensors that are taken from `into`, as far as nobody else has it.
    ///
    /// # Errors
    /// An input that is missing; what a step says. The lane can be used again.
    pub(crate) fn run(
        &mut self,
        program: &Arc<Program<M>>,
        given: Given<'_>,
        weights: &WeightSet<M>,
        into: &mut Tensors,
    ) -> Result<Vec<(String, DeviceTensor)>> {
        self.make_room(program)?;
        let index = self.instance(program)?;
        self.instances[index].fill(&self.machine, &mut self.stream, given)?;
        let addresses = self.instances[index].weights_at(weights)?;
        let (slots, workspace) = (self.instances[index].slots_at(), self.workspace_at());
        let bases = Bases {
            workspace,
            inputs: &|index| slots[index],
            weights: &|index| addresses[index],
        };
        let launched = self.launch(index, &bases, weights.layout());
        let outputs = launched.and_then(|()| self.outputs(program, &bases, into));
        // Also after an error: some steps may be under way.
        let read = self.machine.record(&self.stream);
        let read = read.map(|event| weights.read_by(self.number, event));
        let outputs = outputs?;
        read.map(|()| outputs)
    }

    /// Enqueues, captures or replays.
    fn launch(&mut self, index: usize, bases: &Bases<'_>, layout: u64) -> Result<()> {
        let instance = &mut self.instances[index];
        let (machine, stream) = (&*self.machine, &self.stream);
        let program = &*instance.program;
        // SAFETY: slots, workspace and program stay until the lane has waited for its stream; the
        // weights until the event that is told to them.
        let enqueue = || unsafe { program.enqueue(machine, stream, bases) };
        if instance.captures.next(layout) == Next::Capture {
            match machine.capture(stream, &mut { enqueue }) {
                Ok(graph) => {
                    if instance.captures.is_full() {
                        machine.synchronize(stream)?;
                    }
                    instance.captures.put(layout, graph);
                }
                Err(error) => {
                    let name = program.plan().graph.name();
                    tracing::warn!("`{name}` runs without a CUDA graph: {error}");
                    instance.captures.refuse();
                }
            }
        }
        if let Some(graph) = instance.captures.get(layout) {
            // SAFETY: the addresses in it are these, by the layout, of memory that stays as above.
            return unsafe { machine.launch(graph, stream) };
        }
        enqueue()?;
        instance.captures.warm();
        Ok(())
    }

    fn outputs(
        &self,
        program: &Program<M>,
        bases: &Bases<'_>,
        into: &mut Tensors,
    ) -> Result<Vec<(String, DeviceTensor)>> {
        let outputs = program.outputs(bases);
        outputs
            .map(|(name, dtype, shape, address)| {
                let (ty, into) = ((dtype, shape), into.take(name));
                // SAFETY: outputs lie where the plan says, in memory that stays as for `launch`.
                let copied = unsafe { self.machine.copy_out(&self.stream, ty, address, into) };
                Ok((name.to_owned(), copied?.into()))
            })
            .collect()
    }

    /// Makes the workspace large enough. Another address ends all that was captured.
    fn make_room(&mut self, program: &Program<M>) -> Result<()> {
        let bytes = program.workspace_bytes();
        let had = self.workspace.as_ref().map(|(_, had)| *had);
        if had.is_some_and(|had| had >= bytes) {
            return Ok(());
        }
        if had.is_some() {
            self.machine.synchronize(&self.stream)?;
            for instance in &mut self.instances {
                instance.captures = Captures::new(!self.machine.has_graphs());
            }
            // First: both may not fit.
            self.workspace = None;
        }
        let memory = self.allocate(bytes);
        let memory = memory.map_err(|error| named(error, program.plan().graph.name()))?;
        self.workspace = Some((memory, bytes));
        Ok(())
    }

    /// Memory of the stream, if need be in place of parameters that need not be kept.
    fn allocate(&self, bytes: usize) -> Result<M::Memory> {
        match self.machine.allocate(&self.stream, bytes) {
            Err(Error::Device(DeviceError::OutOfMemory { .. })) if self.machine.kept().let_go() => {
                self.machine.free_bytes(bytes)?;
                self.machine.allocate(&self.stream, bytes)
            }
            other => other,
        }
    }

    fn workspace_at(&self) -> u64 {
        let workspace = self.workspace.as_ref();
        workspace.map_or(0, |(memory, _)| M::address(memory))
    }

    /// The place of a program's instance, made if need be: the last.
    fn instance(&mut self, program: &Arc<Program<M>>) -> Result<usize> {
        let mut known = self.instances.iter();
        let instance = match known.position(|known| Arc::ptr_eq(&known.program, program)) {
            Some(index) => self.instances.remove(index),
            None => self.new_instance(program)?,
        };
        self.instances.push(instance);
        Ok(self.instances.len() - 1)
    }

    fn new_instance(&mut self, program: &Arc<Program<M>>) -> Result<Instance<M>> {
        if self.instances.len() >= MOST_INSTANCES {
            self.machine.synchronize(&self.stream)?;
            self.instances.remove(0);
        }
        let (offsets, bytes) = program.input_offsets()?;
        Ok(Instance {
            captures: Captures::new(!self.machine.has_graphs()),
            slots: self.allocate(bytes)?,
            offsets,
            holds: None,
            weights: None,
            program: Arc::clone(program),
        })
    }
}

impl<M: Machine> Drop for Lane<M> {
    fn drop(&mut self) {
        // What instances have must not go while work is under way.
        if let Err(error) = self.machine.synchronize(&self.stream) {
            tracing::warn!("{error}");
        }
    }
}

impl<M: Machine> Instance<M> {
    /// The addresses of the slots.
    fn slots_at(&self) -> Vec<u64> {
        let start = M::address(&self.slots);
        let offsets = self.offsets.iter();
        offsets.map(|&offset| start + offset as u64).collect()
    }

    /// The addresses of the program's weights.
    fn weights_at(&mut self, weights: &WeightSet<M>) -> Result<Arc<[u64]>> {
        if let Some((layout, addresses)) = &self.weights
            && *layout == weights.layout()
        {
            return Ok(Arc::clone(addresses));
        }
        let parameters = self.program.plan().graph.parameters().iter();
        let addresses = parameters.map(|parameter| weights.address(&parameter.name));
        let addresses: Arc<[u64]> = addresses.collect::<Result<_>>()?;
        self.weights = Some((weights.layout(), Arc::clone(&addresses)));
        Ok(addresses)
    }

    /// Copies inputs to their slots.
    fn fill(&mut self, machine: &M, stream: &mut M::Stream, given: Given<'_>) -> Result<()> {
        let held = self.holds.take();
        let request = given.handed.map(|(number, _)| number);
        for (index, input) in self.program.plan().graph.inputs().iter().enumerate() {
            let fresh = given.inputs.get(&input.name);
            let tensor = match (fresh, given.handed) {
                (Some(tensor), _) => tensor,
                (None, Some((number, _))) if held == Some(number) => continue,
                (None, Some((_, handed))) => {
                    let tensor = handed.get(&input.name);
                    tensor.ok_or_else(|| missing(&input.name))?
                }
                (None, None) => return Err(missing(&input.name)),
            };
            self.expect_type(index, &input.name, tensor)?;
            machine.write(stream, tensor, &self.slots, self.offsets[index])?;
        }
        self.holds = request;
        Ok(())
    }

    /// A tensor of another size would be written over its neighbours.
    fn expect_type(&self, index: usize, name: &str, tensor: &DeviceTensor) -> Result<()> {
        let (dtype, shape) = self.program.input(index);
        if (tensor.dtype(), tensor.shape()) == (*dtype, shape) {
            return Ok(());
        }
        Err(Error::Graph(tintype_ir::Error::Input {
            input: name.to_owned(),
            expected: format!("{dtype}{shape}"),
            found: format!("{}{}", tensor.dtype(), tensor.shape()),
        }))
    }
}

/// Says of which graph it is that a workspace does not fit.
fn named(error: Error, graph: &str) -> Error {
    match error {
        Error::Device(DeviceError::OutOfMemory {
            device,
            needed,
            free,
            ..
        }) => Error::Memory {
            graph: graph.to_owned(),
            what: "the workspace of these sizes",
            device,
            needed,
            free,
        },
        other => other,
    }
}

fn missing(name: &str) -> Error {
    Error::Backend(BackendError::MissingInput(name.to_owned()))
}

/// Sizes of requests and steps that a session goes back and forth between.
const MOST_INSTANCES: usize = 8;
