//! Which builds may run at the same time.
//!
//! TensorRT-RTX 1.7.1 keeps the list of targets for the whole process: of two builds for
//! different targets at the same time, one fails ("Target SM 89 is not found in the accelerator
//! list"). Those for the same targets do not disturb each other. So builds wait for those that
//! are for other targets, whatever builder they are of.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Builds that are under way.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// What those under way are for.
    targets: Vec<i32>,
    count: usize,
}

/// A build is under way as long as this lives.
#[derive(Debug)]
pub(super) struct Pass<'g>(&'g Gate);

/// The process's.
pub(super) static GATE: Gate = Gate::new();

impl Gate {
    const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                targets: Vec::new(),
                count: 0,
            }),
            changed: Condvar::new(),
        }
    }

    /// Waits until no build for other targets is under way.
    pub(super) fn enter(&self, targets: &[i32]) -> Pass<'_> {
        let others = |state: &mut State| state.count > 0 && state.targets != targets;
        let state = self.changed.wait_while(self.lock(), others);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.targets = targets.to_vec();
        state.count += 1;
        Pass(self)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.lock().count -= 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    #[test]
    fn builds_for_the_same_targets_go_together() {
        let gate = Gate::new();
        let (_one, _two) = (gate.enter(&[89]), gate.enter(&[89]));
        assert_eq!(gate.lock().count, 2);
    }

    #[test]
    fn builds_for_other_targets_wait() {
        let (gate, under_way) = (Gate::new(), [const { AtomicUsize::new(0) }; 2]);
        thread::scope(|scope| {
            for index in [0, 1, 0, 1, 1, 0] {
                let (gate, under_way) = (&gate, &under_way);
                scope.spawn(move || {
                    let _pass = gate.enter(&[80 + index]);
                    let (index, other) = (index as usize, 1 - index as usize);
                    under_way[index].fetch_add(1, Ordering::SeqCst);
                    thread::yield_now();
                    assert_eq!(under_way[other].load(Ordering::SeqCst), 0);
                    under_way[index].fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert_eq!(gate.lock().count, 0);
    }
}
