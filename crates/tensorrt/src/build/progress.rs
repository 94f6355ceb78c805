//! How far a build is, and how to stop it.

use std::ffi::CStr;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use tintype_tensorrt_sys::callback::ProgressMonitor;

/// A build consists of phases of some steps, which may lie within one another. Several phases
/// can be under way at once, in several threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// A phase begins.
    Started {
        /// Its name, which is its own while it lasts.
        phase: &'a str,
        /// The phase that it is part of.
        parent: Option<&'a str>,
        /// How many steps it has.
        steps: usize,
    },
    /// A step is done.
    Step {
        /// The phase.
        phase: &'a str,
        /// The number of the step, from 0.
        step: usize,
    },
    /// A phase is over, perhaps before its last step.
    Finished {
        /// The phase.
        phase: &'a str,
    },
}

/// A closure that is told and may say `Break`.
pub(super) type Follow<'f> = Box<dyn Fn(Progress<'_>) -> ControlFlow<()> + Send + Sync + 'f>;

/// Tells a closure.
pub(super) struct Monitor<'f> {
    follow: Follow<'f>,
    /// Whether the closure said `Break` in this build; the library asks after steps only.
    is_stopped: AtomicBool,
}

impl<'f> Monitor<'f> {
    pub(super) fn new(follow: Follow<'f>) -> Self {
        Self {
            follow,
            is_stopped: AtomicBool::new(false),
        }
    }

    /// A new build begins.
    pub(super) fn begin(&self) {
        self.is_stopped.store(false, Ordering::SeqCst);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::SeqCst)
    }

    fn tell(&self, progress: Progress<'_>) -> bool {
        // After a break there is nothing more to tell; phases are then left one by one.
        if self.is_stopped() {
            return false;
        }
        let stop = (self.follow)(progress).is_break();
        if stop {
            self.is_stopped.store(true, Ordering::SeqCst);
        }
        !stop
    }
}

impl ProgressMonitor for Monitor<'_> {
    fn phase_started(&self, phase: &CStr, parent: &CStr, steps: i32) {
        let (phase, parent) = (phase.to_string_lossy(), parent.to_string_lossy());
        self.tell(Progress::Started {
            phase: &phase,
            parent: Some(&*parent).filter(|parent| !parent.is_empty()),
            steps: count(steps),
        });
    }

    fn step_completed(&self, phase: &CStr, step: i32) -> bool {
        self.tell(Progress::Step {
            phase: &phase.to_string_lossy(),
            step: count(step),
        })
    }

    fn phase_finished(&self, phase: &CStr) {
        self.tell(Progress::Finished {
            phase: &phase.to_string_lossy(),
        });
    }
}

impl fmt::Debug for Monitor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.is_stopped() {
            "stopped"
        } else {
            "going"
        };
        write!(f, "Monitor({state})")
    }
}

fn count(number: i32) -> usize {
    usize::try_from(number).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn a_break_at_any_time_stops_at_the_next_step() {
        let told = Mutex::new(Vec::new());
        let monitor = Monitor::new(Box::new(|progress| {
            told.lock().unwrap().push(format!("{progress:?}"));
            match progress {
                Progress::Finished { .. } => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        }));
        monitor.phase_started(c"outer", c"", 2);
        monitor.phase_started(c"inner", c"outer", 1);
        assert!(monitor.step_completed(c"inner", 0));
        monitor.phase_finished(c"inner");
        assert!(monitor.is_stopped());
        assert!(!monitor.step_completed(c"outer", 0));
        monitor.begin();
        assert!(monitor.step_completed(c"outer", 0));
        let told = told.lock().unwrap();
        assert_eq!(
            told[0],
            r#"Started { phase: "outer", parent: None, steps: 2 }"#
        );
        assert_eq!(
            told[1],
            r#"Started { phase: "inner", parent: Some("outer"), steps: 1 }"#
        );
        assert_eq!(told.len(), 5, "nothing is told after a break: {told:?}");
    }
}
