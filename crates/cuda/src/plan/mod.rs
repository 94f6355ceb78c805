//! The plan of a program: steps on one static workspace, for given sizes.
//!
//! A [`Plan`] is pure: it needs no GPU and no library, and two plans of one program and sizes are
//! equal. What runs it takes buffers at [`Plan::offset`] and calls one step after another.
//!
//! ```
//! use tintype_cuda::Plan;
//! use tintype_ir::{Binding, parse};
//!
//! let graph = parse(r#"
//! graph "norm" {
//!   dim tokens = 1..=64
//!   input step %x: bf16[1, tokens, 32]
//!   input step %scale: bf16[1, 1, 32]
//!   %0: bf16[1, tokens, 32] = layer_norm %x {epsilon = 1e-6}
//!   %1: bf16[1, tokens, 32] = modulate %0, %scale, %scale
//!   output y = %1
//! }
//! "#)?;
//! let mut sizes = Binding::new();
//! sizes.set("tokens", 16);
//! let plan = Plan::new(&graph, &sizes)?;
//! assert_eq!(plan.steps.len(), 1);
//! assert_eq!(plan.steps[0].name, "norm_modulate");
//! # Ok::<(), tintype_cuda::Error>(())
//! ```

mod apart;
mod branches;
mod codes;
mod express;
mod groups;
mod listing;
mod lower;
mod narrow;
mod patterns;
mod prepare;
mod quantize;
#[cfg(test)]
pub(crate) mod random;
mod reuse;
mod step;
mod view;
mod workspace;

use tintype_ir::{Binding, Graph, verify};

pub use self::branches::{BRANCHES, Fork};
pub use self::patterns::pattern_of;
pub use self::step::{AttentionCall, Codes, Convolution, Product, Step, Work};
pub use self::view::{Axis, Index, Matrices, Place, View};
pub use self::workspace::{ALIGNMENT, Lifetime, Workspace};
use crate::Result;

/// The steps of a program for given sizes.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The program after rewrites; parameters, inputs and constants are those of its values.
    pub graph: Graph,
    /// What runs, in order.
    pub steps: Vec<Step>,
    /// Steps of which two sets may run side by side, in order.
    pub forks: Vec<Fork>,
    /// For each buffer, the one whose memory it has: itself, or one that it is written over.
    pub memory_of: Vec<usize>,
    /// Offsets of buffers; that of one written over another is the other's.
    pub workspace: Workspace,
    /// Where each output lies after the last step, row-major.
    pub outputs: Vec<(String, View)>,
}

/// How a program is planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PlanOptions {
    /// Whether steps that do not depend on each other may run side by side ([`Plan::forks`]).
    pub branches: bool,
}

impl Plan {
    /// Plans a verified program for the sizes that its symbols have, one step after another.
    ///
    /// # Errors
    /// A symbol without a size, an operation without a plan, a tensor too large.
    pub fn new(graph: &Graph, binding: &Binding) -> Result<Self> {
        Self::with(graph, binding, PlanOptions::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// As of [`Plan::new`].
    pub fn with(graph: &Graph, binding: &Binding, options: PlanOptions) -> Result<Self> {
        verify(graph)?;
        let graph = prepare::prepare(graph)?;
        let shapes = groups::Shapes::of_graph(&graph, binding)?;
        let reads = codes::Reads::of(&graph, &shapes);
        let units = groups::Units::of(&graph, &reads, &shapes);
        let mut lowered = lower::Lowering::new(&graph, &reads, &shapes, binding).run(&units)?;
        let mut forks = Vec::new();
        if options.branches {
            (lowered.steps, forks) = branches::branch(lowered.steps);
        }
        let (memory_of, workspace) = reuse::share(&lowered, &forks);
        Ok(Self {
            graph,
            steps: lowered.steps,
            forks,
            memory_of,
            workspace,
            outputs: lowered.outputs,
        })
    }

    /// The offset of a buffer in the workspace, in bytes.
    pub fn offset(&self, buffer: usize) -> usize {
        self.workspace.offsets[buffer]
    }

    /// The branch in which a step runs; outside of forks the first, 0.
    pub fn branch_of(&self, step: usize) -> usize {
        let mut forks = self.forks.iter();
        forks.find_map(|fork| fork.branch_of(step)).unwrap_or(0)
    }

    /// The bytes that steps of a kind ([`Work::kind`]) read and write.
    pub fn bytes_of(&self, kind: &str) -> usize {
        let steps = self.steps.iter().filter(|step| step.work.kind() == kind);
        steps.map(|step| step.work.bytes()).sum()
    }

    /// How many steps of a kind there are.
    pub fn count_of(&self, kind: &str) -> usize {
        self.steps
            .iter()
            .filter(|step| step.work.kind() == kind)
            .count()
    }
}
