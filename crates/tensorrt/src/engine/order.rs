//! What of an engine the device is working at, so that refits and runs do not meet.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use tintype_device::{Event, Stream};

use crate::Result;

/// Runs and refits of one engine.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// Held for reading while a run is enqueued, for writing while a refit is.
    gate: RwLock<()>,
    work: Mutex<Work>,
}

#[derive(Debug, Default)]
struct Work {
    /// The last run of each stream that may still be under way.
    runs: Vec<(Stream, Event)>,
    /// The last refit.
    refit: Option<(Stream, Event)>,
}

impl Order {
    /// Enqueues a run: after the last refit.
    pub(super) fn run<T>(&self, stream: &Stream, enqueue: impl FnOnce() -> Result<T>) -> Result<T> {
        // The guards protect orders between the device's work, which panics do not change.
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((other, refitted)) = &self.work().refit
            && !other.is_same(stream)
        {
            stream.wait(refitted)?;
        }
        let result = enqueue();
        // Also of a run that failed some may be under way.
        let done = stream.record()?;
        let mut work = self.work();
        let is_under_way = |event: &Event| !event.is_complete().unwrap_or(false);
        work.runs
            .retain(|(other, event)| !other.is_same(stream) && is_under_way(event));
        work.runs.push((stream.clone(), done));
        result
    }

    /// Enqueues a refit: after all runs. The library forbids that runs in other streams are
    /// even pending, so that the host waits for them.
    pub(super) fn refit<T>(
        &self,
        stream: &Stream,
        enqueue: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let mut work = self.work();
        for (other, run) in &work.runs {
            if !other.is_same(stream) {
                run.synchronize()?;
            }
        }
        work.runs.clear();
        if let Some((other, refitted)) = &work.refit
            && !other.is_same(stream)
        {
            refitted.synchronize()?;
        }
        let result = enqueue();
        work.refit = Some((stream.clone(), stream.record()?));
        result
    }

    /// Does something while neither a run nor a refit is being enqueued.
    pub(super) fn alone<T>(&self, what: impl FnOnce() -> T) -> T {
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        what()
    }

    /// Waits on the host until nothing is under way.
    pub(super) fn wait(&self) -> Result<()> {
        let mut work = self.work();
        for (_, event) in work.runs.drain(..).collect::<Vec<_>>() {
            event.synchronize()?;
        }
        if let Some((_, event)) = &work.refit {
            event.synchronize()?;
        }
        Ok(())
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
