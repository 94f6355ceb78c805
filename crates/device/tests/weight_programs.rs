//! What weight programs of FLUX hold has kernels. No device is needed.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

#[path = "support/programs.rs"]
mod programs;

use std::collections::{BTreeMap, HashSet};

use tintype_device::WeightPlan;
use tintype_ir::{Graph, StagedGraph};
use tintype_models::FluxTransformerConfig;
use tintype_tensor::{DType, TorchGenerator};

/// How often each operation occurs.
fn operations(graph: &Graph) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for node in graph.nodes() {
        *counts.entry(node.op.name()).or_default() += 1;
    }
    counts
}

fn on_host(graph: &Graph, plan: &WeightPlan) -> Vec<String> {
    let nodes = plan.on_host().map(|node| &graph.nodes()[node]);
    nodes
        .map(|node| format!("{} {}", node.op.name(), node.ty))
        .collect()
}

#[test]
fn every_update_of_a_transformer_runs_on_the_device() {
    let mut generator = TorchGenerator::new(3);
    let config = programs::config();
    let adapters = programs::adapters(&config, &mut generator).unwrap();
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        let program = programs::transformer(&config, dtype, &adapters, &mut generator).unwrap();
        tintype_ir::verify(&program.graph).unwrap();
        let plan = WeightPlan::new(&program.graph, None).unwrap();
        let found = operations(&program.graph);
        assert_eq!(
            on_host(&program.graph, &plan),
            Vec::<String>::new(),
            "{found:?}"
        );
        for op in [
            "matmul",
            "mul",
            "concat",
            "reduce_sum",
            "sqrt",
            "div",
            "reshape",
            "slice",
        ] {
            assert!(found.contains_key(op), "no {op} in {found:?}");
        }
        // Three projections of one attention with two adapters each, the four other plain ones,
        // of which linear2 is one.
        assert!(plan.merges() >= 6, "{} merges in {found:?}", plan.merges());
        let changed = HashSet::from(["transformer_blocks.0.attn.to_q.weight"]);
        let reached = StagedGraph::reached_weights(&program.graph, &changed);
        let wanted: HashSet<&str> = reached.iter().copied().collect();
        let refit = WeightPlan::new(&program.graph, Some(&wanted)).unwrap();
        // Three merges and their concatenation.
        assert_eq!((reached.len(), refit.merges()), (1, 3));
        let weights = tintype_cpu::run(&program.graph, &program.parameters, &[]).unwrap();
        for (name, weight) in weights.iter() {
            let values = weight.to_host().unwrap().to_f32_vec().unwrap();
            assert!(values.iter().all(|value| value.is_finite()), "{name}");
        }
    }
}

#[test]
fn the_whole_transformer_without_updates_only_joins_projections() {
    let mut generator = TorchGenerator::new(4);
    let small = programs::config();
    let config = FluxTransformerConfig {
        num_layers: 19,
        num_single_layers: 38,
        ..small
    };
    let program = programs::transformer(&config, DType::BF16, &[], &mut generator).unwrap();
    let found = operations(&program.graph);
    assert_eq!(found.keys().collect::<Vec<_>>(), [&"concat"], "{found:?}");
    // Weight and bias of three attentions' projections: two of a double block, one of a single.
    assert_eq!(found["concat"], 2 * (2 * 19 + 38));
    let plan = WeightPlan::new(&program.graph, None).unwrap();
    assert_eq!(plan.kernels(), found["concat"]);
    assert_eq!(plan.on_host().count(), 0);
}
