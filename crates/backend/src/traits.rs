//! `Backend` → `Executable` → `Session`.

use std::any::Any;
use std::path::{Path, PathBuf};

use tintype_ir::{Binding, Evaluator, Op, StagedGraph};

use crate::{Changes, Forecast, KeepWeights, RefitReport, Result, Tensors};

/// A way to run graphs: the CPU, TensorRT, CUDA.
pub trait Backend: Send + Sync {
    /// The name by which users choose it: `cpu`, `tensorrt`, `cuda`.
    fn name(&self) -> &'static str;

    /// What it can run and how it likes its graphs.
    fn capabilities(&self) -> Capabilities;

    /// Whether it runs `op` as it stands. What it does not run is decomposed before
    /// [`Backend::compile`], see [`tintype_ir::decompose`].
    fn supports(&self, op: &Op) -> bool;

    /// What evaluates constants for this backend's graphs, if it can.
    fn evaluator(&self) -> Option<&dyn Evaluator> {
        None
    }

    /// Compiles a graph. The result has no weights yet.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) for what the backend cannot run,
    /// [`Error::Unavailable`](crate::Error::Unavailable) if its library or device is gone.
    fn compile(&self, graph: &StagedGraph, options: &CompileOptions)
    -> Result<Box<dyn Executable>>;

    /// What [`Backend::compile`] would do and how much memory the result takes for these
    /// sizes of symbols. Compiles nothing.
    ///
    /// # Errors
    /// A symbol without a size; what cannot be compiled.
    fn forecast(
        &self,
        graph: &StagedGraph,
        options: &CompileOptions,
        sizes: &Binding,
    ) -> Result<Forecast> {
        let _ = options;
        Forecast::of_graph(graph, sizes)
    }

    /// Bytes that graphs could take now of the device's memory. If fewer than `wanted` are free,
    /// what waits there for a later use is given back first. `None` where graphs run in memory of
    /// the host, or nobody knows.
    ///
    /// # Errors
    /// What the device says.
    fn free_memory(&self, wanted: usize) -> Result<Option<usize>> {
        let _ = wanted;
        Ok(None)
    }
}

/// How a backend likes its graphs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Capabilities {
    /// Whether one product for q, k and v is faster than three.
    pub fuse_qkv: bool,
    /// Whether a graph is compiled for ranges of sizes: the fewer, the better. Otherwise a
    /// compiled graph runs all sizes that it allows equally well.
    pub compiles_sizes: bool,
    /// Whether outputs lie in memory of a device, from which the next step reads its inputs
    /// faster than from the host.
    pub device_outputs: bool,
}

impl Capabilities {
    /// One product for q, k and v.
    #[must_use]
    pub fn with_fuse_qkv(mut self, fuse_qkv: bool) -> Self {
        self.fuse_qkv = fuse_qkv;
        self
    }

    /// Graphs are compiled for ranges of sizes.
    #[must_use]
    pub fn with_compiles_sizes(mut self, compiles_sizes: bool) -> Self {
        self.compiles_sizes = compiles_sizes;
        self
    }

    /// Outputs lie in memory of a device.
    #[must_use]
    pub fn with_device_outputs(mut self, device_outputs: bool) -> Self {
        self.device_outputs = device_outputs;
        self
    }
}

/// Options of [`Backend::compile`] that every backend understands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CompileOptions {
    /// Verify the graph again although a pass gave it.
    pub verify: bool,
    /// Where the parameters of the weight program wait for the next refit.
    pub keep_weights: KeepWeights,
    /// Whether weights that the request program alone reads go when the first step runs: least
    /// memory in the steps. The next [`Session::prepare`] computes them anew, as it also may wait
    /// for a refit then. A backend that cannot does without.
    pub frees_request_weights: bool,
    /// A folder of compiled forms, as [`Executable::save`] fills it: looked into first, never
    /// written to.
    pub folder: Option<PathBuf>,
}

impl CompileOptions {
    /// The same with parameters kept elsewhere.
    #[must_use]
    pub fn with_keep_weights(mut self, keep_weights: KeepWeights) -> Self {
        self.keep_weights = keep_weights;
        self
    }

    /// The same without weights in the steps that the request program alone reads.
    #[must_use]
    pub fn with_freed_request_weights(mut self, frees: bool) -> Self {
        self.frees_request_weights = frees;
        self
    }

    /// The same with compiled forms from a folder, where they are there.
    #[must_use]
    pub fn with_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }
}

/// A compiled graph. Its weights come and change by [`Executable::refit`].
///
/// Executables are shared between threads; a refit waits for no session, and
/// request states prepared before it keep the weights they have.
pub trait Executable: Send + Sync {
    /// The graph it was compiled from.
    fn graph(&self) -> &StagedGraph;

    /// Takes over parameters and overlays: runs the part of the weight program
    /// that they reach. After an error the old weights stay.
    ///
    /// # Errors
    /// A parameter that is missing, unreadable or of another shape; an overlay on a
    /// parameter that the weight program does not have, or of another type.
    fn refit(&self, changes: &Changes<'_>) -> Result<RefitReport>;

    /// A session of its own buffers; several may live at once.
    fn session(&self) -> Result<Box<dyn Session>>;

    /// Writes the compiled form, never weights, into a folder that is there, for
    /// [`CompileOptions::folder`] of another process; gives the files' names. Files of the same
    /// name are replaced, each whole. A backend that compiles nothing ahead writes nothing.
    fn save(&self, folder: &Path) -> Result<Vec<String>> {
        let _ = folder;
        Ok(Vec::new())
    }
}

/// Runs the request and step programs of one executable.
pub trait Session: Send {
    /// Runs the request program on the inputs of that stage, all of which are needed.
    ///
    /// # Errors
    /// [`Error::NoWeights`](crate::Error::NoWeights) before the first refit; an input that
    /// is missing, unknown, or of another dtype or shape; a value that no operation can
    /// use. The session can be used again.
    fn prepare(&mut self, inputs: &Tensors) -> Result<Box<dyn RequestState>>;

    /// Runs the step program on the step inputs and what `state` holds; gives the
    /// outputs of that stage. Several states may be used in turn, also by several
    /// sessions of one executable.
    ///
    /// # Errors
    /// [`Error::ForeignState`](crate::Error::ForeignState) for a state of another
    /// executable; otherwise as [`Session::prepare`]. The state stays good.
    fn step(&mut self, state: &dyn RequestState, inputs: &Tensors) -> Result<Tensors>;

    /// [`Session::step`] into `outputs`, which the caller keeps from call to call: the memory of
    /// a tensor of the right place, dtype and shape there is written again if nobody else has
    /// it, so that a loop allocates nothing. After an error `outputs` holds none or old ones.
    fn step_into(
        &mut self,
        state: &dyn RequestState,
        inputs: &Tensors,
        outputs: &mut Tensors,
    ) -> Result<()> {
        *outputs = self.step(state, inputs)?;
        Ok(())
    }
}

/// What one request computed: its outputs, and what its steps read.
pub trait RequestState: Send {
    /// The outputs of the graph that do not depend on step inputs.
    fn outputs(&self) -> &Tensors;

    /// For the backend that made it.
    fn as_any(&self) -> &dyn Any;
}
