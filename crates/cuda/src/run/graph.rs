//! Captured CUDA graphs.
//!
//! Capturing is of one thread alone: other threads may allocate and upload meanwhile. Nothing
//! that is captured may allocate, wait or ask for events, which
//! [`Prepared::enqueue`](super::Prepared::enqueue) promises.

use std::fmt;

use cudarc::driver::sys::{self, CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, DriverError};
use tintype_device::{Device, Stream};

use crate::Result;

/// A graph that was captured in one stream and runs there.
pub(crate) struct Captured {
    graph: CudaGraph,
    device: Device,
}

// SAFETY: the driver's handles may be used from any thread, by one at a time: the value is owned
// by one lane and not shared.
unsafe impl Send for Captured {}

impl Captured {
    /// Captures what `enqueue` puts into the stream; nothing of it runs.
    pub(super) fn new(stream: &Stream, enqueue: &mut dyn FnMut() -> Result<()>) -> Result<Self> {
        let device = stream.device().clone();
        let failed = |action: &str, error| driver_error(&device, action, error);
        let own = stream.as_cudarc();
        own.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .map_err(|error| failed("beginning a capture", error))?;
        let enqueued = enqueue();
        // In any case, or the stream would go on capturing.
        let ended = own.end_capture(CUgraphInstantiate_flags(0));
        enqueued?;
        let graph = ended.map_err(|error| failed("making a graph of what was captured", error))?;
        let graph = graph.ok_or_else(|| {
            let nothing = DriverError(sys::CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
            failed("ending a capture", nothing)
        })?;
        let uploaded = graph.upload();
        uploaded.map_err(|error| failed("uploading a graph", error))?;
        Ok(Self { graph, device })
    }

    /// Enqueues it in its stream.
    ///
    /// # Safety
    /// All memory that was captured is there until the stream is done.
    pub(super) unsafe fn launch(&self) -> Result<()> {
        let launched = self.graph.launch();
        launched.map_err(|error| driver_error(&self.device, "launching a graph", error).into())
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        // The graph's own destructor calls the driver.
        if let Err(error) = self.device.bind() {
            tracing::warn!("{error}");
        }
    }
}

impl fmt::Debug for Captured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a captured graph of {}", self.device.name())
    }
}

/// Whether the driver has all that graphs need: cudarc panics on what it lacks.
pub(super) fn are_available() -> bool {
    // SAFETY: whoever has a device has loaded the driver, so this does not panic.
    let library = unsafe { sys::culib() };
    SYMBOLS.iter().all(|name| {
        // SAFETY: the symbol is only looked up, not called.
        unsafe { library.get::<*const ()>(name.as_bytes()) }.is_ok()
    })
}

/// An error of the driver, as the device's own.
pub(super) fn driver_error(
    device: &Device,
    action: &str,
    error: DriverError,
) -> tintype_device::Error {
    tintype_device::Error::Driver {
        device: device.name().to_string(),
        action: action.to_owned(),
        code: format!("{error:?}"),
    }
}

const SYMBOLS: [&str; 7] = [
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphUpload",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
];
