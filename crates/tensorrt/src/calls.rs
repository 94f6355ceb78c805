//! How the safe layer calls the library: objects that are destroyed, errors that are told.

use std::ffi::CString;
use std::fmt::Display;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use tintype_tensorrt_sys as sys;
use tintype_tensorrt_sys::callback::{ErrorRecorder, Implementation};
use tintype_tensorrt_sys::{Abi, IErrorRecorder, Interface};

use crate::error::Code;
use crate::log::capture;
use crate::{Error, Result};

/// An object of the library that is destroyed when this is dropped.
#[derive(Debug)]
pub(crate) struct Owned<T: Interface>(T);

impl<T: Interface> Owned<T> {
    /// # Safety
    /// The object was given to the caller to own. Whatever it depends on outlives this, and
    /// what depends on it does not.
    pub(crate) unsafe fn new(object: T) -> Self {
        Self(object)
    }

    /// A handle, valid while this lives.
    pub(crate) fn raw(&self) -> T {
        self.0
    }
}

impl<T: Interface> Deref for Owned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Interface> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the object is owned here, and `new` demands that nothing depends on it.
        unsafe { self.0.destroy() }
    }
}

/// Calls the library and makes errors of what it recorded and logged.
///
/// One call at a time: the recorder could not tell whose errors it has otherwise. So a call
/// must not make another through the same `Calls`.
#[derive(Debug)]
pub(crate) struct Calls {
    recorder: Implementation<IErrorRecorder, ErrorRecorder>,
    abi: Abi,
    turn: Mutex<()>,
}

/// What the library said during a call, each thing once.
struct Said {
    code: Code,
    messages: Vec<String>,
}

impl Calls {
    pub(crate) fn new(abi: Abi) -> Arc<Self> {
        Arc::new(Self {
            recorder: Implementation::error_recorder(),
            abi,
            turn: Mutex::default(),
        })
    }

    /// The recorder; valid while this lives, so that objects which have it hold this.
    pub(crate) fn recorder(&self) -> *mut IErrorRecorder {
        self.recorder.as_ptr()
    }

    /// Calls. An error is what could not be called or what promised an object and gave none.
    pub(crate) fn run<T, E: Into<Error>>(
        &self,
        action: impl Display,
        call: impl FnOnce() -> std::result::Result<T, E>,
    ) -> Result<T> {
        let (result, said) = self.listen(call);
        let result = result.map_err(|error| self.explain(&action, error.into(), &said))?;
        for message in said.messages {
            tracing::warn!("{action}: {message}");
        }
        Ok(result)
    }

    /// Calls what reports its errors to the recorder alone.
    pub(crate) fn checked<T, E: Into<Error>>(
        &self,
        action: impl Display,
        call: impl FnOnce() -> std::result::Result<T, E>,
    ) -> Result<T> {
        let (result, said) = self.listen(call);
        let result = result.map_err(|error| self.explain(&action, error.into(), &said))?;
        if said.messages.is_empty() {
            return Ok(result);
        }
        Err(self.failure(action, &said))
    }

    /// Calls what gives an object or none.
    pub(crate) fn object<T, E: Into<Error>>(
        &self,
        action: impl Display,
        call: impl FnOnce() -> std::result::Result<Option<T>, E>,
    ) -> Result<T> {
        let (result, said) = self.listen(call);
        let result = result.map_err(|error| self.explain(&action, error.into(), &said))?;
        result.ok_or_else(|| self.failure(action, &said))
    }

    /// Calls what says whether it is done.
    pub(crate) fn done<E: Into<Error>>(
        &self,
        action: impl Display,
        call: impl FnOnce() -> std::result::Result<bool, E>,
    ) -> Result<()> {
        self.object(action, || call().map(|done| done.then_some(())))
    }

    fn listen<T>(&self, call: impl FnOnce() -> T) -> (T, Said) {
        // The guard protects no data that a panic could leave half changed.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let (result, logged) = capture(call);
        let recorded = self.recorder.take();
        let code = recorded
            .first()
            .map_or(Code::Unspecified, |(code, _)| Code::new(*code));
        // What is recorded is also logged, among other things: without a GPU each error comes
        // with one of CUDA's.
        let mut messages = once_each(recorded.into_iter().map(|(_, text)| text));
        if messages.is_empty() {
            messages = once_each(logged);
        }
        (result, Said { code, messages })
    }

    /// An object that was not made is explained by what the library said.
    fn explain(&self, action: impl Display, error: Error, said: &Said) -> Error {
        match error {
            Error::Library(sys::Error::NotCreated { .. } | sys::Error::NoObject { .. })
                if !said.messages.is_empty() =>
            {
                self.failure(action, said)
            }
            other => other,
        }
    }

    fn failure(&self, action: impl Display, said: &Said) -> Error {
        let message = if said.messages.is_empty() {
            "the library gives no reason".to_owned()
        } else {
            said.messages.join("; ")
        };
        Error::Call {
            action: action.to_string(),
            message,
            code: said.code,
            abi: self.abi,
        }
    }
}

/// A name as the library takes it.
///
/// # Errors
/// [`Error::Name`] for a zero byte, and for more than 4095 bytes.
pub(crate) fn name(name: &str) -> Result<CString> {
    const LONGEST: usize = 4095;
    let text = CString::new(name).ok();
    let text = text.filter(|text| text.count_bytes() <= LONGEST);
    text.ok_or_else(|| Error::Name {
        name: name.chars().take(100).collect(),
    })
}

/// Messages, each in one line and once, whichever function told it.
fn once_each(messages: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut told = Vec::<String>::new();
    for message in messages {
        let message = in_one_line(&message);
        // `IBuilder::build: Error Code 4: …` of one function says what `…::get: Error Code 4: …`
        // of another does.
        let what = message
            .split_once(": Error Code ")
            .map_or(&*message, |(_, what)| what);
        if !told.iter().any(|known| known.ends_with(what)) {
            told.push(message);
        }
    }
    told
}

fn in_one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tintype_tensorrt_sys::Newer;

    fn calls() -> Arc<Calls> {
        Calls::new(Abi::of_number(10701, Newer::Refuse).unwrap())
    }

    #[test]
    fn a_silent_failure_is_told_as_such() {
        let error = calls()
            .done("adding a layer", || Ok::<_, Error>(false))
            .unwrap_err();
        let expected = "adding a layer failed: the library gives no reason \
                        (unspecified error, TensorRT-RTX 1.7.1)";
        assert_eq!(error.to_string(), expected);
        assert!(
            calls()
                .done("adding a layer", || Ok::<_, Error>(true))
                .is_ok()
        );
        assert_eq!(
            calls()
                .object("asking", || Ok::<_, Error>(Some(3)))
                .unwrap(),
            3
        );
    }

    #[test]
    fn names_have_limits() {
        assert!(name("blocks.0.qkv").is_ok());
        assert!(name(&"a".repeat(4095)).is_ok());
        assert!(name(&"a".repeat(4096)).is_err());
        assert!(name("a\0").is_err());
    }

    #[test]
    fn what_several_functions_tell_is_told_once() {
        let messages = [
            "A::f: Error Code 4: no\n way",
            "B::g: Error Code 4: no way",
            "other",
        ];
        let told = once_each(messages.map(str::to_owned));
        assert_eq!(told, ["A::f: Error Code 4: no way", "other"]);
    }

    #[test]
    fn messages_take_one_line() {
        assert_eq!(in_one_line("a\n  b\t c \n"), "a b c");
    }
}
