//! The backend itself: a library, a device, and how plans are made for them.

use std::fmt;
use std::sync::{Arc, Mutex};

use tintype_backend::{
    Backend, Capabilities, CompileOptions, Error as BackendError, Executable, Forecast, Result,
};
use tintype_device::{
    Device, KeptRegistry, KernelCache, WeightKernels, WeightRunner, forecast_kept, forecast_weights,
};
use tintype_ir::{Binding, Evaluator, Op, Stage, StagedGraph, verify};

use super::NAME;
use super::executable::{Common, TensorrtExecutable};
use super::f8_weights::widened;
use super::instance::Source;
use super::plans::{BuildOptions, PlanTarget, expect_dtypes, plan};
use crate::engine::Runtime;
use crate::library::Support;
use crate::{LoadOptions, Target, Tensorrt};

/// What a [`TensorrtBackend`] works with.
#[derive(Clone)]
pub struct TensorrtOptions {
    load: LoadOptions,
    device: usize,
    target: Option<Target>,
    build: BuildOptions,
    evaluator: Arc<dyn Evaluator + Send + Sync>,
}

impl TensorrtOptions {
    /// The first GPU, and a library from the usual places. `evaluator` computes constants, and
    /// operations of weight programs that have no kernel: that of another backend.
    pub fn new(evaluator: Arc<dyn Evaluator + Send + Sync>, build: BuildOptions) -> Self {
        Self {
            load: LoadOptions::default(),
            device: 0,
            target: None,
            build,
            evaluator,
        }
    }

    /// The same with a library from elsewhere.
    #[must_use]
    pub fn with_library(mut self, load: LoadOptions) -> Self {
        self.load = load;
        self
    }

    /// The same on the GPU of this number.
    #[must_use]
    pub fn on_device(mut self, ordinal: usize) -> Self {
        self.device = ordinal;
        self
    }

    /// The same with plans for an architecture other than the GPU's own, which it must be able
    /// to run.
    #[must_use]
    pub fn with_target(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }
}

impl fmt::Debug for TensorrtOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TensorrtOptions")
            .field("load", &self.load)
            .field("device", &self.device)
            .field("target", &self.target)
            .field("build", &self.build)
            .finish_non_exhaustive()
    }
}

/// Runs graphs with TensorRT or TensorRT-RTX on one GPU.
///
/// ```no_run
/// # fn f(evaluator: std::sync::Arc<dyn tintype_ir::Evaluator + Send + Sync>)
/// #     -> Result<(), Box<dyn std::error::Error>> {
/// use tintype_tensorrt::backend::{BuildOptions, TensorrtBackend, TensorrtOptions};
/// use tintype_tensorrt::plan::PlanCache;
///
/// let build = BuildOptions::new(PlanCache::of_user());
/// let backend = TensorrtBackend::new(TensorrtOptions::new(evaluator, build))?;
/// println!("{}", backend.description());
/// # Ok(()) }
/// ```
pub struct TensorrtBackend {
    runtime: Runtime,
    runner: Arc<Mutex<WeightRunner>>,
    /// Parameters of all graphs that wait on the device.
    registry: Arc<KeptRegistry>,
    target: PlanTarget,
    options: TensorrtOptions,
}

impl TensorrtBackend {
    /// Loads the library and opens the device.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`] without a library, a driver, a GPU that the library
    /// supports, or NVRTC, with what to install.
    pub fn new(options: TensorrtOptions) -> Result<Self> {
        let tensorrt = Tensorrt::load(&options.load).map_err(BackendError::from)?;
        let device = Device::open(options.device).map_err(|error| error.for_backend(NAME))?;
        let target = target_for(&tensorrt, &device, options.target)?;
        let kernels = WeightKernels::load(&device, &KernelCache::of_user());
        let runner = kernels.and_then(|kernels| WeightRunner::new(Arc::new(kernels)));
        let runner = runner.map_err(|error| error.for_backend(NAME))?;
        let runtime = tensorrt.runtime(&device).map_err(BackendError::from)?;
        Ok(Self {
            runtime,
            runner: Arc::new(Mutex::new(runner)),
            registry: Arc::default(),
            target,
            options,
        })
    }

    /// Library, version and device, for people.
    pub fn description(&self) -> String {
        let device = self.runtime.device();
        let abi = self.runtime.tensorrt().abi();
        format!("{abi} on {device:?}, plans for {}", self.target)
    }

    /// The library.
    pub fn tensorrt(&self) -> &Tensorrt {
        self.runtime.tensorrt()
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.runtime.device()
    }

    fn source(
        &self,
        staged: &StagedGraph,
        stage: Stage,
        build: &BuildOptions,
    ) -> crate::Result<Option<Source>> {
        let plan = plan(self.tensorrt(), staged, stage, &self.target, build)?;
        Ok(plan.map(|plan| Source::new(plan, build, &self.runtime)))
    }

    /// An error for a graph of dtypes that the plans' architecture does not compute.
    fn expect_dtypes(&self, graph: &StagedGraph) -> Result<()> {
        let target = match &self.target {
            PlanTarget::Named(target) => *target,
            PlanTarget::ThisGpu(_) => own_target(self.device())?,
        };
        Ok(expect_dtypes(self.tensorrt(), graph, target)?)
    }

    /// How plans are built, with a folder to look into first.
    fn build_options(&self, options: &CompileOptions) -> BuildOptions {
        let build = self.options.build.clone();
        match &options.folder {
            Some(folder) => build.with_folder(folder),
            None => build,
        }
    }
}

impl Backend for TensorrtBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        capabilities()
    }

    fn supports(&self, _op: &Op) -> bool {
        // Lowering composes what the library does not have.
        true
    }

    fn evaluator(&self) -> Option<&dyn Evaluator> {
        Some(&*self.options.evaluator)
    }

    fn compile(
        &self,
        graph: &StagedGraph,
        options: &CompileOptions,
    ) -> Result<Box<dyn Executable>> {
        if options.verify {
            verify(&graph.source)?;
        }
        self.expect_dtypes(graph)?;
        let build = self.build_options(options);
        let mut staged = graph.canonical()?;
        if build.widens_f8_weights(self.tensorrt()) {
            staged = widened(staged)?;
        }
        let sources = [
            self.source(&staged, Stage::Request, &build)?,
            self.source(&staged, Stage::Step, &build)?,
        ];
        let common = Common {
            runtime: self.runtime.clone(),
            runner: Arc::clone(&self.runner),
            registry: Arc::clone(&self.registry),
            evaluator: Arc::clone(&self.options.evaluator),
            timing_cache: build.timing_cache(self.tensorrt(), &self.target),
            build,
        };
        let executable = TensorrtExecutable::new(staged, sources, common, options)?;
        Ok(Box::new(executable))
    }

    /// Which plans are in the folder or the cache; what the plans' engines need to work with is
    /// known to the library only when it runs them.
    fn forecast(
        &self,
        graph: &StagedGraph,
        options: &CompileOptions,
        sizes: &Binding,
    ) -> Result<Forecast> {
        let staged = graph.canonical()?;
        let mut forecast = Forecast::of_graph(&staged, sizes)?;
        let build = self.build_options(options);
        for program in &mut forecast.programs {
            let graph = staged.program(program.stage);
            let is_there = build.has_plan(self.tensorrt(), graph, &self.target);
            program.is_compiled = Some(is_there);
        }
        let device = |error: tintype_device::Error| error.for_backend(NAME);
        let weights = forecast_weights(&staged).map_err(device)?;
        forecast.programs.splice(0..0, weights);
        let free = self.device().free_memory().map_err(device)?.free;
        let room = free.saturating_sub(forecast.memory.total());
        let kept = forecast_kept(&staged.weight, options.keep_weights, room);
        forecast.memory.kept = kept.map_err(device)?;
        Ok(forecast)
    }
}

impl fmt::Debug for TensorrtBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.description())
    }
}

/// What the backend is told by before there is one: plans that are built ahead are of graphs
/// that were made for these.
pub fn capabilities() -> Capabilities {
    Capabilities::default()
        .with_fuse_qkv(true)
        .with_compiles_sizes(true)
        .with_device_outputs(true)
}

/// The architecture of a GPU.
fn own_target(device: &Device) -> Result<Target> {
    let own = device.info().compute_capability.to_string();
    own.parse().map_err(BackendError::from)
}

/// What plans are built for on a GPU.
fn target_for(tensorrt: &Tensorrt, device: &Device, wanted: Option<Target>) -> Result<PlanTarget> {
    if let Some(target) = wanted {
        return Ok(PlanTarget::Named(target));
    }
    let info = device.info();
    let own = own_target(device)?;
    match tensorrt.probe().support(own) {
        Support::Full(target) if tensorrt.takes_targets() => Ok(PlanTarget::Named(target)),
        Support::Unlisted { target, reason } => {
            tracing::warn!("{reason}");
            Ok(PlanTarget::Named(target))
        }
        Support::Full(_) | Support::Unknown { .. } => {
            Ok(PlanTarget::ThisGpu(format!("{} {own}", info.name)))
        }
        Support::None { reason } => Err(BackendError::Unavailable {
            backend: NAME,
            reason,
            remedy: "use another backend".to_owned(),
        }),
    }
}
