//! From a graph to what a backend compiles.

use tintype_ir::passes::{Options, optimize};
use tintype_ir::{Evaluator, Graph, Op, StagedGraph, decompose};

use crate::{Backend, Capabilities, Result};

/// The three programs of a graph as `backend` likes them: fused, with what it does not run
/// decomposed.
///
/// # Errors
/// What a pass says.
pub fn programs_for(backend: &dyn Backend, graph: &Graph) -> Result<StagedGraph> {
    let supports = |op: &Op| backend.supports(op);
    programs(
        graph,
        &backend.capabilities(),
        backend.evaluator(),
        &supports,
    )
}

/// The same for a backend of such capabilities that need not be here.
///
/// # Errors
/// What a pass says.
pub fn programs(
    graph: &Graph,
    capabilities: &Capabilities,
    evaluator: Option<&dyn Evaluator>,
    supports: &dyn Fn(&Op) -> bool,
) -> Result<StagedGraph> {
    let options = Options::default().with_fuse_qkv(capabilities.fuse_qkv);
    let graph = optimize(graph, &options, evaluator)?;
    let graph = decompose(&graph, supports)?;
    Ok(StagedGraph::split(&graph)?)
}
