//! What programs run on: a GPU, or host memory in tests.
//!
//! A machine has streams, in which work runs in order and nothing waits for the host, and
//! memory at fixed addresses. Programs, lanes and sessions are written against it, so that order,
//! addresses, captures and refits can be tested where there is no GPU.
//!
//! | type | on a GPU | in tests |
//! |---|---|---|
//! | `Stream` | a stream and its pinned buffers | nothing |
//! | `Memory` | a device buffer | bytes of the host |
//! | `Tensor` | a tensor of the device | a host tensor |
//! | `Pinned` | a tensor in pinned memory | a host tensor |
//! | `Prepared` | a library's call or a kernel | the step itself |
//! | `Graph` | a captured CUDA graph | the steps and addresses seen |

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tintype_backend::DeviceTensor;
use tintype_device::{Keeping, KeptParameters, KeptRegistry, KeptTensor};
use tintype_ir::{Evaluator, Graph};
use tintype_tensor::{DType, Shape};
use tintype_weights::Parameters;

use super::Addresses;
use super::makers::Makers;
use super::weights::Tensors;
use crate::{Result, Step};

/// What programs run on.
pub(crate) trait Machine: Sized + Send + Sync + 'static {
    /// Work in order.
    type Stream: Send;
    /// A place in a stream.
    type Event: Send + Sync;
    /// Bytes that stay where they are, aligned to 256.
    type Memory: Send + Sync;
    /// A tensor in such memory. A cheap handle, which callers may keep.
    type Tensor: Clone + Send + Sync + Into<DeviceTensor> + KeptTensor;
    /// A parameter of which the device makes copies by itself.
    type Pinned: Send + Sync;
    /// A step that is ready.
    type Prepared: Send + Sync;
    /// Captured work.
    type Graph: Send;

    /// What messages call it: `cuda:0`.
    fn name(&self) -> &str;

    /// Who makes steps ready.
    fn makers(&self) -> &Makers<Self::Prepared>;

    /// Parameters of all graphs that wait on it.
    fn kept(&self) -> &KeptRegistry<Self::Tensor, Self::Pinned>;

    /// Looks into a folder first for what was compiled and chosen; never writes to it.
    fn look_into(&self, folder: &Path);

    /// Writes what was compiled and chosen for a step into a folder; gives the files' names.
    fn save(prepared: &Self::Prepared, folder: &Path) -> Result<Vec<String>>;

    /// A new stream.
    fn stream(&self) -> Result<Self::Stream>;

    /// Waits on the host until the stream is idle.
    fn synchronize(&self, stream: &Self::Stream) -> Result<()>;

    /// Marks the end of the work so far.
    fn record(&self, stream: &Self::Stream) -> Result<Self::Event>;

    /// Memory that belongs to a stream; dropping it frees it after the work so far.
    fn allocate(&self, stream: &Self::Stream, bytes: usize) -> Result<Self::Memory>;

    /// The first byte of memory.
    fn address(memory: &Self::Memory) -> u64;

    /// Copies a tensor of the host or of any device to `start` of memory.
    fn write(
        &self,
        stream: &mut Self::Stream,
        tensor: &DeviceTensor,
        memory: &Self::Memory,
        start: usize,
    ) -> Result<()>;

    /// A tensor that the caller's changes cannot reach: of the host, a copy on the device; of the
    /// device, itself.
    fn keep(&self, stream: &mut Self::Stream, tensor: &DeviceTensor) -> Result<DeviceTensor>;

    /// A tensor with a copy of what lies at an address: in the memory of `into` where that is a
    /// tensor of this machine and of the same type, and nobody else has it; else in new memory.
    ///
    /// # Safety
    /// So many bytes lie there, until the stream has copied them.
    unsafe fn copy_out(
        &self,
        stream: &Self::Stream,
        ty: (DType, Shape),
        address: u64,
        into: Option<DeviceTensor>,
    ) -> Result<Self::Tensor>;

    /// Scratch memory that a step needs.
    fn scratch_bytes(prepared: &Self::Prepared) -> usize;

    /// Enqueues a step.
    ///
    /// # Safety
    /// As [`Prepared::enqueue`](super::Prepared::enqueue).
    unsafe fn enqueue(
        &self,
        call: Call<'_, Self::Prepared>,
        stream: &Self::Stream,
        addresses: &Addresses<'_>,
    ) -> Result<()>;

    /// Whether steps may run side by side.
    fn has_branches(&self) -> bool;

    /// Lets the second branch begin after the work so far. Both are in the stream's care: they can
    /// be captured with it.
    fn fork(&self, stream: &Self::Stream) -> Result<()>;

    /// Lets what is enqueued from now on begin after both branches.
    fn join(&self, stream: &Self::Stream) -> Result<()>;

    /// Whether work can be captured.
    fn has_graphs(&self) -> bool;

    /// Captures what `enqueue` enqueues, which does not run.
    fn capture(
        &self,
        stream: &Self::Stream,
        enqueue: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Self::Graph>;

    /// Enqueues captured work in the stream that it was captured in.
    ///
    /// # Safety
    /// Whatever was enqueued in it could be enqueued now with the same addresses.
    unsafe fn launch(&self, graph: &Self::Graph, stream: &Self::Stream) -> Result<()>;

    /// Bytes that could be allocated now. If fewer than `wanted` are free, what is kept for later
    /// is given back first.
    fn free_bytes(&self, wanted: usize) -> Result<usize>;

    /// The same, and parameters that are kept for refits make room too.
    fn make_room(&self, wanted: usize) -> Result<usize> {
        let free = self.free_bytes(wanted)?;
        if free < wanted && self.kept().let_go() {
            return self.free_bytes(wanted);
        }
        Ok(free)
    }

    /// Leaves the memory of freed weights to the next ones: getting it from the system takes longer
    /// than computing them.
    fn keep_freed(&self) -> Result<()>;

    /// Computes weights in the stream of weights, and keeps parameters. They are there when this
    /// returns. After an error the caller keeps nothing.
    ///
    /// With `over` they are computed where these weights are; what is there elsewhere already, as a
    /// parameter that is kept, is left there. Nothing that is read may lie in these weights.
    fn compute(
        &self,
        job: &WeightJob<'_>,
        over: Option<Over<'_, Self>>,
        kept: KeepingOn<'_, Self>,
    ) -> Result<Computed<Self>>;

    /// Writes each second tensor over the first, once all events are over, and waits for it; what
    /// is kept in the first stays whole. After an error the caller keeps nothing.
    fn overwrite(
        &self,
        pairs: &[[&Self::Tensor; 2]],
        after: &[Self::Event],
        kept: KeepingOn<'_, Self>,
    ) -> Result<()>;

    /// Lets weights that are freed from now on be freed after these events.
    fn retire(&self, events: &[Self::Event]) -> Result<()>;
}

/// A step to enqueue.
pub(crate) struct Call<'a, P> {
    /// What it is, for whoever measures.
    pub(crate) step: &'a Step,
    /// The step made ready.
    pub(crate) prepared: &'a P,
    /// The branch in which it runs, below [`BRANCHES`](crate::BRANCHES); outside of forks the first.
    pub(crate) branch: usize,
}

/// Parameters that wait on a machine.
pub(crate) type KeptOn<M> = KeptParameters<<M as Machine>::Tensor, <M as Machine>::Pinned>;

/// The same as a run uses them.
pub(crate) type KeepingOn<'a, M> = Keeping<'a, <M as Machine>::Tensor, <M as Machine>::Pinned>;

/// Weights in whose memory others are computed.
pub(crate) struct Over<'a, M: Machine> {
    /// By name.
    pub(crate) weights: &'a Tensors<M>,
    /// Set before the first of them is written.
    pub(crate) is_begun: &'a AtomicBool,
    /// What still reads them.
    pub(crate) after: &'a [M::Event],
}

/// What a machine has computed.
pub(crate) struct Computed<M: Machine> {
    /// Weights by name.
    pub(crate) weights: Vec<(String, M::Tensor)>,
    /// Bytes copied between host and device for them.
    pub(crate) moved: usize,
}

/// Weights to compute.
#[derive(Clone, Copy)]
pub(crate) struct WeightJob<'a> {
    /// The weight program, with overlays.
    pub(crate) program: &'a Arc<Graph>,
    /// What it reads.
    pub(crate) parameters: &'a Parameters,
    /// Computes what has no kernel.
    pub(crate) evaluator: &'a dyn Evaluator,
    /// The outputs that are wanted.
    pub(crate) wanted: &'a HashSet<&'a str>,
}
