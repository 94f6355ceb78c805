//! The backend `tensorrt`, put together: the library, plans, and the CPU for constants.
//!
//! | part | does |
//! |---|---|
//! | [`open`] | the backend on the first GPU |
//! | [`build`] | plans of one model for some architectures, without a GPU where the library can |
//! | [`forecast`] | which plans are there, and what memory is needed |
//! | [`report`] | what `tintype doctor` tells |
//!
//! ```
//! // One line for the library and one for each GPU, or why there is none.
//! assert!(tintype::tensorrt::report().len() >= 2);
//! ```

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tintype_backend::{Error as BackendError, Forecast, Result as BackendResult};
use tintype_cpu::CpuEvaluator;
use tintype_device::{DeviceInfo, Driver};
use tintype_ir::{Binding, Evaluator, Graph, Stage, StagedGraph};
use tintype_tensorrt::backend::{
    self, BuildOptions, BuiltPlan, TensorrtBackend, TensorrtOptions, build_plans, has_plans,
};
use tintype_tensorrt::plan::PlanCache;
use tintype_tensorrt::{LoadOptions, Progress, Support, Target, Tensorrt};

use crate::backends::{Building, Follow, Options};

/// The backend on the first GPU, with the library that is found first.
///
/// # Errors
/// [`BackendError::Unavailable`] without a GPU, a driver, NVRTC or a library that supports the
/// GPU, with what to install.
pub fn open(options: &Options) -> BackendResult<TensorrtBackend> {
    // Without a GPU the library, some hundred megabytes, need not be loaded.
    driver().map_err(|error| error.for_backend("tensorrt"))?;
    let build = build_options(options);
    TensorrtBackend::new(TensorrtOptions::new(evaluator(), build))
}

/// What computes constants, and those weights that no kernel of the GPU computes.
pub fn evaluator() -> Arc<dyn Evaluator + Send + Sync> {
    Arc::new(CpuEvaluator)
}

/// The programs of a model as the backend gets them.
///
/// # Errors
/// What a pass says that cannot do its work.
pub fn programs(graph: &Graph) -> BackendResult<StagedGraph> {
    let capabilities = backend::capabilities();
    tintype_backend::programs(graph, &capabilities, Some(&*evaluator()), &|_| true)
}

/// Builds the plans of a model's request and step program for a target, or finds them in the
/// folder of `options`.
///
/// # Errors
/// As [`build_plans`].
pub fn build(
    tensorrt: &Tensorrt,
    programs: &StagedGraph,
    target: Target,
    options: &Options,
) -> tintype_tensorrt::Result<Vec<BuiltPlan>> {
    build_plans(tensorrt, programs, &[target], &build_options(options))
}

/// What the backend would do with a model's programs on a GPU that need not be here: which plans
/// are there, in `folder` or the user's own, and what follows from the programs alone.
///
/// # Errors
/// A symbol without a size.
pub fn forecast(
    tensorrt: &Tensorrt,
    programs: &StagedGraph,
    target: Target,
    folder: Option<&Path>,
    sizes: &Binding,
) -> BackendResult<Forecast> {
    let mut build = build_options(&Options::default());
    if let Some(folder) = folder {
        build = build.with_folder(folder);
    }
    let mut forecast = Forecast::of_graph(programs, sizes)?;
    for (stage, is_there) in has_plans(tensorrt, programs, target, &build)? {
        let mut found = forecast.programs.iter_mut();
        if let Some(program) = found.find(|program| program.stage == stage) {
            program.is_compiled = Some(is_there);
        }
    }
    let weights = tintype_device::forecast_weights(programs);
    let weights = weights.map_err(|error| error.for_backend("tensorrt"))?;
    forecast.programs.splice(0..0, weights);
    Ok(forecast)
}

/// The targets of the GPUs that are here, each once.
///
/// # Errors
/// What is missing, or why the library does not support a GPU.
pub fn targets_of_this_machine(tensorrt: &Tensorrt) -> Result<Vec<Target>, String> {
    let devices = devices().map_err(|error| error.to_string())?;
    let mut targets = Vec::new();
    for device in devices {
        let support = support(tensorrt, &device);
        let target = support
            .target()
            .ok_or_else(|| format!("{}: {support}", device.name))?;
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    Ok(targets)
}

/// The library with its version and ABI line, or where it was looked for; and the GPUs, each with
/// what the library makes of it.
pub fn report() -> Vec<String> {
    let library = Tensorrt::load(&LoadOptions::default());
    let mut lines = vec![match &library {
        Ok(tensorrt) => format!("library: {}", tensorrt.probe()),
        Err(error) => format!("library: {error}"),
    }];
    match devices() {
        Ok(devices) => lines.extend(devices.iter().map(|device| {
            let told = told(device);
            match &library {
                Ok(tensorrt) => format!("{told}: {}", support(tensorrt, device)),
                Err(_) => told,
            }
        })),
        Err(error) => lines.push(format!("GPU: {error}")),
    }
    lines
}

fn driver() -> tintype_device::Result<Driver> {
    Driver::load()
}

fn devices() -> tintype_device::Result<Vec<DeviceInfo>> {
    driver()?.devices()
}

fn told(device: &DeviceInfo) -> String {
    format!(
        "GPU {}: {}, compute capability {}, {:.1} GB",
        device.ordinal,
        device.name,
        device.compute_capability,
        device.memory_bytes as f64 / 1e9
    )
}

fn support(tensorrt: &Tensorrt, device: &DeviceInfo) -> Support {
    let capability = device.compute_capability;
    match Target::try_from(capability) {
        Ok(target) => tensorrt.probe().support(target),
        Err(error) => Support::Unknown {
            reason: error.to_string(),
        },
    }
}

fn build_options(options: &Options) -> BuildOptions {
    let cache = match &options.plans {
        // What was put there on purpose does not go by itself.
        Some(folder) => PlanCache::new(folder).with_limit(u64::MAX),
        None => PlanCache::of_user(),
    };
    let build = BuildOptions::new(cache);
    match &options.follow {
        Some(follow) => build.with_follow(following(Arc::clone(follow))),
        None => build,
    }
}

/// Phases lie within one another; told is how far the innermost is that made a step.
fn following(follow: Follow) -> backend::Follow {
    let phases: Mutex<Vec<(String, usize)>> = Mutex::new(Vec::new());
    Arc::new(move |stage: Stage, progress: Progress<'_>| {
        let mut phases = phases.lock().unwrap_or_else(PoisonError::into_inner);
        match progress {
            Progress::Started { phase, steps, .. } => {
                phases.push((phase.to_owned(), steps));
                tell(&follow, stage, phase, 0, steps);
            }
            Progress::Step { phase, step } => {
                let steps = phases.iter().rev().find(|(name, _)| name == phase);
                let steps = steps.map_or(0, |(_, steps)| *steps);
                tell(&follow, stage, phase, step + 1, steps);
            }
            Progress::Finished { phase } => phases.retain(|(name, _)| name != phase),
            _ => {}
        }
        ControlFlow::Continue(())
    })
}

fn tell(follow: &Follow, stage: Stage, phase: &str, done: usize, steps: usize) {
    follow(Building {
        program: &stage.to_string(),
        phase,
        done,
        steps,
    });
}

/// Why plans cannot be built by a library.
///
/// # Errors
/// [`BackendError::Unavailable`] for a library that has no builder, or none for named targets.
pub fn expect_builder(tensorrt: &Tensorrt) -> BackendResult<()> {
    let reason = if !tensorrt.has_builder() {
        "runs plans but cannot build them"
    } else if !tensorrt.takes_targets() {
        "builds plans for the GPU that is there only, when a model is first run on it"
    } else {
        return Ok(());
    };
    Err(BackendError::Unavailable {
        backend: "tensorrt",
        reason: format!(
            "{} at {} {reason}",
            tensorrt.abi(),
            tensorrt.path().display()
        ),
        remedy: "for plans ahead of time install TensorRT-RTX (pip package \
                 tensorrt-rtx-cu13-libs), or name it in TINTYPE_TENSORRT"
            .to_owned(),
    })
}
