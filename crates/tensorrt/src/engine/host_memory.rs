//! Memory that the library gives away.

use tintype_tensorrt_sys as sys;
use tintype_tensorrt_sys::IHostMemory;

use crate::calls::Owned;

/// Bytes in the library's memory.
#[derive(Debug)]
pub(crate) struct HostMemory(Owned<IHostMemory>);

impl HostMemory {
    /// # Safety
    /// The memory was given to the caller to own.
    pub(crate) unsafe fn new(memory: IHostMemory) -> Self {
        // SAFETY: as the caller says; it depends on nothing.
        Self(unsafe { Owned::new(memory) })
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> std::result::Result<&[u8], sys::Error> {
        // SAFETY: the memory is alive.
        let (data, size) = unsafe { (self.0.data()?, self.0.size()?) };
        if data.is_null() || size == 0 {
            return Ok(&[]);
        }
        // SAFETY: the library says that so many bytes are there, which live with the object.
        Ok(unsafe { std::slice::from_raw_parts(data.cast::<u8>(), size) })
    }
}
