//! Runs the kernels of a step on the host, on memory of random numbers, and compares.

use std::fs;
use std::path::Path;

use libtest_mimic::Failed;
use tintype_cuda::{Machine, Place, Step, View, own_kernels};
use tintype_tensor::{DType, Tensor};

use crate::on_host::{Memory, run};
use crate::{cases, reference};

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

/// An attention of one key gives the values themselves: all 256 codes come out as they are, NaN as
/// NaN.
pub(crate) fn check_every_code(compiler: &str) -> Result<(), Failed> {
    let step = cases::one_key();
    let kernels = own_kernels(&step, &Machine::new(9, 0))?;
    let codes: Vec<u8> = (0..=255).collect();
    let mut memory = memory_of(&step);
    memory.insert(Place::Buffer(2), codes.clone());
    let scratch = Place::Buffer(99);
    memory.insert(scratch, vec![0xff; 256]);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("every_code");
    fs::create_dir_all(&folder)?;
    run(
        compiler,
        &folder.join("0"),
        &kernels[0],
        scratch,
        &mut memory,
    )?;
    let found = numbers(DType::F32, &memory[&Place::Buffer(3)]);
    for (code, (expected, found)) in numbers(DType::F8E4M3, &codes)
        .into_iter()
        .zip(found)
        .enumerate()
    {
        let is_same = expected == found || (expected.is_nan() && found.is_nan());
        if !is_same {
            return Err(format!("code {code}: expected {expected}, found {found}").into());
        }
    }
    Ok(())
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
