//! Builds a small engine without weights for a target, and tells what can be told of it.
//!
//! `cargo run -p tintype-tensorrt --example build_engine -- [sm89] [FILE]`
//!
//! No GPU is needed. It ends with 77 if there is no library. Where there is one that can run the plan, its layers and the memory that a
//! context needs are told too.

use std::error::Error;
use std::io::Cursor;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Instant;

use tintype_device::Device;
use tintype_tensor::DType;
use tintype_tensorrt::build::Verbosity;
use tintype_tensorrt::network::{Activation, Network};
use tintype_tensorrt::{Config, Flag, LoadOptions, Progress, Result, Target, Tensorrt};

/// Tokens of the example, from and to.
const TOKENS: [i64; 3] = [1, 256, 1024];

const WIDTH: usize = 1024;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            let library = Tensorrt::load(&LoadOptions::default());
            ExitCode::from(if library.is_ok() { 1 } else { 77 })
        }
    }
}

fn run() -> std::result::Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let target = arguments.next().unwrap_or_else(|| "sm89".to_owned());
    let target = target.parse::<Target>()?;
    let tensorrt = Tensorrt::load(&LoadOptions::default())?;
    println!("{}", tensorrt.probe());
    println!("{target}: {}", tensorrt.probe().support(target));
    let plan = build(&tensorrt, target)?;
    if let Some(path) = arguments.next() {
        std::fs::write(&path, &plan)?;
        println!("written to {path}");
    }
    match Device::open(0) {
        Ok(device) => {
            if let Err(error) = inspect(&tensorrt, &device, &plan) {
                println!("{device:?}: {error}");
            }
        }
        Err(error) => println!("no layers are told: {error}"),
    }
    Ok(())
}

/// Two products with a GELU between them, `bf16[tokens, 1024]`.
fn build(tensorrt: &Tensorrt, target: Target) -> Result<Vec<u8>> {
    let builder = tensorrt.builder()?;
    let network = builder.network()?;
    add_layers(&network)?;
    let mut config = builder.config()?;
    configure(&mut config, target)?;
    let mut profile = builder.profile()?;
    let [smallest, usual, largest] = TOKENS.map(|tokens| [tokens, WIDTH as i64]);
    profile.set_shape("x", &smallest, &usual, &largest)?;
    config.add_profile(&profile)?;
    let (start, mut plan) = (Instant::now(), Vec::new());
    let bytes = builder.build(&network, &config, &mut plan)?;
    println!(
        "built in {:.2} s: {} layers, a plan of {bytes} bytes for {} bytes of weights",
        start.elapsed().as_secs_f64(),
        network.layer_count()?,
        2 * 2 * 4 * WIDTH * WIDTH
    );
    Ok(plan)
}

fn add_layers(network: &Network<'_>) -> Result<()> {
    let x = network.input("x", DType::BF16, &[-1, WIDTH as i64])?;
    let up = network.placeholder("up", DType::BF16, &[4 * WIDTH, WIDTH])?;
    let down = network.placeholder("down", DType::BF16, &[WIDTH, 4 * WIDTH])?;
    let hidden = network.matrix_multiply([x, up], [false, true])?;
    let hidden = network.activation(Activation::GeluTanh, hidden, 0.0, 0.0)?;
    let y = network.matrix_multiply([hidden, down], [false, true])?;
    network.mark_output("y", y)
}

fn configure(config: &mut Config<'_>, target: Target) -> Result<()> {
    config.set_targets(&[target])?;
    config.set_flag(Flag::StripPlan, true)?;
    config.set_flag(Flag::RefitIndividual, true)?;
    config.set_verbosity(Verbosity::Detailed)?;
    config.on_progress(|progress| {
        if let Progress::Started { phase, steps, .. } = progress {
            println!("{phase}, {steps} steps");
        }
        ControlFlow::Continue(())
    })
}

/// What only a GPU can tell.
fn inspect(
    tensorrt: &Tensorrt,
    device: &Device,
    plan: &[u8],
) -> std::result::Result<(), Box<dyn Error>> {
    let runtime = tensorrt.runtime(device)?;
    let engine = runtime.engine_from(Cursor::new(plan))?;
    for tensor in engine.tensors() {
        let kind = if tensor.is_input { "input" } else { "output" };
        println!("{kind} {}: {}{:?}", tensor.name, tensor.dtype, tensor.sizes);
    }
    println!(
        "{} bytes of weights, {} of them not in the plan; {} bytes for a context",
        engine.weight_bytes()?,
        engine.stripped_bytes()?,
        engine.context_bytes(None)?
    );
    for weights in engine.refitter()?.weights() {
        println!(
            "refittable: {}: {} of {}",
            weights.name, weights.count, weights.dtype
        );
    }
    println!("{}", engine.inspector()?.engine_json()?);
    Ok(())
}
