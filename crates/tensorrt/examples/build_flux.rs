//! Builds the plans of the whole FLUX.1-dev transformer, without a checkpoint and without a GPU.
//!
//! ```sh
//! cargo run --release -p tintype-tensorrt --example build_flux -- --target sm89 --tokens 4096
//! ```
//!
//! Options: `--library FILE`, `--target sm89`, `--dtype bf16|f16|f32`, `--tokens 4096` image tokens
//! (a range `256..4096` makes the size known at run time only), `--steps 1..64`, `--layers 19,38`, `--list` prints
//! the lowered networks. Printed are seconds, plan sizes, the count of weights, and the peak of
//! memory, which the system tells.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use tintype_ir::passes::{Options, optimize};
use tintype_ir::{Graph, StagedGraph};
use tintype_models::{FluxTransformerConfig, FluxTransformerOptions};
use tintype_tensor::DType;
use tintype_tensorrt::lower::{LowerOptions, PlacedWeight, lower};
use tintype_tensorrt::{Flag, LoadOptions, Newer, Target, Tensorrt};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse()?;
    let tensorrt = match &arguments.library {
        Some(path) => Tensorrt::open(Path::new(path), Newer::Refuse)?,
        None => Tensorrt::load(&LoadOptions::default())?,
    };
    println!("{} for {}", tensorrt.abi(), arguments.target);
    let begin = Instant::now();
    let staged = StagedGraph::split(&arguments.graph()?)?;
    println!("graph: {:.1} s", begin.elapsed().as_secs_f64());
    for program in [&staged.request, &staged.step] {
        build(&tensorrt, program, &arguments)?;
        println!("peak memory so far: {}", peak_memory());
    }
    Ok(())
}

struct Arguments {
    library: Option<String>,
    target: Target,
    dtype: DType,
    tokens: (usize, usize),
    layers: (usize, usize),
    steps: (usize, usize),
    list: bool,
}

impl Arguments {
    fn parse() -> Result<Self, Box<dyn Error>> {
        let mut parsed = Self {
            library: None,
            target: Target::new(8, 9),
            dtype: DType::BF16,
            tokens: (4096, 4096),
            layers: (19, 38),
            steps: (1, 64),
            list: false,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            if name == "--list" {
                parsed.list = true;
                continue;
            }
            let value = arguments
                .next()
                .ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--library" => parsed.library = Some(value),
                "--target" => parsed.target = value.parse()?,
                "--dtype" => parsed.dtype = value.parse()?,
                "--tokens" => parsed.tokens = pair(&value, "..")?,
                "--steps" => parsed.steps = pair(&value, "..")?,
                "--layers" => parsed.layers = pair(&value, ",")?,
                other => return Err(format!("{other} is no option").into()),
            }
        }
        Ok(parsed)
    }

    fn graph(&self) -> Result<Graph, Box<dyn Error>> {
        let config = FluxTransformerConfig {
            num_layers: self.layers.0,
            num_single_layers: self.layers.1,
            ..FluxTransformerConfig::dev()
        };
        let options = FluxTransformerOptions {
            dtype: self.dtype,
            batch: 1..=1,
            steps: self.steps.0..=self.steps.1,
            image_tokens: self.tokens.0..=self.tokens.1,
            text_tokens: 512..=512,
        };
        let graph = config.graph(&options)?;
        Ok(optimize(&graph, &Options::default(), None)?)
    }
}

/// `a`, separator, `b`; or one number for both.
fn pair(text: &str, separator: &str) -> Result<(usize, usize), Box<dyn Error>> {
    let (a, b) = text.split_once(separator).unwrap_or((text, text));
    Ok((a.parse()?, b.parse()?))
}

fn build(
    tensorrt: &Tensorrt,
    program: &Graph,
    arguments: &Arguments,
) -> Result<(), Box<dyn Error>> {
    let begin = Instant::now();
    let builder = tensorrt.builder()?;
    let network = builder.network()?;
    let lowered = lower(&network, program, &LowerOptions::default())?;
    let lowering = begin.elapsed().as_secs_f64();
    if arguments.list {
        println!("{}", lowered.describe());
    }
    let mut config = builder.config()?;
    config.set_targets(&[arguments.target])?;
    config.set_flag(Flag::StripPlan, true)?;
    config.set_flag(Flag::RefitIndividual, true)?;
    if lowered.is_dynamic() {
        let mut profile = builder.profile()?;
        lowered.set_profile(&mut profile)?;
        config.add_profile(&profile)?;
    }
    let begin = Instant::now();
    let size = builder.build(&network, &config, &mut std::io::sink())?;
    let elements: usize = lowered.placeholders().map(PlacedWeight::count).sum();
    println!(
        "{}: {} layers, {} weights of {:.2} G elements, lowered in {lowering:.1} s, built in \
         {:.1} s, plan {:.1} MiB",
        lowered.name,
        network.layer_count()?,
        lowered.placeholders().count(),
        elements as f64 / 1e9,
        begin.elapsed().as_secs_f64(),
        size as f64 / f64::from(1 << 20),
    );
    Ok(())
}

/// The most memory that the process had, as Linux tells it.
fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or("unknown".to_owned(), |line| line.trim().to_owned())
}
