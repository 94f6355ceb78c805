//! Builds a small transformer block and prints the three programs it falls into:
//!
//! ```sh
//! cargo run -p tintype-ir --example stages
//! ```
//!
//! The modulation of all steps stands in the request program, one linear for query, key
//! and value in the step program, and the concatenation of their weights in the weight
//! program.

use tintype_ir::passes::{Options, optimize};
use tintype_ir::{
    Attention, Dim, Graph, GraphBuilder, Op, Result, Stage, StagedGraph, TensorType, UnaryOp, Value,
};
use tintype_tensor::DType;

const WIDTH: usize = 64;
const HEADS: usize = 4;
const HEAD_DIM: usize = WIDTH / HEADS;

fn main() -> Result<()> {
    let graph = optimize(&block()?, &Options::default(), None)?;
    let staged = StagedGraph::split(&graph)?;
    for stage in Stage::ALL {
        println!("{}", staged.program(stage));
    }
    Ok(())
}

fn block() -> Result<Graph> {
    let mut b = GraphBuilder::new("block");
    let tokens = b.symbol("tokens", 1..=4096);
    let steps = b.symbol("steps", 1..=50);
    let width = Dim::from(WIDTH);
    let one = Dim::from(1);

    let embeddings = TensorType::new(DType::BF16, [steps, one.clone(), width.clone()]);
    let embeddings = b.input("time_embeddings", Stage::Request, embeddings);
    let ids = TensorType::new(DType::F32, [tokens.clone(), Dim::from(2)]);
    let ids = b.input("ids", Stage::Request, ids);
    let step = b.input(
        "step_index",
        Stage::Step,
        TensorType::new(DType::I64, [] as [Dim; 0]),
    );
    let x = TensorType::new(DType::BF16, [one, tokens.clone(), width]);
    let x = b.input("x", Stage::Step, x);

    let [shift, scale, gate] = modulation(&mut b, embeddings, step);
    let normed = b.layer_norm(x, 1e-6);
    let normed = b.modulate(normed, scale, shift);
    let attended = attention(&mut b, normed, ids, &tokens);
    let projected = b.linear_named("block.attn.to_out", attended, WIDTH, WIDTH, true);
    let y = b.gated_residual(x, gate, projected);
    b.output("y", y);
    b.finish()
}

/// Shift, scale and gate `[1, 1, width]` of the step at hand, computed for all steps at once.
fn modulation(b: &mut GraphBuilder, embeddings: Value, step: Value) -> [Value; 3] {
    let activated = b.unary(UnaryOp::Silu, embeddings);
    let all = b.linear_named("block.norm.linear", activated, 3 * WIDTH, WIDTH, true);
    let row = b.gather(all, step, 0);
    let row = b.reshape(row, [1, 1, 3 * WIDTH]);
    [0, 1, 2].map(|part| b.slice(row, 2, part * WIDTH, (part + 1) * WIDTH))
}

fn attention(b: &mut GraphBuilder, x: Value, ids: Value, tokens: &Dim) -> Value {
    let dims = vec![HEAD_DIM / 2, HEAD_DIM / 2];
    let table = b.op(
        Op::RotaryTable {
            theta: 10000.0,
            dims,
        },
        &[ids],
    );
    let heads = [
        Dim::from(1),
        tokens.clone(),
        Dim::from(HEADS),
        Dim::from(HEAD_DIM),
    ];
    let [q, k, v] = ["to_q", "to_k", "to_v"].map(|name| {
        let projected = b.linear_named(&format!("block.attn.{name}"), x, WIDTH, WIDTH, true);
        b.reshape(projected, heads.clone())
    });
    let (q, k) = (b.rotary(q, table), b.rotary(k, table));
    let attributes = Attention {
        scale: 1.0 / (HEAD_DIM as f32).sqrt(),
        causal: false,
    };
    let attended = b.attention(attributes, [q, k, v], None);
    b.reshape(attended, [Dim::from(1), tokens.clone(), Dim::from(WIDTH)])
}
