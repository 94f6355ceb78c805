//! One GPU as a machine: streams, buffers, captured graphs, and the weights' own stream.
//!
//! Weights are computed, overwritten and freed in one stream. Whoever reads them in another tells
//! an event, for which that stream waits before it overwrites or frees.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::result;
use tintype_backend::DeviceTensor;
use tintype_device::{
    CudaTensor, Device, DeviceBuffer, Event, InPlace, Keeping, KeptRegistry, PinnedTensor,
    SavedFolders, Staging, Stream, WeightKernels, WeightProgram, WeightRunner, WriteOver,
};
use tintype_tensor::{DType, Shape};

use super::branches::SideStream;
use super::graph::{self, Captured, driver_error};
use super::machine::{Call, Computed, Machine, Over, WeightJob};
use super::makers::Makers;
use super::offers::{kernel_cache, makers};
use super::{Addresses, Prepared};
use crate::{Profile, Result};

/// One GPU.
pub(crate) struct Gpu {
    device: Device,
    makers: Makers<Box<dyn Prepared>>,
    kept: KeptRegistry,
    /// Folders of modules, which makers look into.
    saved: SavedFolders,
    runner: Mutex<WeightRunner>,
    /// The runner's, which may be busy.
    weight_stream: Stream,
    has_graphs: bool,
    has_branches: bool,
    checks: bool,
    profile: Option<Profile>,
}

/// A stream with pinned buffers for what comes from the host.
pub(crate) struct GpuStream {
    stream: Stream,
    /// For second branches.
    side: Option<SideStream>,
    staging: Staging,
}

/// What a GPU is opened with.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of its own")]
pub(crate) struct GpuOptions {
    /// Its number.
    pub(crate) ordinal: usize,
    /// The folder of compiled kernels and chosen algorithms; `None` for the user's.
    pub(crate) cache: Option<PathBuf>,
    /// Whether programs are captured.
    pub(crate) graphs: bool,
    /// Whether steps run side by side.
    pub(crate) branches: bool,
    /// Whether each step is waited for.
    pub(crate) checks: bool,
    /// Whether libraries run what they can.
    pub(crate) libraries: bool,
    /// Where the time of each step goes.
    pub(crate) profile: Option<Profile>,
}

impl Gpu {
    /// Opens a GPU and compiles the kernels of weight programs.
    ///
    /// # Errors
    /// [`Unavailable`](tintype_device::Error::Unavailable) without a driver, a device, or NVRTC.
    pub(crate) fn open(options: &GpuOptions) -> Result<Self> {
        let device = Device::open(options.ordinal)?;
        // SAFETY: cudarc's own slices, which the events are for, are used nowhere in this context:
        // buffers of `tintype_device` tell their readers themselves.
        unsafe { device.context().disable_event_tracking() };
        let saved = SavedFolders::default();
        let cache = kernel_cache(options.cache.as_deref());
        let kernels = WeightKernels::load(&device, &cache)?;
        let runner = WeightRunner::new(Arc::new(kernels))?;
        // What is captured runs as a whole: nothing in it can be waited for or timed.
        let wants_graphs = options.graphs && !options.checks && options.profile.is_none();
        let has_graphs = wants_graphs && graph::are_available();
        if wants_graphs && !has_graphs {
            tracing::info!("the driver has no CUDA graphs: steps are enqueued one by one");
        }
        Ok(Self {
            makers: makers(&device, options, &saved)?,
            kept: KeptRegistry::default(),
            saved,
            weight_stream: runner.stream().clone(),
            runner: Mutex::new(runner),
            has_graphs,
            // What is timed or waited for runs alone.
            has_branches: options.branches && !options.checks && options.profile.is_none(),
            checks: options.checks,
            profile: options.profile.clone(),
            device,
        })
    }

    /// The device.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Device, driver and libraries, for people.
    pub(crate) fn description(&self) -> String {
        let (device, info) = (&self.device, self.device.info());
        let capability = info.compute_capability;
        let driver = device.driver().version();
        let own = format!("{device:?}, compute capability {capability}, driver for CUDA {driver}");
        let libraries = self.makers.descriptions().into_iter();
        std::iter::once(own)
            .chain(libraries)
            .collect::<Vec<_>>()
            .join(", ")
    }

    fn run_weights(
        &self,
        job: &WeightJob<'_>,
        over: Option<&Over<'_, Self>>,
        kept: Keeping<'_>,
    ) -> Result<Computed<Self>> {
        let mut weights = Vec::with_capacity(job.wanted.len());
        let program = WeightProgram {
            graph: job.program,
            parameters: job.parameters,
            wanted: Some(job.wanted),
            evaluator: job.evaluator,
            kept: Some(kept),
            in_place: over.map(|over| InPlace {
                weights: over.weights,
                is_begun: over.is_begun,
            }),
        };
        let mut runner = self.runner();
        for event in over.iter().flat_map(|over| over.after) {
            runner.stream().wait(event)?;
        }
        let report = runner.run(&program, &mut |name, tensor| {
            weights.push((name.to_owned(), tensor));
            Ok(())
        })?;
        // Whatever went wrong on the device is known now, before anything is replaced.
        runner.stream().synchronize()?;
        let moved = report.uploaded + report.downloaded;
        Ok(Computed {
            weights,
            moved: usize::try_from(moved).unwrap_or(usize::MAX),
        })
    }

    fn write_weights(
        &self,
        pairs: &[[&CudaTensor; 2]],
        after: &[Event],
        kept: Keeping<'_>,
    ) -> Result<()> {
        let runner = self.runner();
        let stream = runner.stream();
        for event in after {
            stream.wait(event)?;
        }
        // New values that stay take no more memory than they have, but take it from others.
        let grows = kept.grows && kept.store.has_room(0, self.device.available_memory()?);
        for pair in pairs {
            let [old, new] = pair.map(CudaTensor::buffer);
            let whole = 0..pair[1].byte_len();
            kept.store.write_over(*pair, grows, |how| match how {
                WriteOver::Copy => old.copy_from(0, new, whole, stream),
                WriteOver::Exchange => old.exchange(new, whole, stream),
            })?;
        }
        Ok(stream.synchronize()?)
    }

    fn runner(&self) -> MutexGuard<'_, WeightRunner> {
        self.runner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Machine for Gpu {
    type Stream = GpuStream;
    type Event = Event;
    type Memory = DeviceBuffer;
    type Tensor = CudaTensor;
    type Pinned = PinnedTensor;
    type Prepared = Box<dyn Prepared>;
    type Graph = Captured;

    fn name(&self) -> &str {
        self.device.name()
    }

    fn makers(&self) -> &Makers<Box<dyn Prepared>> {
        &self.makers
    }

    fn kept(&self) -> &KeptRegistry {
        &self.kept
    }

    fn look_into(&self, folder: &Path) {
        self.saved.add(folder);
    }

    fn save(prepared: &Box<dyn Prepared>, folder: &Path) -> Result<Vec<String>> {
        prepared.save(folder)
    }

    fn stream(&self) -> Result<GpuStream> {
        let stream = self.device.new_stream()?;
        let side = self.has_branches.then(|| SideStream::new(&stream));
        Ok(GpuStream {
            side: side.transpose()?,
            staging: Staging::with_sizes(&stream, 2, STAGING_BYTES)?,
            stream,
        })
    }

    fn synchronize(&self, stream: &GpuStream) -> Result<()> {
        Ok(stream.stream.synchronize()?)
    }

    fn record(&self, stream: &GpuStream) -> Result<Event> {
        Ok(stream.stream.record()?)
    }

    fn allocate(&self, stream: &GpuStream, bytes: usize) -> Result<DeviceBuffer> {
        Ok(DeviceBuffer::allocate(&stream.stream, bytes)?)
    }

    fn address(memory: &DeviceBuffer) -> u64 {
        memory.address()
    }

    fn write(
        &self,
        stream: &mut GpuStream,
        tensor: &DeviceTensor,
        memory: &DeviceBuffer,
        start: usize,
    ) -> Result<()> {
        if let Some(tensor) = CudaTensor::of(tensor, &self.device) {
            tensor.wait_in(&stream.stream)?;
            let whole = 0..tensor.byte_len();
            memory.copy_from(start, tensor.buffer(), whole, &stream.stream)?;
        } else {
            let host = tensor.to_host()?;
            stream.staging.upload(host.bytes(), memory, start)?;
        }
        Ok(())
    }

    fn keep(&self, stream: &mut GpuStream, tensor: &DeviceTensor) -> Result<DeviceTensor> {
        if CudaTensor::of(tensor, &self.device).is_some() {
            return Ok(tensor.clone());
        }
        let host = tensor.to_host()?;
        Ok(CudaTensor::upload(&host, &mut stream.staging)?.into())
    }

    unsafe fn copy_out(
        &self,
        stream: &GpuStream,
        (dtype, shape): (DType, Shape),
        address: u64,
        into: Option<DeviceTensor>,
    ) -> Result<CudaTensor> {
        let (stream, bytes) = (&stream.stream, shape.byte_len(dtype)?);
        let there = into.and_then(|into| CudaTensor::reclaim(into, &self.device, dtype, &shape));
        let buffer = if let Some(buffer) = there {
            buffer.write_in(stream)?;
            buffer
        } else {
            Arc::new(DeviceBuffer::allocate(stream, bytes)?)
        };
        if bytes > 0 {
            self.device.bind()?;
            // SAFETY: the buffer is as large, is written after all that read it, and is told of
            // this stream below; the caller promises the same of the source.
            let copied = unsafe {
                let raw = stream.as_raw().cast();
                result::memcpy_dtod_async(buffer.address(), address, bytes, raw)
            };
            copied.map_err(|error| driver_error(&self.device, "copying an output", error))?;
        }
        buffer.read_by(stream)?;
        Ok(CudaTensor::new(dtype, shape, buffer, stream)?)
    }

    fn scratch_bytes(prepared: &Box<dyn Prepared>) -> usize {
        prepared.scratch_bytes()
    }

    unsafe fn enqueue(
        &self,
        call: Call<'_, Box<dyn Prepared>>,
        stream: &GpuStream,
        addresses: &Addresses<'_>,
    ) -> Result<()> {
        let stream = match &stream.side {
            Some(side) if call.branch > 0 => side.stream(),
            _ => &stream.stream,
        };
        let start = self.profile.as_ref().map(|_| stream.record_timed());
        for _ in 0..self.profile.as_ref().map_or(1, Profile::repeats) {
            // SAFETY: what the caller promises.
            unsafe { call.prepared.enqueue(stream, addresses) }?;
        }
        if let (Some(profile), Some(start)) = (&self.profile, start) {
            profile.add(call.step, start?, stream.record_timed()?);
        }
        if self.checks {
            stream.synchronize()?;
        }
        Ok(())
    }

    fn has_branches(&self) -> bool {
        self.has_branches
    }

    fn fork(&self, stream: &GpuStream) -> Result<()> {
        let side = stream.side.as_ref();
        side.map_or(Ok(()), |side| side.fork_from(&stream.stream))
    }

    fn join(&self, stream: &GpuStream) -> Result<()> {
        let side = stream.side.as_ref();
        side.map_or(Ok(()), |side| side.join_into(&stream.stream))
    }

    fn has_graphs(&self) -> bool {
        self.has_graphs
    }

    fn capture(
        &self,
        stream: &GpuStream,
        enqueue: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Captured> {
        Captured::new(&stream.stream, enqueue)
    }

    unsafe fn launch(&self, graph: &Captured, _: &GpuStream) -> Result<()> {
        // SAFETY: what the caller promises.
        unsafe { graph.launch() }
    }

    fn free_bytes(&self, wanted: usize) -> Result<usize> {
        let free = self.device.available_memory()?;
        if free >= wanted {
            return Ok(free);
        }
        // What was freed a moment ago is so for the driver only now.
        self.device.synchronize()?;
        self.device.trim()?;
        Ok(self.device.available_memory()?)
    }

    fn keep_freed(&self) -> Result<()> {
        let total = self.device.free_memory()?.total;
        let kept = total.saturating_sub(LEFT_TO_LIBRARIES);
        Ok(self.device.keep_freed_memory(kept as u64)?)
    }

    fn compute(
        &self,
        job: &WeightJob<'_>,
        over: Option<Over<'_, Self>>,
        kept: Keeping<'_>,
    ) -> Result<Computed<Self>> {
        self.run_weights(job, over.as_ref(), kept)
    }

    fn overwrite(
        &self,
        pairs: &[[&CudaTensor; 2]],
        after: &[Event],
        kept: Keeping<'_>,
    ) -> Result<()> {
        self.write_weights(pairs, after, kept)
    }

    fn retire(&self, events: &[Event]) -> Result<()> {
        for event in events {
            self.weight_stream.wait(event)?;
        }
        Ok(())
    }
}

/// What no freed memory of ours takes from libraries and other processes.
const LEFT_TO_LIBRARIES: usize = 2 << 30;

/// Inputs are small; weights do not come this way.
const STAGING_BYTES: usize = 4 << 20;
