//! The logger: everything that the library has to say.
//!
//! The library knows one logger: that of the first builder, runtime or refitter, for as long as
//! any of them is alive; others that it is given meanwhile are ignored. So a process should have
//! one logger, which is never dropped.
//!
//! ```
//! use tintype_tensorrt_sys::callback::{Implementation, TracingLogger};
//!
//! let logger = Implementation::logger(TracingLogger);
//! ```

use std::ffi::{CStr, c_char};

use super::{Implementation, api_language, destructor, guarded, implementation, info, text};
use crate::{ILogger, ILoggerVtable, Severity};

/// Takes the library's messages, from any thread.
pub trait Logger: Send + Sync {
    /// One message, without a line's end.
    fn log(&self, severity: Severity, message: &CStr);
}

/// Hands every message to `tracing`, under the target `tensorrt`.
#[derive(Clone, Copy, Debug, Default)]
pub struct TracingLogger;

impl Logger for TracingLogger {
    fn log(&self, severity: Severity, message: &CStr) {
        let message = message.to_string_lossy();
        match severity {
            Severity::INTERNAL_ERROR | Severity::ERROR => {
                tracing::error!(target: "tensorrt", "{message}");
            }
            Severity::WARNING => tracing::warn!(target: "tensorrt", "{message}"),
            // What the library calls information is many lines for each build.
            Severity::INFO => tracing::debug!(target: "tensorrt", "{message}"),
            _ => tracing::trace!(target: "tensorrt", "{message}"),
        }
    }
}

impl<T: Logger> Implementation<ILogger, T> {
    const VTABLE: ILoggerVtable = ILoggerVtable {
        get_api_language: api_language,
        get_interface_info: info!(ILoggerVtable, ILogger),
        complete_destructor: destructor,
        deleting_destructor: destructor,
        log: log::<T>,
    };

    /// A logger for the library.
    pub fn logger(logger: T) -> Self {
        let vtable = &Self::VTABLE;
        Self::new(ILogger { vtable }, logger)
    }
}

unsafe extern "C" fn log<T: Logger>(
    this: *mut ILogger,
    severity: Severity,
    message: *const c_char,
) {
    // SAFETY: the library calls with the object that it was given and with a text.
    let (logger, message) = unsafe { (implementation::<_, T>(this), text(message)) };
    guarded("the logger", (), || logger.log(severity, message));
}
