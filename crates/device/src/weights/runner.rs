//! Runs weight programs.

use std::collections::HashSet;
use std::error::Error as StdError;
use std::sync::Arc;

use tintype_ir::{Evaluator, Graph, Node, Op, Value};
use tintype_tensor::{Shape, Tensor};
use tintype_weights::Parameters;

use super::kept::Keeping;
use super::launch::{launch, merge};
use super::place::sizes;
use super::plan::{WeightPlan, Work};
use super::reading::Candidates;
use super::values::{Context, Values};
use crate::{CudaTensor, Error, Result, Staging, Stream, WeightKernels};

/// A weight program with what it reads.
#[derive(Clone, Copy)]
pub struct WeightProgram<'a> {
    /// The program: no inputs, no symbols.
    pub graph: &'a Graph,
    /// Its parameters, in whatever dtype they are stored.
    pub parameters: &'a Parameters,
    /// The outputs to compute; `None` for all.
    pub wanted: Option<&'a HashSet<&'a str>>,
    /// Computes what has no kernel.
    pub evaluator: &'a dyn Evaluator,
    /// Where parameters wait between runs; without, each is read from where it lies.
    pub kept: Option<Keeping<'a>>,
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
/// # fn f(graph: &tintype_ir::Graph, parameters: &tintype_weights::Parameters,
/// #      evaluator: &dyn tintype_ir::Evaluator) -> Result<()> {
/// let device = Device::open(0)?;
/// let kernels = Arc::new(WeightKernels::load(&device, &KernelCache::of_user())?);
/// let mut runner = WeightRunner::new(kernels)?;
/// let mut weights = Vec::new();
/// let program = WeightProgram { graph, parameters, wanted: None, evaluator, kept: None };
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
        Ok(Self { kernels, staging })
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
        let plan = WeightPlan::new(program.graph, program.wanted)?;
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

/// The bytes of the outputs that a run gives.
fn wanted_bytes(program: &WeightProgram<'_>) -> Result<usize> {
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
    let (Work::Constant(index)
    | Work::Device(index)
    | Work::Host(index)
    | Work::Merge { node: index, .. }) = *work
    else {
        unreachable!("outputs are delivered by the caller")
    };
    let node = &program.graph.nodes()[index];
    let place = Value::Node(index);
    let named = |error: Error| error.of(name_of(node));
    match *work {
        Work::Merge { base, factors, .. } => {
            let result = merge(node, base, factors, values, context).map_err(named)?;
            values.keep_device(place, result);
        }
        Work::Device(_) => {
            let result = launch(node, values, context).map_err(named)?;
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
