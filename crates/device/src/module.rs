//! Machine code on the device, and launching its kernels.

use std::ffi::{CString, c_void};
use std::fmt;
use std::sync::Arc;

use cudarc::driver::result;
use cudarc::driver::sys::{self, CUfunction_attribute as Attribute};

use crate::{Device, Error, Result, Stream, elf};

/// A module: CUBIN loaded into the context of a device. A cheap handle.
#[derive(Debug, Clone)]
pub struct Module {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    device: Device,
    module: sys::CUmodule,
}

// SAFETY: the driver's handles may be used from any thread that has the context current,
// which every function here sees to.
unsafe impl Send for Shared {}
// SAFETY: as above; the driver locks what must be locked.
unsafe impl Sync for Shared {}

/// A kernel of a module, which it keeps loaded.
#[derive(Clone)]
pub struct Kernel {
    module: Module,
    name: Arc<str>,
    function: sys::CUfunction,
}

// SAFETY: as for the module.
unsafe impl Send for Kernel {}
// SAFETY: as for the module.
unsafe impl Sync for Kernel {}

/// How many threads a kernel is launched with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Blocks along x, y, z.
    pub blocks: [u32; 3],
    /// Threads of a block along x, y, z.
    pub threads: [u32; 3],
    /// Dynamic shared memory of a block in bytes.
    pub shared_bytes: u32,
}

impl Grid {
    /// Blocks and threads along x alone.
    pub const fn line(blocks: u32, threads: u32) -> Self {
        Self::new([blocks, 1, 1], threads)
    }

    /// Blocks along all axes, threads along x.
    pub const fn new(blocks: [u32; 3], threads: u32) -> Self {
        Self {
            blocks,
            threads: [threads, 1, 1],
            shared_bytes: 0,
        }
    }
}

/// An argument of a kernel, of the type that the kernel declares.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Argument<'a> {
    /// A pointer, or an unsigned 64-bit integer.
    U64(u64),
    /// An unsigned 32-bit integer.
    U32(u32),
    /// A float.
    F32(f32),
    /// A structure by value; its bytes are laid out as in C.
    Bytes(&'a [u8]),
}

impl Module {
    /// Loads machine code that was compiled for this device; `name` is for messages.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for bytes that are no whole CUBIN, [`Error::Driver`] for code of
    /// another architecture.
    pub fn load(device: &Device, name: impl Into<String>, code: &[u8]) -> Result<Self> {
        let name = name.into();
        if !elf::is_whole(code) {
            let len = code.len();
            let what = format!("module `{name}`: its {len} bytes are no whole CUBIN");
            return Err(Error::Unsupported(what));
        }
        device.bind()?;
        // SAFETY: the driver reads an ELF file by the offsets in it, which lie within the bytes.
        let module = unsafe { result::module::load_data(code.as_ptr().cast()) };
        let module = device.check(&format!("loading module `{name}`"), module)?;
        Ok(Self {
            shared: Arc::new(Shared {
                name,
                device: device.clone(),
                module,
            }),
        })
    }

    /// The kernel of this name.
    pub fn kernel(&self, name: &str) -> Result<Kernel> {
        let missing = || Error::MissingKernel {
            module: self.shared.name.clone(),
            kernel: name.to_owned(),
        };
        let symbol = CString::new(name).map_err(|_| missing())?;
        self.shared.device.bind()?;
        // SAFETY: the module is loaded as long as `self` lives.
        let function = unsafe { result::module::get_function(self.shared.module, symbol) };
        Ok(Kernel {
            module: self.clone(),
            name: name.into(),
            function: function.map_err(|_| missing())?,
        })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: loaded by this value and unloaded once; no kernel is left.
            let unloaded = unsafe { result::module::unload(self.module) };
            if let Err(error) = self.device.check("unloading a module", unloaded) {
                tracing::warn!("{error}");
            }
        }
    }
}

impl Kernel {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Registers of a thread, and bytes of a thread that did not fit into them (spills and
    /// local arrays).
    pub fn registers_and_local_bytes(&self) -> Result<(usize, usize)> {
        let attribute = |attribute: Attribute| {
            // SAFETY: the function belongs to a loaded module.
            let value =
                unsafe { result::function::get_function_attribute(self.function, attribute) };
            let value = self
                .module
                .shared
                .device
                .check("asking for a kernel", value);
            value.map(|value| usize::try_from(value).unwrap_or(0))
        };
        Ok((
            attribute(Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS)?,
            attribute(Attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)?,
        ))
    }

    /// Lets a block have this much dynamic shared memory, if more than 48 KiB.
    pub fn allow_shared_bytes(&self, bytes: u32) -> Result<()> {
        self.module.shared.device.bind()?;
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let value = i32::try_from(bytes).unwrap_or(i32::MAX);
        // SAFETY: the function belongs to a loaded module.
        let set =
            unsafe { result::function::set_function_attribute(self.function, attribute, value) };
        self.module.shared.device.check("setting up a kernel", set)
    }

    /// Enqueues the kernel in a stream; a launch without blocks does nothing.
    ///
    /// # Safety
    /// The arguments must be those that the kernel declares, in number and types; every
    /// address that the kernel reads or writes through them must lie within memory of this
    /// device that lives until the work is done, which buffers told by
    /// [`DeviceBuffer::read_by`](crate::DeviceBuffer::read_by) do.
    pub unsafe fn launch(
        &self,
        stream: &Stream,
        grid: Grid,
        arguments: &[Argument<'_>],
    ) -> Result<()> {
        if grid.blocks.contains(&0) {
            return Ok(());
        }
        stream.device().bind()?;
        let mut pointers: Vec<*mut c_void> = arguments.iter().map(Argument::pointer).collect();
        // SAFETY: each pointer is to a value that lives during the call, which copies it; the
        // rest is what the caller promises.
        let launched = unsafe {
            result::launch_kernel(
                self.function,
                grid.blocks.into(),
                grid.threads.into(),
                grid.shared_bytes,
                stream.handle(),
                &mut pointers,
            )
        };
        stream
            .device()
            .check(&format!("launching `{}`", self.name), launched)
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel {} of {}", self.name, self.module.shared.name)
    }
}

impl Argument<'_> {
    fn pointer(&self) -> *mut c_void {
        // The driver copies from these and never writes.
        match self {
            Self::U64(value) => std::ptr::from_ref(value).cast_mut().cast(),
            Self::U32(value) => std::ptr::from_ref(value).cast_mut().cast(),
            Self::F32(value) => std::ptr::from_ref(value).cast_mut().cast(),
            Self::Bytes(bytes) => bytes.as_ptr().cast_mut().cast(),
        }
    }
}
