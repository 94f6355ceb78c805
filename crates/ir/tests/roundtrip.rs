//! Fusing what an operation was taken apart into gives the operation back.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use tintype_ir::passes::{Options, optimize};
use tintype_ir::{Graph, decompose, parse};

/// A graph of one operation on inputs and parameters of `dtype`, as text.
fn one(declarations: &str, operation: &str) -> Vec<Graph> {
    let dtypes = ["f32", "bf16", "f16"].into_iter();
    let text = |dtype: &str| {
        format!(
            "graph g {{ dim s = 1..=64 {declarations} %0: {operation} # module\n output y = %0 }}"
        )
        .replace("T[", &format!("{dtype}["))
    };
    dtypes.map(|dtype| parse(&text(dtype)).unwrap()).collect()
}

fn comes_back(declarations: &str, operation: &str) {
    for graph in one(declarations, operation) {
        tintype_ir::verify(&graph).unwrap();
        let simple = decompose(&graph, &|_| false).unwrap();
        assert!(simple.nodes().len() > 1, "{simple}");
        let options = Options::default().with_verify(true);
        let back = optimize(&simple, &options, None).unwrap();
        assert_eq!(back.to_string(), graph.to_string(), "from\n{simple}");
    }
}

#[test]
fn linear() {
    let declarations = "param @w: T[6, 4] param @b: T[6] input step %x: T[2, s, 4]";
    comes_back(declarations, "T[2, s, 6] = linear %x, @w, @b");
    let declarations = "param @w: T[6, 4] input step %x: T[s, 4]";
    comes_back(declarations, "T[s, 6] = linear %x, @w");
}

#[test]
fn activations() {
    for name in ["silu", "gelu_erf", "gelu_tanh", "gelu_quick", "softmax"] {
        comes_back("input step %x: T[s, 4]", &format!("T[s, 4] = {name} %x"));
    }
}

#[test]
fn norms() {
    let declarations = "input step %x: T[2, s, 4]";
    comes_back(declarations, "T[2, s, 4] = layer_norm %x {epsilon = 1e-6}");
    comes_back(declarations, "T[2, s, 4] = rms_norm %x {epsilon = 1e-6}");
    let declarations = "param @w: T[4] param @b: T[4] input step %x: T[2, s, 4]";
    comes_back(
        declarations,
        "T[2, s, 4] = layer_norm %x, @w, @b {epsilon = 1e-5}",
    );
    let declarations = "param @w: T[4] input step %x: T[2, s, 4]";
    comes_back(
        declarations,
        "T[2, s, 4] = rms_norm %x, @w {epsilon = 1e-5}",
    );
}

#[test]
fn modulate_and_gated_residual() {
    let declarations = "input request %a: T[2, 1, 4] input request %b: T[2, 1, 4] \
                        input step %x: T[2, s, 4] input step %r: T[2, s, 4]";
    comes_back(declarations, "T[2, s, 4] = modulate %x, %a, %b");
    comes_back(declarations, "T[2, s, 4] = gated_residual %r, %a, %x");
}

#[test]
fn rotary() {
    let declarations = "input request %t: f32[s, 2, 2] input step %x: T[2, s, 3, 4]";
    comes_back(declarations, "T[2, s, 3, 4] = rotary %x, %t");
}

#[test]
fn attention() {
    let declarations = "input step %q: T[2, 7, 3, 4] input step %k: T[2, s, 3, 4] \
                        input step %v: T[2, s, 3, 8] input request %b: T[1, 3, 7, s]";
    for causal in [false, true] {
        let attributes = format!("{{scale = 0.5, causal = {causal}}}");
        comes_back(
            declarations,
            &format!("T[2, 7, 3, 8] = attention %q, %k, %v {attributes}"),
        );
        let biased = format!("T[2, 7, 3, 8] = attention %q, %k, %v, %b {attributes}");
        comes_back(declarations, &biased);
    }
}
