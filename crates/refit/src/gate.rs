//! Who runs which engine, and who waits to change it.
//!
//! Pictures enter an engine, many at a time. Whoever changes the engine closes it, and so waits
//! until all have left. A thread may enter an engine again that it has entered, even while
//! another waits to close it. What it is not: an order of those who change; they take turns by
//! a lock of their own.
//!
//! ```text
//! enter(1) ───────────── leave        picture
//!        close(1) ·····waits·· ████ enter(1) ─────── leave    refit, and its own picture
//!             enter(2) ─────────────────────── leave   another engine: waits for nothing
//! ```

use std::marker::PhantomData;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use crate::engine::lock;

/// Engines by number.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// One for each picture under way: the thread, and the engine.
    pictures: Vec<(ThreadId, u64)>,
    /// The engine that is changed, or is waited for so that it can be.
    closed: Option<u64>,
}

/// A picture under way, until it is dropped; in the thread that began it.
#[derive(Debug)]
pub(crate) struct Entered<'g> {
    gate: &'g Gate,
    engine: u64,
    _of_its_thread: PhantomData<MutexGuard<'g, ()>>,
}

/// An engine without pictures, until it is dropped.
#[derive(Debug)]
pub(crate) struct Closed<'g> {
    gate: &'g Gate,
    engine: u64,
}

impl Gate {
    /// Whether this thread has a picture under way: it must not wait for pictures then.
    pub(crate) fn is_entered_here(&self) -> bool {
        let here = std::thread::current().id();
        let state = lock(&self.state);
        state.pictures.iter().any(|(thread, _)| *thread == here)
    }

    /// Begins a picture, as soon as nobody changes the engine or waits to do so.
    pub(crate) fn enter(&self, engine: u64) -> Entered<'_> {
        let here = (std::thread::current().id(), engine);
        let mut state = lock(&self.state);
        // Whoever waits to close it waits for this thread already.
        if !state.pictures.contains(&here) {
            state = self.wait(state, |state| state.closed == Some(engine));
        }
        state.pictures.push(here);
        Entered::new(self, engine)
    }

    /// Lets no other thread begin a picture, and waits for those under way, of which this thread
    /// must have none. One thread at a time may close engines.
    pub(crate) fn close(&self, engine: u64) -> Closed<'_> {
        let mut state = lock(&self.state);
        debug_assert!(state.closed.is_none(), "one closes at a time");
        state.closed = Some(engine);
        let closed = Closed { gate: self, engine };
        let is_run = |state: &State| state.pictures.iter().any(|&(_, run)| run == engine);
        drop(self.wait(state, is_run));
        closed
    }

    fn wait<'s>(
        &self,
        state: MutexGuard<'s, State>,
        must_wait: impl Fn(&State) -> bool,
    ) -> MutexGuard<'s, State> {
        let waited = self.changed.wait_while(state, |state| must_wait(state));
        waited.unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'g> Closed<'g> {
    /// Opens it with a picture of this thread, before anyone else can close it.
    pub(crate) fn enter(self) -> Entered<'g> {
        let here = (std::thread::current().id(), self.engine);
        lock(&self.gate.state).pictures.push(here);
        Entered::new(self.gate, self.engine)
    }
}

impl<'g> Entered<'g> {
    fn new(gate: &'g Gate, engine: u64) -> Self {
        Self {
            gate,
            engine,
            _of_its_thread: PhantomData,
        }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let here = (std::thread::current().id(), self.engine);
        let mut state = lock(&self.gate.state);
        let index = state.pictures.iter().position(|picture| *picture == here);
        let index = index.expect("it entered in this thread");
        state.pictures.swap_remove(index);
        drop(state);
        self.gate.changed.notify_all();
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        lock(&self.gate.state).closed = None;
        self.gate.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    const SOON: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn closing_waits_for_pictures_of_that_engine_alone() {
        let gate = Gate::default();
        let (tell, told) = channel();
        let (one, two) = (gate.enter(1), gate.enter(2));
        std::thread::scope(|scope| {
            let close = || {
                let closed = gate.close(1);
                tell.send("closed").unwrap();
                let entered = closed.enter();
                assert!(gate.is_entered_here());
                drop(entered);
                assert!(!gate.is_entered_here());
            };
            let thread = scope.spawn(close);
            assert!(told.recv_timeout(SOON).is_err());
            // It waits, and this thread may begin a second picture all the same.
            let again = gate.enter(1);
            drop(one);
            assert!(told.recv_timeout(SOON).is_err());
            drop(again);
            assert_eq!(told.recv_timeout(LONG), Ok("closed"));
            thread.join().unwrap();
        });
        assert!(gate.is_entered_here());
        drop(two);
        assert!(!gate.is_entered_here());
    }

    #[test]
    fn no_other_thread_begins_while_one_waits_to_close() {
        let gate = Gate::default();
        let (tell, told) = channel();
        let first = gate.enter(1);
        std::thread::scope(|scope| {
            let closing = scope.spawn(|| drop(gate.close(1)));
            while lock(&gate.state).closed.is_none() {
                std::thread::yield_now();
            }
            scope.spawn(|| {
                let _entered = gate.enter(1);
                tell.send("entered").unwrap();
            });
            assert!(told.recv_timeout(SOON).is_err());
            drop(first);
            closing.join().unwrap();
            assert_eq!(told.recv_timeout(LONG), Ok("entered"));
        });
    }
}
