//! Single numbers in memory of the device, for libraries that read them nowhere else.
//!
//! Scales are powers of two, so a model has few different ones: each lies there once.
//!
//! ```ignore
//! let numbers = Numbers::new(&device);
//! let address = numbers.on_device(0.5)?.address();
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tintype_device::{Device, DeviceBuffer, Staging};

use super::library::{Attempt, Failure};

/// The numbers of a device.
#[derive(Debug)]
pub(super) struct Numbers {
    device: Device,
    /// By their bits.
    known: Mutex<HashMap<u32, Arc<DeviceBuffer>>>,
}

impl Numbers {
    pub(super) fn new(device: &Device) -> Self {
        Self {
            device: device.clone(),
            known: Mutex::default(),
        }
    }

    /// Where a number lies, for as long as the buffer is there.
    pub(super) fn on_device(&self, number: f32) -> Attempt<Arc<DeviceBuffer>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(buffer) = known.get(&number.to_bits()) {
            return Ok(buffer.clone());
        }
        let buffer = self.upload(number).map_err(|error| Failure {
            action: "bringing a number to the device".to_owned(),
            status: NO_MEMORY,
            message: error.to_string(),
        })?;
        let buffer = Arc::new(buffer);
        known.insert(number.to_bits(), buffer.clone());
        Ok(buffer)
    }

    fn upload(&self, number: f32) -> tintype_device::Result<DeviceBuffer> {
        let stream = self.device.new_stream()?;
        let buffer = DeviceBuffer::allocate(&stream, size_of::<f32>())?;
        let mut staging = Staging::with_sizes(&stream, 2, 4096)?;
        staging.upload(&number.to_le_bytes(), &buffer, 0)?;
        // Steps in other streams read it without waiting.
        stream.synchronize()?;
        Ok(buffer)
    }
}

/// As the library says it of its own.
const NO_MEMORY: u32 = 4000;
