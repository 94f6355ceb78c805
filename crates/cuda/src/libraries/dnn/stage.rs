//! One graph of cuDNN, ready to be enqueued.
//!
//! What a run needs beside the plan is a *variant pack*: addresses by the tensors' ids. It is
//! kept from run to run and made again only when an address has changed, so that the runs of a
//! program on one workspace allocate nothing. Scalars are read from the host while a run is
//! enqueued, and what is captured in a CUDA graph has their values. Numbers lie on the device for as
//! long as the stage; what the library writes and nobody reads lies behind its scratch memory.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use tintype_device::{DeviceBuffer, Stream};

use super::build::OperationGraph;
use super::choose::ExecutionPlan;
use super::descriptor::{Descriptor, Kind, Name};
use super::graph::{GraphDescription, Store, TensorId};
use super::handle::Handle;
use super::library::Attempt;
use super::numbers::Numbers;
use crate::Place;
use crate::run::Addresses;

/// A plan with the graph that it is of. Where tensors lie is not in it, so that equal calls of a
/// program share one.
#[derive(Debug)]
pub(super) struct Ready {
    // Fields are dropped in order: first what was made last.
    pub(super) plan: ExecutionPlan,
    pub(super) _graph: Arc<OperationGraph>,
}

/// A graph with its plan.
#[derive(Debug)]
pub(super) struct Stage {
    // Fields are dropped in order: first what was made last.
    pack: Mutex<Option<Pack>>,
    ready: Arc<Ready>,
    handle: Arc<Handle>,
    bindings: Bindings,
    numbers: Vec<Arc<DeviceBuffer>>,
}

/// The tensors that the library is given addresses of.
#[derive(Debug, Clone, PartialEq)]
struct Bindings {
    /// Their ids: of memory, numbers, spares, scalars.
    ids: Vec<i64>,
    memory: Vec<Bound>,
    /// Numbers of the device.
    numbers: Vec<f32>,
    /// How many numbers are written for nobody.
    spares: usize,
    /// Numbers of the host, at addresses that stay.
    scalars: Box<[f32]>,
}

/// Where a tensor lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bound {
    place: Place,
    offset: usize,
    bits: usize,
}

/// Addresses as the library was last told them.
#[derive(Debug)]
struct Pack {
    descriptor: Descriptor,
    memory: Vec<u64>,
    scratch: u64,
}

impl Bindings {
    fn of(description: &GraphDescription) -> Self {
        let (mut ids, mut memory) = (Vec::new(), Vec::new());
        let (mut number_ids, mut numbers) = (Vec::new(), Vec::new());
        let mut spare_ids = Vec::new();
        let (mut scalar_ids, mut scalars) = (Vec::new(), Vec::new());
        for (number, tensor) in description.tensors.iter().enumerate() {
            let id = TensorId(number).unique();
            match tensor.store {
                Store::Memory { place, offset, .. } => {
                    ids.push(id);
                    memory.push(Bound {
                        place,
                        offset,
                        bits: tensor.dtype.bits(),
                    });
                }
                Store::Scalar(value) => {
                    scalar_ids.push(id);
                    scalars.push(value);
                }
                Store::Number(value) => {
                    number_ids.push(id);
                    numbers.push(value);
                }
                Store::Spare(_) => spare_ids.push(id),
                Store::Virtual => {}
            }
        }
        let spares = spare_ids.len();
        ids.extend([number_ids, spare_ids, scalar_ids].concat());
        Self {
            ids,
            memory,
            numbers,
            spares,
            scalars: scalars.into(),
        }
    }
}

impl Bound {
    fn address(self, addresses: &Addresses<'_>) -> u64 {
        addresses.at(self.place, self.offset, self.bits)
    }
}

impl Stage {
    pub(super) fn new(
        description: &GraphDescription,
        handle: Arc<Handle>,
        ready: Arc<Ready>,
        numbers: &Numbers,
    ) -> Attempt<Self> {
        let bindings = Bindings::of(description);
        let of_device = bindings
            .numbers
            .iter()
            .map(|&number| numbers.on_device(number));
        Ok(Self {
            pack: Mutex::new(None),
            ready,
            handle,
            numbers: of_device.collect::<Attempt<_>>()?,
            bindings,
        })
    }

    /// The scratch memory of a run, in bytes.
    pub(super) fn scratch_bytes(&self) -> usize {
        with_spares(self.ready.plan.workspace, self.bindings.spares)
    }

    pub(super) fn plan(&self) -> &ExecutionPlan {
        &self.ready.plan
    }

    /// Enqueues one run.
    ///
    /// # Safety
    /// As of [`Prepared::enqueue`](crate::run::Prepared::enqueue); the device is current.
    pub(super) unsafe fn enqueue(&self, stream: &Stream, addresses: &Addresses<'_>) -> Attempt<()> {
        let mut pack = self.pack.lock().unwrap_or_else(PoisonError::into_inner);
        let pack = match &mut *pack {
            Some(pack) if self.is_current(pack, addresses) => pack,
            stale => stale.insert(self.pack(addresses)?),
        };
        // SAFETY: the caller vouches for the memory behind the addresses; the pack names an
        // address for each tensor of the plan that has one, and scalars live as long as it.
        unsafe {
            self.handle
                .execute(stream, &self.ready.plan.descriptor, &pack.descriptor)
        }
    }

    fn is_current(&self, pack: &Pack, addresses: &Addresses<'_>) -> bool {
        let bound = self.bindings.memory.iter().zip(&pack.memory);
        pack.scratch == addresses.scratch
            && bound
                .into_iter()
                .all(|(bound, &address)| bound.address(addresses) == address)
    }

    fn pack(&self, addresses: &Addresses<'_>) -> Attempt<Pack> {
        let bindings = &self.bindings;
        let memory: Vec<u64> = bindings
            .memory
            .iter()
            .map(|bound| bound.address(addresses))
            .collect();
        let on_device = memory.iter().map(|&address| address as *mut c_void);
        let on_host = bindings
            .scalars
            .iter()
            .map(|scalar| std::ptr::from_ref(scalar).cast_mut().cast());
        let numbers = self
            .numbers
            .iter()
            .map(|number| number.address() as *mut c_void);
        let first = addresses.scratch + spares_start(self.ready.plan.workspace) as u64;
        let spares = (0..bindings.spares).map(|at| (first + (at * SPARE) as u64) as *mut c_void);
        let pointers: Vec<*mut c_void> = on_device
            .chain(numbers)
            .chain(spares)
            .chain(on_host)
            .collect();
        let scratch = addresses.scratch as *mut c_void;
        let library = self.handle.library();
        let descriptor = Descriptor::new(library, Kind::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?
            .with_integers(Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, &bindings.ids)?
            .with_pointers(Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, &pointers)?
            .with_pointers(Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, &[scratch])?
            .finalized()?;
        Ok(Pack {
            descriptor,
            memory,
            scratch: addresses.scratch,
        })
    }
}

/// The scratch memory of a graph whose plan asks for this much.
pub(super) fn scratch_bytes(workspace: usize, description: &GraphDescription) -> usize {
    with_spares(workspace, Bindings::of(description).spares)
}

fn with_spares(workspace: usize, spares: usize) -> usize {
    match spares {
        0 => workspace,
        spares => spares_start(workspace) + spares * SPARE,
    }
}

fn spares_start(workspace: usize) -> usize {
    workspace.next_multiple_of(SPARE)
}

/// From one spare number to the next, in bytes: as much as any tensor is aligned to.
const SPARE: usize = 16;

#[cfg(test)]
mod tests {
    use tintype_tensor::DType;

    use super::super::graph::Tensor;
    use super::*;
    use crate::View;

    #[test]
    fn every_tensor_with_an_address_is_bound_and_no_other() {
        let mut graph = GraphDescription::default();
        let view = View::contiguous(Place::Buffer(2), DType::BF16, &[4, 64]);
        graph.tensor(Tensor::scalar(0.5, 1));
        graph.tensor(Tensor::of_view(&view.slice(1, 16, 32)));
        graph.tensor(Tensor::passing(&[4, 16], DType::F32));
        graph.tensor(Tensor::of_view(&view));
        graph.tensor(Tensor::one(Store::Spare(0), 4));
        graph.tensor(Tensor::one(Store::Number(2.0), 4));
        let bindings = Bindings::of(&graph);
        assert_eq!(bindings.ids, [2, 4, 6, 5, 1]);
        assert_eq!((&bindings.numbers[..], bindings.spares), (&[2.0][..], 1));
        assert_eq!(scratch_bytes(100, &graph), 112 + 16);
        assert_eq!(*bindings.scalars, [0.5]);
        let of = |place: Place| match place {
            Place::Buffer(2) => 0x1000,
            _ => 0,
        };
        let addresses = Addresses {
            of: &of,
            scratch: 0,
        };
        let found: Vec<u64> = bindings
            .memory
            .iter()
            .map(|bound| bound.address(&addresses))
            .collect();
        assert_eq!(found, [0x1020, 0x1000]);
    }
}
