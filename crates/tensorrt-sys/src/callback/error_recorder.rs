//! The error recorder: the library's errors, kept until they are asked for.
//!
//! ```
//! use tintype_tensorrt_sys::callback::{ErrorRecorder, Implementation};
//!
//! let recorder = Implementation::error_recorder();
//! assert!(recorder.take().is_empty());
//! ```

use std::ffi::{CString, c_char};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Implementation, api_language, destructor, guarded, implementation, info, text};
use crate::{ErrorCode, IErrorRecorder, IErrorRecorderVtable};

/// Collects errors; further ones than [`ErrorRecorder::LIMIT`] are only counted as overflow.
#[derive(Debug, Default)]
pub struct ErrorRecorder {
    errors: Mutex<Errors>,
    references: AtomicI32,
}

#[derive(Debug, Default)]
struct Errors {
    /// The library may hold an address of a text until it clears the list.
    list: Vec<(ErrorCode, CString)>,
    has_overflowed: bool,
}

impl ErrorRecorder {
    /// How many errors are kept.
    pub const LIMIT: usize = 64;

    /// The errors since the last call, oldest first, and forgets them. To be called when no
    /// function of the library is running that could look at them.
    pub fn take(&self) -> Vec<(ErrorCode, String)> {
        let errors = std::mem::take(&mut *self.lock());
        let text = |(code, text): (ErrorCode, CString)| (code, text.to_string_lossy().into_owned());
        errors.list.into_iter().map(text).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Errors> {
        // Nothing panics while it is held that could leave the list half changed.
        self.errors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at<R>(&self, index: i32, look: impl FnOnce(&(ErrorCode, CString)) -> R) -> Option<R> {
        let errors = self.lock();
        let index = usize::try_from(index).ok()?;
        errors.list.get(index).map(look)
    }

    /// Keeps an error and says whether there was room.
    fn report(&self, code: ErrorCode, text: CString) -> bool {
        let mut errors = self.lock();
        let has_room = errors.list.len() < Self::LIMIT;
        if has_room {
            errors.list.push((code, text));
        }
        errors.has_overflowed |= !has_room;
        has_room
    }
}

impl Implementation<IErrorRecorder, ErrorRecorder> {
    const VTABLE: IErrorRecorderVtable = IErrorRecorderVtable {
        get_api_language: api_language,
        get_interface_info: info!(IErrorRecorderVtable, IErrorRecorder),
        complete_destructor: destructor,
        deleting_destructor: destructor,
        get_nb_errors,
        get_error_code,
        get_error_desc,
        has_overflowed,
        clear,
        report_error,
        inc_ref_count,
        dec_ref_count,
    };

    /// An empty recorder for the library.
    pub fn error_recorder() -> Self {
        let vtable = &Self::VTABLE;
        Self::new(IErrorRecorder { vtable }, ErrorRecorder::default())
    }
}

/// The recorder that the library calls.
///
/// # Safety
/// `this` is what [`Implementation::as_ptr`] gave, and that is alive.
unsafe fn recorder<'a>(this: *mut IErrorRecorder) -> &'a ErrorRecorder {
    // SAFETY: as the caller says.
    unsafe { implementation(this) }
}

unsafe extern "C" fn get_nb_errors(this: *mut IErrorRecorder) -> i32 {
    // SAFETY: the library calls with the object that it was given.
    unsafe { recorder(this) }.lock().list.len() as i32
}

unsafe extern "C" fn get_error_code(this: *mut IErrorRecorder, index: i32) -> ErrorCode {
    // SAFETY: the library calls with the object that it was given.
    let code = unsafe { recorder(this) }.at(index, |(code, _)| *code);
    code.unwrap_or(ErrorCode::UNSPECIFIED_ERROR)
}

unsafe extern "C" fn get_error_desc(this: *mut IErrorRecorder, index: i32) -> *const c_char {
    // SAFETY: the library calls with the object that it was given.
    let text = unsafe { recorder(this) }.at(index, |(_, text)| text.as_ptr());
    // The text's memory stays where it is when the list grows.
    text.unwrap_or(c"".as_ptr())
}

unsafe extern "C" fn has_overflowed(this: *mut IErrorRecorder) -> bool {
    // SAFETY: the library calls with the object that it was given.
    unsafe { recorder(this) }.lock().has_overflowed
}

unsafe extern "C" fn clear(this: *mut IErrorRecorder) {
    // SAFETY: the library calls with the object that it was given.
    *unsafe { recorder(this) }.lock() = Errors::default();
}

unsafe extern "C" fn report_error(
    this: *mut IErrorRecorder,
    code: ErrorCode,
    description: *const c_char,
) -> bool {
    // SAFETY: the library calls with the object that it was given and with a text.
    let (recorder, text) = unsafe { (recorder(this), text(description)) };
    guarded("the error recorder", false, || {
        recorder.report(code, text.to_owned())
    })
}

unsafe extern "C" fn inc_ref_count(this: *mut IErrorRecorder) -> i32 {
    // SAFETY: the library calls with the object that it was given.
    let references = &unsafe { recorder(this) }.references;
    references.fetch_add(1, Ordering::SeqCst) + 1
}

unsafe extern "C" fn dec_ref_count(this: *mut IErrorRecorder) -> i32 {
    // SAFETY: the library calls with the object that it was given.
    let references = &unsafe { recorder(this) }.references;
    references.fetch_sub(1, Ordering::SeqCst) - 1
}
