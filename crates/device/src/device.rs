//! One GPU with its primary context.
//!
//! ```no_run
//! use tintype_device::{Device, DeviceBuffer};
//!
//! let device = Device::open(0)?;
//! let stream = device.new_stream()?;
//! let buffer = DeviceBuffer::allocate(&stream, 1 << 20)?;
//! assert_eq!(device.memory_usage().current, 1 << 20);
//! # Ok::<(), tintype_device::Error>(())
//! ```

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::{CudaContext, sys};

use crate::driver::driver_error;
use crate::{DeviceInfo, Driver, Error, Result, Stream};

/// A GPU. A cheap handle; the context lives as long as any handle, stream or buffer.
#[derive(Clone)]
pub struct Device {
    shared: Arc<Shared>,
}

struct Shared {
    driver: Driver,
    info: DeviceInfo,
    name: Arc<str>,
    context: Arc<CudaContext>,
    current: AtomicUsize,
    peak: AtomicUsize,
}

/// Bytes in buffers of this crate, as they were asked for. What libraries, other
/// processes and the driver itself take is in [`FreeMemory`] only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryUsage {
    /// Now.
    pub current: usize,
    /// At most, since the device was opened or [`Device::reset_peak`].
    pub peak: usize,
}

/// The memory of a device as the driver sees it, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreeMemory {
    /// Not taken by anyone.
    pub free: usize,
    /// All there is.
    pub total: usize,
}

impl Device {
    /// Opens the device of this number: retains its primary context, which frameworks and
    /// libraries of the same process share. Each opening counts its memory by itself.
    ///
    /// # Errors
    /// [`Error::Unavailable`] without a driver or device, [`Error::Driver`] if the context
    /// cannot be made.
    pub fn open(ordinal: usize) -> Result<Self> {
        let driver = Driver::load()?;
        let info = driver.device(ordinal)?;
        let name: Arc<str> = format!("cuda:{ordinal}").into();
        let failed = |error| driver_error(&name, "making its context", error);
        let context = CudaContext::new(ordinal).map_err(failed)?;
        let device = Self {
            shared: Arc::new(Shared {
                driver,
                info,
                name,
                context,
                current: AtomicUsize::new(0),
                peak: AtomicUsize::new(0),
            }),
        };
        device.keep_freed_memory(KEPT_BYTES)?;
        Ok(device)
    }

    /// The driver.
    pub fn driver(&self) -> Driver {
        self.shared.driver
    }

    /// Name, compute capability, memory.
    pub fn info(&self) -> &DeviceInfo {
        &self.shared.info
    }

    /// The name by which tensors tell their device: `cuda:0`.
    pub fn name(&self) -> &Arc<str> {
        &self.shared.name
    }

    /// A new stream, which waits for no other.
    pub fn new_stream(&self) -> Result<Stream> {
        Stream::new(self)
    }

    /// Waits for all work of the process on this device.
    pub fn synchronize(&self) -> Result<()> {
        self.check("waiting", self.context().synchronize())
    }

    /// What the driver says is free.
    pub fn free_memory(&self) -> Result<FreeMemory> {
        let (free, total) = self.check("asking for memory", self.context().mem_get_info())?;
        Ok(FreeMemory { free, total })
    }

    /// Bytes that buffers could take now: what the driver says is free, and what freed buffers have
    /// left to the next ones.
    pub fn available_memory(&self) -> Result<usize> {
        let free = self.free_memory()?.free;
        let Some(pool) = self.pool()? else {
            return Ok(free);
        };
        let ask = |attribute| {
            let mut bytes = 0u64;
            // SAFETY: the default pool lives as long as the device; these attributes are 64-bit
            // integers, which live during the call.
            let asked = unsafe {
                result::mem_pool::get_attribute(pool, attribute, (&raw mut bytes).cast())
            };
            self.check("asking its pool", asked).map(|()| bytes)
        };
        let reserved = ask(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
        let used = ask(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?;
        let idle = usize::try_from(reserved.saturating_sub(used)).unwrap_or(usize::MAX);
        Ok(free.saturating_add(idle))
    }

    /// What this crate has allocated.
    pub fn memory_usage(&self) -> MemoryUsage {
        MemoryUsage {
            current: self.shared.current.load(Ordering::Relaxed),
            peak: self.shared.peak.load(Ordering::Relaxed),
        }
    }

    /// Counts the peak from now on.
    pub fn reset_peak(&self) {
        let current = self.shared.current.load(Ordering::Relaxed);
        self.shared.peak.store(current, Ordering::Relaxed);
    }

    /// Gives memory of freed buffers back to the system, for other processes and libraries.
    pub fn trim(&self) -> Result<()> {
        let Some(pool) = self.pool()? else {
            return Ok(());
        };
        // SAFETY: the default pool of a device lives as long as the device.
        let trimmed = unsafe { result::mem_pool::trim_to(pool, 0) };
        self.check("trimming its memory", trimmed)
    }

    /// cudarc's context, for libraries that are called directly.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.shared.context
    }

    /// Whether two handles are of the same opened device.
    pub fn is_same(&self, other: &Self) -> bool {
        self.shared.context == other.shared.context
    }

    /// Makes the context current on this thread, as every call of the driver needs.
    pub fn bind(&self) -> Result<()> {
        self.check("making it current", self.context().bind_to_thread())
    }

    pub(crate) fn check<T>(
        &self,
        action: &str,
        result: std::result::Result<T, DriverError>,
    ) -> Result<T> {
        result.map_err(|error| driver_error(self.name(), action, error))
    }

    pub(crate) fn has_pools(&self) -> bool {
        self.context().has_async_alloc()
    }

    pub(crate) fn count_allocated(&self, bytes: usize) {
        let current = self.shared.current.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.shared.peak.fetch_max(current, Ordering::Relaxed);
    }

    pub(crate) fn count_freed(&self, bytes: usize) {
        self.shared.current.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn out_of_memory(&self, needed: usize) -> Error {
        let memory = self.free_memory().ok();
        Error::OutOfMemory {
            device: self.name().to_string(),
            needed,
            free: memory.map_or(0, |memory| memory.free),
            total: memory.map_or(self.info().memory_bytes, |memory| memory.total),
        }
    }

    fn pool(&self) -> Result<Option<sys::CUmemoryPool>> {
        if !self.has_pools() {
            return Ok(None);
        }
        self.bind()?;
        // SAFETY: the handle is that of a device that the driver gave.
        let pool = unsafe { result::device::get_default_mem_pool(self.context().cu_device()) };
        self.check("asking for its pool", pool).map(Some)
    }

    /// Lets freed buffers leave up to so many bytes to the next ones; 1 GiB when the device is opened.
    ///
    /// By itself a pool gives everything back whenever somebody waits for a stream, and
    /// allocating again then takes milliseconds.
    pub fn keep_freed_memory(&self, bytes: u64) -> Result<()> {
        let Some(pool) = self.pool()? else {
            return Ok(());
        };
        let mut bytes = bytes;
        let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: this attribute is a 64-bit integer, which lives during the call.
        let set =
            unsafe { result::mem_pool::set_attribute(pool, threshold, (&raw mut bytes).cast()) };
        self.check("setting up its pool", set)
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.info().name)
    }
}

/// Enough for the temporary values of a weight program of FLUX, and little beside a model.
const KEPT_BYTES: u64 = 1 << 30;
