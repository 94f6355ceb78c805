//! Runtime, engine, context, refitter, inspector.

mod host_memory;
mod runtime;

pub(crate) use host_memory::HostMemory;
pub use runtime::Runtime;
