//! Runs the kernels of a step on the host, on memory of random numbers, and compares.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Failed;
use tintype_cuda::{Generated, KernelArgument, Machine, Place, Step, View, own_kernels};
use tintype_tensor::{DType, Tensor};

use crate::reference;

/// The bytes of each place.
pub(crate) type Memory = BTreeMap<Place, Vec<u8>>;

pub(crate) fn check(compiler: &str, step: &Step) -> Result<(), Failed> {
    let kernels = own_kernels(step, &Machine::new(9, 0))?;
    let mut memory = memory_of(step);
    let before = memory.clone();
    let scratch = Place::Buffer(99);
    let scratch_bytes = kernels.iter().map(|kernel| kernel.scratch_bytes).max();
    memory.insert(scratch, vec![0xff; scratch_bytes.unwrap_or(0).max(256)]);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(crate::name_of(step));
    fs::create_dir_all(&folder)?;
    for (number, kernel) in kernels.iter().enumerate() {
        run(
            compiler,
            &folder.join(number.to_string()),
            kernel,
            scratch,
            &mut memory,
        )?;
    }
    let output = step.work.writes()[0];
    let expected = reference::compute(&step.work, &before);
    compare(
        output,
        &memory[&output.place],
        &before[&output.place],
        &expected,
    )
}

/// Every element that the view has is near, every other is untouched.
fn compare(view: &View, found: &[u8], before: &[u8], expected: &[f64]) -> Result<(), Failed> {
    let places = positions(view);
    let values = numbers(view.dtype, found);
    let limit = match view.dtype {
        DType::F32 => 2e-6,
        DType::F16 => 2e-3,
        DType::BF16 => 1e-2,
        DType::F8E4M3 => 6e-2,
        _ => 0.0,
    };
    let scale = expected
        .iter()
        .fold(0.0f64, |most, value| most.max(value.abs()));
    for (at, (&place, &expected)) in places.iter().zip(expected).enumerate() {
        let found = values[place];
        let is_near = (found - expected).abs() <= limit * scale.max(1e-3);
        if !is_near {
            return Err(format!("element {at}: expected {expected}, found {found}").into());
        }
    }
    let size = view.dtype.bits() / 8;
    let mut is_written = vec![false; found.len() / size];
    for &place in &places {
        is_written[place] = true;
    }
    let touched = (0..is_written.len()).find(|&at| {
        let bytes = at * size..(at + 1) * size;
        !is_written[at] && found[bytes.clone()] != before[bytes]
    });
    match touched {
        Some(place) => Err(format!("place {place} is none of the output's").into()),
        None => Ok(()),
    }
}

/// The places of a view's elements in order.
pub(crate) fn positions(view: &View) -> Vec<usize> {
    let mut positions = vec![view.offset];
    for axis in &view.axes {
        let along = |place: usize| (0..axis.size).map(move |at| place + at * axis.stride);
        positions = positions.into_iter().flat_map(along).collect();
    }
    positions
}

/// All numbers of a place.
pub(crate) fn numbers(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    let size = dtype.bits() / 8;
    let count = bytes.len() / size;
    let tensor = Tensor::from_bytes(dtype, [count], bytes[..count * size].to_vec()).unwrap();
    if dtype.is_float() {
        return tensor
            .to_f32_vec()
            .unwrap()
            .into_iter()
            .map(f64::from)
            .collect();
    }
    tensor
        .to_i64_vec()
        .unwrap()
        .into_iter()
        .map(|value| value as f64)
        .collect()
}

/// Random numbers where the step reads, no number where it writes.
fn memory_of(step: &Step) -> Memory {
    let mut memory = Memory::new();
    for view in step.work.reads() {
        let length = positions(view).into_iter().max().unwrap() + 1;
        let known = memory.get(&view.place).map_or(0, Vec::len) * 8 / view.dtype.bits();
        memory.insert(view.place, random(view, length.max(known)));
    }
    for view in step.work.writes() {
        let length = positions(view).into_iter().max().unwrap() + 5;
        memory.insert(view.place, vec![0xff; length * view.dtype.bits() / 8]);
    }
    memory
}

fn random(view: &View, count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32 * 2.0 - 1.0
    };
    if view.dtype == DType::I64 {
        let values: Vec<i64> = (0..count).map(|_| (next() * 20.0) as i64).collect();
        return Tensor::new([count], values).unwrap().bytes().to_vec();
    }
    let values = (0..count).map(|_| next()).collect();
    let tensor = Tensor::from_f32_as(view.dtype, [count], values).unwrap();
    tensor.bytes().to_vec()
}

/// Runs one kernel as it is written.
fn run(
    compiler: &str,
    path: &Path,
    kernel: &Generated,
    scratch: Place,
    memory: &mut Memory,
) -> Result<(), Failed> {
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
        [HOST, &on_host(&kernel.source.text), &globals, &main].concat(),
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
fn on_host(text: &str) -> String {
    let conversions = [
        (
            "asm(\"cvt.f32.f16 %0, %1;\" : \"=f\"(result) : \"h\"(x.bits));",
            "_Float16 half; memcpy(&half, &x.bits, 2); result = half;",
        ),
        (
            "asm(\"cvt.rn.f16.f32 %0, %1;\" : \"=h\"(result.bits) : \"f\"(x));",
            "_Float16 half = (_Float16)x; memcpy(&result.bits, &half, 2);",
        ),
    ];
    let text = text.replace(DEVICE_MATRIX, HOST_MATRIX);
    conversions
        .iter()
        .fold(text, |text, (device, host)| text.replace(device, host))
}

const HOST: &str = include_str!("host.cpp");
const HOST_MATRIX: &str = include_str!("matrix.cpp");
const DEVICE_MATRIX: &str = include_str!("../../kernels/matrix.cu");
