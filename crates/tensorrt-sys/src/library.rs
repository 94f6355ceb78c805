//! The library, loaded at run time.
//!
//! Before anything else the library is asked for its version, which decides the ABI line. The
//! library is never unloaded: it has threads and handlers of its own that outlive any handle.
//!
//! ```no_run
//! use tintype_tensorrt_sys::{Library, LoadOptions};
//!
//! let library = Library::load(&LoadOptions::default())?;
//! println!("{}", library.abi());
//! # Ok::<(), tintype_tensorrt_sys::Error>(())
//! ```

use std::ffi::{CStr, OsStr, c_void};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use crate::search::{Environment, Place, SearchPath};
use crate::version::{Abi, Newer, Version};
use crate::{Error, IBuilder, ICudaEngine, ILogger, IRefitter, IRuntime, Interface, Object};

/// A loaded library of TensorRT or TensorRT-RTX.
#[derive(Debug)]
pub struct Library {
    path: PathBuf,
    abi: Abi,
    build: Option<u32>,
    functions: Functions,
    /// Held, and never closed.
    _handle: ManuallyDrop<libloading::Library>,
}

/// How to load.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// A file or folder, in place of `TINTYPE_TENSORRT`.
    pub path: Option<PathBuf>,
    /// What to do with a version newer than those known.
    pub newer: Newer,
}

/// The exported functions that create objects.
#[derive(Clone, Copy, Debug)]
struct Functions {
    runtime: CreateFunction,
    /// Missing in libraries without a builder.
    builder: Option<CreateFunction>,
    refitter: Option<CreateRefitterFunction>,
}

type VersionFunction = unsafe extern "C" fn() -> i32;
type CreateFunction = unsafe extern "C" fn(logger: *mut c_void, version: i32) -> *mut c_void;
type CreateRefitterFunction =
    unsafe extern "C" fn(engine: *mut c_void, logger: *mut c_void, version: i32) -> *mut c_void;

impl Library {
    /// Looks for a library and loads the first that will do.
    ///
    /// # Errors
    /// [`Error::NotFound`] with every place and what was wrong with it. If a library was named
    /// (by `options` or `TINTYPE_TENSORRT`) and cannot be used, that library's error.
    pub fn load(options: &LoadOptions) -> Result<Self, Error> {
        let mut environment = Environment::of_process();
        if options.path.is_some() {
            environment.explicit.clone_from(&options.path);
        }
        Self::load_from(&environment, options.newer)
    }

    /// As [`Self::load`], with an environment of one's own.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_from(environment: &Environment, newer: Newer) -> Result<Self, Error> {
        let places = SearchPath::new(environment).into_places();
        let is_only_one = environment.explicit.is_some() && places.len() == 1;
        let mut looked = Vec::new();
        for place in places {
            let result = match &place {
                Place::Nothing(_) => {
                    looked.push(place.to_string());
                    continue;
                }
                Place::Name(name) => Self::open_named(OsStr::new(name), newer),
                Place::File(path) => Self::open(path, newer),
            };
            match result {
                Ok(library) => return Ok(library),
                Err(error) if is_only_one => return Err(error),
                Err(Error::Load { .. }) if matches!(place, Place::Name(_)) => {
                    looked.push(place.to_string());
                }
                Err(error) => looked.push(format!("{place} ({error})")),
            }
        }
        Err(Error::NotFound { looked })
    }

    /// Loads one file.
    ///
    /// # Errors
    /// [`Error::Load`], [`Error::NoFunction`], [`Error::UnknownVersion`], [`Error::Platform`].
    pub fn open(path: &Path, newer: Newer) -> Result<Self, Error> {
        // Without a folder the system would search instead of opening this file.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self::open_named(path.as_os_str(), newer)
    }

    fn open_named(name: &OsStr, newer: Newer) -> Result<Self, Error> {
        let path = PathBuf::from(name);
        if !cfg!(all(target_os = "linux", target_pointer_width = "64")) {
            return Err(Error::Platform);
        }
        // SAFETY: loading runs the library's initializers. It is the file that the user or the
        // system names as TensorRT, and running its code is what it is loaded for.
        let handle = unsafe { libloading::Library::new(name) };
        let handle = handle.map_err(|error| Error::Load {
            path: path.clone(),
            reason: reason(&error),
        })?;
        let handle = ManuallyDrop::new(handle);
        let version = number(&handle, c"getInferLibVersion").ok_or(Error::NoFunction {
            path: path.clone(),
            function: "getInferLibVersion",
        })?;
        let abi = Abi::of_number(version, newer).map_err(|_| Error::UnknownVersion {
            path: Some(path.clone()),
            version: Version::of_number(version),
        })?;
        let functions = Functions::of(&handle, &path)?;
        let build = number(&handle, c"getInferLibBuildVersion");
        let path = mapped_file(&path).unwrap_or(path);
        tracing::debug!(%abi, path = %path.display(), "TensorRT library loaded");
        Ok(Self {
            path,
            abi,
            build: build.and_then(|build| build.try_into().ok()),
            functions,
            _handle: handle,
        })
    }

    /// The file; the name alone if the system's search found it and does not say where.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The ABI line and the version.
    pub fn abi(&self) -> Abi {
        self.abi
    }

    /// The build number, for instance 116 of 1.7.1.116.
    pub fn build(&self) -> Option<u32> {
        self.build
    }

    /// Whether it can build engines, or only run them.
    pub fn has_builder(&self) -> bool {
        self.functions.builder.is_some()
    }

    /// A builder. The caller owns it.
    ///
    /// # Errors
    /// [`Error::NoBuilder`], [`Error::NotCreated`].
    ///
    /// # Safety
    /// The logger is valid until the builder and all that came of it are destroyed, and all others
    /// that were made meanwhile: the library stays with the first logger that it was given.
    pub unsafe fn create_builder(&self, logger: *mut ILogger) -> Result<IBuilder, Error> {
        let create = self.functions.builder.ok_or_else(|| self.no_builder())?;
        // SAFETY: the function is that of the header; the caller vouches for the logger.
        let pointer = unsafe { create(logger.cast(), self.abi.version().number()) };
        // SAFETY: the function gives an `IBuilder` or null.
        unsafe { self.created(pointer) }
    }

    /// A runtime. The caller owns it.
    ///
    /// # Errors
    /// [`Error::NotCreated`].
    ///
    /// # Safety
    /// The logger is valid until the runtime and all that came of it are destroyed, and all others
    /// that were made meanwhile: the library stays with the first logger that it was given.
    pub unsafe fn create_runtime(&self, logger: *mut ILogger) -> Result<IRuntime, Error> {
        // SAFETY: the function is that of the header; the caller vouches for the logger.
        let pointer =
            unsafe { (self.functions.runtime)(logger.cast(), self.abi.version().number()) };
        // SAFETY: the function gives an `IRuntime` or null.
        unsafe { self.created(pointer) }
    }

    /// A refitter of an engine. The caller owns it.
    ///
    /// # Errors
    /// [`Error::NoFunction`] if the library has none, [`Error::NotCreated`].
    ///
    /// # Safety
    /// The engine is alive and of this library. The engine outlives the refitter, the logger all
    /// objects that are made while the refitter lives.
    pub unsafe fn create_refitter(
        &self,
        engine: ICudaEngine,
        logger: *mut ILogger,
    ) -> Result<IRefitter, Error> {
        let create = self.functions.refitter.ok_or(Error::NoFunction {
            path: self.path.clone(),
            function: "createInferRefitter_INTERNAL",
        })?;
        let version = self.abi.version().number();
        // SAFETY: the function is that of the header; the caller vouches for its arguments.
        let pointer = unsafe { create(engine.as_ptr(), logger.cast(), version) };
        // SAFETY: the function gives an `IRefitter` or null.
        unsafe { self.created(pointer) }
    }

    /// # Safety
    /// The pointer is null or that of an object of class `T` of this library.
    unsafe fn created<T: Interface>(&self, pointer: *mut c_void) -> Result<T, Error> {
        // SAFETY: as the caller says.
        let object = unsafe { Object::new(pointer, self.abi) };
        let object = object.ok_or(Error::NotCreated {
            what: T::NAME,
            abi: self.abi,
        })?;
        // SAFETY: as the caller says.
        Ok(unsafe { T::from_object(object) })
    }

    fn no_builder(&self) -> Error {
        Error::NoBuilder {
            path: self.path.clone(),
            abi: self.abi,
        }
    }
}

impl Functions {
    fn of(library: &libloading::Library, path: &Path) -> Result<Self, Error> {
        // SAFETY: these exports have had these signatures in every version of both lines, and
        // the version has been checked.
        unsafe {
            let runtime = function(library, c"createInferRuntime_INTERNAL");
            Ok(Self {
                runtime: runtime.ok_or_else(|| Error::NoFunction {
                    path: path.to_owned(),
                    function: "createInferRuntime_INTERNAL",
                })?,
                builder: function(library, c"createInferBuilder_INTERNAL"),
                refitter: function(library, c"createInferRefitter_INTERNAL"),
            })
        }
    }
}

/// An exported function, if the library has it.
///
/// # Safety
/// `T` is the function's type.
unsafe fn function<T: Copy>(library: &libloading::Library, name: &CStr) -> Option<T> {
    // SAFETY: the caller says that the type is right.
    unsafe { library.get::<T>(name.to_bytes_with_nul()) }
        .ok()
        .map(|symbol| *symbol)
}

/// What one of the functions that give a part of the version says.
fn number(library: &libloading::Library, name: &CStr) -> Option<i32> {
    // SAFETY: all functions of these names take nothing and give an `int`, in every version that
    // ever was.
    let function = unsafe { function::<VersionFunction>(library, name) }?;
    // SAFETY: they only return a constant.
    Some(unsafe { function() })
}

/// What the system's loader says, without the words around it.
fn reason(error: &libloading::Error) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string);
    source.unwrap_or_else(|| error.to_string())
}

/// The file that the system's search found for a name, as Linux tells what is in memory. The
/// name may be a link to a file with more numbers behind it.
fn mapped_file(name: &Path) -> Option<PathBuf> {
    if name.components().count() > 1 {
        return None;
    }
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    file_in_maps(&maps, name.to_str()?)
}

/// Looks for `name`, or `name` and more numbers, in the last column of the list of mappings.
fn file_in_maps(maps: &str, name: &str) -> Option<PathBuf> {
    let is_it = |path: &Path| {
        let file = path.file_name().and_then(|file| file.to_str());
        file.and_then(|file| file.strip_prefix(name))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    maps.lines()
        .filter_map(|line| Some(PathBuf::from(&line[line.find('/')?..])))
        .find(|path| is_it(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explicit(path: &Path) -> Environment {
        Environment {
            explicit: Some(path.to_owned()),
            ..Environment::default()
        }
    }

    fn error(environment: &Environment) -> String {
        let result = Library::load_from(environment, Newer::Refuse);
        result.expect_err("there is no library").to_string()
    }

    #[test]
    fn what_is_no_library_is_told_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("libnvinfer.so.11");
        std::fs::write(&text, "not a library").unwrap();
        let missing = folder.path().join("missing.so");
        for path in [&text, &missing] {
            let error = error(&explicit(path));
            let expected = format!("cannot load {}: ", path.display());
            assert!(error.starts_with(&expected), "{error}");
        }
        assert!(error(&explicit(folder.path())).contains("libnvinfer.so.11"));
    }

    #[test]
    fn an_empty_folder_is_told_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let error = error(&explicit(folder.path()));
        let place = format!("looked at: {}", folder.path().display());
        assert!(error.ends_with(&place), "{error}");
        assert!(error.contains("install TensorRT-RTX 1.5 or later"));
        assert!(error.contains("TINTYPE_TENSORRT"));
    }

    #[test]
    fn a_library_that_is_another_one_is_told() {
        let libc = mapped_file(Path::new("libc.so.6")).expect("every process has it");
        let error = error(&explicit(&libc));
        let expected = format!(
            "{} is no TensorRT library: it has no function getInferLibVersion",
            libc.display()
        );
        assert_eq!(error, expected);
    }

    #[test]
    fn a_mapped_file_is_found_by_its_name() {
        let maps = "7f00-7f01 r-xp 0 08:01 1   /usr/lib/libnvinfer_lean.so.11\n\
                    7f02-7f03 r-xp 0 08:01 2   /opt/my trt/libnvinfer.so.11.4.0\n\
                    7f04-7f05 rw-p 0 00:00 0   [stack]\n7f06-7f07 rw-p 0 00:00 0\n";
        let found = |name| file_in_maps(maps, name).map(|path| path.display().to_string());
        assert_eq!(
            found("libnvinfer.so.11").as_deref(),
            Some("/opt/my trt/libnvinfer.so.11.4.0")
        );
        assert_eq!(found("libtensorrt_rtx.so.1"), None);
    }
}
