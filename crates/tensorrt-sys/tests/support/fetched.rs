//! The library that tests build engines with, where it has been fetched.
//!
//! `cargo xtask test` fetches it (`cargo xtask fetch tensorrt` by hand). Tests of other crates
//! take this file in as well.

use std::path::{Path, PathBuf};

/// The file that `TINTYPE_TEST_TENSORRT` names, or what `cargo xtask fetch tensorrt` leaves below
/// `target/`.
pub(crate) fn find() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("TINTYPE_TEST_TENSORRT") {
        return Some(named.into());
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?;
    let path = target.join("tensorrt/library/rtx-1.7.1.116-cu13/tensorrt_rtx_libs");
    path.is_dir().then(|| path.join("libtensorrt_rtx.so.1"))
}

/// The same; says how many tests are skipped where it is not there.
pub(crate) fn find_for(tests: usize) -> Option<PathBuf> {
    let library = find();
    if library.is_none() {
        eprintln!(
            "skipped: {tests} tests with the TensorRT-RTX library, which was not fetched \
             (cargo xtask fetch tensorrt)"
        );
    }
    library
}
