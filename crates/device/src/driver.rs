//! The NVIDIA driver: whether it is here, its version, and the devices it knows.
//!
//! The library is loaded when [`Driver::load`] is called first. It makes no context and
//! takes no memory; that is what [`Device::open`](crate::Device::open) does.
//!
//! ```
//! match tintype_device::Driver::load() {
//!     Ok(driver) => println!("CUDA {} and {} devices", driver.version(), driver.devices()?.len()),
//!     Err(error) => println!("{error}"),
//! }
//! # Ok::<(), tintype_device::Error>(())
//! ```

use std::ffi::c_int;
use std::fmt;

use cudarc::driver::result;
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};

use crate::{Error, Result};

/// The loaded driver. A cheap handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Driver {
    version: CudaVersion,
}

/// A version of CUDA, as drivers and NVRTC state it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CudaVersion {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// What a GPU can do: 9.0 for a Hopper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ComputeCapability {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// A device that the driver knows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// Its number, from 0, in the order of `CUDA_VISIBLE_DEVICES`.
    pub ordinal: usize,
    /// Its name, for example `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// What it can do.
    pub compute_capability: ComputeCapability,
    /// Its memory in bytes.
    pub memory_bytes: usize,
    /// The number of its multiprocessors.
    pub multiprocessors: usize,
    /// The most shared memory that a block can ask for, in bytes.
    pub shared_bytes: usize,
    /// Its level 2 cache in bytes.
    pub cache_bytes: usize,
}

impl Driver {
    /// Loads the driver's library and initializes it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where there is no library, where it is too old, and where it
    /// finds no device.
    pub fn load() -> Result<Self> {
        // SAFETY: loading the driver's library runs its initializers, which is what it is for.
        if !unsafe { sys::is_culib_present() } {
            return Err(unavailable("there is no libcuda.so.1", INSTALL));
        }
        check_symbols()?;
        result::init().map_err(|error| unavailable(&explain(error), INITIALIZE))?;
        let mut version: c_int = 0;
        // SAFETY: the symbol is there, and the pointer is to a live integer.
        let status = unsafe { sys::cuDriverGetVersion(&raw mut version) };
        status
            .result()
            .map_err(|error| unavailable(&explain(error), INITIALIZE))?;
        let version = CudaVersion::from_thousands(version.unsigned_abs());
        if version < OLDEST {
            let reason = format!("the driver is for CUDA {version}, needed is {OLDEST}");
            return Err(unavailable(&reason, "update the NVIDIA driver"));
        }
        Ok(Self { version })
    }

    /// The newest CUDA that the driver is made for.
    pub fn version(&self) -> CudaVersion {
        self.version
    }

    /// All devices, by number.
    ///
    /// # Errors
    /// [`Error::Driver`] if the driver does not answer.
    pub fn devices(&self) -> Result<Vec<DeviceInfo>> {
        let failed = |error| driver_error("cuda", "counting the devices", error);
        let count = result::device::get_count().map_err(failed)?;
        (0..usize::try_from(count).unwrap_or(0))
            .map(|ordinal| self.device(ordinal))
            .collect()
    }

    /// The device of this number.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if there is none.
    pub fn device(&self, ordinal: usize) -> Result<DeviceInfo> {
        let number = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
        let device = result::device::get(number).map_err(|error| {
            let reason = format!("there is no device {ordinal} ({})", explain(error));
            unavailable(&reason, "choose one that `doctor` lists")
        })?;
        read_info(ordinal, device)
            .map_err(|error| driver_error(&format!("cuda:{ordinal}"), "asking for it", error))
    }
}

fn read_info(
    ordinal: usize,
    device: sys::CUdevice,
) -> std::result::Result<DeviceInfo, result::DriverError> {
    let attribute = |attribute: Attribute| {
        // SAFETY: the handle came from the driver for a device that exists.
        let value = unsafe { result::device::get_attribute(device, attribute) };
        value.map(i32::unsigned_abs)
    };
    Ok(DeviceInfo {
        ordinal,
        name: result::device::get_name(device)?,
        compute_capability: ComputeCapability {
            major: attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            minor: attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        },
        // SAFETY: as above.
        memory_bytes: unsafe { result::device::total_mem(device) }?,
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize,
        shared_bytes: attribute(SHARED_BYTES)? as usize,
        cache_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as usize,
    })
}

impl CudaVersion {
    /// From 1000 · major + 10 · minor.
    pub(crate) fn from_thousands(number: u32) -> Self {
        Self {
            major: number / 1000,
            minor: number % 1000 / 10,
        }
    }
}

impl fmt::Display for CudaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl fmt::Display for ComputeCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// An error of the driver, said of a device.
pub(crate) fn driver_error(device: &str, action: &str, error: result::DriverError) -> Error {
    Error::Driver {
        device: device.to_owned(),
        action: action.to_owned(),
        code: explain(error),
    }
}

/// The driver's name of a failure and what it means.
fn explain(error: result::DriverError) -> String {
    let text = |text: std::result::Result<&std::ffi::CStr, _>| {
        text.map_or_else(
            |_: result::DriverError| "unknown".to_owned(),
            |text| text.to_string_lossy().into_owned(),
        )
    };
    format!(
        "{} ({})",
        text(error.error_name()),
        text(error.error_string())
    )
}

/// cudarc panics on a symbol that the library lacks, so all are looked up beforehand.
fn check_symbols() -> Result<()> {
    // SAFETY: the library was found just now, so this does not panic.
    let library = unsafe { sys::culib() };
    for name in SYMBOLS {
        // SAFETY: the symbol is only looked up, not called.
        let found = unsafe { library.get::<*const ()>(name.as_bytes()) };
        if found.is_err() {
            let reason = format!("its library has no `{name}`");
            return Err(unavailable(&reason, "update the NVIDIA driver"));
        }
    }
    Ok(())
}

fn unavailable(reason: &str, remedy: &str) -> Error {
    Error::Unavailable {
        what: "the NVIDIA driver",
        reason: reason.to_owned(),
        remedy: remedy.to_owned(),
    }
}

const INSTALL: &str = "install the NVIDIA driver, and in a container start it with its GPUs";
const INITIALIZE: &str =
    "check with nvidia-smi that the GPU works, and `CUDA_VISIBLE_DEVICES` that it may be used";

const SHARED_BYTES: Attribute = Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;

/// Memory pools in stream order, and CUBIN of CUDA 12 compilers.
const OLDEST: CudaVersion = CudaVersion {
    major: 12,
    minor: 0,
};

/// What this crate calls, by itself or through cudarc.
const SYMBOLS: [&str; 47] = [
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetDefaultMemPool",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventElapsedTime",
    "cuEventQuery",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuInit",
    "cuLaunchKernel",
    "cuMemAllocAsync",
    "cuMemAlloc_v2",
    "cuMemFreeAsync",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemPoolGetAttribute",
    "cuMemPoolSetAttribute",
    "cuMemPoolTrimTo",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamCreate",
    "cuStreamCreateWithPriority",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuCtxGetStreamPriorityRange",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_ordered() {
        let version = CudaVersion::from_thousands(12_090);
        assert_eq!(version.to_string(), "12.9");
        assert!(version > OLDEST);
        assert!(CudaVersion::from_thousands(13_000) > version);
    }

    #[test]
    fn a_missing_driver_is_an_error_that_says_what_to_do() {
        // On a machine with a GPU there is nothing to see here.
        if let Err(error) = Driver::load() {
            assert!(matches!(error, Error::Unavailable { .. }), "{error}");
            assert!(error.to_string().contains("driver"), "{error}");
        }
    }
}
