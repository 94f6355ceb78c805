//! Changes that are noticed, and what is done about them.

use tintype_backend::Tensors;
use tintype_refit::{MutableModule, Ranges, Report, State, Weights};
use tintype_tensor::{DType, Tensor};
use tintype_weights::{ChangeOptions, Parameters};

use super::super::Result;
use super::subject::{
    Adapters, Inputs, Subject, expect_count, expect_near, expect_near_to, expect_other,
    expect_same, in_order, outputs, plain, steps,
};

fn report(module: &MutableModule, inputs: &Inputs) -> Result<Report> {
    Ok(module.call(&inputs.request, &inputs.step)?.report)
}

/// Fails unless a call compiles so often and refits so many weights; a library that has merged
/// weights may set more, but none without need.
fn expect_done(report: &Report, compilations: usize, weights: usize) -> Result<()> {
    expect_count("compilations", report.compilations(), compilations)?;
    let found = report.weights();
    if found == weights || (weights > 0 && found > weights) {
        return Ok(());
    }
    Err(format!("expected {weights} refitted weights, found {found}").into())
}

fn define(module: &MutableModule, graph: tintype_ir::Graph) -> Result<()> {
    Ok(module.change(|change| {
        change.define(graph);
        Ok(())
    })?)
}

pub(super) fn edit(subject: &mut Subject) -> Result<String> {
    let (module, inputs) = (subject.module()?, subject.inputs(2, 32)?);
    let before = outputs(&module, &inputs)?;
    module
        .edit()
        .edit("out.weight", |values| values[5] = 4.0 - values[5])?;
    expect_done(&report(&module, &inputs)?, 0, 1)?;
    expect_other(&outputs(&module, &inputs)?, &before)?;
    subject.expect_fresh(&module, &inputs)
}

/// Of a value by itself, so that bf16 does not round it away.
pub(super) fn smallest(subject: &mut Subject) -> Result<String> {
    let (module, inputs) = (subject.module()?, subject.inputs(1, 8)?);
    let zero = |bias: &mut [f32]| bias.fill(0.0);
    module.edit().edit("out.bias", zero)?;
    module.edit().edit("out.weight", zero)?;
    let none = Tensors::new()
        .with("step_index", inputs.step.host("step_index")?)
        .with("x", subject.random(&[8, 64], 0.0)?);
    let inputs = Inputs {
        step: none,
        ..inputs
    };
    let before = outputs(&module, &inputs)?;
    module.edit().edit("out.bias", |bias| bias[9] += 1e-4)?;
    expect_done(&report(&module, &inputs)?, 0, 1)?;
    expect_other(&outputs(&module, &inputs)?, &before)?;
    subject.expect_fresh(&module, &inputs)
}

pub(super) fn activation(subject: &mut Subject) -> Result<String> {
    let (module, inputs) = (subject.module()?, subject.inputs(3, 16)?);
    let silu = outputs(&module, &inputs)?;
    define(&module, subject.graph("gelu_erf")?)?;
    expect_count("compilations", report(&module, &inputs)?.compilations(), 1)?;
    let gelu = outputs(&module, &inputs)?;
    expect_other(&gelu, &silu)?;
    let near = subject.expect_near(&module, subject.graph("gelu_erf")?, &inputs)?;
    for (activation, expected) in [("silu", &silu), ("gelu_erf", &gelu)] {
        define(&module, subject.graph(activation)?)?;
        expect_done(&report(&module, &inputs)?, 0, 0)?;
        expect_same(&outputs(&module, &inputs)?, expected)?;
    }
    Ok(near)
}

pub(super) fn attached(subject: &mut Subject) -> Result<String> {
    let (module, inputs) = (subject.module()?, subject.inputs(2, 32)?);
    let before = outputs(&module, &inputs)?;
    let adapter = subject.adapter("style", 0.3)?;
    let mut near = String::new();
    for _ in 0..2 {
        adapter.set(&module)?;
        expect_done(&report(&module, &inputs)?, 0, 1)?;
        expect_other(&outputs(&module, &inputs)?, &before)?;
        near = subject.expect_fresh(&module, &inputs)?;
        Adapters::default().set(&module)?;
        expect_done(&report(&module, &inputs)?, 0, 1)?;
        expect_same(&outputs(&module, &inputs)?, &before)?;
        // And then no more.
        expect_done(&report(&module, &inputs)?, 0, 0)?;
    }
    Ok(near)
}

/// Of a definition that looks at it.
pub(super) fn dtype(subject: &mut Subject) -> Result<String> {
    let module = subject
        .builder(Subject::define())
        .argument("causal", 0)
        .build();
    let inputs = subject.inputs(2, 16)?;
    let other = match subject.dtype {
        DType::F32 => DType::BF16,
        _ => DType::F32,
    };
    let cast = |tensors: &Tensors| -> Result<Tensors> {
        let mut cast = Tensors::new();
        for (name, tensor) in tensors.iter() {
            let tensor = tensor.to_host()?;
            let is_float = tensor.dtype().is_float();
            let tensor = if is_float {
                tensor.to_dtype(other)?
            } else {
                tensor
            };
            cast.insert(name, tensor);
        }
        Ok(cast)
    };
    let of_other = Inputs {
        request: cast(&inputs.request)?,
        step: cast(&inputs.step)?,
    };
    let before = outputs(&module, &inputs)?;
    expect_count(
        "compilations",
        report(&module, &of_other)?.compilations(),
        1,
    )?;
    let near = expect_near(other, &module, Subject::define(), &of_other)?;
    expect_done(&report(&module, &inputs)?, 0, 0)?;
    expect_same(&outputs(&module, &inputs)?, &before)?;
    Ok(near)
}

pub(super) fn argument(subject: &mut Subject) -> Result<String> {
    let module = subject
        .builder(Subject::define())
        .argument("causal", 1)
        .build();
    let inputs = subject.inputs(2, 16)?;
    let causal = outputs(&module, &inputs)?;
    let set = |value| {
        module.change(|change| {
            change.set_argument("causal", value);
            Ok(())
        })
    };
    set(0)?;
    expect_count("compilations", report(&module, &inputs)?.compilations(), 1)?;
    expect_other(&outputs(&module, &inputs)?, &causal)?;
    let near = subject.expect_fresh(&module, &inputs)?;
    set(1)?;
    expect_done(&report(&module, &inputs)?, 0, 0)?;
    expect_same(&outputs(&module, &inputs)?, &causal)?;
    Ok(near)
}

pub(super) fn out_of_range(subject: &mut Subject) -> Result<String> {
    let ranges = Ranges::new().axis("x", 0, 8..=64).symbol("steps", 1..=8);
    let module = subject.builder(subject.graph("silu")?).ranges(ranges);
    let module = module.build();
    let compiles_sizes = subject.backend.capabilities().compiles_sizes;
    for (tokens, engines) in [(8, 1), (64, 1), (33, 1), (100, 2), (20, 2), (100, 2)] {
        let inputs = subject.inputs(2, tokens)?;
        report(&module, &inputs)?;
        let engines = if compiles_sizes { engines } else { 1 };
        expect_count("engines", module.engines(), engines)?;
        subject.expect_fresh(&module, &inputs)?;
    }
    Ok(format!("{} engines", module.engines()))
}

pub(super) fn alternating(subject: &mut Subject) -> Result<String> {
    let module = subject.builder(subject.graph("silu")?).build();
    let sizes = [subject.inputs(2, 16)?, subject.inputs(4, 48)?];
    let mut compilations = 0;
    for round in 0..6 {
        compilations += report(&module, &sizes[round % 2])?.compilations();
    }
    if compilations > 2 {
        return Err(format!("expected at most 2 compilations, found {compilations}").into());
    }
    for inputs in &sizes {
        subject.expect_fresh(&module, inputs)?;
    }
    Ok(format!("{compilations} compilations"))
}

pub(super) fn unchanged(subject: &mut Subject) -> Result<String> {
    let (module, inputs) = (subject.module()?, subject.inputs(1, 24)?);
    let before = outputs(&module, &inputs)?;
    let same = module.weights().parameters.get("qkv.weight")?;
    module.edit().set("qkv.weight", same)?;
    let call = report(&module, &inputs)?;
    expect_done(&call, 0, 0)?;
    // Another checkpoint that differs in one.
    let mut other = subject.parameters.clone();
    let bias = subject.random(&[64], 0.5)?;
    other.set("out.bias", bias)?;
    let options = ChangeOptions::default();
    module.edit().replace_with(&other, options)?;
    expect_done(&report(&module, &inputs)?, 0, 1)?;
    expect_other(&outputs(&module, &inputs)?, &before)?;
    subject.expect_fresh(&module, &inputs)
}

pub(super) fn mapped(subject: &mut Subject) -> Result<String> {
    let (module, inputs) = (subject.module()?, subject.inputs(2, 16)?);
    let mut last = outputs(&module, &inputs)?;
    let names: Vec<String> = subject.parameters.names().map(str::to_owned).collect();
    for name in &names {
        let turned = |values: &mut [f32]| values.iter_mut().for_each(|value| *value = -*value);
        module.edit().edit(name, turned)?;
        expect_done(&report(&module, &inputs)?, 0, 1)
            .map_err(|error| format!("{name}: {error}"))?;
        let found = outputs(&module, &inputs)?;
        expect_other(&found, &last).map_err(|error| format!("{name}: {error}"))?;
        subject
            .expect_fresh(&module, &inputs)
            .map_err(|error| format!("{name}: {error}"))?;
        last = found;
    }
    Ok(format!("{} parameters", names.len()))
}

pub(super) fn checkpoint(subject: &mut Subject) -> Result<String> {
    let (module, inputs) = (subject.module()?, subject.inputs(2, 16)?);
    let before = outputs(&module, &inputs)?;
    let mut other = Parameters::builder();
    for name in subject
        .parameters
        .names()
        .map(str::to_owned)
        .collect::<Vec<_>>()
    {
        let shape = subject.parameters.shape(&name)?.clone();
        other = other.tensor(name, subject.random(&shape, 0.2)?);
    }
    let (other, options) = (other.build()?, ChangeOptions::default());
    module.edit().replace_with(&other, options)?;
    expect_other(&outputs(&module, &inputs)?, &before)?;
    let near = subject.expect_fresh(&module, &inputs)?;
    let parameters = plain(&subject.parameters);
    module.change(|change| {
        change.set_weights(parameters);
        Ok(())
    })?;
    expect_same(&outputs(&module, &inputs)?, &before)?;
    Ok(near)
}

pub(super) fn states(subject: &mut Subject) -> Result<String> {
    let (module, inputs) = (subject.module()?, subject.inputs(1, 8)?);
    let expect = |state: State| -> Result<()> {
        let found = module.state()?;
        if found == state {
            return Ok(());
        }
        Err(format!("expected {state:?}, found {found:?}").into())
    };
    expect(State::NeedsCompile)?;
    report(&module, &inputs)?;
    expect(State::Live)?;
    let adapter = subject.adapter("style", 0.3)?;
    adapter.set(&module)?;
    expect(State::NeedsRefit)?;
    module.apply()?;
    expect(State::Live)?;
    define(&module, subject.graph("gelu_erf")?)?;
    expect(State::NeedsCompile)?;
    module.apply()?;
    expect(State::Live)?;
    Ok("needs compile, live, needs refit".to_owned())
}

/// Against the sum of all in f32, rounded once.
pub(super) fn three_adapters(subject: &mut Subject) -> Result<String> {
    let (module, inputs) = (subject.module()?, subject.inputs(2, 32)?);
    let before = outputs(&module, &inputs)?;
    let mut adapters = Adapters::default();
    let mut sum = subject
        .parameters
        .read_as("out.weight", DType::F32)?
        .to_f32_vec()?;
    for (name, scale) in [("first", 0.2), ("second", 0.3), ("third", 0.1)] {
        let adapter = subject.adapter(name, scale)?;
        let part = |part: &str| adapter.own.get(&format!("{name}.{part}"));
        let (up, down) = (part("up")?.to_f32_vec()?, part("down")?.to_f32_vec()?);
        for (index, value) in sum.iter_mut().enumerate() {
            let (row, column) = (index / 64, index % 64);
            let products = (0..4).map(|rank| up[row * 4 + rank] * down[rank * 64 + column]);
            *value += products.sum::<f32>();
        }
        adapters = adapters.and(&adapter)?;
    }
    adapters.set(&module)?;
    expect_done(&report(&module, &inputs)?, 0, 1)?;
    let mut merged = subject.parameters.clone();
    merged.set(
        "out.weight",
        Tensor::from_f32_as(subject.dtype, [64, 64], sum)?,
    )?;
    let (graph, merged) = (subject.graph("silu")?, plain(&merged));
    let near = expect_near_to(subject.dtype, &module, (graph, merged), &inputs)?;
    Adapters::default().set(&module)?;
    expect_same(&outputs(&module, &inputs)?, &before)?;
    Ok(near)
}

pub(super) fn hundred_swaps(subject: &mut Subject) -> Result<String> {
    let (module, inputs) = (subject.module()?, subject.inputs(2, 32)?);
    let base = outputs(&module, &inputs)?;
    let first = subject.adapter("first", 0.2)?;
    let both = subject.adapter("second", 0.3)?.and(&first)?;
    let sets = [first, both];
    let mut seen = Vec::new();
    for round in 0..100 {
        sets[round % 2].set(&module)?;
        let found = outputs(&module, &inputs)?;
        if let Some(expected) = seen.get(round % 2) {
            expect_same(&found, expected)?;
        } else {
            subject.expect_fresh(&module, &inputs)?;
            seen.push(found);
        }
    }
    expect_other(&seen[0], &seen[1])?;
    Adapters::default().set(&module)?;
    expect_same(&outputs(&module, &inputs)?, &base)?;
    Ok("to the bit".to_owned())
}

pub(super) fn step_into(subject: &mut Subject) -> Result<String> {
    let (module, inputs) = (subject.module()?, subject.inputs(2, 32)?);
    let mut picture = module.picture(&inputs.signature())?;
    let expected = steps(&mut picture, &inputs, 1)?;
    let state = picture.prepare(&inputs.request)?;
    let mut kept = Tensors::new();
    for _ in 0..3 {
        picture.step_into(state.as_ref(), &inputs.step, &mut kept)?;
        expect_same(&in_order(&kept)?, &expected)?;
    }
    // Somebody has it: it is not written again.
    let held = kept.clone();
    let x = subject.random(&[32, 64], 1.0)?;
    let other = inputs.step.clone().with("x", x);
    picture.step_into(state.as_ref(), &other, &mut kept)?;
    expect_same(&in_order(&held)?, &expected)?;
    expect_other(&in_order(&kept)?, &expected)?;
    drop(state);
    drop(picture);
    let weights: Weights = module.weights();
    expect_count("overlays", weights.overlays.len(), 0)?;
    Ok("4 steps".to_owned())
}
