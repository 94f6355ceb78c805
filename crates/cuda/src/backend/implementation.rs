//! The backend itself: a GPU, and how graphs are compiled for it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use tintype_backend::{Backend, Capabilities, CompileOptions, Executable, Forecast, Result};
use tintype_device::Device;
use tintype_ir::{Binding, Evaluator, Op, StagedGraph, verify};

use super::NAME;
use super::executable::CudaExecutable;
use super::forecast::forecast_on;
use crate::run::gpu::{Gpu, GpuOptions};
use crate::run::machine::Machine;
use crate::{Error, Profile};

/// What a [`CudaBackend`] works with.
#[derive(Clone)]
pub struct CudaOptions {
    gpu: GpuOptions,
    evaluator: Arc<dyn Evaluator + Send + Sync>,
}

impl CudaOptions {
    /// The first GPU, and the user's cache. `evaluator` computes constants, and operations of
    /// weight programs that have no kernel: that of another backend.
    pub fn new(evaluator: Arc<dyn Evaluator + Send + Sync>) -> Self {
        Self {
            gpu: GpuOptions {
                ordinal: 0,
                cache: None,
                graphs: true,
                branches: false,
                checks: false,
                libraries: true,
                profile: None,
            },
            evaluator,
        }
    }

    /// The same on the GPU of this number.
    #[must_use]
    pub fn on_device(mut self, ordinal: usize) -> Self {
        self.gpu.ordinal = ordinal;
        self
    }

    /// The same with compiled kernels and chosen algorithms in this folder, which is made when
    /// something is written.
    #[must_use]
    pub fn with_cache(mut self, folder: impl Into<PathBuf>) -> Self {
        self.gpu.cache = Some(folder.into());
        self
    }

    /// The same with every step enqueued by itself: slower, for profilers and debuggers that
    /// shall see steps and not graphs.
    #[must_use]
    pub fn without_graphs(mut self) -> Self {
        self.gpu.graphs = false;
        self
    }

    /// The same with steps side by side that do not depend on each other: text and image of FLUX's
    /// double blocks. They share the GPU, and take a little more memory. Not with
    /// [checks](Self::with_checks) or a [profile](Self::with_profile), which want each step alone.
    #[must_use]
    pub fn with_branches(mut self) -> Self {
        self.gpu.branches = true;
        self
    }

    /// The same with kernels of our own for everything: slower, to tell whether a library is at
    /// fault.
    #[must_use]
    pub fn without_libraries(mut self) -> Self {
        self.gpu.libraries = false;
        self
    }

    /// The same with every step waited for, so that a failure on the device names its step.
    #[must_use]
    pub fn with_checks(mut self) -> Self {
        self.gpu.checks = true;
        self
    }

    /// The same with the time of each step added to `profile`; without graphs.
    #[must_use]
    pub fn with_profile(mut self, profile: &Profile) -> Self {
        self.gpu.profile = Some(profile.clone());
        self
    }
}

impl fmt::Debug for CudaOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaOptions")
            .field("gpu", &self.gpu)
            .finish_non_exhaustive()
    }
}

/// Runs graphs on one NVIDIA GPU with CUDA's libraries and kernels of its own.
///
/// A graph is planned when its sizes are first met, in [`Session::prepare`] and
/// [`Session::step`]: algorithms are chosen and kernels compiled then, once, and kept on disk.
/// The first run of a program is enqueued step by step, the second is captured in a CUDA graph,
/// which all further ones launch. Outputs are tensors on the GPU, which the caller downloads when
/// it wants to.
///
/// [`Session::prepare`]: tintype_backend::Session::prepare
/// [`Session::step`]: tintype_backend::Session::step
///
/// ```no_run
/// # fn f(graph: tintype_ir::Graph, parameters: tintype_weights::Parameters,
/// #      evaluator: std::sync::Arc<dyn tintype_ir::Evaluator + Send + Sync>,
/// #      latents: tintype_tensor::Tensor)
/// #     -> Result<(), Box<dyn std::error::Error>> {
/// use tintype_backend::{Backend, Changes, CompileOptions, Tensors};
/// use tintype_cuda::{CudaBackend, CudaOptions};
///
/// let backend = CudaBackend::new(CudaOptions::new(evaluator))?;
/// println!("{}", backend.description());
/// let staged = tintype_ir::StagedGraph::split(&graph)?;
/// let executable = backend.compile(&staged, &CompileOptions::default())?;
/// executable.refit(&Changes::all(&parameters))?;
/// let mut session = executable.session()?;
/// let state = session.prepare(&Tensors::new())?;
/// let outputs = session.step(state.as_ref(), &Tensors::new().with("latents", latents))?;
/// let latents = outputs.host("latents")?;
/// # Ok(()) }
/// ```
pub struct CudaBackend {
    gpu: Arc<Gpu>,
    evaluator: Arc<dyn Evaluator + Send + Sync>,
}

impl CudaBackend {
    /// Opens the GPU.
    ///
    /// # Errors
    /// [`Unavailable`](tintype_backend::Error::Unavailable) without a driver, the GPU, or NVRTC,
    /// with what to install.
    pub fn new(options: CudaOptions) -> Result<Self> {
        let gpu = Gpu::open(&options.gpu)?;
        Ok(Self {
            gpu: Arc::new(gpu),
            evaluator: options.evaluator,
        })
    }

    /// Device, compute capability, driver, and the libraries that were found or why not, for
    /// people.
    pub fn description(&self) -> String {
        self.gpu.description()
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.gpu.device()
    }
}

impl Backend for CudaBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        capabilities()
    }

    fn supports(&self, _op: &Op) -> bool {
        // Plans have a step for every operation, and makers of steps one of their own for each.
        true
    }

    fn evaluator(&self) -> Option<&dyn Evaluator> {
        Some(&*self.evaluator)
    }

    fn compile(
        &self,
        graph: &StagedGraph,
        options: &CompileOptions,
    ) -> Result<Box<dyn Executable>> {
        if options.verify {
            verify(&graph.source).map_err(Error::from)?;
        }
        Ok(Box::new(CudaExecutable::new(
            Arc::clone(&self.gpu),
            graph.clone(),
            Arc::clone(&self.evaluator),
            options,
        )))
    }

    /// Steps that are left to own kernels where a library is missing or refuses are fallbacks.
    /// Kernels are compiled and algorithms chosen when sizes are met, so nothing is compiled ahead.
    fn forecast(
        &self,
        graph: &StagedGraph,
        options: &CompileOptions,
        sizes: &Binding,
    ) -> Result<Forecast> {
        Ok(forecast_on(&*self.gpu, graph, options.keep_weights, sizes)?)
    }

    fn free_memory(&self, wanted: usize) -> Result<Option<usize>> {
        Ok(Some(self.gpu.make_room(wanted)?))
    }
}

impl fmt::Debug for CudaBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.description())
    }
}

/// What the backend is told by before there is one: graphs for it are made to these.
pub fn capabilities() -> Capabilities {
    Capabilities::default()
        .with_fuse_qkv(true)
        .with_device_outputs(true)
}
