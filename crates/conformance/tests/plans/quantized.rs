//! Quantized transformers: plans with products of codes against what the CPU makes of the graph.
//!
//! In f32 little is rounded but codes, so results agree as two orders of a sum do, but where a
//! number lies between two codes. In bf16 a plan leaves out roundings that the graph has.

use libtest_mimic::{Failed, Trial};
use tintype_backend::{Capabilities, programs};
use tintype_conformance::Tolerance;
use tintype_conformance::operations::{Case, Result, difference};
use tintype_cuda::{Plan, Work};
use tintype_ir::{Binding, Graph, Stage};
use tintype_models::{FluxTransformerConfig, FluxTransformerOptions};
use tintype_quant::{Granularity, Recipe, Rule, Scales, quantize};
use tintype_tensor::{DType, Tensor, TorchGenerator};
use tintype_weights::Parameters;

use crate::interpreter;

/// One double and one single block, two heads of 16.
fn transformer(dtype: DType) -> Result<Graph> {
    let config = FluxTransformerConfig {
        num_layers: 1,
        num_single_layers: 1,
        num_attention_heads: 2,
        attention_head_dim: 16,
        axes_dims_rope: vec![4, 6, 6],
        in_channels: 8,
        out_channels: 8,
        joint_attention_dim: 24,
        pooled_projection_dim: 12,
        ..FluxTransformerConfig::dev()
    };
    Ok(config.graph(&FluxTransformerOptions {
        dtype,
        image_tokens: 12..=12,
        text_tokens: 4..=4,
        steps: 8..=8,
        batch: 2..=2,
        ..FluxTransformerOptions::default()
    })?)
}

fn recipe(granularity: Granularity) -> Recipe {
    match granularity {
        Granularity::PerTensor => Recipe::flux(),
        other => Recipe::new([Rule::linears(
            ["transformer_blocks.**", "single_transformer_blocks.**"],
            other,
        )]),
    }
}

/// A quantized graph, with values for what it reads.
fn case(dtype: DType, granularity: Granularity, seed: u64) -> Result<Case> {
    let plain = transformer(dtype)?;
    let recipe = recipe(granularity);
    let mut scales = Scales::new();
    for (number, name) in recipe.scale_names(&plain)?.iter().enumerate() {
        scales.insert(name, 0.004 + 0.001 * (number % 7) as f32)?;
    }
    let quantized = quantize(&plain, &recipe, &scales)?;
    let mut case = Case::new(quantized.graph, dtype, &Binding::new())?;
    let mut random = TorchGenerator::new(seed);
    case.parameters = Parameters::builder().build()?;
    for parameter in case.graph.parameters() {
        let name = parameter.name.as_str();
        let value = match quantized.parameters.get(name) {
            Ok(scale) => scale,
            Err(_) => weight(&mut random, &parameter.ty)?,
        };
        case.parameters.insert(name, value)?;
    }
    Ok(case)
}

/// Numbers that keep the size of what they multiply.
fn weight(random: &mut TorchGenerator, ty: &tintype_ir::TensorType) -> Result<Tensor> {
    let shape = ty.shape(&Binding::new())?;
    let factor = match shape.as_ref() {
        [_, columns] => 1.0 / (*columns as f32).sqrt(),
        _ => 0.5,
    };
    let values = random.randn(&*shape)?.to_f32_vec()?;
    let values = values.into_iter().map(|value| value * factor).collect();
    Ok(Tensor::from_f32_as(ty.dtype, shape, values)?)
}

pub(crate) fn trials() -> Vec<Trial> {
    let granularities = [
        ("one scale", Granularity::PerTensor),
        ("a scale for each channel", Granularity::PerChannel),
        ("a scale for each row", Granularity::PerRow),
        ("narrow weights", Granularity::WeightOnly),
    ];
    let mut trials = Vec::new();
    for dtype in [DType::F32, DType::BF16] {
        for (name, granularity) in granularities {
            let run =
                move || check(dtype, granularity).map_err(|error| Failed::from(error.to_string()));
            trials.push(Trial::test(format!("FLUX in fp8 on {dtype}, {name}"), run));
        }
    }
    trials
}

fn check(dtype: DType, granularity: Granularity) -> Result<()> {
    for seed in 0..3 {
        let case = case(dtype, granularity, 40 + seed)?;
        let (found, expected, coded) = computed(&case)?;
        // 6 products of codes in the double block after q, k and v were joined, 3 in the single.
        let wanted = match granularity {
            Granularity::WeightOnly => 0,
            Granularity::PerTensor => 2 * (1 + 1 + 2) + 3,
            _ => 2 * (1 + 1 + 2) + 3 + 3,
        };
        if coded != wanted {
            return Err(format!("{coded} products of codes, expected {wanted}").into());
        }
        let error = difference(&found, &expected)?;
        let limit = match dtype {
            DType::F32 => Tolerance::relative(DType::F32),
            // What falls to another side when it becomes a code is off by a sixteenth.
            _ => Tolerance::relative(DType::F8E4M3),
        };
        println!("{dtype} {granularity:?} {seed}: {error:.2e}");
        if error > limit {
            return Err(format!("off by {error:.2e}, expected {limit:.2e}").into());
        }
    }
    Ok(())
}

/// What the plans of both programs compute and what the CPU makes of the programs, and how many
/// products of codes there are. Joined weights have a joint scale, so the graph before is another.
fn computed(case: &Case) -> Result<(Tensor, Tensor, usize)> {
    let capabilities = Capabilities::default().with_fuse_qkv(true);
    let staged = programs(&case.graph, &capabilities, None, &|_| true)?.canonical()?;
    let weights = tintype_cpu::run(&staged.weight, &case.parameters, &[])?;
    let mut given = case.inputs.clone();
    let (mut wanted, mut coded) = (case.inputs.clone(), 0);
    for (program, _) in [
        (&staged.request, Stage::Request),
        (&staged.step, Stage::Step),
    ] {
        let mut parameters = Parameters::builder().build()?;
        for parameter in program.parameters() {
            parameters.insert(parameter.name.as_str(), weights.host(&parameter.name)?)?;
        }
        let mut binding = Binding::new();
        let inputs = given.iter();
        let inputs =
            inputs.filter(|(name, _)| program.inputs().iter().any(|input| input.name == *name));
        for (name, tensor) in inputs {
            binding.bind_input(program, name, tensor.dtype(), tensor.shape())?;
        }
        let plan = Plan::new(program, &binding)?;
        if std::env::var_os("TINTYPE_SHOW").is_some() {
            eprintln!("{program}\n{plan}");
        }
        let is_coded = |work: &Work| matches!(work, Work::Product(call) if call.codes.is_some());
        coded += plan
            .steps
            .iter()
            .filter(|step| is_coded(&step.work))
            .count();
        let of_program = Case {
            graph: program.clone(),
            dtype: case.dtype,
            inputs: given.clone(),
            parameters,
        };
        let order: Vec<usize> = (0..plan.steps.len()).collect();
        given.extend(interpreter::run(&plan, &order, &of_program)?);
        let inputs = wanted.iter();
        let inputs =
            inputs.filter(|(name, _)| program.inputs().iter().any(|input| input.name == *name));
        let inputs: Vec<_> = inputs
            .map(|(name, tensor)| (name.as_str(), tensor.clone()))
            .collect();
        let found = tintype_cpu::run(program, &of_program.parameters, &inputs)?;
        for output in program.outputs() {
            wanted.push((output.name.clone(), found.host(&output.name)?));
        }
    }
    let sample = |values: Vec<(String, Tensor)>| {
        let sample = values.into_iter().find(|(name, _)| name == "sample");
        sample.map(|(_, tensor)| tensor).ok_or("no sample")
    };
    Ok((sample(given)?, sample(wanted)?, coded))
}
