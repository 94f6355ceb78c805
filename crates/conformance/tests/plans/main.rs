//! What the CUDA backend plans computes what the graphs compute.
//!
//! Plans run here on the host: generated kernels instruction by instruction, libraries' calls by
//! the CPU, all in one workspace with the plan's offsets, so that a view, a place or a lifetime
//! that is wrong shows. No GPU and no library is needed. Where `TINTYPE_CXX` names a C++ compiler,
//! kernels run as they are written ([`host_kernels`]). Plans with branches must give the same bits,
//! whichever branch runs first. The cases are those of every operation,
//! and the blocks of models under `crates/cuda/tests/files`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod host_kernels;
mod interpreter;
#[path = "../../../cuda/tests/support/on_host/mod.rs"]
mod on_host;
mod quantized;

use libtest_mimic::{Arguments, Failed, Trial};
use tintype_conformance::operations::{self, Case, FILES, Result, difference, dtypes};
use tintype_cuda::{Fork, Plan, PlanOptions};
use tintype_ir::Binding;
use tintype_tensor::{DType, Tensor};

const BLOCKS: [(&str, &str); 12] = [
    (
        "clip_block",
        include_str!("../../../cuda/tests/files/clip_block.ir"),
    ),
    (
        "euler_step",
        include_str!("../../../cuda/tests/files/euler_step.ir"),
    ),
    (
        "flux_double_blocks",
        include_str!("../../../cuda/tests/files/flux_double_blocks.ir"),
    ),
    (
        "flux_double_quantized_attention",
        include_str!("../../../cuda/tests/files/flux_double_quantized_attention.ir"),
    ),
    (
        "flux_single_blocks",
        include_str!("../../../cuda/tests/files/flux_single_blocks.ir"),
    ),
    (
        "flux_single_quantized_attention",
        include_str!("../../../cuda/tests/files/flux_single_quantized_attention.ir"),
    ),
    (
        "flux_batch_2",
        include_str!("../../../cuda/tests/files/flux_batch_2.ir"),
    ),
    (
        "long_rows",
        include_str!("../../../cuda/tests/files/long_rows.ir"),
    ),
    (
        "narrow_attention",
        include_str!("../../../cuda/tests/files/narrow_attention.ir"),
    ),
    (
        "operations",
        include_str!("../../../cuda/tests/files/operations.ir"),
    ),
    (
        "t5_block",
        include_str!("../../../cuda/tests/files/t5_block.ir"),
    ),
    (
        "vae_resnet",
        include_str!("../../../cuda/tests/files/vae_resnet.ir"),
    ),
];

fn main() {
    let mut trials = Vec::new();
    for (name, text) in FILES {
        for dtype in dtypes(text) {
            let run = move || run(text, dtype);
            trials.push(Trial::test(format!("{name} in {dtype}"), run));
        }
    }
    for (name, text) in BLOCKS {
        let text = as_case(text);
        // A cast to f32 is none where all is f32.
        if !text.contains(" cast ") {
            let wide = text.replace("bf16", "f32");
            let run = move || run(&wide, DType::F32);
            trials.push(Trial::test(format!("{name} in f32"), run));
        }
        trials.push(Trial::test(format!("{name} in bf16"), move || {
            run(&text, DType::BF16)
        }));
    }
    trials.extend(quantized::trials());
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// A file of plans as a file of cases: each symbol has one size alone.
fn as_case(text: &str) -> String {
    let given = text.split("; expect:").next().unwrap();
    let sizes = given
        .lines()
        .find_map(|line| line.strip_prefix("; plan:"))
        .unwrap();
    let size_of = |symbol: &str| {
        let mut parts = sizes.split(',').filter_map(|part| part.split_once('='));
        let size = parts.find(|part| part.0.trim() == symbol).unwrap().1;
        // The step's index is below this.
        if symbol == "steps" { "8" } else { size.trim() }
    };
    let lines = given
        .lines()
        .map(|line| match line.trim().strip_prefix("dim ") {
            Some(dim) => {
                let symbol = dim.split_once(" =").unwrap().0;
                let size = size_of(symbol);
                format!("dim {symbol} = {size}..={size}\n")
            }
            None => format!("{line}\n"),
        });
    format!("; test: bf16\n{}", lines.collect::<String>())
}

fn run(text: &str, dtype: DType) -> std::result::Result<(), Failed> {
    let cases = operations::cases(text, dtype).map_err(|error| error.to_string())?;
    let mut failures = Vec::new();
    for case in &cases {
        if let Err(error) = compare(case) {
            failures.push(format!("{}: {error}", case.graph.name()));
        }
    }
    if failures.is_empty() && !cases.is_empty() {
        return Ok(());
    }
    Err(format!("{} cases\n{}", cases.len(), failures.join("\n")).into())
}

fn compare(case: &Case) -> Result<()> {
    let mut binding = Binding::new();
    for (name, tensor) in &case.inputs {
        binding.bind_input(&case.graph, name, tensor.dtype(), tensor.shape())?;
    }
    let plan = Plan::new(&case.graph, &binding)?;
    let expected = case.expected()?;
    let order: Vec<usize> = (0..plan.steps.len()).collect();
    let found = interpreter::run(&plan, &order, case)?;
    let branched = Plan::with(&case.graph, &binding, PlanOptions { branches: true })?;
    for order in orders(&branched) {
        let again = interpreter::run(&branched, &order, case)?;
        let bytes = |outputs: &[(String, Tensor)]| -> Vec<Vec<u8>> {
            let outputs = outputs.iter();
            outputs.map(|(_, tensor)| tensor.bytes().to_vec()).collect()
        };
        if bytes(&again) != bytes(&found) {
            return Err(format!("other bits in the order {order:?} of\n{branched}").into());
        }
    }
    for (name, found) in found {
        let error = difference(&found, &expected.host(&name)?)?;
        // Values that never reach memory are not rounded here: in bf16 results lie apart by that.
        if error > 3.0 * case.limit() {
            return Err(format!("output {name} is off by {error:.2e} in\n{plan}").into());
        }
    }
    Ok(())
}

/// Ways in which a plan with branches may run: the first branch first, the second first, both in
/// turn. None for a plan without.
fn orders(plan: &Plan) -> Vec<Vec<usize>> {
    let ways: [fn(&Fork) -> Vec<usize>; 3] = [
        |fork| fork.steps().collect(),
        |fork| fork.second.clone().chain(fork.first.clone()).collect(),
        |fork| {
            let longer = fork.first.len().max(fork.second.len());
            let turns = (0..longer).flat_map(|turn| {
                [&fork.first, &fork.second].map(|branch| (branch.start + turn, branch.end))
            });
            turns
                .filter(|(step, end)| step < end)
                .map(|(step, _)| step)
                .collect()
        },
    ];
    if plan.forks.is_empty() {
        return Vec::new();
    }
    let order = |way: &fn(&Fork) -> Vec<usize>| {
        let (mut order, mut next) = (Vec::new(), 0);
        for fork in &plan.forks {
            order.extend(next..fork.first.start);
            order.extend(way(fork));
            next = fork.second.end;
        }
        order.extend(next..plan.steps.len());
        order
    };
    ways.iter().map(order).collect()
}
