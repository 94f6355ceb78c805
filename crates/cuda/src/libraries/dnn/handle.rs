//! A cuDNN handle: one for a device, used by one thread at a time.

use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tintype_device::{Device, Stream};

use super::descriptor::Descriptor;
use super::library::{Attempt, Library, RawHandle};

/// A handle with its lock.
#[derive(Debug)]
pub(super) struct Handle {
    device: Device,
    library: &'static Library,
    raw: Mutex<Raw>,
}

#[derive(Debug)]
struct Raw(RawHandle);

// SAFETY: a handle belongs to no thread; it must not be used by two at once, which the mutex
// around it sees to.
unsafe impl Send for Raw {}

/// The handle while nobody else has it.
pub(super) struct Locked<'a> {
    raw: MutexGuard<'a, Raw>,
}

impl Locked<'_> {
    pub(super) fn raw(&self) -> RawHandle {
        self.raw.0
    }
}

impl Handle {
    /// Makes a handle of the device, which is current on this thread.
    pub(super) fn new(device: &Device, library: &'static Library) -> Attempt<Self> {
        let mut raw: RawHandle = ptr::null_mut();
        // SAFETY: the pointer is to a live variable.
        let status = unsafe { (library.functions.create)(&raw mut raw) };
        library.check(status, || "making a handle".to_owned())?;
        Ok(Self {
            device: device.clone(),
            library,
            raw: Mutex::new(Raw(raw)),
        })
    }

    pub(super) fn library(&self) -> &'static Library {
        self.library
    }

    pub(super) fn lock(&self) -> Locked<'_> {
        let raw = self.raw.lock().unwrap_or_else(PoisonError::into_inner);
        Locked { raw }
    }

    /// Enqueues a plan in a stream of the handle's device, which is current on this thread.
    ///
    /// # Safety
    /// Both descriptors are finalized; the pack has an address for each tensor of the plan that
    /// has one, of memory as large as the tensor, which stays until the stream is done with it,
    /// and scratch memory as large as the plan asks for.
    pub(super) unsafe fn execute(
        &self,
        stream: &Stream,
        plan: &Descriptor,
        pack: &Descriptor,
    ) -> Attempt<()> {
        let handle = self.lock();
        let functions = &self.library.functions;
        // SAFETY: handle and stream are live, and of one device.
        let status = unsafe { (functions.set_stream)(handle.raw(), stream.as_raw()) };
        self.library
            .check(status, || "setting the stream".to_owned())?;
        // SAFETY: the handle is live and ours alone; the caller vouches for the rest.
        let status = unsafe { (functions.execute)(handle.raw(), plan.raw(), pack.raw()) };
        self.library.check(status, || "a run".to_owned())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // A device that is gone has taken the handle's memory with it.
        if self.device.bind().is_ok() {
            // SAFETY: the handle is live and nobody has it any more.
            unsafe { (self.library.functions.destroy)(self.lock().raw()) };
        }
    }
}
