//! The allocator of the GPU's memory that engines and contexts use.
//!
//! ```text
//! let allocator = Implementation::gpu_allocator(pool);
//! runtime.set_gpu_allocator(allocator.as_ptr())?;
//! ```

use std::ffi::c_void;
use std::ptr;

use super::{Implementation, api_language, destructor, guarded, implementation, info};
use crate::{CudaStream, IGpuAsyncAllocator, IGpuAsyncAllocatorVtable};

/// Gives and takes memory of the GPU, from any thread.
///
/// # Safety
/// What [`allocate`](Self::allocate) gives is memory of the GPU of the size and alignment asked
/// for, is usable by work that is put into the stream afterwards, and belongs to the caller until
/// [`deallocate`](Self::deallocate).
pub unsafe trait GpuAllocator: Send + Sync {
    /// `size` bytes at a multiple of `alignment` (a power of two); null if there are none.
    fn allocate(&self, size: u64, alignment: u64, stream: CudaStream) -> *mut c_void;

    /// Takes memory back, after what is in the stream; `false` for a failure.
    ///
    /// # Safety
    /// The memory came from [`allocate`](Self::allocate) and is given back once; or it is null,
    /// which is no failure.
    unsafe fn deallocate(&self, memory: *mut c_void, stream: CudaStream) -> bool;
}

impl<T: GpuAllocator> Implementation<IGpuAsyncAllocator, T> {
    const VTABLE: IGpuAsyncAllocatorVtable = IGpuAsyncAllocatorVtable {
        get_api_language: api_language,
        get_interface_info: info!(IGpuAsyncAllocatorVtable, IGpuAsyncAllocator),
        complete_destructor: destructor,
        deleting_destructor: destructor,
        allocate: allocate::<T>,
        reallocate,
        deallocate: deallocate::<T>,
        allocate_async: allocate_async::<T>,
        deallocate_async: deallocate_async::<T>,
    };

    /// An allocator for the library.
    pub fn gpu_allocator(allocator: T) -> Self {
        let vtable = &Self::VTABLE;
        Self::new(IGpuAsyncAllocator { vtable }, allocator)
    }
}

unsafe extern "C" fn allocate_async<T: GpuAllocator>(
    this: *mut IGpuAsyncAllocator,
    size: u64,
    alignment: u64,
    _flags: u32,
    stream: CudaStream,
) -> *mut c_void {
    // SAFETY: the library calls with the object that it was given.
    let allocator = unsafe { implementation::<_, T>(this) };
    guarded("the allocator", ptr::null_mut(), || {
        allocator.allocate(size, alignment, stream)
    })
}

unsafe extern "C" fn deallocate_async<T: GpuAllocator>(
    this: *mut IGpuAsyncAllocator,
    memory: *mut c_void,
    stream: CudaStream,
) -> bool {
    // SAFETY: the library calls with the object that it was given.
    let allocator = unsafe { implementation::<_, T>(this) };
    guarded("the allocator", false, || {
        // SAFETY: the library gives back what it was given.
        unsafe { allocator.deallocate(memory, stream) }
    })
}

unsafe extern "C" fn allocate<T: GpuAllocator>(
    this: *mut IGpuAsyncAllocator,
    size: u64,
    alignment: u64,
    flags: u32,
) -> *mut c_void {
    // SAFETY: the caller's promises are the same; null is the default stream.
    unsafe { allocate_async::<T>(this, size, alignment, flags, ptr::null_mut()) }
}

unsafe extern "C" fn deallocate<T: GpuAllocator>(
    this: *mut IGpuAsyncAllocator,
    memory: *mut c_void,
) -> bool {
    // SAFETY: the caller's promises are the same; null is the default stream.
    unsafe { deallocate_async::<T>(this, memory, ptr::null_mut()) }
}

/// Refused: nothing is given with a promise that it can grow.
unsafe extern "C" fn reallocate(
    _this: *mut IGpuAsyncAllocator,
    _memory: *mut c_void,
    _alignment: u64,
    _size: u64,
) -> *mut c_void {
    ptr::null_mut()
}
