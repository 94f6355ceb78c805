//! Every composite operation on the CPU gives what its decomposition gives there, in
//! f32 and in bf16: the kernels and the definitions of the IR are held to each other.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use tintype_ir::passes::{Options, optimize};
use tintype_ir::{Graph, Op, decompose, parse};
use tintype_tensor::{DType, Tensor, TorchGenerator, relative_error};
use tintype_weights::Parameters;

/// A graph in `$t` over inputs that are all drawn at random.
struct OpCase {
    name: &'static str,
    inputs: &'static [(&'static str, &'static [usize])],
    body: &'static str,
    result: &'static str,
}

const CASES: &[OpCase] = &[
    OpCase {
        name: "linear",
        inputs: &[("x", &[3, 5, 17]), ("w", &[9, 17]), ("b", &[9])],
        body: "linear %x, %w, %b",
        result: "$t[3, 5, 9]",
    },
    OpCase {
        name: "softmax",
        inputs: &[("x", &[4, 33])],
        body: "softmax %x",
        result: "$t[4, 33]",
    },
    OpCase {
        name: "layer_norm",
        inputs: &[("x", &[2, 7, 24]), ("w", &[24]), ("b", &[24])],
        body: "layer_norm %x, %w, %b {epsilon = 1e-5}",
        result: "$t[2, 7, 24]",
    },
    OpCase {
        name: "rms_norm",
        inputs: &[("x", &[2, 7, 24]), ("w", &[24])],
        body: "rms_norm %x, %w {epsilon = 1e-6}",
        result: "$t[2, 7, 24]",
    },
    OpCase {
        name: "group_norm",
        inputs: &[("x", &[2, 6, 5, 7]), ("w", &[6]), ("b", &[6])],
        body: "group_norm %x, %w, %b {groups = 3, epsilon = 1e-6}",
        result: "$t[2, 6, 5, 7]",
    },
    OpCase {
        name: "modulate",
        inputs: &[("x", &[2, 7, 12]), ("s", &[2, 1, 12]), ("h", &[2, 1, 12])],
        body: "modulate %x, %s, %h",
        result: "$t[2, 7, 12]",
    },
    OpCase {
        name: "gated_residual",
        inputs: &[("r", &[2, 7, 12]), ("g", &[2, 1, 12]), ("x", &[2, 7, 12])],
        body: "gated_residual %r, %g, %x",
        result: "$t[2, 7, 12]",
    },
    OpCase {
        name: "attention",
        inputs: &[
            ("q", &[2, 9, 3, 8]),
            ("k", &[2, 13, 3, 8]),
            ("v", &[2, 13, 3, 8]),
        ],
        body: "attention %q, %k, %v {scale = 0.35355338, causal = false}",
        result: "$t[2, 9, 3, 8]",
    },
    OpCase {
        name: "attention_causal",
        inputs: &[
            ("q", &[1, 11, 2, 8]),
            ("k", &[1, 11, 2, 8]),
            ("v", &[1, 11, 2, 8]),
        ],
        body: "attention %q, %k, %v {scale = 0.5, causal = true}",
        result: "$t[1, 11, 2, 8]",
    },
    OpCase {
        name: "attention_bias",
        inputs: &[
            ("q", &[2, 6, 3, 4]),
            ("k", &[2, 6, 3, 4]),
            ("v", &[2, 6, 3, 4]),
            ("b", &[1, 3, 6, 6]),
        ],
        body: "attention %q, %k, %v, %b {scale = 1.0, causal = false}",
        result: "$t[2, 6, 3, 4]",
    },
    OpCase {
        name: "conv2d",
        inputs: &[("x", &[2, 4, 9, 8]), ("w", &[6, 4, 3, 3]), ("b", &[6])],
        body: "conv2d %x, %w, %b {stride = [1, 1], padding = [1, 1, 1, 1], groups = 1}",
        result: "$t[2, 6, 9, 8]",
    },
    OpCase {
        name: "conv2d_halves",
        inputs: &[("x", &[1, 4, 8, 10]), ("w", &[6, 2, 3, 3])],
        body: "conv2d %x, %w {stride = [2, 2], padding = [0, 1, 0, 1], groups = 2}",
        result: "$t[1, 6, 4, 5]",
    },
    OpCase {
        name: "upsample_nearest",
        inputs: &[("x", &[2, 3, 4, 5])],
        body: "upsample_nearest %x {factor = 3}",
        result: "$t[2, 3, 12, 15]",
    },
    OpCase {
        name: "gelu_tanh",
        inputs: &[("x", &[5, 40])],
        body: "gelu_tanh %x",
        result: "$t[5, 40]",
    },
    OpCase {
        name: "gelu_erf",
        inputs: &[("x", &[5, 40])],
        body: "gelu_erf %x",
        result: "$t[5, 40]",
    },
    OpCase {
        name: "gelu_quick",
        inputs: &[("x", &[5, 40])],
        body: "gelu_quick %x",
        result: "$t[5, 40]",
    },
    OpCase {
        name: "silu",
        inputs: &[("x", &[5, 40])],
        body: "silu %x",
        result: "$t[5, 40]",
    },
];

fn graph_of(case: &OpCase, dtype: DType) -> Graph {
    let mut text = format!("graph {} {{\n", case.name);
    for (name, shape) in case.inputs {
        text += &format!("  input step %{name}: {dtype}{shape:?}\n");
    }
    text += &format!(
        "  %0: {} = {}\n  output y = %0\n}}\n",
        case.result.replace("$t", dtype.name()),
        case.body
    );
    parse(&text).unwrap_or_else(|error| panic!("{}: {error}\n{text}", case.name))
}

fn random_inputs(case: &OpCase, dtype: DType, seed: u64) -> Vec<(&'static str, Tensor)> {
    let mut generator = TorchGenerator::new(seed);
    let draw = |(name, shape): &(&'static str, &[usize])| {
        let tensor = generator.randn(*shape).unwrap();
        (*name, tensor.to_dtype(dtype).unwrap())
    };
    case.inputs.iter().map(draw).collect()
}

fn run(graph: &Graph, inputs: &[(&str, Tensor)]) -> Vec<f32> {
    let outputs = tintype_cpu::run(graph, &Parameters::default(), inputs).unwrap();
    outputs.host("y").unwrap().to_f32_vec().unwrap()
}

#[test]
fn operations_equal_their_decompositions() {
    for case in CASES {
        for (dtype, tolerance) in [(DType::F32, 2e-6), (DType::BF16, 2e-3), (DType::F16, 3e-4)] {
            let graph = graph_of(case, dtype);
            let parts = decompose(&graph, &|_| false).unwrap();
            assert!(parts.nodes().len() > 1, "{} is taken apart", case.name);
            for seed in 0..3 {
                let inputs = random_inputs(case, dtype, seed);
                let error = relative_error(&run(&graph, &inputs), &run(&parts, &inputs));
                assert!(
                    error <= tolerance,
                    "{} in {dtype}: relative error {error:e}",
                    case.name
                );
            }
        }
    }
}

#[test]
fn fusing_a_decomposition_gives_the_same_values() {
    for case in CASES {
        let graph = graph_of(case, DType::BF16);
        let parts = decompose(&graph, &|_| false).unwrap();
        let fused = optimize(
            &parts,
            &Options::default(),
            Some(&tintype_cpu::CpuEvaluator),
        )
        .unwrap();
        let inputs = random_inputs(case, DType::BF16, 7);
        let error = relative_error(&run(&fused, &inputs), &run(&graph, &inputs));
        assert!(
            error <= 2e-3,
            "{}: relative error {error:e}\n{fused}",
            case.name
        );
    }
}

/// q, k and v of one attention as three products and as one, split by stages.
#[test]
fn fused_projections_give_the_same_values() {
    let text = r"
graph projections {
  param @q: f32[12, 10]
  param @k: f32[12, 10]
  param @v: f32[12, 10]
  input step %x: f32[2, 7, 10]
  %0: f32[2, 7, 12] = linear %x, @q
  %1: f32[2, 7, 12] = linear %x, @k
  %2: f32[2, 7, 12] = linear %x, @v
  %3: f32[2, 7, 3, 4] = reshape %0
  %4: f32[2, 7, 3, 4] = reshape %1
  %5: f32[2, 7, 3, 4] = reshape %2
  %6: f32[2, 7, 3, 4] = attention %3, %4, %5 {scale = 0.5, causal = false}
  output y = %6
}";
    let graph = parse(text).unwrap();
    let fused = optimize(&graph, &Options::default().with_fuse_qkv(true), None).unwrap();
    let linears = fused
        .nodes()
        .iter()
        .filter(|node| matches!(node.op, Op::Linear))
        .count();
    assert_eq!(linears, 1, "{fused}");
    let mut generator = TorchGenerator::new(3);
    let mut builder = Parameters::builder();
    for name in ["q", "k", "v"] {
        builder = builder.tensor(name, generator.randn([12, 10]).unwrap());
    }
    let parameters = builder.build().unwrap();
    let inputs = [("x", generator.randn([2, 7, 10]).unwrap())];
    let values = |graph: &Graph| {
        let outputs = tintype_cpu::run(graph, &parameters, &inputs).unwrap();
        outputs.host("y").unwrap().to_f32_vec().unwrap()
    };
    assert!(relative_error(&values(&fused), &values(&graph)) <= 1e-6);
}
