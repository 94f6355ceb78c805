//! `cargo xtask fetch tensorrt`: the library itself, and libclang, with pip into `target/`.
//!
//! Both are large and neither is ours to hand on, so they are fetched where they are needed.
//! Tests find the library below `target/tensorrt/library`; without it they say that they are
//! skipped.
//!
//! ```text
//! cargo xtask fetch tensorrt
//! cargo xtask fetch tensorrt --version 1.6.1.120 --cuda cu12
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::output_of;
use crate::workspace::Workspace;

/// The version that tests use: it builds engines where there is no GPU.
pub(crate) const VERSION: &str = "1.7.1.116";
/// The CUDA version that goes with it.
pub(crate) const CUDA: &str = "cu13";

const LIBCLANG: &str = "libclang==18.1.1";

/// Fetches TensorRT-RTX and returns the folder of the library; what is there is kept.
pub(crate) fn library(workspace: &Workspace, version: &str, cuda: &str) -> Result<PathBuf> {
    let folder = workspace
        .target
        .join("tensorrt")
        .join("library")
        .join(format!("rtx-{version}-{cuda}"));
    let libraries = folder.join("tensorrt_rtx_libs");
    if !libraries.is_dir() {
        let package = format!("tensorrt-rtx-{cuda}-libs=={version}");
        unpack(workspace, &package, &folder)?;
    }
    if !libraries.is_dir() {
        bail!("{} has no folder tensorrt_rtx_libs", folder.display());
    }
    Ok(libraries)
}

/// Fetches libclang and returns its folder.
pub(super) fn libclang(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.target.join("tensorrt").join("libclang");
    if !folder.is_dir() {
        unpack(workspace, LIBCLANG, &folder)?;
    }
    folder_with(&folder, "libclang.so")
        .with_context(|| format!("{} has no libclang.so", folder.display()))
}

/// Unpacks the wheel of `package` into `folder`, which appears only when it is complete.
fn unpack(workspace: &Workspace, package: &str, folder: &Path) -> Result<()> {
    let scratch = workspace
        .target
        .join("tensorrt")
        .join(format!("fetch-{}", std::process::id()));
    let result = unpack_by_way_of(&scratch, package, folder);
    // Whatever happened, nothing half done stays.
    let _ = std::fs::remove_dir_all(&scratch);
    result
}

fn unpack_by_way_of(scratch: &Path, package: &str, folder: &Path) -> Result<()> {
    let wheels = scratch.join("wheels");
    let content = scratch.join("content");
    std::fs::create_dir_all(&content)?;
    eprintln!("fetching {package} with pip");
    output_of(
        Command::new("python3")
            .args(["-m", "pip", "download", "--quiet", "--no-deps"])
            .args([
                "--only-binary=:all:",
                "--disable-pip-version-check",
                "--dest",
            ])
            .arg(&wheels)
            .arg(package),
    )
    .with_context(|| format!("cannot fetch {package}"))?;
    let wheel = wheels
        .read_dir()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .with_context(|| format!("pip left no wheel of {package}"))?;
    output_of(
        Command::new("python3")
            .args(["-m", "zipfile", "-e"])
            .arg(&wheel)
            .arg(&content),
    )?;
    if let Some(parent) = folder.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::rename(&content, folder) {
        // Another process was faster.
        Err(_) if folder.is_dir() => Ok(()),
        result => result.with_context(|| format!("cannot write {}", folder.display())),
    }
}

fn folder_with(folder: &Path, name: &str) -> Option<PathBuf> {
    if folder.join(name).is_file() {
        return Some(folder.to_owned());
    }
    let entries = folder.read_dir().ok()?;
    let mut folders = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir());
    folders.find_map(|path| folder_with(&path, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_in_a_folder_below() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let found = folder_with(folder, "fetch.rs").unwrap();
        assert!(found.ends_with("src/tensorrt"));
        assert_eq!(folder_with(folder, "no-such-file"), None);
    }
}
