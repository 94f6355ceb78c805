//! Prints the plan of one double and one single block of FLUX.1 at full size, the bytes that its
//! steps move, and how fast they could be on an H100. It needs no GPU.
//!
//! ```text
//! cargo run -p tintype-cuda --example plan
//! cargo run -p tintype-cuda --example plan -- graph   # the program instead
//! cargo run -p tintype-cuda --example plan -- whole   # sums of the whole transformer
//! cargo run -p tintype-cuda --example plan -- branches    # text and image side by side
//! cargo run -p tintype-cuda --example plan -- whole branches
//! ```

use tintype_cuda::{Plan, PlanOptions};
use tintype_ir::passes::{Options, optimize};
use tintype_ir::{Binding, Graph, StagedGraph};
use tintype_models::{FluxTransformerConfig, FluxTransformerOptions};
use tintype_tensor::DType;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let (is_whole, branches) = (has("whole"), has("branches"));
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
    if has("graph") {
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
    let plan = Plan::with(&program, &sizes, PlanOptions { branches })?;
    if is_whole {
        println!(
            "{} steps, {} forks, workspace {:.1} MB",
            plan.steps.len(),
            plan.forks.len(),
            plan.workspace.bytes as f64 / 1e6
        );
        report_beside(&plan);
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

/// What of the products runs beside others.
fn report_beside(plan: &Plan) {
    let operations = |steps: std::ops::Range<usize>| -> usize {
        let steps = plan.steps[steps].iter();
        steps.map(|step| step.work.operations()).sum()
    };
    let beside = plan
        .forks
        .iter()
        .map(|fork| operations(fork.second.clone()));
    println!(
        "{:.3} TFLOP beside others",
        beside.sum::<usize>() as f64 / 1e12
    );
}

/// A copy on an H100 reads and writes this much.
const COPY_BYTES_PER_SECOND: f64 = 3.0e12;

/// What large products of bf16 reach there.
const OPERATIONS_PER_SECOND: f64 = 7.1e14;
