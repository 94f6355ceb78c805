//! What a step becomes on a device: descriptors of a library or a loaded kernel, ready to enqueue.

use std::fmt;
use std::path::Path;

use tintype_device::Stream;

use crate::{Place, Result};

/// A step made ready for a device. Making it may take seconds (algorithms are tried, kernels
/// compiled); enqueueing takes microseconds, allocates nothing and waits for nothing, so that it
/// can be captured in a CUDA graph.
///
/// Steps that differ in their places alone share one, which is then enqueued with several
/// addresses in one program.
pub(crate) trait Prepared: fmt::Debug + Send + Sync {
    /// Bytes of scratch memory that a run needs beside the plan's workspace, aligned to 256; what
    /// it holds need not stay until the next run.
    fn scratch_bytes(&self) -> usize;

    /// Enqueues one run.
    ///
    /// # Safety
    /// Every place that the step names has memory on the stream's device, as large as the plan
    /// says, that stays until the stream is done with it, and so has the scratch memory.
    unsafe fn enqueue(&self, stream: &Stream, addresses: &Addresses<'_>) -> Result<()>;

    /// Writes what was compiled or chosen for it into a folder, as far as the user's caches have
    /// it; gives the files' names.
    fn save(&self, folder: &Path) -> Result<Vec<String>>;
}

/// Where things lie on the device while a program runs.
pub(crate) struct Addresses<'a> {
    /// The first byte of a place.
    pub(crate) of: &'a dyn Fn(Place) -> u64,
    /// The first byte of the scratch memory; 0 if the step needs none.
    pub(crate) scratch: u64,
}

impl Addresses<'_> {
    /// The address `offset` elements of `bits` bits into a place.
    pub(crate) fn at(&self, place: Place, offset: usize, bits: usize) -> u64 {
        (self.of)(place) + (offset * bits / 8) as u64
    }
}
