//! Memory of the device, in the order of a stream.
//!
//! A buffer is allocated and freed in the order of the stream it belongs to: it can be used
//! there at once, and dropping it waits for nothing. Work in another stream must begin after
//! an event of the first and be told to the buffer by [`DeviceBuffer::read_by`], so that the
//! memory is not given away under it.
//!
//! ```no_run
//! # use tintype_device::{Device, DeviceBuffer, Result};
//! # fn f() -> Result<()> {
//! let stream = Device::open(0)?.new_stream()?;
//! let buffer = DeviceBuffer::allocate(&stream, 4)?;
//! buffer.fill(0..4, 7, &stream)?;
//! assert_eq!(buffer.to_host(0..4, &stream)?, [7; 4]);
//! # Ok(()) }
//! ```

use std::fmt;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use cudarc::driver::result;
use cudarc::driver::sys::CUresult;

use crate::{Device, Error, Event, Result, Stream};

/// Bytes in the memory of a device, aligned to 256.
pub struct DeviceBuffer {
    address: u64,
    len: usize,
    stream: Stream,
    /// The last reads in other streams; freeing comes after them.
    readers: Mutex<Vec<(Stream, Event)>>,
}

impl DeviceBuffer {
    /// `len` bytes of any content, to be used in `stream` from now on.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] with what is free.
    pub fn allocate(stream: &Stream, len: usize) -> Result<Self> {
        let device = stream.device();
        device.bind()?;
        // The driver refuses to allocate nothing.
        let bytes = len.max(1);
        let allocated = if device.has_pools() {
            // SAFETY: the stream lives; nobody reads the memory before it is written.
            unsafe { result::malloc_async(stream.handle(), bytes) }
        } else {
            // SAFETY: nobody reads the memory before it is written.
            unsafe { result::malloc_sync(bytes) }
        };
        let address = match allocated {
            Err(error) if error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                return Err(device.out_of_memory(len));
            }
            other => device.check("allocating memory", other)?,
        };
        device.count_allocated(len);
        Ok(Self {
            address,
            len,
            stream: stream.clone(),
            readers: Mutex::default(),
        })
    }

    /// The address on the device, for kernels and libraries.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The stream it belongs to.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The device it lies on.
    pub fn device(&self) -> &Device {
        self.stream.device()
    }

    /// Keeps the memory until the work so far in `stream` is done.
    pub fn read_by(&self, stream: &Stream) -> Result<()> {
        if stream.is_same(&self.stream) {
            return Ok(());
        }
        let event = stream.record()?;
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|(reader, _)| !reader.is_same(stream));
        readers.push((stream.clone(), event));
        Ok(())
    }

    /// Lets later work in `stream` write the memory: it comes after all work so far in the
    /// buffer's own stream, and after all reads that the buffer was told of.
    pub fn write_in(&self, stream: &Stream) -> Result<()> {
        if !stream.is_same(&self.stream) {
            stream.wait(&self.stream.record()?)?;
        }
        let readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let others = readers.iter().filter(|(reader, _)| !reader.is_same(stream));
        for (_, event) in others {
            stream.wait(event)?;
        }
        Ok(())
    }

    /// Sets each byte of a range.
    pub fn fill(&self, range: Range<usize>, byte: u8, stream: &Stream) -> Result<()> {
        self.expect_range("filling", &range)?;
        self.device().bind()?;
        if range.is_empty() {
            return Ok(());
        }
        let address = self.address + range.start as u64;
        // SAFETY: the range lies within this buffer, which outlives the work in its stream.
        let filled =
            unsafe { result::memset_d8_async(address, byte, range.len(), stream.handle()) };
        self.device().check("filling memory", filled)?;
        self.read_by(stream)
    }

    /// Copies `range` of `source`, on the same device, to `start` of this buffer.
    pub fn copy_from(
        &self,
        start: usize,
        source: &Self,
        range: Range<usize>,
        stream: &Stream,
    ) -> Result<()> {
        source.expect_range("copying", &range)?;
        let end = start.saturating_add(range.len());
        self.expect_range("copying", &(start..end))?;
        self.expect_device(source.device())?;
        if range.is_empty() {
            return Ok(());
        }
        self.device().bind()?;
        let from = source.address + range.start as u64;
        let to = self.address + start as u64;
        // SAFETY: both ranges lie within buffers that outlive the work, which is told to them.
        let copied = unsafe { result::memcpy_dtod_async(to, from, range.len(), stream.handle()) };
        self.device().check("copying within the device", copied)?;
        source.read_by(stream)?;
        self.read_by(stream)
    }

    /// Exchanges `range` of two buffers on one device, piece by piece.
    pub fn exchange(&self, other: &Self, range: Range<usize>, stream: &Stream) -> Result<()> {
        const PIECE: usize = 16 << 20;
        self.expect_range("exchanging", &range)?;
        other.expect_range("exchanging", &range)?;
        let between = Self::allocate(stream, PIECE.min(range.len()))?;
        for start in range.clone().step_by(PIECE) {
            let piece = start..range.end.min(start + PIECE);
            between.copy_from(0, self, piece.clone(), stream)?;
            self.copy_from(start, other, piece.clone(), stream)?;
            other.copy_from(start, &between, 0..piece.len(), stream)?;
        }
        Ok(())
    }

    /// The bytes of a range, once all work so far in `stream` is done; waits for it.
    pub fn to_host(&self, range: Range<usize>, stream: &Stream) -> Result<Vec<u8>> {
        self.expect_range("copying to the host", &range)?;
        let mut bytes = vec![0u8; range.len()];
        if range.is_empty() {
            return Ok(bytes);
        }
        self.device().bind()?;
        let from = self.address + range.start as u64;
        // SAFETY: the range lies within this buffer, and the vector lives until the stream
        // has been waited for below, whether the copy was taken or not.
        let copied = unsafe { result::memcpy_dtoh_async(&mut bytes, from, stream.handle()) };
        let waited = stream.synchronize();
        self.device().check("copying to the host", copied)?;
        waited.map(|()| bytes)
    }

    pub(crate) fn expect_range(&self, action: &'static str, range: &Range<usize>) -> Result<()> {
        if range.start <= range.end && range.end <= self.len {
            return Ok(());
        }
        Err(Error::Range {
            action,
            start: range.start,
            end: range.end,
            len: self.len,
        })
    }

    pub(crate) fn expect_device(&self, other: &Device) -> Result<()> {
        if self.device().is_same(other) {
            return Ok(());
        }
        Err(Error::ForeignDevice {
            expected: self.device().name().to_string(),
            found: other.name().to_string(),
        })
    }

    /// Frees the memory after all reads; errors can be told to nobody.
    fn free(&mut self) -> Result<()> {
        let device = self.stream.device();
        device.bind()?;
        let readers = self.readers.get_mut();
        for (_, event) in readers.unwrap_or_else(PoisonError::into_inner).drain(..) {
            self.stream.wait(&event)?;
        }
        let freed = if device.has_pools() {
            // SAFETY: the buffer's own allocation, freed once, after all that was enqueued.
            unsafe { result::free_async(self.address, self.stream.handle()) }
        } else {
            self.stream.synchronize()?;
            // SAFETY: the buffer's own allocation, freed once, and the stream is idle.
            unsafe { result::free_sync(self.address) }
        };
        device.check("freeing memory", freed)
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        self.stream.device().count_freed(self.len);
        if let Err(error) = self.free() {
            tracing::warn!("{error}");
        }
    }
}

impl fmt::Debug for DeviceBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = self.device().name();
        write!(f, "{} bytes at {:#x} of {device}", self.len, self.address)
    }
}
