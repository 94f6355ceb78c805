//! Kernels of our own for what no generated kernel computes, and for where a library is missing.
//!
//! | module | holds |
//! |---|---|
//! | `tiles` | products in tiles, on tensor cores or in f32 |
//! | `product`, `convolution` | where the operands of those lie |
//! | `attention` | attention with an online softmax |
//! | `special` | tables of angles, T5's buckets, positions of maxima |
//! | `loader` | kernels compiled, loaded once each, and launched |
//! | `address` | places of elements as text |
//!
//! All but `loader` is pure: a [`Step`] becomes [`Generated`] kernels with all sizes and strides as
//! numbers in their text. What they are not: the fast way on GPUs that have the libraries; no
//! kernel here uses what Hopper alone has.
//!
//! ```
//! use tintype_cuda::{Machine, Plan, own_kernels};
//! use tintype_ir::{Binding, parse};
//!
//! let graph = parse(
//!     "graph g { input step %x: bf16[64, 32] param @w: bf16[96, 32] \
//!      %0: bf16[64, 96] = linear %x, @w output y = %0 }",
//! )?;
//! let plan = Plan::new(&graph, &Binding::new())?;
//! let kernels = own_kernels(&plan.steps[0], &Machine::new(9, 0))?;
//! assert_eq!((kernels.len(), kernels[0].blocks), (1, 1));
//! # Ok::<(), tintype_cuda::Error>(())
//! ```

mod address;
mod attention;
mod convolution;
pub(crate) mod loader;
mod product;
mod special;
mod tiles;

use tintype_device::{ComputeCapability, DeviceInfo};

pub(crate) use self::loader::{KernelLoader, LoadedKernel};
use crate::generate::generate_split;
use crate::{Generated, Result, Step, Work};

/// What the kernels of a step depend on beside the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// The compute capability.
    pub capability: ComputeCapability,
    /// The number of multiprocessors.
    pub multiprocessors: usize,
    /// The most shared memory that a block can ask for, in bytes.
    pub shared_bytes: usize,
}

impl Machine {
    /// What GPUs of a compute capability have; the multiprocessors are those of its largest.
    ///
    /// ```
    /// assert_eq!(tintype_cuda::Machine::new(9, 0).shared_bytes, 227 * 1024);
    /// ```
    pub fn new(major: u32, minor: u32) -> Self {
        let (multiprocessors, kibibytes) = match (major, minor) {
            (8, 0) => (108, 163),
            (9 | 10, _) => (132, 227),
            _ => (84, 99),
        };
        Self {
            capability: ComputeCapability { major, minor },
            multiprocessors,
            shared_bytes: kibibytes * 1024,
        }
    }

    /// Whether it has the tensor cores and copies that `kernels/matrix.cu` uses.
    fn has_matrices(&self) -> bool {
        self.capability.major >= 8
    }
}

impl From<&DeviceInfo> for Machine {
    fn from(info: &DeviceInfo) -> Self {
        Self {
            capability: info.compute_capability,
            multiprocessors: info.multiprocessors,
            shared_bytes: info.shared_bytes,
        }
    }
}

/// The kernels that compute a step without any library, in order.
///
/// # Errors
/// [`Error::Unsupported`](crate::Error::Unsupported) for dtypes and sizes that no kernel takes.
pub fn own_kernels(step: &Step, machine: &Machine) -> Result<Vec<Generated>> {
    let name = &step.name;
    Ok(match &step.work {
        Work::Kernel(expression) => {
            return generate_split(expression, name, machine.multiprocessors);
        }
        Work::Product(call) => vec![product::product(name, call, machine)?],
        Work::Attention(call) => vec![attention::attention(name, call, machine)?],
        Work::Convolution(call) => vec![convolution::convolution(name, call, machine)?],
        Work::Special { op, inputs, output } => vec![special::special(name, op, inputs, output)?],
    })
}

impl KernelLoader {
    /// Any step as kernels of our own and generated ones, ready to enqueue.
    ///
    /// # Errors
    /// As [`own_kernels`] and [`KernelLoader::load`].
    pub(crate) fn prepare(&self, step: &Step) -> Result<LoadedKernel> {
        let machine = Machine::from(self.device().info());
        self.load(&step.name, own_kernels(step, &machine)?)
    }
}

const MATRIX: &str = include_str!("../../kernels/matrix.cu");
