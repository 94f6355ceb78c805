//! A small network of one's own that is changed in every way while it runs.
//!
//! ```text
//! cargo run -p tintype-refit --example small_network
//! ```
//!
//! After each change the program runs the network and prints what the module noticed, what it
//! did about it, and what came out. Nothing here knows diffusion models: any graph will do, on
//! any backend.

use std::error::Error;
use std::sync::Arc;

use tintype_backend::Tensors;
use tintype_cpu::CpuBackend;
use tintype_ir::{Graph, Overlay, parse};
use tintype_refit::{Change, MutableModule, Ranges, Signature};
use tintype_tensor::{Tensor, TorchGenerator};
use tintype_weights::{ChangeOptions, Parameters};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    // A graph, its parameters, and something to run it on.
    let module = MutableModule::builder(Arc::new(CpuBackend::new()), network("silu")?, file(1)?)
        // Backends that compile for sizes make one engine for all of these.
        .ranges(Ranges::new().symbol("points", 1..=256))
        .build();
    run(&module, "the first call compiles")?;
    run(&module, "the second one has nothing to do")?;

    weights(&module)?;
    overlays(&module)?;
    structure(&module)?;
    mistakes(&module)?;
    loop_of_steps(&module)?;
    println!(
        "\n{} engines at the end: {:?}",
        module.engines(),
        module.state()?
    );
    Ok(())
}

/// Parameters may change in whatever way suits: the module compares, it is not told.
fn weights(module: &MutableModule) -> Result<()> {
    // In place. The smallest difference counts.
    module.edit().edit("out.bias", |bias| bias[0] += 1e-4)?;
    run(module, "one value edited in place")?;

    // The same numbers again are no change.
    let same = module.weights().parameters.get("out.bias")?;
    module.edit().set("out.bias", same)?;
    run(module, "the same values set again")?;

    // All of another checkpoint; `replace_from` takes the path of a file.
    module
        .edit()
        .replace_with(&file(2)?, ChangeOptions::default())?;
    run(module, "another checkpoint")
}

/// A LoRA is a fragment of graph on one parameter. The parameter itself stays as it is, so that
/// taking the LoRA off gives the same bits as before.
fn overlays(module: &MutableModule) -> Result<()> {
    let before = output(module)?;
    for scale in [1.0, 0.25] {
        let (overlay, own) = lora(scale)?;
        module.change(|change| {
            change.set_overlays([overlay], own);
            Ok(())
        })?;
        run(module, &format!("a LoRA with a scale of {scale}"))?;
    }
    module.change(|change| {
        change.set_overlays([], Parameters::default());
        Ok(())
    })?;
    run(module, "no LoRA")?;
    assert_eq!(output(module)?.bytes(), before.bytes());
    Ok(())
}

/// Another graph is compiled; one that was there before is found again.
fn structure(module: &MutableModule) -> Result<()> {
    for activation in ["gelu_tanh", "silu"] {
        let graph = network(activation)?;
        module.change(|change| {
            change.define(graph);
            Ok(())
        })?;
        println!("\nnext call: {:?}", module.state()?);
        run(module, &format!("the activation is {activation}"))?;
    }
    Ok(())
}

/// What does not fit is refused as a whole, and the network runs as before.
fn mistakes(module: &MutableModule) -> Result<()> {
    let before = output(module)?;
    let two_things = |change: &mut Change| {
        let parameters = change.parameters_mut();
        parameters.set("out.bias", random(&[1], 5)?)?;
        parameters.set("in.weight", random(&[16, 3], 5)?)?;
        Ok(())
    };
    let not_a_number = |change: &mut Change| {
        change
            .parameters_mut()
            .edit("out.bias", |bias| bias[0] = f32::NAN)?;
        Ok(())
    };
    println!();
    for refused in [module.change(two_things), module.change(not_a_number)] {
        println!("refused: {}", refused.err().ok_or("it was taken")?);
    }
    assert_eq!(output(module)?.bytes(), before.bytes());
    Ok(())
}

/// A picture holds its weights from its request to its last step, whatever other threads change.
fn loop_of_steps(module: &MutableModule) -> Result<()> {
    let (request, mut step) = inputs()?;
    let signature = Signature::of(&request).and(&step);
    std::thread::scope(|scope| -> Result<()> {
        let mut picture = module.picture(&signature)?;
        let state = picture.prepare(&request)?;
        let change = scope.spawn(|| {
            module.edit().edit("out.bias", |bias| bias[0] = 100.0)?;
            // Waits for the picture.
            module.apply()
        });
        // Memory that is written again by each step, where the backend can.
        let mut outputs = Tensors::new();
        for _ in 0..3 {
            picture.step_into(state.as_ref(), &step, &mut outputs)?;
            let largest = outputs.host("y")?.to_f32_vec()?.into_iter();
            assert!(largest.fold(0.0, f32::max) < 50.0);
            // What came out may go in again without leaving the device.
            step.insert("x", outputs.get("next").ok_or("no output `next`")?.clone());
        }
        drop(state);
        drop(picture);
        let report = change.join().map_err(|_| "the thread panicked")??;
        println!("\n== changed by another thread after three steps\n{report}");
        Ok(())
    })?;
    let largest = output(module)?
        .to_f32_vec()?
        .into_iter()
        .fold(0.0, f32::max);
    assert!(largest > 50.0);
    Ok(())
}

/// Two layers: what depends on the request alone is computed once, the rest in each step.
fn network(activation: &str) -> Result<Graph> {
    let text = r#"graph "small" {
      dim points = 1..=256
      param @in.weight: f32[16, 2]
      param @in.bias: f32[16]
      param @style.weight: f32[16, 4]
      param @out.weight: f32[1, 16]
      param @out.bias: f32[1]
      input request %style: f32[1, 4]
      input step %x: f32[points, 2]
      %0: f32[1, 16] = linear %style, @style.weight
      %1: f32[points, 16] = linear %x, @in.weight, @in.bias
      %2: f32[points, 16] = mul %1, %0
      %3: f32[points, 16] = ACTIVATION %2
      %4: f32[points, 1] = linear %3, @out.weight, @out.bias
      %5: f32[points, 2] = tanh %x
      output y = %4
      output next = %5
    }"#;
    Ok(parse(&text.replace("ACTIVATION", activation))?)
}

/// Parameters in place of a file: `Parameters::open("network.safetensors")` would give its.
fn file(seed: u64) -> Result<Parameters> {
    let shapes: [(&str, &[usize]); 5] = [
        ("in.weight", &[16, 2]),
        ("in.bias", &[16]),
        ("style.weight", &[16, 4]),
        ("out.weight", &[1, 16]),
        ("out.bias", &[1]),
    ];
    let mut builder = Parameters::builder();
    for (index, (name, shape)) in shapes.into_iter().enumerate() {
        builder = builder.tensor(name, random(shape, seed + index as u64)?);
    }
    Ok(builder.build()?)
}

/// A low-rank update of `style.weight`; `lora` reads files of such.
fn lora(scale: f32) -> Result<(Overlay, Parameters)> {
    let fragment = parse(
        "graph lora {
           param @base: f32[16, 4]
           param @lora.up: f32[16, 1]
           param @lora.down: f32[1, 4]
           param @lora.scale: f32[1]
           %0: f32[16, 4] = matmul @lora.up, @lora.down
           %1: f32[16, 4] = mul %0, @lora.scale
           %2: f32[16, 4] = add @base, %1
           output weight = %2
         }",
    )?;
    let own = Parameters::builder()
        .tensor("lora.up", random(&[16, 1], 8)?)
        .tensor("lora.down", random(&[1, 4], 9)?)
        .tensor("lora.scale", Tensor::from_f32([1], vec![scale])?)
        .build()?;
    Ok((Overlay::new("style.weight", fragment)?, own))
}

fn random(shape: &[usize], seed: u64) -> tintype_refit::Result<Tensor> {
    Ok(TorchGenerator::new(seed).randn(shape.to_vec())?)
}

fn inputs() -> Result<(Tensors, Tensors)> {
    let request = Tensors::new().with("style", random(&[1, 4], 21)?);
    Ok((request, Tensors::new().with("x", random(&[3, 2], 22)?)))
}

fn output(module: &MutableModule) -> Result<Tensor> {
    let (request, step) = inputs()?;
    Ok(module.call(&request, &step)?.outputs.host("y")?)
}

/// Runs the network and prints what the module says.
fn run(module: &MutableModule, what: &str) -> Result<()> {
    let (request, step) = inputs()?;
    let call = module.call(&request, &step)?;
    println!("\n== {what}\n{}", call.report);
    println!("y = {:.4?}", call.outputs.host("y")?.to_f32_vec()?);
    Ok(())
}
