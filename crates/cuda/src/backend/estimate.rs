//! How much memory a graph takes, before anything is loaded.

use tintype_ir::{Binding, StagedGraph};

use crate::{Plan, Result};

/// Bytes on the GPU that a graph takes, without what libraries need to work with.
///
/// ```
/// use tintype_cuda::MemoryEstimate;
/// use tintype_ir::{Binding, StagedGraph, parse};
///
/// let graph = parse(
///     "graph g { dim tokens = 1..=64 param @w: bf16[96, 32] input step %x: bf16[tokens, 32] \
///      %0: bf16[tokens, 96] = linear %x, @w output y = %0 }",
/// )?;
/// let mut sizes = Binding::new();
/// sizes.set("tokens", 64);
/// let estimate = MemoryEstimate::new(&StagedGraph::split(&graph)?, &sizes)?;
/// assert_eq!(estimate.weights, 96 * 32 * 2);
/// assert_eq!(estimate.workspace, 64 * 96 * 2);
/// assert_eq!(estimate.inputs, 64 * 32 * 2);
/// # Ok::<(), tintype_cuda::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct MemoryEstimate {
    /// All weights, once.
    pub weights: usize,
    /// The workspace of a session: that of the larger of its programs.
    pub workspace: usize,
    /// Inputs of both programs, for which a session has memory of its own.
    pub inputs: usize,
}

impl MemoryEstimate {
    /// What a graph takes for these sizes, with one session.
    ///
    /// # Errors
    /// A symbol without a size; what [`Plan::new`] says.
    pub fn new(graph: &StagedGraph, sizes: &Binding) -> Result<Self> {
        let outputs = graph.weight.outputs().iter();
        let weights = outputs.map(|output| {
            let ty = graph.weight.type_of(output.value);
            Ok(ty.shape(sizes)?.byte_len(ty.dtype)?)
        });
        let mut estimate = Self {
            weights: weights.sum::<Result<usize>>()?,
            ..Self::default()
        };
        for program in [&graph.request, &graph.step] {
            // A program that gives nothing does not run.
            if !program.outputs().is_empty() {
                let plan = Plan::new(program, sizes)?;
                estimate.workspace = estimate.workspace.max(plan.workspace.bytes);
                estimate.inputs += input_bytes(&plan, sizes)?;
            }
        }
        Ok(estimate)
    }

    /// All of it.
    pub fn total(&self) -> usize {
        self.weights + self.workspace + self.inputs
    }
}

fn input_bytes(plan: &Plan, sizes: &Binding) -> Result<usize> {
    let inputs = plan.graph.inputs().iter();
    let bytes = inputs.map(|input| Ok(input.ty.shape(sizes)?.byte_len(input.ty.dtype)?));
    bytes.sum()
}
