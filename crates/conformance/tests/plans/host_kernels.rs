//! Runs generated kernels on the host, as they are written: compiled by a C++ compiler, a thread
//! of the system for each of a block.
//!
//! That takes minutes, so it is only done where `TINTYPE_CXX` names a compiler of C++20.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;
use tintype_conformance::operations::Result;
use tintype_cuda::{Expression, KernelArgument, Place, generate};

/// The compiler that is to be used, if any.
pub(crate) fn compiler() -> Option<String> {
    std::env::var("TINTYPE_CXX").ok()
}

/// Runs the kernel of an expression on memory that is given by its bytes; gives the new bytes.
pub(crate) fn run(
    compiler: &str,
    expression: &Expression,
    memory: &mut HashMap<Place, Vec<u8>>,
) -> Result<()> {
    let folder = TempDir::new()?;
    let kernel = generate(expression, "kernel_under_test")?;
    let (mut calls, mut files) = (Vec::new(), Vec::new());
    let mut main = format!(
        "int main() {{ blockDim.x = {}; gridDim.x = {};\n",
        kernel.threads, kernel.blocks
    );
    for (place, bytes) in &*memory {
        let path = folder.path().join(place.to_string()).display().to_string();
        fs::write(&path, bytes)?;
        writeln!(main, "char* {place} = load({path:?});")?;
        files.push((*place, path));
    }
    for argument in &kernel.arguments {
        calls.push(match argument {
            KernelArgument::Address { place, bytes } => format!("{{{place} + {bytes}}}"),
            KernelArgument::Scale(scale) => format!("{scale:?}f"),
            other => return Err(format!("no way to give {other:?}").into()),
        });
    }
    writeln!(
        main,
        "run([&] {{ kernel_under_test({}); }});",
        address_casts(&calls)
    )?;
    for (place, path) in &files {
        writeln!(main, "save({path:?}, {place});")?;
    }
    main.push_str("}\n");
    let source = folder.path().join("kernel.cpp");
    let device = kernel.source.text.replace(
        "asm(\"cvt.f32.f16 %0, %1;\" : \"=f\"(result) : \"h\"(x.bits));",
        "_Float16 half; memcpy(&half, &x.bits, 2); result = half;",
    );
    let device = device.replace(
        "asm(\"cvt.rn.f16.f32 %0, %1;\" : \"=h\"(result.bits) : \"f\"(x));",
        "_Float16 half = (_Float16)x; memcpy(&result.bits, &half, 2);",
    );
    fs::write(&source, [HOST, &device, &main].concat())?;
    let program: PathBuf = folder.path().join("kernel");
    let compiled = Command::new(compiler)
        .args(["-std=c++20", "-O1", "-w", "-ffp-contract=off", "-pthread"])
        .arg(&source)
        .arg("-o")
        .arg(&program)
        .output()?;
    if !compiled.status.success() {
        return Err(String::from_utf8_lossy(&compiled.stderr).into());
    }
    if !Command::new(&program).status()?.success() {
        return Err("the kernel failed".into());
    }
    for (place, path) in files {
        memory.insert(place, fs::read(path)?);
    }
    Ok(())
}

/// Addresses take the type of the parameter.
fn address_casts(arguments: &[String]) -> String {
    let cast = |argument: &String| match argument.strip_prefix('{') {
        Some(address) => format!("Address{{{}}}", address.trim_end_matches('}')),
        None => argument.clone(),
    };
    arguments.iter().map(cast).collect::<Vec<_>>().join(", ")
}

const HOST: &str = include_str!("host.cpp");
