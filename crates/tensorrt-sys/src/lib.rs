//! The ABI of TensorRT and TensorRT-RTX, and the library, loaded at run time.
//!
//! The library's interface is C++ classes. Their enums, plain structs, vtable slots and calling
//! functions are generated from NVIDIA's public headers (`cargo xtask codegen tensorrt`), so that
//! neither an SDK nor a C++ compiler is needed to build this crate. It is the only place that
//! knows slots. It works where C++ follows the Itanium ABI: Linux on `x86_64` and `aarch64`.
//!
//! It is not safe and does not try to be: nothing here knows who owns what. Use the crate
//! `tintype-tensorrt`.
//!
//! | module | holds |
//! |---|---|
//! | [`version`] | versions and the two ABI lines |
//! | [`object`] | how a virtual function is called, and what each call demands |
//! | [`callback`] | what the library calls: logger, streams, progress, errors, allocator |
//! | [`search`] | where the library is looked for |
//! | [`Library`] | the library itself |
//!
//! ```no_run
//! use tintype_tensorrt_sys::{Interface, Library, LoadOptions};
//! use tintype_tensorrt_sys::callback::{Implementation, TracingLogger};
//!
//! let library = Library::load(&LoadOptions::default())?;
//! println!("{} at {}", library.abi(), library.path().display());
//! let logger = Implementation::logger(TracingLogger);
//! // SAFETY: the logger outlives the builder, which nothing else depends on.
//! unsafe {
//!     let builder = library.create_builder(logger.as_ptr())?;
//!     builder.destroy();
//! }
//! # Ok::<(), tintype_tensorrt_sys::Error>(())
//! ```

pub mod callback;
mod error;
mod generated;
mod library;
pub mod object;
pub mod search;
mod slot;
mod structs;
pub mod version;

pub use error::Error;
pub use generated::interfaces::*;
pub use generated::objects::*;
pub use generated::types::*;
pub use library::{Library, LoadOptions};
pub use object::{Interface, Object};
pub use version::{Abi, Line, Newer, Version};

/// A `cudaStream_t`, which is a `CUstream`.
pub type CudaStream = *mut std::ffi::c_void;

/// A `cudaEvent_t`, which is a `CUevent`.
pub type CudaEvent = *mut std::ffi::c_void;
