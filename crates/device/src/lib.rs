//! One NVIDIA GPU: driver, streams, events, memory, kernels compiled at run time, and weight
//! programs that run on it.
//!
//! The GPU backends stand on this crate. It compiles and its tests pass without any NVIDIA
//! software: [`Driver`] and [`Nvrtc`] are loaded when they are asked for, and what is missing
//! is [`Error::Unavailable`] with what to install.
//!
//! What it is not: a backend. It runs no request and no step, and knows no library for
//! products, attention or convolutions.
//!
//! ```
//! use tintype_device::Device;
//!
//! match Device::open(0) {
//!     Ok(device) => println!("{device:?}, compute capability {}", device.info().compute_capability),
//!     Err(error) => println!("{error}"),
//! }
//! ```

mod cache;
mod device;
mod driver;
mod elf;
mod error;
mod kernels;
mod memory;
mod module;
mod nvrtc;
mod staging;
mod stream;
mod tensor;
mod weights;

pub use cache::{CacheKey, KernelCache, SavedFolders};
pub use device::{Device, FreeMemory, MemoryUsage};
pub use driver::{ComputeCapability, CudaVersion, DeviceInfo, Driver};
pub use error::Error;
pub use kernels::{BinaryKernel, ELEMENT_TYPES, Operand, ReduceKernel, UnaryKernel, WeightKernels};
pub use memory::DeviceBuffer;
pub use module::{Argument, Grid, Kernel, Module};
pub use nvrtc::{Nvrtc, Source, Target};
pub use staging::{PinnedBuffer, Staging};
pub use stream::{Event, Stream};
pub use tensor::CudaTensor;
pub use weights::{
    AUTO_RESERVE, DEVICE_RESERVE, Delivered, InPlace, Keeping, KeptKey, KeptParameters, KeptPlace,
    KeptRegistry, KeptTensor, KeptUsage, OVERLAY_BYTES, PinnedTensor, Sharing, WeightPlan,
    WeightProgram, WeightReport, WeightRunner, Wish, WriteOver, forecast_kept, forecast_weights,
};

/// cudarc, for what this crate does not wrap.
pub use cudarc;

/// The result of every fallible function of this crate.
pub type Result<T> = std::result::Result<T, Error>;
