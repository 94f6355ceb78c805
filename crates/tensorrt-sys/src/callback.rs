//! What the library calls: objects of C++ interfaces that are implemented in Rust.
//!
//! An [`Implementation`] is such an object. Its first word points to a vtable whose functions
//! turn the arguments into Rust's and call the trait: [`Logger`], [`StreamWriter`],
//! [`StreamReader`], [`ProgressMonitor`], [`GpuAllocator`]; [`ErrorRecorder`] is a type that
//! collects. The library calls from several threads, so they all are [`Sync`] and take `&self`.
//! A panic must not cross into C++: it is caught, reported, and becomes a failure.
//!
//! ```
//! use std::ffi::CStr;
//! use tintype_tensorrt_sys::Severity;
//! use tintype_tensorrt_sys::callback::{Implementation, Logger};
//!
//! struct Print;
//! impl Logger for Print {
//!     fn log(&self, _severity: Severity, message: &CStr) {
//!         println!("{}", message.to_string_lossy());
//!     }
//! }
//! let logger = Implementation::logger(Print);
//! assert!(!logger.as_ptr().is_null());
//! ```

mod allocator;
mod error_recorder;
mod logger;
mod progress;
mod stream;

use std::ffi::{CStr, c_char};
use std::fmt;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

pub use allocator::GpuAllocator;
pub use error_recorder::ErrorRecorder;
pub use logger::{Logger, TracingLogger};
pub use progress::ProgressMonitor;
pub use stream::{StreamReader, StreamWriter};

use crate::APILanguage;

/// An object of the C++ interface `I` that `T` implements.
///
/// It must outlive every object of the library that it was given to.
pub struct Implementation<I, T> {
    object: NonNull<Shim<I, T>>,
}

/// The interface is the first member, so that a pointer to it is one to the whole.
#[repr(C)]
struct Shim<I, T> {
    interface: I,
    implementation: T,
}

impl<I, T> Implementation<I, T> {
    fn new(interface: I, implementation: T) -> Self {
        let shim = Box::new(Shim {
            interface,
            implementation,
        });
        Self {
            object: NonNull::from(Box::leak(shim)),
        }
    }

    /// The object as the library takes it; valid as long as this is not dropped.
    pub fn as_ptr(&self) -> *mut I {
        self.object.as_ptr().cast()
    }

    /// What implements it. The library must not have the object any more.
    pub fn into_inner(self) -> T {
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: the pointer came of a box and is given back once, since nothing is dropped.
        unsafe { Box::from_raw(this.object.as_ptr()) }.implementation
    }
}

impl<I, T> Deref for Implementation<I, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the object lives as long as `self`, and nobody has a mutable reference to it.
        unsafe { &self.object.as_ref().implementation }
    }
}

impl<I, T> Drop for Implementation<I, T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came of a box and this is the only place that drops it.
        drop(unsafe { Box::from_raw(self.object.as_ptr()) });
    }
}

impl<I, T> fmt::Debug for Implementation<I, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Implementation({:?})", self.object)
    }
}

// SAFETY: the object is a box of a `T`; the interface beside it is a pointer to a constant.
unsafe impl<I, T: Send> Send for Implementation<I, T> {}

// SAFETY: as above; all access to the `T` is by shared reference.
unsafe impl<I, T: Sync> Sync for Implementation<I, T> {}

/// The implementation behind an object that the library calls.
///
/// # Safety
/// `this` is what [`Implementation::as_ptr`] of an `Implementation<I, T>` gave, and that is alive
/// while the result is used.
unsafe fn implementation<'a, I, T>(this: *mut I) -> &'a T {
    // SAFETY: the interface is the first member of a `Shim<I, T>`; access is shared.
    unsafe { &(*this.cast::<Shim<I, T>>()).implementation }
}

/// Runs what the library called; a panic gives `failure`.
fn guarded<R>(what: &'static str, failure: R, body: impl FnOnce() -> R) -> R {
    // Whatever a panic leaves behind is the implementation's own: it is called as before.
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        tracing::error!("{what} panicked; TensorRT sees a failure");
        failure
    })
}

/// A text of the library; empty if there is none.
///
/// # Safety
/// The pointer is null or points to a text that ends with a zero and lives while it is used.
unsafe fn text<'a>(pointer: *const c_char) -> &'a CStr {
    if pointer.is_null() {
        return c"";
    }
    // SAFETY: as the caller says.
    unsafe { CStr::from_ptr(pointer) }
}

/// The language that every interface here claims: what differs for others is plugins' business.
unsafe extern "C" fn api_language<I>(_this: *mut I) -> APILanguage {
    APILanguage::CPP
}

/// The library never owns what it is given here, so that a destructor has nothing to do.
unsafe extern "C" fn destructor<I>(_this: *mut I) {}

/// `getInterfaceInfo` of an interface.
macro_rules! info {
    ($vtable:ident, $interface:ident) => {{
        unsafe extern "C" fn info(_this: *mut crate::$interface) -> crate::InterfaceInfo {
            crate::$vtable::INFO
        }
        info
    }};
}
use info;

#[cfg(test)]
#[path = "callback_tests.rs"]
mod tests;
