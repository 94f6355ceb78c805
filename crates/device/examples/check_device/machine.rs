//! What streams, events, memory and modules promise.

use std::sync::Arc;

use tintype_backend::{DeviceMemory, DeviceTensor};
use tintype_device::{
    Argument, CudaTensor, DeviceBuffer, Error, Grid, KernelCache, Module, Nvrtc, Source, Staging,
};
use tintype_tensor::{DType, Tensor};

use crate::{Bench, Result};

/// A check that tells what it found.
type Check = fn(&Bench) -> Result<String>;

pub(crate) fn check(bench: &mut Bench) {
    let checks: [(&str, Check); 9] = [
        ("kernels spill no registers", spills),
        ("uploads of all sizes come back", uploads),
        (
            "a tensor goes to another stream by its ready event",
            streams,
        ),
        ("memory is kept for a reader in another stream", readers),
        ("memory is counted", counted),
        ("too much memory is an error, and work goes on", too_much),
        ("ranges outside of a buffer are errors", ranges),
        ("events measure time", events),
        (
            "a wrong module or kernel is an error, and work goes on",
            modules,
        ),
    ];
    for (name, check) in checks {
        let result = check(bench);
        bench.report.result(name, result);
    }
}

fn expect(holds: bool, what: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(what.into()) }
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|index| (index * 7 % 253) as u8).collect()
}

fn spills(bench: &Bench) -> Result<String> {
    let mut most = 0;
    for name in tintype_device::WeightKernels::names() {
        let kernel = bench.kernels.kernel(&name).ok_or("a kernel is missing")?;
        let (registers, local) = kernel.registers_and_local_bytes()?;
        expect(
            local == 0,
            &format!("{name} has {local} bytes outside of registers"),
        )?;
        most = most.max(registers);
    }
    Ok(format!("at most {most} registers"))
}

fn uploads(bench: &Bench) -> Result<String> {
    let stream = bench.device.new_stream()?;
    let mut staging = Staging::with_sizes(&stream, 3, 1 << 16)?;
    let mut total = 0;
    for count in [
        0,
        1,
        63,
        64,
        65,
        1 << 16,
        (1 << 16) + 1,
        1_000_003,
        3,
        1 << 20,
    ] {
        let expected = bytes(count);
        let tensor = Tensor::from_bytes(DType::U8, [count], expected.clone())?;
        let uploaded = CudaTensor::upload(&tensor, &mut staging)?;
        let found = uploaded.download(&stream)?;
        expect(
            found.bytes() == expected,
            &format!("{count} bytes came back changed"),
        )?;
        total += count;
    }
    expect(
        staging.uploaded() == total as u64,
        "the bytes were not counted",
    )?;
    Ok(format!("{total} bytes"))
}

fn streams(bench: &Bench) -> Result<String> {
    let (first, second) = (bench.device.new_stream()?, bench.device.new_stream()?);
    let mut staging = Staging::new(&first)?;
    let tensor = Tensor::from_bytes(DType::U8, [200 << 20], bytes(200 << 20))?;
    let tensor = CudaTensor::upload(&tensor, &mut staging)?;
    let copy = DeviceBuffer::allocate(&second, tensor.byte_len())?;
    tensor.wait_in(&second)?;
    copy.copy_from(0, tensor.buffer(), 0..tensor.byte_len(), &second)?;
    let copy = CudaTensor::new(DType::U8, [200, 1 << 20], Arc::new(copy), &second)?;
    let handle: DeviceTensor = copy.into();
    expect(
        CudaTensor::of(&handle, &bench.device).is_some(),
        "a tensor lost its device",
    )?;
    let host = handle.to_host()?;
    expect(
        host.bytes() == bytes(200 << 20),
        "the other stream read too early",
    )?;
    expect(
        format!("{handle:?}").ends_with(bench.device.name().as_ref()),
        "a wrong name",
    )?;
    Ok(format!("{handle:?}"))
}

fn readers(bench: &Bench) -> Result<String> {
    let (first, second) = (bench.device.new_stream()?, bench.device.new_stream()?);
    let size = 256 << 20;
    for round in 0..10u8 {
        let source = DeviceBuffer::allocate(&first, size)?;
        source.fill(0..size, round, &first)?;
        second.wait(&first.record()?)?;
        let copy = DeviceBuffer::allocate(&second, size)?;
        copy.copy_from(0, &source, 0..size, &second)?;
        // The first stream would give the memory to the next buffer and overwrite it.
        drop(source);
        let next = DeviceBuffer::allocate(&first, size)?;
        next.fill(0..size, 255, &first)?;
        let found = copy.to_host(size - 4096..size, &second)?;
        expect(
            found.iter().all(|&byte| byte == round),
            "the memory was given away",
        )?;
    }
    Ok("10 rounds".to_owned())
}

fn counted(bench: &Bench) -> Result<String> {
    let stream = bench.device.new_stream()?;
    bench.device.reset_peak();
    let before = bench.device.memory_usage();
    let buffer = DeviceBuffer::allocate(&stream, 1000)?;
    drop(DeviceBuffer::allocate(&stream, 500)?);
    let after = bench.device.memory_usage();
    expect(
        after.current == before.current + 1000,
        "the current bytes are wrong",
    )?;
    expect(after.peak == before.current + 1500, "the peak is wrong")?;
    drop(buffer);
    expect(
        bench.device.memory_usage().current == before.current,
        "freed bytes stay",
    )?;
    let free = bench.device.free_memory()?;
    expect(
        free.free <= free.total && free.total > 0,
        "the driver's numbers are wrong",
    )?;
    Ok(format!(
        "{} MiB of {} free",
        free.free >> 20,
        free.total >> 20
    ))
}

fn too_much(bench: &Bench) -> Result<String> {
    let stream = bench.device.new_stream()?;
    let needed = bench.device.info().memory_bytes * 2;
    let Err(error) = DeviceBuffer::allocate(&stream, needed) else {
        return Err("twice the memory was given".into());
    };
    let is_right = matches!(error, Error::OutOfMemory { needed: found, .. } if found == needed);
    expect(is_right, &format!("another error: {error}"))?;
    let buffer = DeviceBuffer::allocate(&stream, 16)?;
    buffer.fill(0..16, 3, &stream)?;
    expect(
        buffer.to_host(0..16, &stream)? == [3; 16],
        "work does not go on",
    )?;
    Ok(error.to_string())
}

fn ranges(bench: &Bench) -> Result<String> {
    let stream = bench.device.new_stream()?;
    let mut staging = Staging::new(&stream)?;
    let buffer = DeviceBuffer::allocate(&stream, 16)?;
    let errors = [
        buffer.fill(8..17, 0, &stream).err(),
        buffer.to_host(17..18, &stream).err(),
        buffer.copy_from(9, &buffer, 0..8, &stream).err(),
        staging.upload(&[0; 8], &buffer, 9).err(),
        staging.upload(&[0; 8], &buffer, usize::MAX).err(),
    ];
    for error in &errors {
        expect(
            matches!(error, Some(Error::Range { .. })),
            "a range was taken",
        )?;
    }
    let tensor = CudaTensor::new(DType::F32, [5], Arc::new(buffer), &stream);
    expect(
        matches!(tensor, Err(Error::Range { .. })),
        "a tensor was too large",
    )?;
    Ok(format!("{} refused", errors.len() + 1))
}

fn events(bench: &Bench) -> Result<String> {
    let stream = bench.device.new_stream()?;
    let buffer = DeviceBuffer::allocate(&stream, 1 << 30)?;
    let start = stream.record_timed()?;
    for _ in 0..10 {
        buffer.fill(0..1 << 30, 1, &stream)?;
    }
    let end = stream.record_timed()?;
    let milliseconds = end.milliseconds_since(&start)?;
    expect(end.is_complete()?, "a measured event is not complete")?;
    expect(milliseconds > 0.0, "no time went by")?;
    Ok(format!("10 GiB filled in {milliseconds:.2} ms"))
}

fn modules(bench: &Bench) -> Result<String> {
    let nvrtc = Nvrtc::load(Some(bench.device.driver().version()))?;
    let target = nvrtc.target_for(bench.device.info().compute_capability)?;
    let text = "extern \"C\" __global__ void put(unsigned char* x, unsigned int value) \
                { x[threadIdx.x] = (unsigned char)value; }";
    let code = KernelCache::of_user().compile(&nvrtc, &Source::new("put.cu", text), target)?;
    for wrong in [&code[..code.len() / 2], &code[1..], &[]] {
        let wrong = Module::load(&bench.device, "wrong", wrong);
        expect(wrong.is_err(), "a part of a module was loaded")?;
    }
    let module = Module::load(&bench.device, "put", &code)?;
    let missing = module.kernel("get").err();
    expect(
        matches!(missing, Some(Error::MissingKernel { .. })),
        "a kernel too many",
    )?;
    let kernel = module.kernel("put")?;
    drop(module);
    let stream = bench.device.new_stream()?;
    let buffer = DeviceBuffer::allocate(&stream, 64)?;
    let arguments = [Argument::U64(buffer.address()), Argument::U32(9)];
    // SAFETY: the arguments are those of the kernel, which writes 64 bytes of the buffer.
    unsafe { kernel.launch(&stream, Grid::line(1, 64), &arguments) }?;
    expect(
        buffer.to_host(0..64, &stream)? == [9; 64],
        "the kernel did not run",
    )?;
    let device: &dyn DeviceMemory = &CudaTensor::new(DType::U8, [64], Arc::new(buffer), &stream)?;
    expect(
        device.to_host()?.bytes() == [9; 64],
        "the tensor has other bytes",
    )?;
    Ok("a kernel outlives its module's handle".to_owned())
}
