//! Reads a graph in text form, runs the passes, and prints what comes out:
//!
//! ```sh
//! cargo run -p tintype-ir --example optimize -- GRAPH.tt [--decompose] [--no-qkv]
//! ```
//!
//! With `--decompose`, everything that can be is taken apart first: a test of whether
//! the fusions find it again.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Instant;

use tintype_ir::passes::{Options, optimize};
use tintype_ir::{Graph, decompose, parse, verify};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let file = arguments
        .iter()
        .find(|argument| !argument.starts_with("--"));
    let file = file.ok_or("expected the file of a graph")?;
    let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let mut graph = parse(&text)?;
    verify(&graph)?;
    if has("--decompose") {
        graph = decompose(&graph, &|_| false)?;
    }
    let begin = Instant::now();
    let options = Options::default().with_fuse_qkv(!has("--no-qkv"));
    let optimised = optimize(&graph, &options, None)?;
    print!("{optimised}");
    eprintln!("before: {}", census(&graph));
    eprintln!("after:  {}", census(&optimised));
    eprintln!("{:.1?}", begin.elapsed());
    Ok(())
}

/// How many operations of each kind there are.
fn census(graph: &Graph) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for node in graph.nodes() {
        *counts.entry(node.op.name()).or_default() += 1;
    }
    let counts: Vec<String> = counts
        .iter()
        .map(|(name, n)| format!("{n} {name}"))
        .collect();
    format!("{} operations: {}", graph.nodes().len(), counts.join(", "))
}
