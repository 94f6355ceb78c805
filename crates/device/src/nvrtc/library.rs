//! The functions of libnvrtc that are in use, and one program in it.

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::{Path, PathBuf};

use crate::{CudaVersion, Error, Result};

/// The library with its functions. All of them are there, or opening fails.
#[derive(Debug)]
pub(crate) struct Library {
    functions: Functions,
    version: CudaVersion,
    path: PathBuf,
    /// The functions are in it. It stays loaded: it may have threads of its own.
    _code: std::mem::ManuallyDrop<libloading::Library>,
}

type Status = c_int;
type Handle = *mut std::ffi::c_void;

#[derive(Debug, Clone, Copy)]
struct Functions {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status,
    error_string: unsafe extern "C" fn(Status) -> *const c_char,
    architecture_count: unsafe extern "C" fn(*mut c_int) -> Status,
    architectures: unsafe extern "C" fn(*mut c_int) -> Status,
    create: unsafe extern "C" fn(
        *mut Handle,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> Status,
    destroy: unsafe extern "C" fn(*mut Handle) -> Status,
    compile: unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> Status,
    log_size: unsafe extern "C" fn(Handle, *mut usize) -> Status,
    log: unsafe extern "C" fn(Handle, *mut c_char) -> Status,
    cubin_size: unsafe extern "C" fn(Handle, *mut usize) -> Status,
    cubin: unsafe extern "C" fn(Handle, *mut c_char) -> Status,
}

impl Library {
    /// Opens the library of this path or name; says why not.
    pub(crate) fn open(path: &Path) -> std::result::Result<Self, String> {
        // SAFETY: loading runs the library's initializers; it is NVRTC by its name, or what
        // the user named.
        let library =
            unsafe { libloading::Library::new(path) }.map_err(|error| error.to_string())?;
        // SAFETY: the signatures are those of nvrtc.h.
        let functions = unsafe { Functions::of(&library) }.map_err(|error| error.to_string())?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the pointers are to live integers.
        let status = unsafe { (functions.version)(&raw mut major, &raw mut minor) };
        if status != SUCCESS {
            return Err(functions.explain(status));
        }
        Ok(Self {
            functions,
            version: CudaVersion {
                major: major.unsigned_abs(),
                minor: minor.unsigned_abs(),
            },
            path: path.to_owned(),
            _code: std::mem::ManuallyDrop::new(library),
        })
    }

    pub(crate) fn version(&self) -> CudaVersion {
        self.version
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The architectures there is code for: 90 for `sm_90`.
    pub(crate) fn architectures(&self) -> Result<Vec<u32>> {
        let mut count = 0;
        // SAFETY: the pointer is to a live integer.
        let status = unsafe { (self.functions.architecture_count)(&raw mut count) };
        self.check("counting architectures", status)?;
        let mut numbers: Vec<c_int> = vec![0; count.unsigned_abs() as usize];
        // SAFETY: the library writes as many numbers as it said.
        let status = unsafe { (self.functions.architectures)(numbers.as_mut_ptr()) };
        self.check("listing architectures", status)?;
        Ok(numbers.into_iter().map(c_int::unsigned_abs).collect())
    }

    pub(crate) fn program(&self, text: &CStr, name: &CStr) -> Result<Program<'_>> {
        let mut handle: Handle = std::ptr::null_mut();
        // SAFETY: both texts end in zero and are copied; there are no headers.
        let status = unsafe {
            (self.functions.create)(
                &raw mut handle,
                text.as_ptr(),
                name.as_ptr(),
                0,
                std::ptr::null(),
                std::ptr::null(),
            )
        };
        self.check("making a program", status)?;
        Ok(Program {
            library: self,
            handle,
        })
    }

    fn check(&self, action: &'static str, status: Status) -> Result<()> {
        if status == SUCCESS {
            return Ok(());
        }
        let message = self.functions.explain(status);
        Err(Error::Nvrtc { action, message })
    }
}

impl Functions {
    /// # Safety
    /// The library is NVRTC.
    unsafe fn of(library: &libloading::Library) -> std::result::Result<Self, libloading::Error> {
        // SAFETY: each name has the signature of the field it goes to, by nvrtc.h.
        unsafe {
            Ok(Self {
                version: *library.get(b"nvrtcVersion")?,
                error_string: *library.get(b"nvrtcGetErrorString")?,
                architecture_count: *library.get(b"nvrtcGetNumSupportedArchs")?,
                architectures: *library.get(b"nvrtcGetSupportedArchs")?,
                create: *library.get(b"nvrtcCreateProgram")?,
                destroy: *library.get(b"nvrtcDestroyProgram")?,
                compile: *library.get(b"nvrtcCompileProgram")?,
                log_size: *library.get(b"nvrtcGetProgramLogSize")?,
                log: *library.get(b"nvrtcGetProgramLog")?,
                cubin_size: *library.get(b"nvrtcGetCUBINSize")?,
                cubin: *library.get(b"nvrtcGetCUBIN")?,
            })
        }
    }

    fn explain(&self, status: Status) -> String {
        // SAFETY: the library gives a text of its own for any number.
        let text = unsafe { (self.error_string)(status) };
        if text.is_null() {
            return format!("status {status}");
        }
        // SAFETY: the text ends in zero and lives as long as the library.
        let text = unsafe { CStr::from_ptr(text) };
        text.to_string_lossy().into_owned()
    }
}

/// A program in the library, destroyed with this.
pub(crate) struct Program<'l> {
    library: &'l Library,
    handle: Handle,
}

impl Program<'_> {
    /// Compiles; gives whether the source is one that compiles. The log says why not.
    pub(crate) fn compile(&self, options: &[CString]) -> Result<bool> {
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let count = c_int::try_from(pointers.len())
            .map_err(|_| Error::Unsupported("so many options of a compiler".to_owned()))?;
        // SAFETY: the program lives, and so do the options during the call.
        let status =
            unsafe { (self.library.functions.compile)(self.handle, count, pointers.as_ptr()) };
        if status == COMPILATION {
            return Ok(false);
        }
        self.library.check("compiling", status).map(|()| true)
    }

    /// The machine code.
    pub(crate) fn cubin(&self) -> Result<Vec<u8>> {
        let functions = &self.library.functions;
        self.text("reading the code", functions.cubin_size, functions.cubin)
    }

    /// The compiler's messages.
    pub(crate) fn log(&self) -> Result<String> {
        let functions = &self.library.functions;
        let bytes = self.text("reading the log", functions.log_size, functions.log)?;
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.trim_end_matches('\0').to_owned())
    }

    fn text(
        &self,
        action: &'static str,
        size: unsafe extern "C" fn(Handle, *mut usize) -> Status,
        read: unsafe extern "C" fn(Handle, *mut c_char) -> Status,
    ) -> Result<Vec<u8>> {
        let mut len = 0;
        // SAFETY: the program lives; the pointer is to a live integer.
        let status = unsafe { size(self.handle, &raw mut len) };
        self.library.check(action, status)?;
        let mut bytes = vec![0u8; len];
        // SAFETY: the library writes as many bytes as it said.
        let status = unsafe { read(self.handle, bytes.as_mut_ptr().cast()) };
        self.library.check(action, status)?;
        Ok(bytes)
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: made by this library and destroyed once.
        unsafe { (self.library.functions.destroy)(&raw mut self.handle) };
    }
}

const SUCCESS: Status = 0;
const COMPILATION: Status = 6;
