//! Prints the plan of one double and one single block of FLUX.1 at full size, the bytes that its
//! steps move, and how fast they could be on an H100. It needs no GPU.
//!
//! ```text
//! cargo run -p tintype-cuda --example plan
//! cargo run -p tintype-cuda --example plan -- graph   # the program instead
//! cargo run -p tintype-cuda --example plan -- whole   # sums of the whole transformer
//! ```

use tintype_cuda::Plan;
use tintype_ir::passes::{Options, optimize};
use tintype_ir::{Binding, Graph, StagedGraph};
use tintype_models::{FluxTransformerConfig, FluxTransformerOptions};
use tintype_tensor::DType;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let argument = std::env::args().nth(1).unwrap_or_default();
    let is_whole = argument == "whole";
    let dev = FluxTransformerConfig::dev();
    let config = if is_whole {
        dev
    } else {
        FluxTransformerConfig {
            num_layers: 1,
            num_single_layers: 1,
            ..dev
        }
    };
    let program = step_program(&config)?;
    if argument == "graph" {
        print!("{program}");
        return Ok(());
    }
    let mut sizes = Binding::new();
    for (symbol, size) in [
        ("batch", 1),
        ("steps", 20),
        ("image_tokens", 4096),
        ("text_tokens", 512),
    ] {
        sizes.set(symbol, size);
    }
    let plan = Plan::new(&program, &sizes)?;
    if is_whole {
        println!(
            "{} steps, workspace {} MB",
            plan.steps.len(),
            plan.workspace.bytes / 1_000_000
        );
    } else {
        print!("{plan}");
    }
    report(&plan);
    Ok(())
}

/// The step program of a transformer in bf16, for one picture.
fn step_program(config: &FluxTransformerConfig) -> Result<Graph, Box<dyn std::error::Error>> {
    let options = FluxTransformerOptions {
        dtype: DType::BF16,
        batch: 1..=1,
        ..FluxTransformerOptions::default()
    };
    let graph = optimize(&config.graph(&options)?, &Options::default(), None)?;
    Ok(StagedGraph::split(&graph)?.canonical()?.step)
}

/// Bytes and the time that each kind of step takes at least.
fn report(plan: &Plan) {
    println!();
    println!("| kind | steps | MB moved | TFLOP | ms at least |");
    println!("|---|---|---|---|---|");
    for kind in ["product", "attention", "kernel", "special"] {
        let steps = || plan.steps.iter().filter(|step| step.work.kind() == kind);
        let operations: usize = steps().map(|step| step.work.operations()).sum();
        let bytes = plan.bytes_of(kind);
        let memory = bytes as f64 / COPY_BYTES_PER_SECOND;
        let arithmetic = operations as f64 / OPERATIONS_PER_SECOND;
        println!(
            "| {kind} | {} | {:.1} | {:.3} | {:.3} |",
            steps().count(),
            bytes as f64 / 1e6,
            operations as f64 / 1e12,
            memory.max(arithmetic) * 1e3
        );
    }
}

/// A copy on an H100 reads and writes this much.
const COPY_BYTES_PER_SECOND: f64 = 3.0e12;

/// What large products of bf16 reach there.
const OPERATIONS_PER_SECOND: f64 = 7.1e14;
