//! Runtime, engine, context, refitter, inspector: from a plan to results.
//!
//! All of them own what they depend on, so that they can be kept and dropped in any order.
//! Tensors are [`CudaTensor`](tintype_device::CudaTensor)s. Work is put into streams and the
//! host does not wait, with these orders kept by this module, whatever streams are used:
//! - inputs are there before they are read, and stay until they were;
//! - runs of one context come one after another;
//! - a refit waits for all runs that came before it, and later runs for the refit;
//! - nothing is destroyed while the device works with it.
//!
//! ```no_run
//! use tintype_device::{CudaTensor, Device, Staging};
//! use tintype_tensor::Tensor;
//! use tintype_tensorrt::engine::ContextOptions;
//! use tintype_tensorrt::{LoadOptions, Tensorrt};
//!
//! # fn f(plan: &[u8], x: &Tensor) -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::open(0)?;
//! let runtime = Tensorrt::load(&LoadOptions::default())?.runtime(&device)?;
//! let engine = runtime.engine(plan)?;
//! let stream = device.new_stream()?;
//! let mut context = engine.context(&ContextOptions::default())?;
//! context.set_input("x", &CudaTensor::upload(x, &mut Staging::new(&stream)?)?)?;
//! let outputs = context.enqueue(&stream)?;
//! println!("{:?}", outputs["y"].download(&stream)?);
//! # Ok(()) }
//! ```

mod binding;
mod context;
mod host_memory;
mod inspector;
mod loaded;
mod options;
mod order;
mod outputs;
mod plan_reader;
mod refitter;
mod runtime;
mod runtime_cache;
mod tensors;

pub use context::Context;
pub(crate) use host_memory::HostMemory;
pub use inspector::Inspector;
pub use loaded::Engine;
pub use options::{Allocation, ContextOptions, Specialization};
pub use outputs::Outputs;
pub use refitter::{RefittableWeights, Refitter};
pub use runtime::{Runtime, Validity};
pub use runtime_cache::RuntimeCache;
pub use tensors::IoTensor;
