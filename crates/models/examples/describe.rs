//! Prints the text form of a small FLUX transformer and what its three programs hold.
//!
//! `cargo run -p tintype-models --example describe [CONFIG.json]`, where the
//! configuration is one of a FLUX transformer.

use tintype_ir::{Stage, StagedGraph};
use tintype_models::{FluxTransformerConfig, FluxTransformerOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = match std::env::args().nth(1) {
        Some(file) => FluxTransformerConfig::from_json(&file, &std::fs::read_to_string(&file)?)?,
        None => FluxTransformerConfig {
            num_layers: 1,
            num_single_layers: 1,
            attention_head_dim: 16,
            num_attention_heads: 2,
            joint_attention_dim: 32,
            pooled_projection_dim: 24,
            axes_dims_rope: vec![4, 6, 6],
            ..FluxTransformerConfig::dev()
        },
    };
    let graph = config.graph(&FluxTransformerOptions::default())?;
    print!("{graph}");
    let staged = StagedGraph::split(&graph)?;
    for stage in [Stage::Weight, Stage::Request, Stage::Step] {
        let program = staged.program(stage);
        println!(
            "; {stage}: {} operations, {} weights, {} outputs",
            program.nodes().len(),
            program.parameters().len(),
            program.outputs().len()
        );
    }
    Ok(())
}
