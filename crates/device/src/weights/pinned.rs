//! A tensor in pinned memory, from which the device reads without the host's help.
//!
//! ```no_run
//! # use tintype_device::{Device, DeviceBuffer, PinnedTensor, Result, Staging};
//! # fn f(tensor: tintype_tensor::Tensor) -> Result<()> {
//! let stream = Device::open(0)?.new_stream()?;
//! let pinned = PinnedTensor::copy_of(&tensor, stream.device())?;
//! let buffer = DeviceBuffer::allocate(&stream, pinned.byte_len())?;
//! pinned.upload(&mut Staging::new(&stream)?, &buffer)?;
//! # Ok(()) }
//! ```

use std::fmt;
use std::sync::{Mutex, PoisonError};

use tintype_tensor::{DType, Shape, Tensor};

use crate::staging::copy_bytes;
use crate::{Device, DeviceBuffer, Event, PinnedBuffer, Result, Staging};

/// A tensor in pinned memory.
pub struct PinnedTensor {
    dtype: DType,
    shape: Shape,
    buffer: PinnedBuffer,
    /// When the device has read it.
    read: Mutex<Vec<Event>>,
}

impl PinnedTensor {
    /// A copy of a tensor.
    ///
    /// # Errors
    /// What the driver says if so much memory cannot be pinned.
    pub fn copy_of(tensor: &Tensor, device: &Device) -> Result<Self> {
        let mut buffer = PinnedBuffer::allocate(device, tensor.bytes().len())?;
        copy_bytes(buffer.bytes_mut(), tensor.bytes());
        Ok(Self {
            dtype: tensor.dtype(),
            shape: tensor.shape().clone(),
            buffer,
            read: Mutex::default(),
        })
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The sizes of the axes.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The bytes of the elements.
    pub fn byte_len(&self) -> usize {
        self.buffer.bytes().len()
    }

    /// Enqueues a copy to the beginning of `target`; the host does not wait.
    ///
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) if it does not fit.
    pub fn upload(&self, staging: &mut Staging, target: &DeviceBuffer) -> Result<()> {
        // SAFETY: nobody writes the buffer, and it is freed after the event: see `drop`.
        let read = unsafe { staging.upload_pinned(&self.buffer, target) }?;
        let mut events = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        // One that cannot be asked is waited for at the end.
        events.retain(|event| !event.is_complete().unwrap_or(false));
        events.push(read);
        Ok(())
    }
}

impl Drop for PinnedTensor {
    fn drop(&mut self) {
        let events = self.read.get_mut().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            if let Err(error) = event.synchronize() {
                tracing::warn!("{error}");
            }
        }
    }
}

impl fmt::Debug for PinnedTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{} in pinned memory", self.dtype, self.shape)
    }
}
