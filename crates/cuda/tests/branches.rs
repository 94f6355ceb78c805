//! What runs side by side in FLUX.1-dev at its full size, and the memory that it takes.

use tintype_cuda::{Plan, PlanOptions};
use tintype_ir::passes::{Options, optimize};
use tintype_ir::{Binding, StagedGraph};
use tintype_models::{FluxTransformerConfig, FluxTransformerOptions};
use tintype_tensor::DType;

/// The step of two double blocks and one single block, for these sizes.
fn plan(batch: usize, image_tokens: usize, branches: bool) -> Plan {
    let config = FluxTransformerConfig {
        num_layers: 2,
        num_single_layers: 1,
        ..FluxTransformerConfig::dev()
    };
    let options = FluxTransformerOptions {
        dtype: DType::BF16,
        batch: batch..=batch,
        ..FluxTransformerOptions::default()
    };
    let graph = config.graph(&options).expect("a graph");
    let graph = optimize(&graph, &Options::default(), None).expect("passes");
    let staged = StagedGraph::split(&graph).expect("programs");
    let step = staged.canonical().expect("programs").step;
    let mut sizes = Binding::new();
    for (symbol, size) in [
        ("batch", batch),
        ("steps", 20),
        ("image_tokens", image_tokens),
        ("text_tokens", 512),
    ] {
        sizes.set(symbol, size);
    }
    Plan::with(&step, &sizes, PlanOptions { branches }).expect("a plan")
}

fn products(plan: &Plan, steps: std::ops::Range<usize>) -> Vec<&str> {
    let steps = plan.steps[steps].iter();
    let products = steps.filter(|step| step.work.kind() == "product");
    products.map(|step| step.label.as_str()).collect()
}

#[test]
fn text_runs_beside_the_image_between_attentions() {
    for batch in [1, 2] {
        let plan = plan(batch, 4096, true);
        assert_eq!(plan.forks.len(), 3, "{plan}");
        let fork = &plan.forks[1];
        assert_eq!(
            products(&plan, fork.first.clone()),
            [
                "transformer_blocks.0.attn.to_out.0",
                "transformer_blocks.0.ff.net.0.proj",
                "transformer_blocks.0.ff.net.2",
                "transformer_blocks.1.attn.to_q_to_k_to_v",
            ]
        );
        assert_eq!(
            products(&plan, fork.second.clone()),
            [
                "transformer_blocks.0.attn.to_add_out",
                "transformer_blocks.0.ff_context.net.0.proj",
                "transformer_blocks.0.ff_context.net.2",
                "transformer_blocks.1.attn.add_q_proj_add_k_proj_add_v_proj",
            ]
        );
        // Attentions stand between forks, and single blocks have none.
        for fork in &plan.forks {
            let steps = &plan.steps[fork.steps()];
            assert!(steps.iter().all(|step| step.work.kind() != "attention"));
        }
        let after = plan.forks[2].second.end;
        assert!(
            plan.steps[after]
                .label
                .starts_with("single_transformer_blocks")
        );
    }
}

#[test]
fn branches_cost_little_memory() {
    for (batch, tokens) in [(1, 4096), (2, 4096), (1, 1024)] {
        let [alone, beside] = [false, true].map(|branches| plan(batch, tokens, branches));
        let (alone, beside) = (alone.workspace.bytes, beside.workspace.bytes);
        println!("{batch} × {tokens} tokens: {alone} bytes, with branches {beside}");
        assert!(beside <= alone + alone / 10, "{alone} {beside}");
    }
}
