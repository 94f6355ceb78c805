//! Memory of the host by numbers as addresses; what is not allocated is a panic.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tintype_device::KeptTensor;

use super::{Heap, HostMemory, HostTensor};
use crate::{ALIGNMENT, Error, Result};

impl Heap {
    pub(super) fn allocate(self: &Arc<Self>, bytes: usize) -> Result<HostMemory> {
        let free = self.free();
        if bytes > free {
            return Err(Error::Device(tintype_device::Error::OutOfMemory {
                device: "host:0".to_owned(),
                needed: bytes,
                free,
                total: self.total.load(Ordering::Relaxed),
            }));
        }
        // What nobody has written is no number; blocks are apart, so that bounds show.
        self.allocations.fetch_add(1, Ordering::Relaxed);
        let size = (bytes + ALIGNMENT).next_multiple_of(ALIGNMENT) as u64;
        let address = self.next.fetch_add(size, Ordering::Relaxed);
        self.blocks
            .lock()
            .unwrap()
            .insert(address, vec![0xff; bytes]);
        Ok(HostMemory {
            heap: Arc::clone(self),
            address,
        })
    }

    pub(super) fn free(&self) -> usize {
        let blocks = self.blocks.lock().unwrap();
        let used: usize = blocks.values().map(Vec::len).sum();
        self.total.load(Ordering::Relaxed).saturating_sub(used)
    }

    /// Does something with the bytes from an address to the end of its memory.
    fn at<T>(&self, address: u64, work: impl FnOnce(&mut [u8]) -> T) -> T {
        let mut blocks = self.blocks.lock().unwrap();
        let block = blocks.range_mut(..=address).next_back();
        let (start, block) = block.expect("nothing was ever allocated there");
        let offset = (address - start) as usize;
        assert!(offset <= block.len(), "{address} is not allocated");
        work(&mut block[offset..])
    }

    pub(super) fn read(&self, address: u64, bytes: usize) -> Vec<u8> {
        self.at(address, |rest| rest[..bytes].to_vec())
    }

    pub(super) fn bytes_of(&self, tensor: &HostTensor) -> Vec<u8> {
        self.read(tensor.memory.address, KeptTensor::byte_len(tensor))
    }

    pub(super) fn write(&self, address: u64, bytes: &[u8]) {
        self.at(address, |rest| rest[..bytes.len()].copy_from_slice(bytes));
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        self.heap.blocks.lock().unwrap().remove(&self.address);
    }
}
