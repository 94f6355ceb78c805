//! The stream of second branches.
//!
//! A fork is an event that this stream waits for, a join one that the main stream waits for. While
//! the main stream captures, the first event takes this one into the capture and the second ends
//! it there, so that branches become branches of the graph. Events are made once: nothing that is
//! captured allocates.
//!
//! ```text
//! main  ── step ── fork ── steps of the first branch ──── join ── step
//!                    └──── steps of the second branch ─────┘
//! ```

use tintype_device::{Event, Stream};

use crate::Result;

/// A stream beside another one, with the events between them.
pub(super) struct SideStream {
    stream: Stream,
    fork: Event,
    join: Event,
}

impl SideStream {
    /// A stream beside `main`.
    pub(super) fn new(main: &Stream) -> Result<Self> {
        let stream = main.device().new_stream()?;
        Ok(Self {
            fork: main.record()?,
            join: stream.record()?,
            stream,
        })
    }

    /// The stream.
    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Lets what is enqueued here begin after the work so far in `main`.
    pub(super) fn fork_from(&self, main: &Stream) -> Result<()> {
        main.record_again(&self.fork)?;
        Ok(self.stream.wait(&self.fork)?)
    }

    /// Lets what is enqueued in `main` begin after the work so far here.
    pub(super) fn join_into(&self, main: &Stream) -> Result<()> {
        self.stream.record_again(&self.join)?;
        Ok(main.wait(&self.join)?)
    }
}
