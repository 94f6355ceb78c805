//! libcublasLt: whether it is here, its version, and a handle.
//!
//! cudarc loads it when it is used first, and panics if it or a symbol is missing; so both are
//! looked for beforehand. cudarc asks the system's loader by name alone, which also finds what a
//! process has loaded already: so a library that lies elsewhere is loaded here by its path.

use std::ffi::c_void;
use std::fmt;
use std::path::Path;
use std::sync::OnceLock;

use cudarc::cublaslt::sys;
use tintype_device::{Device, Error as DeviceError};

use super::search;
use crate::{Error, Result};

/// A version of cuBLASLt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(usize);

/// The library with a handle for one device.
pub(super) struct Library {
    pub(super) handle: sys::cublasLtHandle_t,
    pub(super) version: Version,
    pub(super) device: Device,
}

// SAFETY: a handle of cuBLASLt holds no state of a thread; the library says that its functions
// may be called from several threads at once, also with the same handle.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

/// What the library refused, and its name for why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    action: &'static str,
    pub(super) status: sys::cublasStatus_t,
}

/// The result of a call.
pub(super) type Outcome<T> = std::result::Result<T, Failure>;

impl Library {
    /// # Errors
    /// [`tintype_device::Error::Unavailable`] where there is no library or a too old one.
    pub(super) fn open(device: &Device) -> Result<Self> {
        if !is_present() {
            return Err(unavailable("there is no libcublasLt.so"));
        }
        check_symbols()?;
        // SAFETY: the symbol is there.
        let version = Version(unsafe { sys::cublasLtGetVersion() });
        if version < OLDEST {
            let reason = format!("the library is {version}, needed is {OLDEST}");
            return Err(unavailable(&reason));
        }
        device.bind()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the context is current and the pointer is to a live value.
        let status = unsafe { sys::cublasLtCreate(&raw mut handle) };
        check("making a handle", status).map_err(|failure| failure.of(device.name()))?;
        Ok(Self {
            handle,
            version,
            device: device.clone(),
        })
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: made by this value and destroyed once; no descriptor needs it.
            let status = unsafe { sys::cublasLtDestroy(self.handle) };
            if let Err(failure) = check("destroying a handle", status) {
                tracing::warn!("{}", failure.of(self.device.name()));
            }
        }
    }
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuBLASLt {} on {}", self.version, self.device.name())
    }
}

impl Version {
    /// The first of a minor version.
    pub(super) const fn new(major: usize, minor: usize) -> Self {
        Self(major * 10_000 + minor * 100)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number) = self;
        let (major, minor) = (number / 10_000, number / 100 % 100);
        write!(f, "{major}.{minor}.{}", number % 100)
    }
}

impl Failure {
    /// The error of a step.
    pub(super) fn of(self, step: &str) -> Error {
        Error::Blas {
            step: step.to_owned(),
            action: self.action,
            message: format!("{:?}", self.status),
        }
    }

    /// Whether the library says that it cannot do this at all.
    pub(super) fn is_unsupported(self) -> bool {
        use sys::cublasStatus_t::{CUBLAS_STATUS_ARCH_MISMATCH, CUBLAS_STATUS_NOT_SUPPORTED};
        [CUBLAS_STATUS_NOT_SUPPORTED, CUBLAS_STATUS_ARCH_MISMATCH].contains(&self.status)
    }
}

pub(super) fn check(action: &'static str, status: sys::cublasStatus_t) -> Outcome<()> {
    if status == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS {
        return Ok(());
    }
    Err(Failure { action, status })
}

/// Whether there is a library to load, in the places that the system knows or those of
/// [`search::candidates`].
pub(super) fn is_present() -> bool {
    static IS_PRESENT: OnceLock<bool> = OnceLock::new();
    // SAFETY: loading the library runs its initializers, which is what it is for.
    let is_known = || unsafe { sys::is_culib_present() };
    *IS_PRESENT.get_or_init(|| {
        let variable = |name: &str| std::env::var(name).ok();
        is_known() || (search::candidates(&variable).iter().any(|path| load(path)) && is_known())
    })
}

/// Loads a library for as long as the process lives.
fn load(path: &Path) -> bool {
    // SAFETY: as above; it is cuBLASLt by its name.
    match unsafe { libloading::Library::new(path) } {
        Ok(library) => {
            // It may have threads of its own.
            std::mem::forget(library);
            true
        }
        Err(error) => {
            tracing::info!("{}: {error}", path.display());
            false
        }
    }
}

fn check_symbols() -> Result<()> {
    // SAFETY: the library was found just now, so this does not panic.
    let library = unsafe { sys::culib() };
    for name in SYMBOLS {
        // SAFETY: the symbol is only looked up, not called.
        let found = unsafe { library.get::<*const c_void>(name.as_bytes()) };
        if found.is_err() {
            return Err(unavailable(&format!("the library has no `{name}`")));
        }
    }
    Ok(())
}

fn unavailable(reason: &str) -> Error {
    Error::Device(DeviceError::Unavailable {
        what: "cuBLASLt",
        reason: reason.to_owned(),
        remedy: REMEDY.to_owned(),
    })
}

const REMEDY: &str = "install cuBLAS of CUDA 12 or 13, and if its folder is not one that the system \
    knows, name it in `LD_LIBRARY_PATH`";

/// Of CUDA 12.0.
const OLDEST: Version = Version(120_000);

/// What this part calls.
const SYMBOLS: [&str; 15] = [
    "cublasLtCreate",
    "cublasLtDestroy",
    "cublasLtGetVersion",
    "cublasLtMatmul",
    "cublasLtMatmulAlgoCheck",
    "cublasLtMatmulAlgoGetHeuristic",
    "cublasLtMatmulDescCreate",
    "cublasLtMatmulDescDestroy",
    "cublasLtMatmulDescSetAttribute",
    "cublasLtMatmulPreferenceCreate",
    "cublasLtMatmulPreferenceDestroy",
    "cublasLtMatmulPreferenceSetAttribute",
    "cublasLtMatrixLayoutCreate",
    "cublasLtMatrixLayoutDestroy",
    "cublasLtMatrixLayoutSetAttribute",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_ordered() {
        assert_eq!(Version(130_100).to_string(), "13.1.0");
        assert_eq!(Version(120_803).to_string(), "12.8.3");
        assert!(Version(111_103) < OLDEST);
    }

    #[test]
    fn a_library_that_is_here_has_all_symbols() {
        if is_present() {
            check_symbols().unwrap();
            // SAFETY: the symbol is there.
            let version = Version(unsafe { sys::cublasLtGetVersion() });
            assert!(version >= OLDEST, "{version}");
            println!("cuBLASLt {version}");
        }
    }

    #[test]
    fn a_failure_says_which_step_and_why() {
        let status = sys::cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE;
        let failure = check("enqueueing", status).unwrap_err();
        assert!(!failure.is_unsupported());
        assert_eq!(
            failure.of("blocks.0.mlp").to_string(),
            "blocks.0.mlp: cuBLASLt: enqueueing failed: CUBLAS_STATUS_INVALID_VALUE"
        );
    }

    #[test]
    fn a_missing_library_is_said_with_its_remedy() {
        let text = unavailable("there is no libcublasLt.so").to_string();
        assert!(
            text.starts_with("cuBLASLt is not available: there is no"),
            "{text}"
        );
        assert!(text.contains("LD_LIBRARY_PATH"), "{text}");
    }
}
