//! The one logger of the process, and what it said during a call.
//!
//! The library stays with the first logger that it is given while any object of it lives, so
//! there is one for all, which is never dropped. It hands everything to `tracing`. While
//! [`capture`] runs, errors of the same thread are also kept: they become part of an error and
//! are not logged as errors a second time.

use std::cell::RefCell;
use std::ffi::CStr;
use std::sync::OnceLock;

use tintype_tensorrt_sys::callback::{Implementation, Logger, TracingLogger};
use tintype_tensorrt_sys::{ILogger, Severity};

/// The process's logger as the library takes it.
pub(crate) fn logger() -> *mut ILogger {
    static LOGGER: OnceLock<Implementation<ILogger, ProcessLogger>> = OnceLock::new();
    let logger = LOGGER.get_or_init(|| Implementation::logger(ProcessLogger));
    logger.as_ptr()
}

/// Runs a call and gives what the library logged as errors in this thread meanwhile.
pub(crate) fn capture<R>(call: impl FnOnce() -> R) -> (R, Vec<String>) {
    let _restore = Restore(CAPTURED.replace(Some(Vec::new())));
    let result = call();
    let captured = CAPTURED.take().unwrap_or_default();
    (result, captured)
}

struct ProcessLogger;

/// Puts back what an outer capture had gathered, also when the call panics.
struct Restore(Option<Vec<String>>);

thread_local! {
    static CAPTURED: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

impl Logger for ProcessLogger {
    fn log(&self, severity: Severity, message: &CStr) {
        let is_error = matches!(severity, Severity::ERROR | Severity::INTERNAL_ERROR);
        if is_error && keep(message) {
            tracing::debug!(target: "tensorrt", "{}", message.to_string_lossy());
        } else {
            TracingLogger.log(severity, message);
        }
    }
}

/// Keeps a message if someone in this thread wants it.
fn keep(message: &CStr) -> bool {
    CAPTURED.with_borrow_mut(|captured| match captured {
        Some(messages) => {
            messages.push(message.to_string_lossy().into_owned());
            true
        }
        None => false,
    })
}

impl Drop for Restore {
    fn drop(&mut self) {
        CAPTURED.set(self.0.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_captured_in_their_thread_and_scope() {
        let say = |text: &CStr| ProcessLogger.log(Severity::ERROR, text);
        let ((), outer) = capture(|| {
            say(c"one");
            let ((), inner) = capture(|| say(c"two"));
            assert_eq!(inner, ["two"]);
            std::thread::scope(|scope| {
                scope.spawn(|| say(c"elsewhere"));
            });
            ProcessLogger.log(Severity::WARNING, c"only a warning");
            say(c"three");
        });
        assert_eq!(outer, ["one", "three"]);
        say(c"nobody listens");
    }

    #[test]
    fn there_is_one_logger() {
        assert_eq!(logger(), logger());
    }
}
