//! Pinned host memory, and the way of weights through it to the device.
//!
//! Copies from ordinary memory stop the host; those from pinned memory do not, and run at
//! the full speed of the bus. [`Staging`] holds a few pinned buffers in a ring, so that a
//! tensor of any size goes through a bounded amount of them while the next is read.
//!
//! ```no_run
//! # use tintype_device::{Device, DeviceBuffer, Result, Staging};
//! # fn f() -> Result<()> {
//! let stream = Device::open(0)?.new_stream()?;
//! let mut staging = Staging::new(&stream)?;
//! let buffer = DeviceBuffer::allocate(&stream, 1000)?;
//! staging.upload(&[1; 1000], &buffer, 0)?;
//! # Ok(()) }
//! ```

use std::ffi::c_void;
use std::fmt;

use cudarc::driver::result;
use rayon::prelude::*;

use crate::{Device, DeviceBuffer, Event, Result, Stream};

/// Host memory that the device can reach and the system does not move.
pub struct PinnedBuffer {
    pointer: *mut u8,
    len: usize,
    device: Device,
}

// SAFETY: the memory belongs to this value alone and is plain bytes, like a boxed slice.
unsafe impl Send for PinnedBuffer {}
// SAFETY: a shared reference only reads.
unsafe impl Sync for PinnedBuffer {}

impl PinnedBuffer {
    /// `len` bytes of zeros.
    pub fn allocate(device: &Device, len: usize) -> Result<Self> {
        device.bind()?;
        // SAFETY: the memory is set below before anyone reads it.
        let allocated = unsafe { result::malloc_host(len.max(1), 0) };
        let pointer: *mut c_void = device.check("pinning host memory", allocated)?;
        let pointer = pointer.cast::<u8>();
        // SAFETY: the driver gave at least `len` bytes.
        unsafe { pointer.write_bytes(0, len) };
        Ok(Self {
            pointer,
            len,
            device: device.clone(),
        })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `len` initialized bytes that live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.pointer, self.len) }
    }

    /// The bytes, to be written. No copy from or to them may be under way.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed for as long as the slice.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.len) }
    }
}

impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        // SAFETY: the buffer's own allocation, freed once.
        let freed = self
            .device
            .bind()
            .map(|()| unsafe { result::free_host(self.pointer.cast()) });
        if let Ok(Err(error)) = freed {
            tracing::warn!("{}: freeing pinned memory: {error:?}", self.device.name());
        }
    }
}

impl fmt::Debug for PinnedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pinned bytes", self.len)
    }
}

/// A ring of pinned buffers that feeds one stream.
#[derive(Debug)]
pub struct Staging {
    stream: Stream,
    slots: Vec<Slot>,
    /// The slot that is being filled.
    slot: usize,
    /// Its first free byte.
    cursor: usize,
    /// All bytes uploaded so far.
    uploaded: u64,
}

#[derive(Debug)]
struct Slot {
    buffer: PinnedBuffer,
    /// When the device has read the slot; `None` while it is unused.
    read: Option<Event>,
}

impl Staging {
    /// Three buffers of 16 MiB, for copies in `stream`.
    pub fn new(stream: &Stream) -> Result<Self> {
        Self::with_sizes(stream, 3, 16 << 20)
    }

    /// `count` buffers (at least 2) of `bytes` each (at least 4096).
    pub fn with_sizes(stream: &Stream, count: usize, bytes: usize) -> Result<Self> {
        let slot = || {
            let buffer = PinnedBuffer::allocate(stream.device(), bytes.max(4096))?;
            Ok(Slot { buffer, read: None })
        };
        Ok(Self {
            stream: stream.clone(),
            slots: (0..count.max(2)).map(|_| slot()).collect::<Result<_>>()?,
            slot: 0,
            cursor: 0,
            uploaded: 0,
        })
    }

    /// The stream that copies run in.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Bytes uploaded since it was made.
    pub fn uploaded(&self) -> u64 {
        self.uploaded
    }

    /// Copies `bytes` to `start` of `target`, in the order of the stream. The bytes may
    /// change or go away as soon as this returns; it waits only for a free slot.
    ///
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) if they do not fit.
    pub fn upload(&mut self, bytes: &[u8], target: &DeviceBuffer, start: usize) -> Result<()> {
        let end = start.saturating_add(bytes.len());
        target.expect_range("uploading", &(start..end))?;
        target.expect_device(self.stream.device())?;
        self.stream.device().bind()?;
        let (mut rest, mut address) = (bytes, target.address() + start as u64);
        while !rest.is_empty() {
            let taken = self.copy_some(rest, address)?;
            rest = &rest[taken..];
            address += taken as u64;
        }
        self.uploaded += bytes.len() as u64;
        target.read_by(&self.stream)
    }

    /// Copies all of a pinned buffer to the beginning of `target`, in the order of the stream and
    /// past the ring; gives the event after which it has been read.
    ///
    /// # Safety
    /// The buffer is neither written nor freed before that event.
    pub(crate) unsafe fn upload_pinned(
        &mut self,
        source: &PinnedBuffer,
        target: &DeviceBuffer,
    ) -> Result<Event> {
        target.expect_range("uploading", &(0..source.len))?;
        target.expect_device(self.stream.device())?;
        self.stream.device().bind()?;
        if source.len > 0 {
            // SAFETY: the target's range was checked; the source stays as the caller promises, or,
            // without an event, until the stream has been waited for below.
            let copied = unsafe {
                let bytes = source.bytes();
                result::memcpy_htod_async(target.address(), bytes, self.stream.handle())
            };
            let device = self.stream.device();
            device.check("copying to the device", copied)?;
        }
        self.uploaded += source.len as u64;
        let recorded = target
            .read_by(&self.stream)
            .and_then(|()| self.stream.record());
        if recorded.is_err() {
            self.stream.synchronize()?;
        }
        recorded
    }

    /// Copies what fits into the slot at hand; gives its length.
    fn copy_some(&mut self, bytes: &[u8], address: u64) -> Result<usize> {
        if self.cursor >= self.slots[self.slot].buffer.len {
            self.advance()?;
        }
        let slot = &mut self.slots[self.slot];
        let range = part_of_slot(self.cursor, slot.buffer.len, bytes.len());
        let part = &mut slot.buffer.bytes_mut()[range.clone()];
        copy_bytes(part, &bytes[..range.len()]);
        // SAFETY: the target's range was checked; the slot's bytes are not written again before
        // the event that `advance` records, and are not freed before the stream is idle.
        let copied = unsafe { result::memcpy_htod_async(address, part, self.stream.handle()) };
        self.stream
            .device()
            .check("copying to the device", copied)?;
        self.cursor = range.end.next_multiple_of(ALIGNMENT);
        Ok(range.len())
    }

    /// Goes on to the next slot, once the device has read it.
    fn advance(&mut self) -> Result<()> {
        self.slots[self.slot].read = Some(self.stream.record()?);
        let next = (self.slot + 1) % self.slots.len();
        if let Some(read) = self.slots[next].read.take() {
            read.synchronize()?;
        }
        self.slot = next;
        self.cursor = 0;
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // The device may still be reading.
        if let Err(error) = self.stream.synchronize() {
            tracing::warn!("{error}");
        }
    }
}

/// One core alone copies slower than the bus, and reading a mapped file slower still.
pub(crate) fn copy_bytes(target: &mut [u8], source: &[u8]) {
    const PART: usize = 1 << 20;
    if target.len() <= PART {
        return target.copy_from_slice(source);
    }
    let parts = target.par_chunks_mut(PART).zip(source.par_chunks(PART));
    parts.for_each(|(target, source)| target.copy_from_slice(source));
}

/// The bytes of a slot of `len` that `wanted` bytes take from `cursor` on.
fn part_of_slot(cursor: usize, len: usize, wanted: usize) -> std::ops::Range<usize> {
    cursor..cursor + wanted.min(len.saturating_sub(cursor))
}

/// Copies from aligned addresses are faster.
const ALIGNMENT: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_copied_in_parts() {
        for len in [0, 1, 1 << 20, (3 << 20) + 5] {
            let source: Vec<u8> = (0..len).map(|index| (index % 251) as u8).collect();
            let mut target = vec![0; len];
            copy_bytes(&mut target, &source);
            assert!(target == source, "{len} bytes");
        }
    }

    #[test]
    fn a_slot_takes_what_fits() {
        assert_eq!(part_of_slot(0, 4096, 100), 0..100);
        assert_eq!(part_of_slot(4032, 4096, 100), 4032..4096);
        assert_eq!(part_of_slot(4096, 4096, 100), 4096..4096);
    }
}
