//! What becomes of FP8 in engines: TensorRT-RTX builds them for GPUs that are not here, and says of
//! which kernels they consist.
//!
//! Every linear of codes must be one product of FP8 with an FP8 weight, and every attention of codes
//! a fused one; a pattern that the library does not know would widen them again, silently. The model
//! is that inside the program; `--ignored` builds the whole of FLUX.1-dev.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../../../tensorrt-sys/tests/support/fetched.rs"]
mod fetched;

use std::io::sink;
use std::path::Path;

use libtest_mimic::{Arguments, Failed, Trial};
use tintype_conformance::fp8;
use tintype_flux::{Architecture, ModelKind, Sizes};
use tintype_ir::{Graph, Op};
use tintype_models::FluxTransformerConfig;
use tintype_quant::Recipe;
use tintype_tensor::DType;
use tintype_tensorrt::build::{EngineLayer, Verbosity};
use tintype_tensorrt::lower::{LowerOptions, SizeRange, lower};
use tintype_tensorrt::{Flag, Newer, Target, Tensorrt};

/// The first architecture with products of FP8, and a later one.
const TARGETS: [&str; 2] = ["sm89", "sm120"];

fn main() {
    let library = fetched::find_for(2 * TARGETS.len());
    let mut trials = Vec::new();
    for (name, is_whole) in [("the model of shapes", false), ("FLUX.1-dev, whole", true)] {
        for target in TARGETS {
            let path = library.clone();
            let run = move || {
                let path = path.ok_or("the library was not fetched")?;
                all_is_fused(&path, target, is_whole)
            };
            let trial = Trial::test(format!("{name} in fp8 is fused for {target}"), run);
            trials.push(trial.with_ignored_flag(is_whole || library.is_none()));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn all_is_fused(library: &Path, target: &str, is_whole: bool) -> Result<(), Failed> {
    let (config, side, tokens) = if is_whole {
        (FluxTransformerConfig::dev(), 1024, 512)
    } else {
        let text = include_str!("../../../shapes/model/transformer/config.json");
        let config = FluxTransformerConfig::from_json("config.json", text)?;
        (config, 128, 32)
    };
    let [double, single] = [config.num_layers, config.num_single_layers];
    let step = step_program(config, side, tokens)?;
    let expected = [linears_of_codes(&step), attentions_of_codes(&step)];
    // Of a double block: two joint projections to query, key and value, two back, four of the
    // feed-forwards. Of a single one: the joint projection, that of the feed-forward, the last.
    assert_eq!(expected, [8 * double + 3 * single, double + single]);
    let layers = layers(library, &step, target.parse()?)?;
    let of_f8 = |dtypes: &[&str]| dtypes.first() == Some(&"FP8");
    let products = layers.iter().filter(|layer| {
        let reads_f8_weight = layer
            .constants
            .iter()
            .any(|constant| constant.dtype == "FP8");
        layer.kind == "gemm" && of_f8(&layer.input_dtypes()) && reads_f8_weight
    });
    let attentions = layers.iter().filter(|layer| {
        layer.name.contains("_mha_") && layer.input_dtypes().iter().all(|dtype| *dtype == "FP8")
    });
    let found = [products.count(), attentions.count()];
    if found != expected {
        let names: Vec<_> = layers.iter().map(|layer| format!("{layer:?}")).collect();
        let text = names.join("\n");
        return Err(format!("expected {expected:?}, found {found:?}:\n{text}").into());
    }
    Ok(())
}

/// The step program as the backend is given it, with all linears of blocks and all attentions in
/// FP8.
fn step_program(
    config: FluxTransformerConfig,
    side: usize,
    tokens: usize,
) -> Result<Graph, Failed> {
    let capabilities = tintype_tensorrt::backend::capabilities();
    let mut architecture = Architecture::flux_dev();
    architecture.transformer = config;
    let sizes = Sizes {
        pictures: 1..=1,
        prompts: 1..=1,
        heights: side..=side,
        widths: side..=side,
        text_tokens: tokens..=tokens,
        tiles: false,
    };
    let architecture = architecture.for_backend(&capabilities);
    let graph = architecture.graph(ModelKind::Transformer, DType::BF16, &sizes)?;
    let recipe = Recipe::flux().with_attentions(["**"]);
    let graph = fp8::with_equal_scales(&graph, &recipe, 0.02)?.graph;
    let evaluator = tintype_cpu::CpuEvaluator;
    let programs = tintype_backend::programs(&graph, &capabilities, Some(&evaluator), &|_| true)?;
    Ok(programs.canonical()?.step)
}

fn linears_of_codes(program: &Graph) -> usize {
    let linears = program.nodes().iter().filter(|node| node.op == Op::Linear);
    let of_codes = linears.filter(|node| {
        let mut operands = node.operands[..2].iter();
        operands.all(|&operand| program.dequantized(operand).is_some())
    });
    of_codes.count()
}

fn attentions_of_codes(program: &Graph) -> usize {
    let nodes = program.nodes().iter();
    let of_codes = nodes.filter(|node| {
        let mut operands = node.operands.iter();
        matches!(node.op, Op::Attention(_))
            && operands.all(|&operand| program.dequantized(operand).is_some())
    });
    of_codes.count()
}

/// The layers of the engine of a program.
fn layers(library: &Path, program: &Graph, target: Target) -> Result<Vec<EngineLayer>, Failed> {
    let library = Tensorrt::open(library, Newer::Refuse)?;
    let builder = library.builder()?;
    let network = builder.network()?;
    let steps = SizeRange {
        min: 1,
        opt: 20,
        max: 64,
    };
    let options = LowerOptions::default().with_symbol("steps", steps);
    let lowered = lower(&network, program, &options)?;
    let mut config = builder.config()?;
    config.set_targets(&[target])?;
    config.set_flag(Flag::StripPlan, true)?;
    config.set_flag(Flag::RefitIndividual, true)?;
    config.set_verbosity(Verbosity::Detailed)?;
    let mut profile = builder.profile()?;
    lowered.set_profile(&mut profile)?;
    config.add_profile(&profile)?;
    let (_, layers) = builder.build_and_list(&network, &config, &mut sink())?;
    Ok(layers)
}
