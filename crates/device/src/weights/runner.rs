//! Runs weight programs.

use std::collections::{HashMap, HashSet};
use std::error::Error as StdError;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tintype_backend::DeviceMemory;
use tintype_ir::{Evaluator, Graph, Node, Op, Value};
use tintype_tensor::{Shape, Tensor};
use tintype_weights::Parameters;

use super::kept::Keeping;
use super::launch::{launch, merge};
use super::place::sizes;
use super::plan::Work;
use super::plans::Plans;
use super::reading::Candidates;
use super::values::{Context, Values};
use crate::{CudaTensor, DeviceBuffer, Error, Result, Staging, Stream, WeightKernels};

/// A weight program with what it reads.
#[derive(Clone, Copy)]
pub struct WeightProgram<'a> {
    /// The program: no inputs, no symbols.
    pub graph: &'a Arc<Graph>,
    /// Its parameters, in whatever dtype they are stored.
    pub parameters: &'a Parameters,
    /// The outputs to compute; `None` for all.
    pub wanted: Option<&'a HashSet<&'a str>>,
    /// Computes what has no kernel.
    pub evaluator: &'a dyn Evaluator,
    /// Where parameters wait between runs; without, each is read from where it lies.
    pub kept: Option<Keeping<'a>>,
    /// Where outputs shall lie; without, each lies in new memory.
    pub in_place: Option<InPlace<'a>>,
}

/// Tensors in whose memory outputs are computed. An output that lies elsewhere already, as a
/// parameter that is kept or a value that is an output twice, is delivered there.
#[derive(Debug, Clone, Copy)]
pub struct InPlace<'a> {
    /// By the names of outputs, of their types; outputs that are not here get new memory. Nothing
    /// that the program reads may lie there.
    pub weights: &'a HashMap<String, CudaTensor>,
    /// Set before the first of them is written: until then a run that fails has changed nothing.
    pub is_begun: &'a AtomicBool,
}

/// What a run did. The device may still be at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct WeightReport {
    /// Weights handed over.
    pub weights: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Operations that ran as kernels, or were views.
    pub kernels: usize,
    /// Operations that the evaluator computed.
    pub on_host: usize,
    /// Bytes copied to the device, those of pinned parameters included.
    pub uploaded: u64,
    /// Bytes copied back for the evaluator.
    pub downloaded: u64,
}

/// Whether a weight was taken.
pub type Delivered = std::result::Result<(), Box<dyn StdError + Send + Sync>>;

/// Runs weight programs in a stream of its own.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use tintype_device::{Device, KernelCache, Result, WeightKernels, WeightProgram, WeightRunner};
/// # fn f(graph: &Arc<tintype_ir::Graph>, parameters: &tintype_weights::Parameters,
/// #      evaluator: &dyn tintype_ir::Evaluator) -> Result<()> {
/// let device = Device::open(0)?;
/// let kernels = Arc::new(WeightKernels::load(&device, &KernelCache::of_user())?);
/// let mut runner = WeightRunner::new(kernels)?;
/// let mut weights = Vec::new();
/// let program = WeightProgram { graph, parameters, wanted: None, evaluator, kept: None, in_place: None };
/// runner.run(&program, &mut |name, tensor| {
///     weights.push((name.to_owned(), tensor));
///     Ok(())
/// })?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct WeightRunner {
    kernels: Arc<WeightKernels>,
    staging: Staging,
    plans: Plans,
}

impl WeightRunner {
    /// A runner with a new stream and new pinned buffers, 48 MiB in all.
    pub fn new(kernels: Arc<WeightKernels>) -> Result<Self> {
        let stream = kernels.device().new_stream()?;
        Self::in_stream(kernels, &stream)
    }

    /// The same in an existing stream, whose order then holds for the weights too.
    pub fn in_stream(kernels: Arc<WeightKernels>, stream: &Stream) -> Result<Self> {
        let staging = Staging::new(stream)?;
        Ok(Self {
            kernels,
            staging,
            plans: Plans::default(),
        })
    }

    /// The stream in which all work is.
    pub fn stream(&self) -> &Stream {
        self.staging.stream()
    }

    /// Runs a program and hands each wanted output to `deliver` as soon as its work is
    /// enqueued, in the order of the program. A tensor may be read after its ready event;
    /// outputs that are the same value share their memory.
    ///
    /// # Errors
    /// A parameter that is missing, unreadable or of another shape; what the evaluator or
    /// `deliver` says; memory that does not suffice. Outputs that were delivered stay good,
    /// so a caller keeps its old weights until the run is over.
    pub fn run(
        &mut self,
        program: &WeightProgram<'_>,
        deliver: &mut dyn FnMut(&str, CudaTensor) -> Delivered,
    ) -> Result<WeightReport> {
        let plan = self.plans.plan(program.graph, program.wanted)?;
        let uploaded_before = self.staging.uploaded();
        let mut report = WeightReport {
            kernels: plan.kernels(),
            on_host: plan.on_host().count(),
            ..WeightReport::default()
        };
        let mut values = Values::default();
        let mut context = Context {
            kernels: &self.kernels,
            staging: &mut self.staging,
            graph: program.graph,
            parameters: program.parameters,
            kept: program.kept,
            candidates: Candidates::default(),
            targets: targets(program)?,
            is_begun: program.in_place.map(|in_place| in_place.is_begun),
            pending: wanted_bytes(program)?,
            downloaded: 0,
        };
        for step in &plan.steps {
            if let Work::Deliver(output) = step.work {
                let output = &program.graph.outputs()[output];
                let tensor = output_tensor(output.value, &mut values, &mut context)?;
                report.weights += 1;
                report.bytes += tensor.byte_len() as u64;
                context.pending = context.pending.saturating_sub(tensor.byte_len());
                deliver(&output.name, tensor).map_err(|source| Error::Delivery {
                    name: output.name.clone(),
                    source,
                })?;
            } else {
                run_work(&step.work, program, &mut values, &mut context)?;
            }
            for &value in &step.frees {
                values.free(value);
            }
        }
        report.downloaded = context.downloaded;
        report.uploaded = self.staging.uploaded() - uploaded_before;
        Ok(report)
    }
}

fn output_tensor(
    value: Value,
    values: &mut Values,
    context: &mut Context<'_>,
) -> Result<CudaTensor> {
    let tensor = values.device(value, context)?.tensor(context.staging)?;
    let parameter = context.candidates.take(&tensor);
    if let (Some(kept), Some((name, key))) = (context.kept, parameter) {
        kept.store.keep(&name, key, tensor.clone());
    }
    Ok(tensor)
}

/// Where wanted outputs shall lie, by their values.
fn targets(program: &WeightProgram<'_>) -> Result<HashMap<Value, Arc<DeviceBuffer>>> {
    let mut targets = HashMap::new();
    let Some(in_place) = program.in_place else {
        return Ok(targets);
    };
    for output in program.graph.outputs() {
        let is_wanted = program
            .wanted
            .is_none_or(|wanted| wanted.contains(output.name.as_str()));
        let Some(tensor) = in_place.weights.get(&output.name).filter(|_| is_wanted) else {
            continue;
        };
        let ty = program.graph.type_of(output.value);
        if tensor.dtype() != ty.dtype || tensor.shape()[..] != sizes(ty) {
            let found = format!("{}{}", tensor.dtype(), tensor.shape());
            let name = &output.name;
            let what = format!("`{name}`: expected memory of {ty}, found {found}");
            return Err(Error::Unsupported(what));
        }
        // A value that is two outputs lies where the first is.
        let buffer = || Arc::clone(tensor.buffer());
        targets.entry(output.value).or_insert_with(buffer);
    }
    Ok(targets)
}

/// The bytes of the outputs that a run gives, and that get new memory.
fn wanted_bytes(program: &WeightProgram<'_>) -> Result<usize> {
    if program.in_place.is_some() {
        return Ok(0);
    }
    let is_wanted = |name: &str| program.wanted.is_none_or(|wanted| wanted.contains(name));
    let outputs = program.graph.outputs().iter();
    let wanted = outputs.filter(|output| is_wanted(&output.name));
    let bytes = wanted.map(|output| {
        let ty = program.graph.type_of(output.value);
        Ok(Shape::from(sizes(ty)).byte_len(ty.dtype)?)
    });
    bytes.sum()
}

/// Computes the value of one step.
fn run_work(
    work: &Work,
    program: &WeightProgram<'_>,
    values: &mut Values,
    context: &mut Context<'_>,
) -> Result<()> {
    let (Work::Constant(index) | Work::Device(index) | Work::Host(index) | Work::Merge(index, _)) =
        *work
    else {
        unreachable!("outputs are delivered by the caller")
    };
    let node = &program.graph.nodes()[index];
    let place = Value::Node(index);
    let named = |error: Error| error.of(name_of(node));
    match *work {
        Work::Merge(_, ref found) => {
            let result = merge(index, found, values, context).map_err(named)?;
            values.keep_device(place, result);
        }
        Work::Device(_) => {
            let result = launch(index, values, context).map_err(named)?;
            values.keep_device(place, result);
        }
        _ => {
            let tensor = evaluate(node, program, values, context).map_err(named)?;
            values.keep_host(place, tensor);
        }
    }
    Ok(())
}

/// A node on the host.
fn evaluate(
    node: &Node,
    program: &WeightProgram<'_>,
    values: &mut Values,
    context: &mut Context<'_>,
) -> Result<Tensor> {
    if let Op::Constant(constant) = &node.op {
        return Ok(constant.to_tensor()?);
    }
    let operands: Result<Vec<Tensor>> = node
        .operands
        .iter()
        .map(|&operand| values.host(operand, context))
        .collect();
    Ok(program.evaluator.evaluate(&node.op, &operands?, &node.ty)?)
}

fn name_of(node: &Node) -> String {
    match &node.label {
        Some(label) => format!("{} of `{label}`", node.op.name()),
        None => node.op.name().to_owned(),
    }
}
