//! The kernels of weight programs.
//!
//! Their sources are the files `kernels/*.cu` of this crate, one program for NVRTC. Everything
//! computes in f32 and rounds once, by the rules of `tintype-tensor`.
//!
//! ```no_run
//! # use tintype_device::{Device, DeviceBuffer, KernelCache, Operand, Result, WeightKernels};
//! # use tintype_tensor::DType;
//! # fn f() -> Result<()> {
//! let device = Device::open(0)?;
//! let kernels = WeightKernels::load(&device, &KernelCache::of_user())?;
//! let stream = device.new_stream()?;
//! let input = DeviceBuffer::allocate(&stream, 4 * 1000)?;
//! let output = DeviceBuffer::allocate(&stream, 2 * 1000)?;
//! kernels.cast(
//!     &stream,
//!     Operand::new(DType::F32, &[1000], &input)?,
//!     Operand::new(DType::BF16, &[1000], &output)?,
//! )?;
//! # Ok(()) }
//! ```

pub(crate) mod movements;
pub(crate) mod operations;
pub(crate) mod products;
mod reduction;
pub(crate) mod strides;

use std::collections::HashMap;

use tintype_tensor::DType;

pub use self::operations::{BinaryKernel, Operand, UnaryKernel};
use self::products::FACTORS;
pub use self::reduction::ReduceKernel;
pub(crate) use self::reduction::Reduction;
use crate::{Argument, Device, Grid, Kernel, KernelCache, Module, Nvrtc, Result, Source, Stream};

/// The kernels of weight programs, loaded on one device.
#[derive(Debug)]
pub struct WeightKernels {
    device: Device,
    kernels: HashMap<String, Kernel>,
}

impl WeightKernels {
    /// Compiles the kernels for the device, or takes them from the cache, and loads them.
    ///
    /// # Errors
    /// [`Error::Unavailable`](crate::Error::Unavailable) without an NVRTC that has code for
    /// this device.
    pub fn load(device: &Device, cache: &KernelCache) -> Result<Self> {
        let nvrtc = Nvrtc::load(Some(device.driver().version()))?;
        let target = nvrtc.target_for(device.info().compute_capability)?;
        let code = cache.compile(&nvrtc, &Self::source(), target)?;
        let module = Module::load(device, "weights", &code)?;
        let mut kernels = HashMap::new();
        for name in Self::names() {
            let kernel = module.kernel(&name)?;
            kernels.insert(name, kernel);
        }
        Ok(Self {
            device: device.clone(),
            kernels,
        })
    }

    /// The source, for compiling it without a device.
    pub fn source() -> Source {
        Source::new("weights.cu", SOURCES.concat())
    }

    /// The names of all kernels.
    pub fn names() -> Vec<String> {
        let mut names = vec!["product_f32".to_owned()];
        for dtype in DTYPES {
            names.extend(DTYPES.map(|to| format!("cast_{dtype}_{to}")));
            names.extend(EACH_DTYPE.map(|kernel| format!("{kernel}_{dtype}")));
            names.extend(FACTORS.map(|factor| format!("merge_{dtype}_{factor}")));
        }
        for unit in [1, 2, 4, 8, 16] {
            names.extend(["copy", "transpose"].map(|kernel| format!("{kernel}_{unit}")));
        }
        names
    }

    /// Whether elements of this dtype can be computed with.
    pub fn computes(dtype: DType) -> bool {
        DTYPES.contains(&dtype)
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The kernel of this name, to ask for its registers.
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.get(name)
    }

    /// Enqueues a kernel.
    ///
    /// # Safety
    /// As [`Kernel::launch`].
    unsafe fn launch(
        &self,
        stream: &Stream,
        name: &str,
        grid: Grid,
        arguments: &[Argument<'_>],
    ) -> Result<()> {
        let kernel = self.kernels.get(name).expect("every name was loaded");
        // SAFETY: what the caller promises.
        unsafe { kernel.launch(stream, grid, arguments) }
    }

    /// Blocks of 256 threads for `work` items, each thread taking several if there are many.
    fn line(&self, work: u64) -> Grid {
        let most = self.device.info().multiprocessors.max(1) as u64 * 32;
        Grid::line(work.div_ceil(256).clamp(1, most) as u32, 256)
    }
}

/// CUDA C++ for what stands in front of any kernel: the element types, `widen` to f32, `Round` to
/// each, packs of elements, `thread_index` and `thread_count`.
pub const ELEMENT_TYPES: &str = include_str!("../../kernels/numbers.cu");

const SOURCES: [&str; 5] = [
    ELEMENT_TYPES,
    include_str!("../../kernels/elementwise.cu"),
    include_str!("../../kernels/layout.cu"),
    include_str!("../../kernels/reduce.cu"),
    include_str!("../../kernels/merge.cu"),
];

/// The dtypes that kernels compute with.
const DTYPES: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::F8E4M3];

/// Kernels that there is one of for each dtype.
const EACH_DTYPE: [&str; 6] = [
    "unary",
    "binary",
    "binary_repeated",
    "reduce_rows",
    "reduce_columns",
    "reduce_parts",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_lie_in_the_source() {
        let names = WeightKernels::names();
        let unique: std::collections::HashSet<&String> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
        assert_eq!(names.len(), 1 + 4 * (4 + 6 + 3) + 10);
        let source = WeightKernels::source();
        for kernel in EACH_DTYPE {
            assert!(source.text.contains(&format!("void {kernel}_##T")));
        }
        assert!(source.options.contains(&"--std=c++17".to_owned()));
    }
}
