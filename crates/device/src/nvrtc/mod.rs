//! NVRTC: CUDA C++ compiled to machine code (CUBIN) at run time. It needs no GPU.
//!
//! The library is looked for by [`Nvrtc::load`] in this order: `TINTYPE_NVRTC` (a file or a
//! folder), the system's own paths, CUDA toolkits under `/usr/local`, and the folders of pip
//! packages. The one chosen may not be newer than the driver, which could not load its code.
//!
//! It is loaded here and not through cudarc, which looks in fewer places, takes whatever it
//! finds first, and panics where a function is missing.
//!
//! ```
//! use tintype_device::{Nvrtc, Source, Target};
//!
//! match Nvrtc::load(None) {
//!     Ok(nvrtc) => {
//!         let source = Source::new("empty.cu", r#"extern "C" __global__ void nothing() {}"#);
//!         assert!(nvrtc.compile(&source, Target::new(8, 0))?.starts_with(b"\x7fELF"));
//!     }
//!     Err(error) => println!("{error}"),
//! }
//! # Ok::<(), tintype_device::Error>(())
//! ```

mod library;
mod search;

use std::ffi::CString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use self::library::Library;
use crate::{ComputeCapability, CudaVersion, Error, Result};

/// The loaded library. A cheap handle.
#[derive(Debug, Clone)]
pub struct Nvrtc {
    library: Arc<Library>,
}

/// CUDA C++ with the options it is compiled with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its name in messages.
    pub name: String,
    /// The text. It can include nothing from disk.
    pub text: String,
    /// Options of NVRTC besides the architecture.
    pub options: Vec<String>,
}

/// What code is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// The compute capability.
    pub capability: ComputeCapability,
    /// Whether the code may use what only this capability has (`sm_90a`).
    pub specific: bool,
}

impl Source {
    /// A source with the usual options: C++17, rounding and subnormals as IEEE 754 asks.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            text: text.into(),
            options: vec!["--std=c++17".to_owned()],
        }
    }

    /// The same with one more option.
    #[must_use]
    pub fn with_option(mut self, option: impl Into<String>) -> Self {
        self.options.push(option.into());
        self
    }
}

impl Target {
    /// Code for a compute capability and all later ones of its major number.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self {
            capability: ComputeCapability { major, minor },
            specific: false,
        }
    }

    /// The same, with what only this capability has.
    #[must_use]
    pub const fn specific(mut self) -> Self {
        self.specific = true;
        self
    }

    /// 90 for 9.0.
    fn number(self) -> u32 {
        self.capability.major * 10 + self.capability.minor
    }

    /// The newest target that `supported` numbers have and that runs on `capability`.
    fn best(capability: ComputeCapability, supported: &[u32]) -> Option<Self> {
        let own = Self::new(capability.major, capability.minor);
        let runs = |&&number: &&u32| number / 10 == capability.major && number <= own.number();
        let best = supported.iter().filter(runs).max()?;
        Some(Self::new(best / 10, best % 10))
    }
}

impl From<ComputeCapability> for Target {
    fn from(capability: ComputeCapability) -> Self {
        Self::new(capability.major, capability.minor)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = if self.specific { "a" } else { "" };
        write!(f, "sm_{}{suffix}", self.number())
    }
}

impl Nvrtc {
    /// The newest library that is here, but none newer than `driver`, by its major number.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with the places that were searched.
    pub fn load(driver: Option<CudaVersion>) -> Result<Self> {
        let variable = |name: &str| std::env::var(name).ok();
        if let Some(given) = variable(search::VARIABLE) {
            return Self::load_given(Path::new(&given));
        }
        let places = search::places(&variable);
        let mut found: Option<Library> = None;
        for path in search::candidates(&places) {
            let Ok(library) = Library::open(&path) else {
                continue;
            };
            let fits = driver.is_none_or(|driver| library.version().major <= driver.major);
            let better = |best: &Library| library.version() > best.version();
            if fits && found.as_ref().is_none_or(better) {
                found = Some(library);
            }
        }
        found.map_or_else(|| Err(not_found(&places, driver)), Self::checked)
    }

    /// The library in this file.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it cannot be loaded or is too old.
    pub fn load_from(path: &Path) -> Result<Self> {
        let library = Library::open(path).map_err(|reason| {
            let reason = format!("{}: {reason}", path.display());
            unavailable(reason, format!("install {PACKAGES}"))
        })?;
        Self::checked(library)
    }

    /// The library's version: that of the CUDA toolkit it came with.
    pub fn version(&self) -> CudaVersion {
        self.library.version()
    }

    /// The file or name it was loaded from.
    pub fn path(&self) -> &Path {
        self.library.path()
    }

    /// What to compile for, so that the code runs on `capability`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the library knows no such GPU.
    pub fn target_for(&self, capability: ComputeCapability) -> Result<Target> {
        let supported = self.library.architectures()?;
        Target::best(capability, &supported).ok_or_else(|| {
            let version = self.version();
            let reason =
                format!("version {version} has no code for compute capability {capability}");
            unavailable(reason, format!("install a newer one: {PACKAGES}"))
        })
    }

    /// Compiles a source to CUBIN.
    ///
    /// # Errors
    /// [`Error::Compile`] with the compiler's messages.
    pub fn compile(&self, source: &Source, target: Target) -> Result<Vec<u8>> {
        let (code, log) = self.compile_with_log(source, target)?;
        if !log.is_empty() {
            tracing::debug!("`{}` for {target}: {log}", source.name);
        }
        Ok(code)
    }

    /// The same with the compiler's messages: warnings, and what options ask for.
    pub fn compile_with_log(&self, source: &Source, target: Target) -> Result<(Vec<u8>, String)> {
        let text = c_string(source, &source.text)?;
        let name = c_string(source, &source.name)?;
        let architecture = format!("--gpu-architecture={target}");
        let options = std::iter::once(&architecture).chain(&source.options);
        let options: Result<Vec<CString>> =
            options.map(|option| c_string(source, option)).collect();
        let program = self.library.program(&text, &name)?;
        let is_compiled = program.compile(&options?)?;
        let log = program.log()?.trim().to_owned();
        if is_compiled {
            return Ok((program.cubin()?, log));
        }
        Err(Error::Compile {
            name: source.name.clone(),
            target: target.to_string(),
            log,
        })
    }

    fn load_given(given: &Path) -> Result<Self> {
        if !given.is_dir() {
            return Self::load_from(given);
        }
        let files = search::libraries_in(given);
        let newest = files.first().ok_or_else(|| {
            let reason = format!("{} has no libnvrtc.so", given.display());
            unavailable(reason, format!("set {} to its folder", search::VARIABLE))
        })?;
        Self::load_from(newest)
    }

    fn checked(library: Library) -> Result<Self> {
        let version = library.version();
        if version < OLDEST {
            let reason = format!(
                "{} is version {version}, needed is {OLDEST}",
                library.path().display()
            );
            return Err(unavailable(reason, format!("install {PACKAGES}")));
        }
        tracing::debug!("NVRTC {version} from {}", library.path().display());
        Ok(Self {
            library: Arc::new(library),
        })
    }
}

fn c_string(source: &Source, text: &str) -> Result<CString> {
    CString::new(text)
        .map_err(|_| Error::Unsupported(format!("a zero byte in `{}` or its options", source.name)))
}

fn not_found(places: &[PathBuf], driver: Option<CudaVersion>) -> Error {
    let mut shown: Vec<String> = vec!["the system's library paths".to_owned()];
    shown.extend(places.iter().map(|place| place.display().to_string()));
    let newest = driver.map_or_else(String::new, |driver| {
        format!(" of CUDA {} or older", driver.major)
    });
    let reason = format!("there is no libnvrtc.so{newest} in {}", shown.join(", "));
    let remedy = format!(
        "install {PACKAGES}, or set {} to its folder",
        search::VARIABLE
    );
    unavailable(reason, remedy)
}

pub(crate) fn unavailable(reason: String, remedy: String) -> Error {
    Error::Unavailable {
        what: "NVRTC",
        reason,
        remedy,
    }
}

pub(crate) const PACKAGES: &str =
    "a CUDA toolkit or the pip package nvidia-cuda-nvrtc (nvidia-cuda-nvrtc-cu12 for CUDA 12)";

/// The first with code for every GPU from Ampere to Hopper.
const OLDEST: CudaVersion = CudaVersion {
    major: 12,
    minor: 0,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_named_as_the_compiler_names_them() {
        assert_eq!(Target::new(8, 9).to_string(), "sm_89");
        assert_eq!(Target::new(9, 0).specific().to_string(), "sm_90a");
        assert_eq!(Target::new(12, 0).to_string(), "sm_120");
    }

    #[test]
    fn an_unknown_minor_takes_the_code_of_a_lower_one() {
        let capability = |major, minor| ComputeCapability { major, minor };
        let supported = [75, 80, 86, 90, 100, 120];
        let best = |major, minor| Target::best(capability(major, minor), &supported);
        assert_eq!(best(8, 9), Some(Target::new(8, 6)));
        assert_eq!(best(8, 0), Some(Target::new(8, 0)));
        assert_eq!(best(12, 1), Some(Target::new(12, 0)));
        assert_eq!(best(7, 0), None);
        assert_eq!(best(11, 0), None);
    }

    #[test]
    fn a_missing_library_is_an_error_that_says_what_to_install() {
        let error = Nvrtc::load_from(Path::new("nowhere/libnvrtc.so.12")).unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains("nowhere"), "{message}");
        assert!(message.contains("nvidia-cuda-nvrtc"), "{message}");
        let places = [PathBuf::from("a/lib"), PathBuf::from("b/lib")];
        let driver = CudaVersion::from_thousands(12_040);
        let message = not_found(&places, Some(driver)).to_string();
        assert!(message.contains("of CUDA 12 or older"), "{message}");
        assert!(message.contains("a/lib, b/lib"), "{message}");
    }
}
