//! CUDA C++ for any elementwise, norm or reduction group.
//!
//! Sizes and strides are numbers in the text, so divisions by them are cheap and packs are known
//! to be aligned; offsets are in the pointers, so that the blocks of a model share one kernel.
//!
//! A row is one block's at most: rows of millions of elements, of which there are few, become
//! several kernels by [`generate_split`].
//!
//! ```
//! use tintype_cuda::{Plan, Work, generate};
//! use tintype_ir::{Binding, parse};
//!
//! let graph = parse("graph g { input step %x: bf16[64] %0: bf16[64] = silu %x output y = %0 }")?;
//! let plan = Plan::new(&graph, &Binding::new())?;
//! let Work::Kernel(expression) = &plan.steps[0].work else { panic!("a kernel") };
//! let kernel = generate(expression, "silu")?;
//! assert!(kernel.source.text.contains("void __launch_bounds__(256) silu(const bf16* l0, bf16* s0)"));
//! assert_eq!(kernel.arguments.len(), 2);
//! # Ok::<(), tintype_cuda::Error>(())
//! ```

mod arithmetic;
mod expression;
mod schedule;
mod source;
mod split;

use tintype_device::{ELEMENT_TYPES, Source};
use tintype_tensor::DType;

pub use expression::{Expression, Instruction, Store};
pub use split::generate_split;

use self::schedule::{Schedule, join_axes};
use self::source::Writer;
use crate::{Error, Place, Result};

/// A kernel as source, and how to launch it.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// The whole text for the compiler.
    pub source: Source,
    /// The kernel's name in it.
    pub name: String,
    /// Blocks of the grid.
    pub blocks: usize,
    /// Threads of each.
    pub threads: usize,
    /// Dynamic shared memory of a block in bytes.
    pub shared_bytes: usize,
    /// Scratch memory that its step needs, in bytes.
    pub scratch_bytes: usize,
    /// What the kernel is given, in order.
    pub arguments: Vec<KernelArgument>,
}

/// An argument of a kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum KernelArgument {
    /// An address: so many bytes into a place.
    Address {
        /// The memory.
        place: Place,
        /// The offset in bytes.
        bytes: usize,
    },
    /// The scale of a result.
    Scale(f32),
    /// An address: so many bytes into the scratch memory of the step.
    Scratch {
        /// The offset in bytes.
        bytes: usize,
    },
}

/// Writes the kernel of an expression.
///
/// # Errors
/// [`Error::Unsupported`] for elements of half a byte, for pairs along an odd axis, and for more
/// elements than a grid takes.
pub fn generate(expression: &Expression, name: &str) -> Result<Generated> {
    check(expression)?;
    let mut joined = expression.clone();
    join_axes(&mut joined);
    let schedule = Schedule::of(&joined);
    let turns = |instruction: &Instruction| matches!(instruction, Instruction::Turn(..));
    if schedule.pack < 2 && joined.instructions.iter().any(turns) {
        return Err(Error::unsupported(name, "pairs along an odd axis"));
    }
    if u32::try_from(schedule.blocks).is_err() {
        return Err(Error::unsupported(
            name,
            format!("{} blocks", schedule.blocks),
        ));
    }
    let arguments = arguments(&joined);
    let kernel = Writer::new(&joined, schedule).kernel(name);
    let text = [ELEMENT_TYPES, FUNCTIONS, &kernel].concat();
    Ok(Generated {
        source: Source::new(format!("{name}.cu"), text),
        name: name.to_owned(),
        blocks: schedule.blocks,
        threads: schedule.threads,
        shared_bytes: 0,
        scratch_bytes: 0,
        arguments,
    })
}

fn check(expression: &Expression) -> Result<()> {
    let stores = expression.stores.iter().map(|store| &store.view);
    for view in expression.loads.iter().chain(stores) {
        if view.dtype == DType::F4E2M1 {
            return Err(Error::unsupported("kernel", "elements of half a byte"));
        }
    }
    Ok(())
}

fn arguments(expression: &Expression) -> Vec<KernelArgument> {
    let address = |place, dtype: DType, offset: usize| KernelArgument::Address {
        place,
        bytes: offset * dtype.bits() / 8,
    };
    let mut arguments = Vec::new();
    for view in &expression.loads {
        arguments.push(address(view.place, view.dtype, view.offset));
        arguments.extend(
            view.index
                .map(|index| address(index.place, index.dtype, index.offset)),
        );
    }
    for store in &expression.stores {
        arguments.push(address(
            store.view.place,
            store.view.dtype,
            store.view.offset,
        ));
        arguments.extend(store.scale.map(KernelArgument::Scale));
    }
    arguments
}

/// What generated and other kernels call, after the element types.
pub(crate) const FUNCTIONS: &str = include_str!("../../kernels/functions.cu");
