//! Kernels of our own for what no generated kernel computes, and for where a library is missing.
//!
//! | module | holds |
//! |---|---|
//! | `loader` | kernels compiled, loaded once each, and launched |
//!
//! Each kind of step has a pure part, which gives [`Generated`] kernels with all sizes and strides
//! as numbers in their text, and shares `loader`, which compiles and launches them.
//!
//! ```ignore
//! let loader = KernelLoader::new(&device, KernelCache::of_user())?;
//! let prepared = loader.prepare(&plan.steps[0])?;
//! unsafe { prepared.enqueue(&stream, &addresses) }?;
//! ```

pub(crate) mod loader;

pub(crate) use self::loader::{KernelLoader, LoadedKernel};
