//! The functions of libcudnn that are in use, looked up by name in a library found at run time.
//!
//! Statuses are numbers here and not an enum: a newer library may give one that no list has.
//! What is not here: any state. Handles and descriptors are `handle` and `descriptor`.

use std::ffi::{CStr, c_char, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tintype_device::Error;

use super::search;

/// What every function returns; 0 is success.
pub(super) type Status = u32;
/// `cudnnHandle_t`.
pub(super) type RawHandle = *mut c_void;
/// `cudnnBackendDescriptor_t`.
pub(super) type RawDescriptor = *mut c_void;

/// The version of the library, as `cudnnGetVersion` numbers it: 91400 for 9.14.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) usize);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(number) = *self;
        write!(
            f,
            "{}.{}.{}",
            number / 10_000,
            number / 100 % 100,
            number % 100
        )
    }
}

/// The library with its functions. All of them are there, or opening fails.
#[derive(Debug)]
pub(super) struct Library {
    pub(super) functions: Functions,
    pub(super) version: Version,
    /// The functions are in it. It stays loaded: it has threads of its own.
    pub(super) _code: Option<std::mem::ManuallyDrop<libloading::Library>>,
}

/// cuDNN's functions, with enums as the numbers that C passes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Functions {
    pub(super) version: unsafe extern "C" fn() -> usize,
    pub(super) error_string: unsafe extern "C" fn(Status) -> *const c_char,
    pub(super) last_error: Option<unsafe extern "C" fn(*mut c_char, usize)>,
    pub(super) create: unsafe extern "C" fn(*mut RawHandle) -> Status,
    pub(super) destroy: unsafe extern "C" fn(RawHandle) -> Status,
    pub(super) set_stream: unsafe extern "C" fn(RawHandle, *mut c_void) -> Status,
    pub(super) create_descriptor: unsafe extern "C" fn(u32, *mut RawDescriptor) -> Status,
    pub(super) destroy_descriptor: unsafe extern "C" fn(RawDescriptor) -> Status,
    pub(super) finalize: unsafe extern "C" fn(RawDescriptor) -> Status,
    pub(super) set_attribute:
        unsafe extern "C" fn(RawDescriptor, u32, u32, i64, *const c_void) -> Status,
    pub(super) get_attribute:
        unsafe extern "C" fn(RawDescriptor, u32, u32, i64, *mut i64, *mut c_void) -> Status,
    pub(super) execute: unsafe extern "C" fn(RawHandle, RawDescriptor, RawDescriptor) -> Status,
}

/// A call of the library that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) action: String,
    pub(super) status: Status,
    pub(super) message: String,
}

impl Failure {
    /// Whether the library does not want this graph, so that something else should compute it;
    /// not so if it failed to run what it had accepted.
    pub(super) fn is_refusal(&self) -> bool {
        self.status / 1000 != EXECUTION_FAILED
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} failed: {}", self.action, self.message)
    }
}

/// The result of what calls the library.
pub(super) type Attempt<T> = std::result::Result<T, Failure>;

impl Library {
    /// The library of this process, opened at the first call that finds one.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with what was tried, if there is none or it is older than 9.0.
    pub(super) fn load() -> Result<&'static Self, Error> {
        static LIBRARY: OnceLock<Library> = OnceLock::new();
        if let Some(library) = LIBRARY.get() {
            return Ok(library);
        }
        let library = Self::find(&search::candidates(&|name| std::env::var(name).ok()))?;
        Ok(LIBRARY.get_or_init(|| library))
    }

    /// The first of these that can be opened.
    fn find(candidates: &[PathBuf]) -> Result<Self, Error> {
        let mut reasons = Vec::new();
        for path in candidates {
            match Self::open(path) {
                Ok(library) if library.version < OLDEST => {
                    let version = library.version;
                    reasons.push(format!("{} is cuDNN {version}", path.display()));
                }
                Ok(library) => return Ok(library),
                Err(reason) => reasons.push(reason),
            }
        }
        Err(Error::Unavailable {
            what: "cuDNN",
            reason: reasons.join("; "),
            remedy: format!(
                "install cuDNN {OLDEST} or newer, or name its file or folder in {}",
                search::VARIABLE
            ),
        })
    }

    /// Opens the library of this path or name; says why not.
    fn open(path: &Path) -> Result<Self, String> {
        // SAFETY: loading runs the library's initializers; it is cuDNN by its name, or what
        // the user named.
        let library = unsafe { libloading::Library::new(path) }
            .map_err(|error| format!("{}: {}", path.display(), whole_text(&error)))?;
        // SAFETY: the signatures are those of cudnn_graph.h and cudnn_version.h.
        let functions = unsafe { Functions::of(&library) }
            .map_err(|error| format!("{}: {}", path.display(), whole_text(&error)))?;
        // SAFETY: the function takes nothing and reads a constant.
        let version = Version(unsafe { (functions.version)() });
        Ok(Self {
            functions,
            version,
            _code: Some(std::mem::ManuallyDrop::new(library)),
        })
    }

    /// Turns a status into what was being done and what the library says of it.
    pub(super) fn check(&self, status: Status, action: impl FnOnce() -> String) -> Attempt<()> {
        if status == 0 {
            return Ok(());
        }
        Err(Failure {
            action: action(),
            status,
            message: self.explain(status),
        })
    }

    fn explain(&self, status: Status) -> String {
        // SAFETY: the function takes any number and gives a text that lives as long as the code.
        let name = unsafe { (self.functions.error_string)(status) };
        let mut message = if name.is_null() {
            format!("status {status}")
        } else {
            // SAFETY: the text ends in zero.
            let name = unsafe { CStr::from_ptr(name) };
            format!("{} ({status})", name.to_string_lossy())
        };
        if let Some(last_error) = self.functions.last_error {
            let mut text = [0u8; 1024];
            // SAFETY: the library writes at most as many bytes as it is told there are.
            unsafe { last_error(text.as_mut_ptr().cast(), text.len() - 1) };
            let text = CStr::from_bytes_until_nul(&text).unwrap_or_default();
            let text = text.to_string_lossy();
            if !text.trim().is_empty() {
                message.push_str(": ");
                message.push_str(text.trim());
            }
        }
        message
    }
}

impl Functions {
    /// # Safety
    /// The library is cuDNN.
    unsafe fn of(library: &libloading::Library) -> Result<Self, libloading::Error> {
        // SAFETY: each name has the signature of the field it goes to, by cudnn's headers.
        unsafe {
            Ok(Self {
                version: *library.get(b"cudnnGetVersion")?,
                error_string: *library.get(b"cudnnGetErrorString")?,
                last_error: library
                    .get(b"cudnnGetLastErrorString")
                    .ok()
                    .map(|found| *found),
                create: *library.get(b"cudnnCreate")?,
                destroy: *library.get(b"cudnnDestroy")?,
                set_stream: *library.get(b"cudnnSetStream")?,
                create_descriptor: *library.get(b"cudnnBackendCreateDescriptor")?,
                destroy_descriptor: *library.get(b"cudnnBackendDestroyDescriptor")?,
                finalize: *library.get(b"cudnnBackendFinalize")?,
                set_attribute: *library.get(b"cudnnBackendSetAttribute")?,
                get_attribute: *library.get(b"cudnnBackendGetAttribute")?,
                execute: *library.get(b"cudnnBackendExecute")?,
            })
        }
    }
}

/// An error with what is behind it: the loader's own words are there only.
fn whole_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// The statuses from 5000 on.
const EXECUTION_FAILED: u32 = 5;

/// Statuses have the numbers of cuDNN 9, and descriptors its meaning.
const OLDEST: Version = Version(90_000);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_ordered() {
        assert_eq!(Version(91_301).to_string(), "9.13.1");
        assert_eq!(Version(91_400).to_string(), "9.14.0");
        assert!(Version(8_907) < OLDEST);
    }

    #[test]
    fn a_missing_library_is_an_error_that_says_what_to_do() {
        let error = Library::find(&[PathBuf::from("/nowhere/libcudnn.so.9")]).unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }));
        let text = error.to_string();
        assert!(text.contains("/nowhere/libcudnn.so.9"), "{text}");
        assert!(text.contains("TINTYPE_CUDNN"), "{text}");
    }

    #[test]
    fn a_library_without_the_functions_is_an_error() {
        // Some library that every test program has loaded.
        let error = Library::find(&[PathBuf::from("libc.so.6")]).unwrap_err();
        assert!(error.to_string().contains("cudnnGetVersion"), "{error}");
    }

    #[test]
    fn what_the_library_would_not_do_is_told_from_what_it_could_not() {
        let failure = |status| Failure {
            action: "finalizing a plan".to_owned(),
            status,
            message: String::new(),
        };
        assert!(failure(2000).is_refusal());
        assert!(failure(3004).is_refusal());
        assert!(!failure(5001).is_refusal());
    }
}
