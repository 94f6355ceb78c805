//! How a context runs.

use tintype_tensorrt_sys::{
    CudaGraphStrategy, DynamicShapesKernelSpecializationStrategy,
    ExecutionContextAllocationStrategy, IRuntimeConfig,
};

use super::RuntimeCache;
use crate::Result;
use crate::calls::Calls;

/// How a context runs. The default is the library's.
#[derive(Clone, Debug, Default)]
pub struct ContextOptions {
    /// Where its memory comes from.
    pub allocation: Allocation,
    /// When kernels are compiled for the very sizes; TensorRT-RTX only.
    pub specialization: Option<Specialization>,
    /// Whether a run is recorded and played again as a CUDA graph, as long as addresses and
    /// sizes stay; TensorRT-RTX only. It leaves it be without a word where it cannot.
    pub cuda_graphs: bool,
    /// Where compiled kernels are kept; TensorRT-RTX only.
    pub runtime_cache: Option<RuntimeCache>,
}

/// Where a context's memory comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Allocation {
    /// Once, for the largest sizes of all profiles.
    #[default]
    Static,
    /// For the largest sizes of the profile in use.
    PerProfile,
    /// From the caller: see [`Context::set_memory`](super::Context::set_memory).
    Caller,
}

/// When kernels are compiled for the very sizes that are run, which makes them faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Specialization {
    /// Beside runs with kernels for any size, which go on meanwhile.
    Lazy,
    /// Before the first run of these sizes, which waits for it.
    Eager,
    /// Never.
    Never,
}

impl ContextOptions {
    /// Writes the options into the library's object. What is not asked for is not called, since
    /// TensorRT lacks some of it.
    ///
    /// # Safety
    /// The configuration is alive, and the cache as long as it and contexts made with it.
    pub(super) unsafe fn apply(&self, config: IRuntimeConfig, calls: &Calls) -> Result<()> {
        let strategy = self.allocation.raw();
        // SAFETY: the caller says that the configuration is alive.
        calls.run("choosing how memory is allocated", || unsafe {
            config.set_execution_context_allocation_strategy(strategy)
        })?;
        if let Some(specialization) = self.specialization {
            let strategy = specialization.raw();
            // SAFETY: as above.
            calls.run("choosing when kernels are specialized", || unsafe {
                config.set_dynamic_shapes_kernel_specialization_strategy(strategy)
            })?;
        }
        if self.cuda_graphs {
            // SAFETY: as above.
            calls.done("switching CUDA graphs on", || unsafe {
                config.set_cuda_graph_strategy(CudaGraphStrategy::WHOLE_GRAPH_CAPTURE)
            })?;
        }
        if let Some(cache) = &self.runtime_cache {
            // SAFETY: as above; the cache is alive too.
            calls.done("setting the runtime cache", || unsafe {
                config.set_runtime_cache(cache.raw())
            })?;
        }
        Ok(())
    }
}

impl Allocation {
    fn raw(self) -> ExecutionContextAllocationStrategy {
        match self {
            Self::Static => ExecutionContextAllocationStrategy::STATIC,
            Self::PerProfile => ExecutionContextAllocationStrategy::ON_PROFILE_CHANGE,
            Self::Caller => ExecutionContextAllocationStrategy::USER_MANAGED,
        }
    }
}

impl Specialization {
    fn raw(self) -> DynamicShapesKernelSpecializationStrategy {
        match self {
            Self::Lazy => DynamicShapesKernelSpecializationStrategy::LAZY,
            Self::Eager => DynamicShapesKernelSpecializationStrategy::EAGER,
            Self::Never => DynamicShapesKernelSpecializationStrategy::NONE,
        }
    }
}
