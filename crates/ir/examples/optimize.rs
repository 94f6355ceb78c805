//! Reads a graph in text form, runs the passes, and prints what comes out:
//!
//! ```sh
//! cargo run -p tintype-ir --example optimize -- [GRAPH.tt] [--decompose] [--no-qkv]
//! ```
//!
//! Without a file it takes a small one of its own.
//!
//! With `--decompose`, everything that can be is taken apart first: a test of whether
//! the fusions find it again.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Instant;

use tintype_ir::passes::{Options, optimize};
use tintype_ir::{Graph, decompose, parse, verify};

/// A linear layer and a GELU as an exporter would write them.
const SMALL: &str = r"
graph small {
  param @weight: f32[8, 4]
  param @bias: f32[8]
  input step %x: f32[3, 4]
  %0: f32[4, 8] = transpose @weight {permutation = [1, 0]}
  %1: f32[3, 8] = matmul %x, %0
  %2: f32[3, 8] = add %1, @bias
  %3: f32[] = constant {values = 1.702}
  %4: f32[3, 8] = mul %2, %3
  %5: f32[3, 8] = sigmoid %4
  %6: f32[3, 8] = mul %2, %5
  output y = %6
}";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let file = arguments
        .iter()
        .find(|argument| !argument.starts_with("--"));
    let text = match file {
        Some(file) => std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?,
        None => SMALL.to_owned(),
    };
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
