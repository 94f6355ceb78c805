//! Streams, in which work runs in order, and events, which mark places in them.
//!
//! Everything that this crate enqueues returns before it is done. Work in one stream sees
//! what was enqueued there before; another stream must wait for an [`Event`].

use std::ffi::c_void;
use std::fmt;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUevent_flags};
use cudarc::driver::{CudaEvent, CudaStream};

use crate::{Device, Result};

/// A stream of one device. A cheap handle.
#[derive(Clone)]
pub struct Stream {
    device: Device,
    stream: Arc<CudaStream>,
}

/// A place in a stream.
#[derive(Debug)]
pub struct Event {
    device: Device,
    event: CudaEvent,
}

impl Stream {
    pub(crate) fn new(device: &Device) -> Result<Self> {
        let stream = device.check("making a stream", device.context().new_stream())?;
        Ok(Self {
            device: device.clone(),
            stream,
        })
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Waits until all work in the stream is done.
    ///
    /// # Errors
    /// Whatever went wrong in earlier work of the stream.
    pub fn synchronize(&self) -> Result<()> {
        self.device
            .check("waiting for a stream", self.stream.synchronize())
    }

    /// Marks the end of the work so far.
    pub fn record(&self) -> Result<Event> {
        self.record_with(CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    /// The same, with the time: see [`Event::milliseconds_since`].
    pub fn record_timed(&self) -> Result<Event> {
        self.record_with(CUevent_flags::CU_EVENT_DEFAULT)
    }

    /// Moves an event of this device to the end of the work so far, as if it were new: who waits
    /// for it already waits for where it was. Nothing is allocated, so this may be captured.
    pub fn record_again(&self, event: &Event) -> Result<()> {
        let recorded = event.event.record(&self.stream);
        self.device.check("recording an event", recorded)
    }

    /// Lets later work in this stream begin after `event`, which may be of any stream of
    /// the same device. The host does not wait.
    pub fn wait(&self, event: &Event) -> Result<()> {
        self.device
            .check("waiting for an event", self.stream.wait(&event.event))
    }

    /// The driver's handle as NVIDIA's libraries take it (`cudaStream_t`, `CUstream`). It is
    /// valid while this stream lives.
    pub fn as_raw(&self) -> *mut c_void {
        self.stream.cu_stream().cast()
    }

    /// cudarc's stream.
    pub fn as_cudarc(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Whether both are the same stream.
    pub fn is_same(&self, other: &Self) -> bool {
        self.as_raw() == other.as_raw() && self.device.is_same(&other.device)
    }

    pub(crate) fn handle(&self) -> sys::CUstream {
        self.stream.cu_stream()
    }

    fn record_with(&self, flags: CUevent_flags) -> Result<Event> {
        let event = self.stream.record_event(Some(flags));
        Ok(Event {
            device: self.device.clone(),
            event: self.device.check("recording an event", event)?,
        })
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {:p} of {}", self.as_raw(), self.device.name())
    }
}

impl Event {
    /// Waits on the host until the work before the event is done.
    pub fn synchronize(&self) -> Result<()> {
        self.device
            .check("waiting for an event", self.event.synchronize())
    }

    /// Whether the work before it is done; an error if that work failed.
    pub fn is_complete(&self) -> Result<bool> {
        self.device.bind()?;
        self.device
            .check("asking for an event", self.event.try_is_complete())
    }

    /// The time from `earlier` to this event, both of [`Stream::record_timed`]; waits for both.
    pub fn milliseconds_since(&self, earlier: &Self) -> Result<f32> {
        earlier.synchronize()?;
        self.synchronize()?;
        let (mut milliseconds, action) = (0.0f32, "measuring time");
        // SAFETY: the library is loaded and has the symbol (`Driver::load` has looked), whose
        // signature this is. cudarc calls a newer one that drivers before CUDA 12.8 lack.
        let status = unsafe {
            type Elapsed =
                unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> sys::CUresult;
            let elapsed = sys::culib().get::<Elapsed>(b"cuEventElapsedTime");
            let elapsed = elapsed.expect("looked up when the driver was loaded");
            elapsed(
                &raw mut milliseconds,
                earlier.event.cu_event(),
                self.event.cu_event(),
            )
        };
        self.device.check(action, status.result())?;
        Ok(milliseconds)
    }
}
