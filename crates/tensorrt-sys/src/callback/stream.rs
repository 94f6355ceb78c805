//! Streams: a plan goes out and comes in piece by piece, without a second copy of it.
//!
//! ```
//! use std::sync::Mutex;
//! use tintype_tensorrt_sys::callback::{Implementation, StreamWriter};
//!
//! struct Memory(Mutex<Vec<u8>>);
//! impl StreamWriter for Memory {
//!     fn write(&self, bytes: &[u8]) -> Option<usize> {
//!         self.0.lock().ok()?.extend(bytes);
//!         Some(bytes.len())
//!     }
//! }
//! let writer = Implementation::stream_writer(Memory(Mutex::default()));
//! ```

use std::ffi::c_void;
use std::io::SeekFrom;

use super::{Implementation, api_language, destructor, guarded, implementation, info};
use crate::{
    CudaStream, IStreamReaderV2, IStreamReaderV2Vtable, IStreamWriter, IStreamWriterVtable,
    SeekPosition,
};

/// Takes a plan.
pub trait StreamWriter: Send + Sync {
    /// Takes some bytes and says how many it took; `None` for a failure. TensorRT-RTX 1.7.1 goes
    /// on after a failure and reports a success, so that the writer must remember it.
    fn write(&self, bytes: &[u8]) -> Option<usize>;
}

/// Gives a plan.
pub trait StreamReader: Send + Sync {
    /// Writes up to `count` bytes to `destination` and says how many; `None` for a failure.
    ///
    /// # Safety
    /// `destination` has room for `count` bytes. It may be memory of the GPU: then the copy is
    /// ordered by `stream`.
    unsafe fn read(
        &self,
        destination: *mut c_void,
        count: usize,
        stream: CudaStream,
    ) -> Option<usize>;

    /// Goes to a place; `false` for a failure.
    fn seek(&self, position: SeekFrom) -> bool;
}

impl<T: StreamWriter> Implementation<IStreamWriter, T> {
    const VTABLE: IStreamWriterVtable = IStreamWriterVtable {
        get_api_language: api_language,
        get_interface_info: info!(IStreamWriterVtable, IStreamWriter),
        complete_destructor: destructor,
        deleting_destructor: destructor,
        write: write::<T>,
    };

    /// A writer for the library.
    pub fn stream_writer(writer: T) -> Self {
        let vtable = &Self::VTABLE;
        Self::new(IStreamWriter { vtable }, writer)
    }
}

impl<T: StreamReader> Implementation<IStreamReaderV2, T> {
    const VTABLE: IStreamReaderV2Vtable = IStreamReaderV2Vtable {
        get_api_language: api_language,
        get_interface_info: info!(IStreamReaderV2Vtable, IStreamReaderV2),
        complete_destructor: destructor,
        deleting_destructor: destructor,
        read: read::<T>,
        seek: seek::<T>,
    };

    /// A reader for the library.
    pub fn stream_reader(reader: T) -> Self {
        let vtable = &Self::VTABLE;
        Self::new(IStreamReaderV2 { vtable }, reader)
    }
}

/// What the library takes for a failure.
const FAILURE: i64 = -1;

/// A count of bytes as the library takes it.
fn counted(count: Option<usize>) -> i64 {
    count
        .and_then(|count| count.try_into().ok())
        .unwrap_or(FAILURE)
}

unsafe extern "C" fn write<T: StreamWriter>(
    this: *mut IStreamWriter,
    data: *const c_void,
    count: i64,
) -> i64 {
    let Ok(count) = usize::try_from(count) else {
        return FAILURE;
    };
    if data.is_null() {
        return if count == 0 { 0 } else { FAILURE };
    }
    // SAFETY: the library calls with the object that it was given and with `count` bytes.
    let (writer, bytes) = unsafe {
        (
            implementation::<_, T>(this),
            std::slice::from_raw_parts(data.cast::<u8>(), count),
        )
    };
    guarded("the stream writer", FAILURE, || {
        counted(writer.write(bytes))
    })
}

unsafe extern "C" fn read<T: StreamReader>(
    this: *mut IStreamReaderV2,
    destination: *mut c_void,
    count: i64,
    stream: CudaStream,
) -> i64 {
    let Ok(count) = usize::try_from(count) else {
        return FAILURE;
    };
    // SAFETY: the library calls with the object that it was given.
    let reader = unsafe { implementation::<_, T>(this) };
    guarded("the stream reader", FAILURE, || {
        // SAFETY: the library gives room for what it asks for.
        counted(unsafe { reader.read(destination, count, stream) })
    })
}

unsafe extern "C" fn seek<T: StreamReader>(
    this: *mut IStreamReaderV2,
    offset: i64,
    origin: SeekPosition,
) -> bool {
    let position = match origin {
        SeekPosition::SET => u64::try_from(offset).ok().map(SeekFrom::Start),
        SeekPosition::CUR => Some(SeekFrom::Current(offset)),
        SeekPosition::END => Some(SeekFrom::End(offset)),
        _ => None,
    };
    // SAFETY: the library calls with the object that it was given.
    let reader = unsafe { implementation::<_, T>(this) };
    guarded("the stream reader", false, || {
        position.is_some_and(|position| reader.seek(position))
    })
}
