//! Runs kernels on the host, as they are written: compiled by a C++ compiler, the threads of a
//! block as fibers that take turns, one block after another (`fibers.cpp`). Tests of other crates
//! take this file in as well.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tintype_cuda::{Generated, KernelArgument, Place};

/// The bytes of each place.
pub(crate) type Memory = BTreeMap<Place, Vec<u8>>;

/// Runs one kernel as it is written, on memory that is given by its bytes and changed. Files are
/// written beside `path`; `scratch` is the place of the kernel's scratch memory, if it wants some.
///
/// # Errors
/// What the compiler says; a kernel that crashes.
pub(crate) fn run(
    compiler: &str,
    path: &Path,
    kernel: &Generated,
    scratch: Place,
    memory: &mut Memory,
) -> Result<(), Box<dyn Error>> {
    let mut main = format!(
        "int main() {{ blockDim.x = {}; gridDim.x = {};\n",
        kernel.threads, kernel.blocks
    );
    let file = |place: Place| -> PathBuf { path.with_extension(place.to_string()) };
    let quoted = |place: Place| format!("\"{}\"", file(place).display());
    let mut globals = String::new();
    for (&place, bytes) in &*memory {
        fs::write(file(place), bytes)?;
        writeln!(globals, "static char* {place};")?;
        writeln!(main, "{place} = load({});", quoted(place))?;
    }
    let arguments = kernel.arguments.iter().map(|argument| match argument {
        KernelArgument::Address { place, bytes } => format!("Address{{{place} + {bytes}}}"),
        KernelArgument::Scale(scale) => format!("{scale:?}f"),
        KernelArgument::Scratch { bytes } => format!("Address{{{scratch} + {bytes}}}"),
        other => panic!("{other:?}"),
    });
    let arguments: Vec<String> = arguments.collect();
    writeln!(
        globals,
        "static void call() {{ {}({}); }}",
        kernel.name,
        arguments.join(", ")
    )?;
    main.push_str("run(call);\n");
    for &place in memory.keys() {
        writeln!(main, "save({}, {place});", quoted(place))?;
    }
    main.push_str("}\n");
    let (source, program) = (path.with_extension("cpp"), path.with_extension("run"));
    fs::write(
        &source,
        [
            FIBERS,
            HOST,
            &with_host(&kernel.source.text),
            &globals,
            &main,
        ]
        .concat(),
    )?;
    let compiled = Command::new(compiler)
        .args(["-std=c++20", "-O1", "-w", "-ffp-contract=off"])
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
    for (&place, bytes) in memory.iter_mut() {
        *bytes = fs::read(file(place))?;
    }
    Ok(())
}

/// The text with C++ in the place of what only a GPU has.
fn with_host(text: &str) -> String {
    let text = text.replace(DEVICE_MATRIX, HOST_MATRIX);
    let lines: Vec<&str> = CONVERSIONS.lines().collect();
    lines
        .chunks(2)
        .fold(text, |text, pair| text.replace(pair[0], pair[1]))
}

const FIBERS: &str = include_str!("fibers.cpp");
const HOST: &str = include_str!("host.cpp");
/// What a GPU does, and in the next line the same in C++.
const CONVERSIONS: &str = include_str!("conversions.txt");
const HOST_MATRIX: &str = include_str!("matrix.cpp");
const DEVICE_MATRIX: &str = include_str!("../../../kernels/matrix.cu");
