//! The one logger of the process, and what it said during a call.
//!
//! The library stays with the first logger that it is given while any object of it lives, so
//! there is one for all, which is never dropped. It hands everything to `tracing`. While
//! [`capture`] runs, errors of the same thread are also kept: they become part of an error and
//! are not logged as errors a second time. While [`capture_details`] runs, so is the finest of
//! what it says, of which some is told nowhere else.

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

/// Runs a call and gives the library's finest messages of this thread that begin with `prefix`.
pub(crate) fn capture_details<R>(
    prefix: &'static str,
    call: impl FnOnce() -> R,
) -> (R, Vec<String>) {
    DETAILS.set(Some((prefix, Vec::new())));
    let result = call();
    let details = DETAILS.take().map(|(_, messages)| messages);
    (result, details.unwrap_or_default())
}

struct ProcessLogger;

/// Puts back what an outer capture had gathered, also when the call panics.
struct Restore(Option<Vec<String>>);

thread_local! {
    static CAPTURED: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
    static DETAILS: RefCell<Option<(&'static str, Vec<String>)>> = const { RefCell::new(None) };
}

impl Logger for ProcessLogger {
    fn log(&self, severity: Severity, message: &CStr) {
        if severity == Severity::VERBOSE {
            keep_detail(message);
        }
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

/// Keeps a message of the finest kind if someone in this thread wants it.
fn keep_detail(message: &CStr) {
    DETAILS.with_borrow_mut(|details| {
        if let Some((prefix, messages)) = details
            && message.to_bytes().starts_with(prefix.as_bytes())
        {
            messages.push(message.to_string_lossy().into_owned());
        }
    });
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
    fn details_are_kept_by_how_they_begin() {
        let say = |text: &CStr| ProcessLogger.log(Severity::VERBOSE, text);
        let ((), kept) = capture_details("Layers:", || {
            say(c"Layers: some");
            say(c"Other");
            ProcessLogger.log(Severity::INFO, c"Layers: information");
        });
        assert_eq!(kept, ["Layers: some"]);
        let ((), kept) = capture_details("Layers:", || ());
        assert!(kept.is_empty());
    }

    #[test]
    fn there_is_one_logger() {
        assert_eq!(logger(), logger());
    }
}
