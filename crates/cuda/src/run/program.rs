//! A plan whose steps are ready: what sessions of one graph share for given sizes.
//!
//! ```text
//! Plan ── steps ──▶ makers ──▶ prepared steps
//!      ── constants ─────────▶ one piece of memory
//!      ── buffers, scratch ──▶ sizes of the workspace, which belongs to a lane
//! ```

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use tintype_backend::DeviceTensor;
use tintype_ir::{Binding, Graph, Op};
use tintype_tensor::{DType, Shape, Tensor};

use super::Addresses;
use super::machine::{Call, Machine};
use super::makers::describe;
use super::places::{Places, key, renumbered};
use crate::{ALIGNMENT, BRANCHES, Error, Place, Plan, PlanOptions, Result, View};

/// A plan whose steps are ready.
pub(crate) struct Program<M: Machine> {
    plan: Plan,
    steps: Vec<Ready<M::Prepared>>,
    /// Byte offsets of constants, by node.
    constants: HashMap<usize, usize>,
    constant_memory: M::Memory,
    /// Types of the plan's inputs for its sizes.
    inputs: Vec<(DType, Shape)>,
    /// Of each branch.
    scratch_bytes: [usize; BRANCHES],
}

/// A prepared step, which others may share, and where it is in this plan.
struct Ready<P> {
    prepared: Arc<P>,
    places: Places,
}

/// Where a program's memory begins.
pub(crate) struct Bases<'a> {
    /// The workspace, of [`Program::workspace_bytes`].
    pub(crate) workspace: u64,
    /// Each input.
    pub(crate) inputs: &'a dyn Fn(usize) -> u64,
    /// Each weight, by the number of its parameter.
    pub(crate) weights: &'a dyn Fn(usize) -> u64,
}

impl<M: Machine> Program<M> {
    /// Plans a program and makes its steps ready; may take seconds.
    ///
    /// # Errors
    /// A step that no maker makes; what the device says.
    pub(crate) fn new(
        machine: &M,
        stream: &mut M::Stream,
        graph: &Graph,
        binding: &Binding,
    ) -> Result<Self> {
        let branches = machine.has_branches();
        let plan = Plan::with(graph, binding, PlanOptions { branches })?;
        let steps = make_steps(machine, &plan)?;
        let (constants, tensors) = constants(&plan)?;
        let bytes = tensors
            .iter()
            .map(|(offset, tensor)| offset + tensor.bytes().len());
        let constant_memory = machine.allocate(stream, bytes.max().unwrap_or(0))?;
        for (offset, tensor) in tensors {
            let tensor = DeviceTensor::Host(tensor);
            machine.write(stream, &tensor, &constant_memory, offset)?;
        }
        // Other lanes read them too.
        machine.synchronize(stream)?;
        let inputs = plan.graph.inputs().iter();
        let inputs = inputs.map(|input| Ok((input.ty.dtype, input.ty.shape(binding)?)));
        let mut scratch_bytes = [0; BRANCHES];
        for (index, step) in steps.iter().enumerate() {
            let bytes = &mut scratch_bytes[plan.branch_of(index)];
            *bytes = M::scratch_bytes(&step.prepared).max(*bytes);
        }
        let program = Self {
            inputs: inputs.collect::<Result<_>>()?,
            scratch_bytes,
            plan,
            steps,
            constants,
            constant_memory,
        };
        tracing::debug!(
            "`{}`: {} steps in {} bytes of workspace",
            program.plan.graph.name(),
            program.steps.len(),
            program.workspace_bytes()
        );
        Ok(program)
    }

    /// The plan.
    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Writes what was compiled and chosen for its steps into a folder; gives the files' names.
    pub(crate) fn save(&self, folder: &Path) -> Result<BTreeSet<String>> {
        let (mut seen, mut names) = (HashSet::new(), BTreeSet::new());
        for step in &self.steps {
            // Steps that differ in their places alone are one.
            if seen.insert(Arc::as_ptr(&step.prepared)) {
                names.extend(M::save(&step.prepared, folder)?);
            }
        }
        Ok(names)
    }

    /// The type of an input.
    pub(crate) fn input(&self, index: usize) -> &(DType, Shape) {
        &self.inputs[index]
    }

    /// Bytes of workspace: buffers, and behind them scratch memory of each branch.
    pub(crate) fn workspace_bytes(&self) -> usize {
        let last = BRANCHES - 1;
        self.scratch_offset(last) + self.scratch_bytes[last]
    }

    /// Offsets at which all inputs fit into one piece of memory, and its size.
    pub(crate) fn input_offsets(&self) -> Result<(Vec<usize>, usize)> {
        let mut end = 0;
        let mut offsets = Vec::with_capacity(self.inputs.len());
        for (dtype, shape) in &self.inputs {
            offsets.push(end);
            end += shape.byte_len(*dtype)?.next_multiple_of(ALIGNMENT);
        }
        Ok((offsets, end))
    }

    /// Enqueues all steps.
    ///
    /// # Safety
    /// What the bases say is memory of the machine, as large as the plan says, until the stream
    /// is done with it; so is this program.
    pub(crate) unsafe fn enqueue(
        &self,
        machine: &M,
        stream: &M::Stream,
        bases: &Bases<'_>,
    ) -> Result<()> {
        // SAFETY: what the caller promises.
        let enqueue = |steps| unsafe { self.enqueue_some(steps, machine, stream, bases) };
        let mut next = 0;
        for fork in &self.plan.forks {
            enqueue(next..fork.first.start)?;
            machine.fork(stream)?;
            let enqueued = enqueue(fork.steps());
            // Also after an error: whoever waits for the stream waits for both branches.
            let joined = machine.join(stream);
            enqueued.and(joined)?;
            next = fork.second.end;
        }
        enqueue(next..self.steps.len())
    }

    /// Enqueues some steps, each in its branch.
    unsafe fn enqueue_some(
        &self,
        steps: Range<usize>,
        machine: &M,
        stream: &M::Stream,
        bases: &Bases<'_>,
    ) -> Result<()> {
        for index in steps {
            let (ready, branch) = (&self.steps[index], self.plan.branch_of(index));
            let of = |place| self.address(ready.places.of(place), bases);
            let addresses = Addresses {
                of: &of,
                scratch: match self.scratch_bytes[branch] {
                    0 => 0,
                    _ => bases.workspace + self.scratch_offset(branch) as u64,
                },
            };
            let call = Call {
                step: &self.plan.steps[index],
                prepared: &*ready.prepared,
                branch,
            };
            // SAFETY: places are where the caller promises memory, constants are the program's own.
            let enqueued = unsafe { machine.enqueue(call, stream, &addresses) };
            enqueued.map_err(|source| self.at_step(index, source))?;
        }
        Ok(())
    }

    /// The outputs with their addresses.
    pub(crate) fn outputs<'p>(
        &'p self,
        bases: &'p Bases<'_>,
    ) -> impl Iterator<Item = (&'p str, DType, Shape, u64)> {
        self.plan.outputs.iter().map(|(name, view)| {
            let address = self.address(view.place, bases) + offset_bytes(view) as u64;
            let shape = Shape::from(view.shape());
            (name.as_str(), view.dtype, shape, address)
        })
    }

    fn address(&self, place: Place, bases: &Bases<'_>) -> u64 {
        match place {
            Place::Input(index) => (bases.inputs)(index),
            Place::Parameter(index) => (bases.weights)(index),
            Place::Constant(node) => {
                M::address(&self.constant_memory) + self.constants[&node] as u64
            }
            Place::Buffer(buffer) => bases.workspace + self.plan.offset(buffer) as u64,
        }
    }

    /// Where the scratch memory of a branch begins in the workspace.
    fn scratch_offset(&self, branch: usize) -> usize {
        let before = self.scratch_bytes[..branch].iter();
        before
            .fold(self.plan.workspace.bytes, |end, bytes| {
                end.next_multiple_of(ALIGNMENT) + bytes
            })
            .next_multiple_of(ALIGNMENT)
    }

    fn at_step(&self, index: usize, source: Error) -> Error {
        let name = self.plan.graph.name();
        let step = describe(&self.plan.steps[index]);
        Error::Step {
            step: format!("step {index} of `{name}`, {step}"),
            source: Box::new(source),
        }
    }
}

fn offset_bytes(view: &View) -> usize {
    view.offset * view.dtype.bits() / 8
}

/// Has every step made ready, those that differ in their places alone once.
fn make_steps<M: Machine>(machine: &M, plan: &Plan) -> Result<Vec<Ready<M::Prepared>>> {
    let (mut different, mut numbers) = (Vec::new(), HashMap::new());
    let mut steps = Vec::with_capacity(plan.steps.len());
    for step in &plan.steps {
        let (step, places) = renumbered(step);
        let number = *numbers.entry(key(&step)).or_insert_with(|| {
            different.push(step);
            different.len() - 1
        });
        steps.push((number, places));
    }
    let made = machine.makers().make_all(&different)?;
    let made: Vec<Arc<M::Prepared>> = made.into_iter().map(Arc::new).collect();
    let ready = steps.into_iter().map(|(number, places)| Ready {
        prepared: Arc::clone(&made[number]),
        places,
    });
    Ok(ready.collect())
}

/// The constants that a plan reads: offsets by node, and the values.
#[expect(clippy::type_complexity, reason = "two lists, taken apart at once")]
fn constants(plan: &Plan) -> Result<(HashMap<usize, usize>, Vec<(usize, Tensor)>)> {
    let (mut offsets, mut tensors, mut end) = (HashMap::new(), Vec::new(), 0usize);
    for (node, found) in plan.graph.nodes().iter().enumerate() {
        let Op::Constant(constant) = &found.op else {
            continue;
        };
        let tensor = constant.to_tensor()?;
        offsets.insert(node, end);
        let bytes = tensor.bytes().len();
        tensors.push((end, tensor));
        end += bytes.next_multiple_of(ALIGNMENT);
    }
    Ok((offsets, tensors))
}
