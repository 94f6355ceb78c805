//! Plans of FLUX.1-dev, of the configuration alone.

use std::ops::ControlFlow;
use std::sync::Mutex;
use std::time::Instant;

use tintype_ir::passes::{Options, optimize};
use tintype_ir::{Graph, StagedGraph};
use tintype_models::{FluxTransformerConfig, FluxTransformerOptions};
use tintype_tensor::DType;
use tintype_tensorrt::lower::{LowerOptions, lower};
use tintype_tensorrt::{Flag, Progress, Target, Tensorrt};

use super::super::Result;

/// Sizes of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) config: fn() -> FluxTransformerConfig,
    pub(crate) image_tokens: usize,
    pub(crate) text_tokens: usize,
    pub(crate) steps: usize,
}

/// A plan and what it took.
pub(crate) struct Built {
    pub(crate) plan: Vec<u8>,
    pub(crate) weights: usize,
    pub(crate) seconds: f64,
}

impl Shape {
    /// FLUX.1-dev with so many image tokens, 512 of text, and 20 steps.
    pub(crate) fn new(image_tokens: usize) -> Self {
        Self {
            config: FluxTransformerConfig::dev,
            image_tokens,
            text_tokens: 512,
            steps: 20,
        }
    }

    /// The programs, as the backend compiles them.
    pub(crate) fn staged(&self) -> Result<StagedGraph> {
        let exactly = |size: usize| size..=size;
        let graph = (self.config)().graph(&FluxTransformerOptions {
            dtype: DType::BF16,
            batch: 1..=1,
            steps: exactly(self.steps),
            image_tokens: exactly(self.image_tokens),
            text_tokens: exactly(self.text_tokens),
            ..FluxTransformerOptions::default()
        })?;
        let options = Options::default().with_fuse_qkv(true);
        let graph = optimize(&graph, &options, None)?;
        Ok(StagedGraph::split(&graph)?.canonical()?)
    }
}

/// Builds a plan without weights, and says once in ten seconds that it is still at it. After
/// `deadline` it stops.
pub(crate) fn plan(
    library: &Tensorrt,
    program: &Graph,
    target: Option<Target>,
    deadline: Option<Instant>,
) -> Result<Built> {
    let start = Instant::now();
    let mut builder = library.builder()?;
    let threads = std::thread::available_parallelism();
    builder.set_max_threads(threads.map_or(1, std::num::NonZero::get))?;
    let network = builder.network()?;
    let lowered = lower(&network, program, &LowerOptions::default())?;
    let mut config = builder.config()?;
    match target {
        Some(target) => config.set_targets(&[target])?,
        None => config.set_target_of_this_gpu()?,
    }
    config.set_flag(Flag::StripPlan, true)?;
    let refit = if library.takes_placeholders() {
        Flag::RefitIndividual
    } else {
        Flag::Refit
    };
    config.set_flag(refit, true)?;
    let mut profile = builder.profile()?;
    if lowered.is_dynamic() {
        lowered.set_profile(&mut profile)?;
        config.add_profile(&profile)?;
    }
    let said = Mutex::new(start);
    let name = lowered.name.clone();
    config.on_progress(move |progress: Progress<'_>| {
        let mut said = said.lock().expect("nothing panics while it is held");
        if said.elapsed().as_secs() >= 10 {
            *said = Instant::now();
            let seconds = start.elapsed().as_secs();
            println!("        building `{name}`: {seconds} s, {progress:?}");
        }
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    let mut plan = Vec::new();
    builder.build(&network, &config, &mut plan)?;
    Ok(Built {
        plan,
        weights: lowered.placeholders().count(),
        seconds: start.elapsed().as_secs_f64(),
    })
}
