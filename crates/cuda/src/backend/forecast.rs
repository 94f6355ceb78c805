//! What compiling would do and how much memory a graph takes, before anything is loaded.

use tintype_backend::{Forecast, KeepWeights};
use tintype_device::{forecast_kept, forecast_weights};
use tintype_ir::{Binding, StagedGraph};

use crate::run::machine::Machine;
use crate::{Plan, PlanOptions, Result};

/// What follows from a graph for these sizes, with one session and without a GPU: no fallbacks,
/// and memory without what libraries need to work with.
///
/// # Errors
/// A symbol without a size; what [`Plan::new`] says.
///
/// ```
/// use tintype_ir::{Binding, StagedGraph, parse};
///
/// let graph = parse(
///     "graph g { dim tokens = 1..=64 param @w: bf16[96, 32] input step %x: bf16[tokens, 32] \
///      %0: bf16[tokens, 96] = linear %x, @w output y = %0 }",
/// )?;
/// let mut sizes = Binding::new();
/// sizes.set("tokens", 64);
/// let memory = tintype_cuda::forecast(&StagedGraph::split(&graph)?, &sizes)?.memory;
/// assert_eq!(memory.weights, 96 * 32 * 2);
/// assert_eq!(memory.workspace, Some(64 * 96 * 2));
/// assert_eq!(memory.inputs, 64 * 32 * 2);
/// # Ok::<(), tintype_cuda::Error>(())
/// ```
pub fn forecast(graph: &StagedGraph, sizes: &Binding) -> Result<Forecast> {
    forecast_with(graph, sizes, PlanOptions::default(), |_| Vec::new())
}

/// The same on a machine, whose makers say what they leave to others.
pub(super) fn forecast_on<M: Machine>(
    machine: &M,
    graph: &StagedGraph,
    policy: KeepWeights,
    sizes: &Binding,
) -> Result<Forecast> {
    let makers = machine.makers();
    let branches = machine.has_branches();
    let mut forecast = forecast_with(graph, sizes, PlanOptions { branches }, |plan| {
        makers.fallbacks(&plan.steps)
    })?;
    let room = machine.free_bytes(0)?;
    let room = room.saturating_sub(forecast.memory.total());
    forecast.memory.kept = forecast_kept(&graph.weight, policy, room)?;
    Ok(forecast)
}

fn forecast_with(
    graph: &StagedGraph,
    sizes: &Binding,
    options: PlanOptions,
    fallbacks: impl Fn(&Plan) -> Vec<String>,
) -> Result<Forecast> {
    let mut forecast = Forecast::of_graph(graph, sizes)?;
    let (mut workspace, mut inputs) = (0, 0);
    for program in &mut forecast.programs {
        let plan = Plan::with(graph.program(program.stage), sizes, options)?;
        // Programs of a session run one after another in one workspace.
        workspace = workspace.max(plan.workspace.bytes);
        inputs += input_bytes(&plan, sizes)?;
        program.fallbacks = fallbacks(&plan);
    }
    forecast.memory.workspace = Some(workspace);
    // A session has memory of its own for those of both programs.
    forecast.memory.inputs = inputs;
    forecast.programs.splice(0..0, forecast_weights(graph)?);
    Ok(forecast)
}

fn input_bytes(plan: &Plan, sizes: &Binding) -> Result<usize> {
    let inputs = plan.graph.inputs().iter();
    let bytes = inputs.map(|input| Ok(input.ty.shape(sizes)?.byte_len(input.ty.dtype)?));
    bytes.sum()
}
