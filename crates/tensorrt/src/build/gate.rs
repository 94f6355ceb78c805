//! One build at a time.
//!
//! TensorRT-RTX 1.7.1 keeps the list of targets for the whole process: of two builds at the same
//! time, one fails now and then ("Target SM 89 is not found in the accelerator list"), always if
//! the targets differ. A build uses all cores anyway.

use std::sync::{Mutex, MutexGuard, PoisonError};

static GATE: Mutex<()> = Mutex::new(());

/// Waits until no build is under way; the next one waits for the result to be dropped.
pub(super) fn enter() -> MutexGuard<'static, ()> {
    // The mutex guards nothing that a panic could leave half done.
    GATE.lock().unwrap_or_else(PoisonError::into_inner)
}
