//! Host memory as a machine, for tests: steps compute at once.
//!
//! Addresses are numbers. What lies at one is looked up and bounds are checked, so that a step or
//! a captured graph that reads memory which is gone is a panic. Captured work keeps the addresses
//! that it was captured with.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tintype_backend::{DeviceMemory, DeviceTensor};
use tintype_device::{KeptRegistry, KeptTensor, WriteOver};
use tintype_tensor::{DType, Shape, Tensor};

use super::Addresses;
use super::machine::{Call, Computed, KeepingOn, Machine, Over, WeightJob};
use super::makers::{Maker, Makers, Offer};
use crate::{Error, Place, Result, Step, View};

use self::branches::{Enqueued, Entry, Order};

#[path = "host_branches.rs"]
pub(crate) mod branches;
#[path = "host_heap.rs"]
mod heap;
#[path = "host_kept.rs"]
mod kept;
#[path = "host_reference.rs"]
pub(crate) mod reference;
#[path = "host_steps.rs"]
mod steps;

/// Host memory.
pub(crate) struct Host {
    heap: Arc<Heap>,
    makers: Makers<Step>,
    kept: KeptRegistry<HostTensor, Tensor>,
    pub(crate) has_graphs: bool,
    pub(crate) has_branches: bool,
    /// How branches run.
    pub(crate) order: Mutex<Order>,
    /// While a stream captures: what it has captured.
    capturing: Mutex<Option<Captured>>,
    /// Between fork and join: what waits.
    forked: Mutex<Option<Captured>>,
    /// Numbers of steps that ran.
    marks: AtomicU64,
    /// What happened, in words.
    log: Mutex<Vec<String>>,
    /// Weights of these names cannot be overwritten, or computed.
    pub(crate) fails: Mutex<BTreeSet<String>>,
    /// Overwrites fail from the one of this number on.
    pub(crate) overwrites_left: AtomicUsize,
    pub(crate) refuses_capture: bool,
}

/// All memory that is allocated, by address.
pub(crate) struct Heap {
    blocks: Mutex<BTreeMap<u64, Vec<u8>>>,
    next: AtomicU64,
    /// How many blocks were allocated.
    allocations: AtomicUsize,
    pub(crate) total: AtomicUsize,
}

pub(crate) struct HostMemory {
    heap: Arc<Heap>,
    address: u64,
}

#[derive(Clone)]
pub(crate) struct HostTensor {
    memory: Arc<HostMemory>,
    dtype: DType,
    shape: Shape,
}

/// Steps with the addresses of their places, forks and joins.
type Captured = Vec<Entry>;

impl Host {
    /// Memory of this size, with graphs.
    pub(crate) fn new(total: usize) -> Self {
        Self {
            heap: Arc::new(Heap {
                blocks: Mutex::default(),
                next: AtomicU64::new(1 << 20),
                allocations: AtomicUsize::new(0),
                total: AtomicUsize::new(total),
            }),
            makers: Makers::new(vec![Box::new(Everything)]),
            kept: KeptRegistry::default(),
            has_graphs: true,
            has_branches: false,
            order: Mutex::new(Order::FirstBefore),
            capturing: Mutex::default(),
            forked: Mutex::default(),
            marks: AtomicU64::default(),
            log: Mutex::default(),
            fails: Mutex::default(),
            overwrites_left: AtomicUsize::new(usize::MAX),
            refuses_capture: false,
        }
    }

    /// What happened since it was asked last.
    pub(crate) fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    pub(crate) fn set_total(&self, total: usize) {
        self.heap.total.store(total, Ordering::Relaxed);
    }

    /// How many pieces of memory were allocated since it was made.
    pub(crate) fn allocations(&self) -> usize {
        self.heap.allocations.load(Ordering::Relaxed)
    }

    pub(crate) fn used(&self) -> usize {
        self.heap.total.load(Ordering::Relaxed) - self.heap.free()
    }

    fn note(&self, what: impl Into<String>) {
        let what = what.into();
        let mut log = self.log.lock().unwrap();
        if log.last() != Some(&what) {
            log.push(what);
        }
    }

    /// Fails once so many writes were made as it was told.
    fn count_write(&self) -> Result<()> {
        if self.overwrites_left.load(Ordering::Relaxed) == 0 {
            return Err(Error::unsupported("overwriting", "the device is gone"));
        }
        self.overwrites_left.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }

    /// A tensor of this machine and type that nobody else has.
    fn reclaim(&self, tensor: DeviceTensor, dtype: DType, shape: &Shape) -> Option<HostTensor> {
        let DeviceTensor::Device(memory) = tensor else {
            return None;
        };
        let own = memory.as_any().downcast_ref::<HostTensor>()?.clone();
        let is_only = Arc::strong_count(&memory) == 1;
        drop(memory);
        let is_here = Arc::ptr_eq(&own.memory.heap, &self.heap);
        let fits = is_here && own.dtype == dtype && own.shape == *shape;
        (is_only && fits && own.is_alone()).then_some(own)
    }

    fn tensor(&self, tensor: &Tensor) -> Result<HostTensor> {
        let memory = self.heap.allocate(tensor.bytes().len())?;
        self.heap.write(memory.address, tensor.bytes());
        Ok(HostTensor {
            memory: Arc::new(memory),
            dtype: tensor.dtype(),
            shape: tensor.shape().clone(),
        })
    }
}

/// Takes every step as it is.
struct Everything;

impl Maker<Step> for Everything {
    fn name(&self) -> &'static str {
        "the host"
    }

    fn judge(&self, _: &Step) -> Offer<()> {
        Offer::Ready(())
    }

    fn offer(&self, step: &Step) -> Result<Offer<Step>> {
        Ok(Offer::Ready(step.clone()))
    }
}

impl Machine for Host {
    type Stream = ();
    type Event = ();
    type Memory = HostMemory;
    type Tensor = HostTensor;
    type Pinned = Tensor;
    type Prepared = Step;
    type Graph = Captured;

    fn name(&self) -> &'static str {
        "host:0"
    }

    fn makers(&self) -> &Makers<Step> {
        &self.makers
    }

    fn kept(&self) -> &KeptRegistry<HostTensor, Tensor> {
        &self.kept
    }

    fn look_into(&self, folder: &Path) {
        self.note(format!("look into {}", folder.display()));
    }

    /// A file for each name of a step.
    fn save(step: &Step, folder: &Path) -> Result<Vec<String>> {
        let name = format!("{}.step", step.name);
        let written = std::fs::write(folder.join(&name), []);
        written.map_err(|source| {
            let path = folder.join(&name);
            Error::Device(tintype_device::Error::Cache { path, source })
        })?;
        Ok(vec![name])
    }

    fn stream(&self) -> Result<()> {
        Ok(())
    }

    fn synchronize(&self, (): &()) -> Result<()> {
        Ok(())
    }

    fn record(&self, (): &()) -> Result<()> {
        Ok(())
    }

    fn allocate(&self, (): &(), bytes: usize) -> Result<HostMemory> {
        assert!(self.capturing.lock().unwrap().is_none(), "while capturing");
        self.heap.allocate(bytes)
    }

    fn address(memory: &HostMemory) -> u64 {
        memory.address
    }

    fn write(
        &self,
        (): &mut (),
        tensor: &DeviceTensor,
        memory: &HostMemory,
        start: usize,
    ) -> Result<()> {
        self.note("write");
        let host = tensor.to_host()?;
        self.heap.write(memory.address + start as u64, host.bytes());
        Ok(())
    }

    fn keep(&self, (): &mut (), tensor: &DeviceTensor) -> Result<DeviceTensor> {
        Ok(self.tensor(&tensor.to_host()?)?.into())
    }

    unsafe fn copy_out(
        &self,
        (): &(),
        (dtype, shape): (DType, Shape),
        address: u64,
        into: Option<DeviceTensor>,
    ) -> Result<HostTensor> {
        let bytes = self.heap.read(address, shape.byte_len(dtype)?);
        if let Some(tensor) = into.and_then(|into| self.reclaim(into, dtype, &shape)) {
            self.note("reuse an output");
            self.heap.write(tensor.memory.address, &bytes);
            return Ok(tensor);
        }
        self.tensor(&Tensor::from_bytes(dtype, shape, bytes)?)
    }

    fn scratch_bytes(step: &Step) -> usize {
        Self::scratch_of(step)
    }

    unsafe fn enqueue(
        &self,
        call: Call<'_, Step>,
        (): &(),
        addresses: &Addresses<'_>,
    ) -> Result<()> {
        let step = call.prepared;
        let views = step.work.reads().into_iter().chain(step.work.writes());
        let places = views.flat_map(|view| {
            let index = view.index.map(|index| index.place);
            [Some(view.place), index].into_iter().flatten()
        });
        let enqueued = Entry::Step(Box::new(Enqueued {
            places: places.map(|place| (place, (addresses.of)(place))).collect(),
            step: step.clone(),
            scratch: addresses.scratch,
            branch: call.branch,
        }));
        if let Some(captured) = &mut *self.capturing.lock().unwrap() {
            captured.push(enqueued);
            return Ok(());
        }
        self.note("enqueue");
        if let Some(forked) = &mut *self.forked.lock().unwrap() {
            forked.push(enqueued);
            return Ok(());
        }
        self.run(&[enqueued])
    }

    fn has_branches(&self) -> bool {
        self.has_branches
    }

    fn fork(&self, (): &()) -> Result<()> {
        self.note("fork");
        match &mut *self.capturing.lock().unwrap() {
            Some(captured) => captured.push(Entry::Fork),
            None => *self.forked.lock().unwrap() = Some(vec![Entry::Fork]),
        }
        Ok(())
    }

    fn join(&self, (): &()) -> Result<()> {
        if let Some(captured) = &mut *self.capturing.lock().unwrap() {
            captured.push(Entry::Join);
            return Ok(());
        }
        let forked = self.forked.lock().unwrap().take();
        let mut forked = forked.expect("a fork before");
        forked.push(Entry::Join);
        self.run(&forked)
    }

    fn has_graphs(&self) -> bool {
        self.has_graphs
    }

    fn capture(&self, (): &(), enqueue: &mut dyn FnMut() -> Result<()>) -> Result<Captured> {
        self.note("capture");
        if self.refuses_capture {
            return Err(Error::unsupported("capture", "not here"));
        }
        *self.capturing.lock().unwrap() = Some(Vec::new());
        let enqueued = enqueue();
        let captured = self.capturing.lock().unwrap().take();
        enqueued.map(|()| captured.unwrap())
    }

    unsafe fn launch(&self, graph: &Captured, (): &()) -> Result<()> {
        self.note("launch");
        self.run(graph)
    }

    fn free_bytes(&self, _: usize) -> Result<usize> {
        Ok(self.heap.free())
    }

    fn keep_freed(&self) -> Result<()> {
        self.note("keep freed memory");
        Ok(())
    }

    fn compute(
        &self,
        job: &WeightJob<'_>,
        over: Option<Over<'_, Self>>,
        kept: KeepingOn<'_, Self>,
    ) -> Result<Computed<Self>> {
        self.compute_weights(job, over.as_ref(), kept)
    }

    fn overwrite(
        &self,
        pairs: &[[&HostTensor; 2]],
        _: &[()],
        kept: KeepingOn<'_, Self>,
    ) -> Result<()> {
        self.note(format!("overwrite {}", pairs.len()));
        let grows = kept.grows && kept.store.has_room(0, self.heap.free());
        for pair in pairs {
            let write = |how| {
                let [old, new] = pair.map(|tensor| self.heap.bytes_of(tensor));
                self.heap.write(pair[0].memory.address, &new);
                if how == WriteOver::Exchange {
                    self.heap.write(pair[1].memory.address, &old);
                }
                Ok::<(), Error>(())
            };
            kept.store.write_over(*pair, grows, write)?;
        }
        // After something was written, as it may be.
        self.count_write()
    }

    fn retire(&self, _: &[()]) -> Result<()> {
        Ok(())
    }
}

impl DeviceMemory for HostTensor {
    fn dtype(&self) -> DType {
        self.dtype
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn device(&self) -> &'static str {
        "host:0"
    }

    fn to_host(&self) -> tintype_backend::Result<Tensor> {
        let bytes = self.memory.heap.bytes_of(self);
        Ok(Tensor::from_bytes(self.dtype, self.shape.clone(), bytes)?)
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

impl From<HostTensor> for DeviceTensor {
    fn from(tensor: HostTensor) -> Self {
        Self::Device(Arc::new(tensor))
    }
}

/// The elements of views, by the addresses of their places.
struct Reader<'a> {
    host: &'a Host,
    places: HashMap<Place, u64>,
}

impl Reader<'_> {
    fn tensor(&self, view: &View) -> Result<Tensor> {
        let size = view.dtype.bits() / 8;
        let addresses = self.addresses(view);
        let bytes = addresses.flat_map(|address| self.host.heap.read(address, size));
        let bytes = bytes.collect();
        Ok(Tensor::from_bytes(view.dtype, view.shape(), bytes)?)
    }

    fn write(&self, view: &View, tensor: &Tensor) {
        let size = view.dtype.bits() / 8;
        for (address, bytes) in self.addresses(view).zip(tensor.bytes().chunks(size)) {
            self.host.heap.write(address, bytes);
        }
    }

    /// The address of each element, in row-major order.
    fn addresses(&self, view: &View) -> impl Iterator<Item = u64> {
        let mut offsets = vec![(view.offset, 0)];
        for axis in &view.axes {
            let along = |(offset, step): (usize, usize)| {
                (0..axis.size).map(move |at| (offset + at * axis.stride, step + at * axis.step))
            };
            offsets = offsets.into_iter().flat_map(along).collect();
        }
        let start = self.places[&view.place];
        let size = view.dtype.bits() / 8;
        let row = move |step: usize| {
            let Some(index) = view.index else { return 0 };
            assert_eq!(index.dtype, DType::I64, "indices of tests");
            let address = self.places[&index.place] + (index.offset + step) as u64 * 8;
            let bytes = self.host.heap.read(address, 8);
            let chosen = i64::from_le_bytes(bytes.try_into().unwrap());
            chosen.clamp(0, index.size as i64 - 1) as usize * index.stride
        };
        let addresses = offsets.into_iter();
        addresses.map(move |(offset, step)| start + ((offset + row(step)) * size) as u64)
    }
}
