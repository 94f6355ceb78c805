//! Runs generated kernels on the host, as they are written.
//!
//! That takes minutes, so it is only done where `TINTYPE_CXX` names a compiler of C++20.

use tempfile::TempDir;
use tintype_conformance::operations::Result;
use tintype_cuda::{Expression, Place, generate};

use crate::on_host::{self, Memory};

/// The compiler that is to be used, if any.
pub(crate) fn compiler() -> Option<String> {
    std::env::var("TINTYPE_CXX").ok()
}

/// Runs the kernel of an expression on memory that is given by its bytes and changed.
pub(crate) fn run(compiler: &str, expression: &Expression, memory: &mut Memory) -> Result<()> {
    let folder = TempDir::new()?;
    let kernel = generate(expression, "kernel_under_test")?;
    // A kernel alone needs no scratch memory.
    let scratch = Place::Buffer(usize::MAX);
    on_host::run(
        compiler,
        &folder.path().join("kernel"),
        &kernel,
        scratch,
        memory,
    )
}
