//! `cargo xtask simulated-gpu`: a program on a GPU that is not there.
//!
//! Libraries of `tools/simulated_gpu` take the places of the driver, of NVRTC, of cuBLASLt and of
//! cuDNN: kernels run on the host as they are written, and what a GPU may do in any order is done in an unlucky one. So
//! everything that Tintype asks of the driver is tested on machines without one. It needs Linux and a
//! compiler of C++20.
//!
//! ```text
//! cargo xtask simulated-gpu target/debug/examples/check_cuda --require-gpu
//! SIMULATED_ORDER=7 cargo xtask simulated-gpu target/debug/tintype generate "a red circle" --backend cuda --steps 1
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::run as run_command;
use crate::workspace::Workspace;

/// The driver, NVRTC, cuBLASLt and cuDNN, by the names that they are loaded by; others use the first.
const LIBRARIES: [(&str, &str); 4] = [
    ("driver.cpp", "libcuda.so.1"),
    ("compiler.cpp", "libnvrtc.so.13"),
    ("products.cpp", "libcublasLt.so"),
    ("graphs.cpp", "libcudnn.so.9"),
];

/// Runs a program with its arguments.
pub(crate) fn run(workspace: &Workspace, command: &[String]) -> Result<()> {
    let libraries = build(workspace)?;
    let (program, arguments) = command.split_first().context("no program is named")?;
    let mut command = Command::new(program);
    run_command(on(&libraries, command.args(arguments)))
}

/// Whether there is what it takes; else why not.
pub(crate) fn missing() -> Option<&'static str> {
    if !cfg!(target_os = "linux") {
        return Some("the simulated GPU needs Linux");
    }
    let compiled = Command::new(compiler()).arg("--version").output();
    match compiled {
        Ok(output) if output.status.success() => None,
        _ => Some("there is no compiler of C++; CXX may name one"),
    }
}

/// Builds the libraries and gives their folder, which also keeps the kernels of later runs.
pub(crate) fn build(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.target.join("simulated_gpu");
    let sources = workspace.root.join("tools/simulated_gpu");
    let kernels = workspace.root.join("crates/cuda/kernels");
    let on_host = workspace.root.join("crates/cuda/tests/support/on_host");
    let last = folder.join(LIBRARIES[3].1);
    if is_newer(&last, &[&sources, &on_host, &kernels])? {
        return Ok(folder);
    }
    // What was compiled by other sources is of no use.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let quoted = |name: &str, path: &Path| format!("-D{name}=\"{}\"", path.display());
    for (source, library) in LIBRARIES {
        let mut command = Command::new(compiler());
        command
            .args([
                "-std=c++20",
                "-O1",
                "-Wall",
                "-Wno-unused-result",
                "-shared",
                "-fPIC",
            ])
            .args([quoted("KERNELS", &kernels), quoted("ON_HOST", &on_host)])
            .arg(sources.join(source))
            .arg("-o")
            .arg(folder.join(library))
            .arg("-ldl");
        if library != LIBRARIES[0].1 {
            command.arg(folder.join(LIBRARIES[0].1));
        }
        run_command(&mut command)?;
    }
    Ok(folder)
}

/// Whether the file is there, and nothing in these folders was written since.
fn is_newer(file: &Path, folders: &[&Path]) -> Result<bool> {
    let Ok(built) = file.metadata().and_then(|file| file.modified()) else {
        return Ok(false);
    };
    for folder in folders {
        for entry in std::fs::read_dir(folder)? {
            if entry?.metadata()?.modified()? >= built {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Lets a command find the libraries before all others.
pub(crate) fn on<'c>(libraries: &Path, command: &'c mut Command) -> &'c mut Command {
    command
        .env("LD_LIBRARY_PATH", libraries)
        .env("TINTYPE_NVRTC", libraries)
        .env("TINTYPE_CACHE", libraries.join("cache"))
        .env("SIMULATED_CXX", compiler())
}

fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned())
}
