//! One change at a time, and an error instead of a thread that waits for itself.

use std::marker::PhantomData;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use crate::engine::lock;

/// Whose turn it is to change a module.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    holder: Mutex<Option<ThreadId>>,
    freed: Condvar,
}

/// This thread's turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct Taken<'t> {
    turn: &'t Turn,
    _of_its_thread: PhantomData<MutexGuard<'t, ()>>,
}

impl Turn {
    /// Waits for the turns of other threads; none if this thread has it already.
    pub(crate) fn take(&self) -> Option<Taken<'_>> {
        let here = std::thread::current().id();
        let holder = lock(&self.holder);
        if *holder == Some(here) {
            return None;
        }
        let free = self.freed.wait_while(holder, |holder| holder.is_some());
        *free.unwrap_or_else(PoisonError::into_inner) = Some(here);
        Some(Taken {
            turn: self,
            _of_its_thread: PhantomData,
        })
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *lock(&self.turn.holder) = None;
        self.turn.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_one_turn_and_others_wait_for_it() {
        let turn = Turn::default();
        let taken = turn.take().unwrap();
        assert!(turn.take().is_none());
        std::thread::scope(|scope| {
            let other = scope.spawn(|| turn.take().is_some());
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(!other.is_finished());
            drop(taken);
            assert!(other.join().unwrap());
        });
        assert!(turn.take().is_some());
    }
}
