//! The progress monitor: what a build is doing, in nested phases of steps.
//!
//! ```
//! use std::ffi::CStr;
//! use tintype_tensorrt_sys::callback::{Implementation, ProgressMonitor};
//!
//! struct Silent;
//! impl ProgressMonitor for Silent {}
//! let monitor = Implementation::progress_monitor(Silent);
//! ```

use std::ffi::{CStr, c_char};

use super::{Implementation, api_language, destructor, guarded, implementation, info, text};
use crate::{IProgressMonitor, IProgressMonitorVtable};

/// Follows a build, from any thread.
pub trait ProgressMonitor: Send + Sync {
    /// A phase of `steps` steps begins inside of `parent`, if that has a name.
    fn phase_started(&self, _phase: &CStr, _parent: &CStr, _steps: i32) {}

    /// A step of a phase is done; `false` stops the build.
    fn step_completed(&self, _phase: &CStr, _step: i32) -> bool {
        true
    }

    /// A phase is over, perhaps before its last step.
    fn phase_finished(&self, _phase: &CStr) {}
}

impl<T: ProgressMonitor> Implementation<IProgressMonitor, T> {
    const VTABLE: IProgressMonitorVtable = IProgressMonitorVtable {
        get_api_language: api_language,
        get_interface_info: info!(IProgressMonitorVtable, IProgressMonitor),
        complete_destructor: destructor,
        deleting_destructor: destructor,
        phase_start: phase_start::<T>,
        step_complete: step_complete::<T>,
        phase_finish: phase_finish::<T>,
    };

    /// A progress monitor for the library.
    pub fn progress_monitor(monitor: T) -> Self {
        let vtable = &Self::VTABLE;
        Self::new(IProgressMonitor { vtable }, monitor)
    }
}

unsafe extern "C" fn phase_start<T: ProgressMonitor>(
    this: *mut IProgressMonitor,
    phase: *const c_char,
    parent: *const c_char,
    steps: i32,
) {
    // SAFETY: the library calls with the object that it was given and with texts or null.
    let (monitor, phase, parent) =
        unsafe { (implementation::<_, T>(this), text(phase), text(parent)) };
    guarded("the progress monitor", (), || {
        monitor.phase_started(phase, parent, steps);
    });
}

unsafe extern "C" fn step_complete<T: ProgressMonitor>(
    this: *mut IProgressMonitor,
    phase: *const c_char,
    step: i32,
) -> bool {
    // SAFETY: the library calls with the object that it was given and with a text.
    let (monitor, phase) = unsafe { (implementation::<_, T>(this), text(phase)) };
    guarded("the progress monitor", false, || {
        monitor.step_completed(phase, step)
    })
}

unsafe extern "C" fn phase_finish<T: ProgressMonitor>(
    this: *mut IProgressMonitor,
    phase: *const c_char,
) {
    // SAFETY: the library calls with the object that it was given and with a text.
    let (monitor, phase) = unsafe { (implementation::<_, T>(this), text(phase)) };
    guarded("the progress monitor", (), || monitor.phase_finished(phase));
}
