//! How fast weights move, at sizes of FLUX. Printed, not checked.

use std::sync::Arc;
use std::time::Instant;

use tintype_cpu::CpuEvaluator;
use tintype_device::{BinaryKernel, DeviceBuffer, Operand, ReduceKernel, Staging, WeightProgram};
use tintype_device::{Stream, WeightKernels};
use tintype_tensor::{DType, Tensor};
use tintype_weights::Parameters;

use crate::{Bench, Result};

const ROWS: usize = 12288;
const COLUMNS: usize = 3072;
const RANK: usize = 16;
const REPEATS: u16 = 20;

pub(crate) fn measure(bench: &mut Bench) -> Result<()> {
    uploads(bench)?;
    kernels(bench)?;
    merges(bench)
}

fn uploads(bench: &Bench) -> Result<()> {
    let stream = bench.device.new_stream()?;
    let mut staging = Staging::new(&stream)?;
    let bytes = vec![1u8; 1 << 30];
    let buffer = DeviceBuffer::allocate(&stream, bytes.len())?;
    for round in ["first", "second"] {
        let start = Instant::now();
        staging.upload(&bytes, &buffer, 0)?;
        stream.synchronize()?;
        let seconds = start.elapsed().as_secs_f64();
        let speed = bytes.len() as f64 / seconds / 1e9;
        println!(
            "speed   {round} upload of 1 GiB: {:.1} ms, {speed:.1} GB/s",
            seconds * 1e3
        );
    }
    Ok(())
}

/// The median time of `work`, and the speed for so many bytes read and written.
fn timed(
    name: &str,
    bytes: usize,
    stream: &Stream,
    mut work: impl FnMut() -> tintype_device::Result<()>,
) -> Result<()> {
    work()?;
    let mut times = Vec::new();
    for _ in 0..REPEATS {
        let start = stream.record_timed()?;
        work()?;
        times.push(stream.record_timed()?.milliseconds_since(&start)?);
    }
    times.sort_by(f32::total_cmp);
    let median = times[times.len() / 2];
    let speed = bytes as f64 / f64::from(median) / 1e6;
    println!("speed   {name}: {median:.3} ms, {speed:.0} GB/s");
    Ok(())
}

fn kernels(bench: &Bench) -> Result<()> {
    let stream = bench.device.new_stream()?;
    let kernels: &WeightKernels = &bench.kernels;
    let count = ROWS * COLUMNS;
    let shape = [ROWS, COLUMNS];
    let buffers: Vec<DeviceBuffer> = (0..3)
        .map(|_| DeviceBuffer::allocate(&stream, count * 4))
        .collect::<tintype_device::Result<_>>()?;
    for buffer in &buffers {
        buffer.fill(0..count * 4, 0, &stream)?;
    }
    let of = |dtype, index: usize| Operand::new(dtype, &shape, &buffers[index]);
    let (f32_type, bf16) = (DType::F32, DType::BF16);
    timed("copy of f32[12288, 3072]", count * 8, &stream, || {
        buffers[1].copy_from(0, &buffers[0], 0..count * 4, &stream)
    })?;
    timed("cast to bf16", count * 6, &stream, || {
        kernels.cast(&stream, of(f32_type, 0)?, of(bf16, 1)?)
    })?;
    timed("cast of bf16 to f8e4m3", count * 3, &stream, || {
        kernels.cast(&stream, of(bf16, 0)?, of(DType::F8E4M3, 1)?)
    })?;
    timed("mul of f32", count * 12, &stream, || {
        let operands = [of(f32_type, 0)?, of(f32_type, 1)?];
        kernels.binary(&stream, BinaryKernel::Mul, operands, of(f32_type, 2)?)
    })?;
    let turned = [COLUMNS, ROWS];
    timed("transpose of bf16", count * 4, &stream, || {
        let output = Operand::new(bf16, &turned, &buffers[1])?;
        kernels.transpose(&stream, &[1, 0], of(bf16, 0)?, output)
    })?;
    for (name, axes, result) in [
        ("rows", &[1][..], vec![ROWS, 1]),
        ("all", &[0, 1], vec![1, 1]),
    ] {
        timed(
            &format!("maximum of {name}, bf16"),
            count * 2,
            &stream,
            || {
                let output = Operand::new(bf16, &result, &buffers[1])?;
                kernels.reduce(&stream, ReduceKernel::Max, axes, of(bf16, 0)?, output)
            },
        )?;
    }
    let (up, down) = ([ROWS, RANK], [RANK, COLUMNS]);
    timed("merge of rank 16 into bf16", count * 4, &stream, || {
        let factors = [
            Operand::new(f32_type, &up, &buffers[1])?,
            Operand::new(f32_type, &down, &buffers[2])?,
        ];
        kernels.merge(&stream, of(bf16, 0)?, (factors, 0.5), of(bf16, 0)?)
    })
}

/// Merges of a weight program whose parameters come from the host.
fn merges(bench: &mut Bench) -> Result<()> {
    let text = format!(
        "graph \"merge\" {{\n  param @w: bf16[{ROWS}, {COLUMNS}]\n  param @b: f32[{ROWS}, {RANK}]\n  \
         param @a: f32[{RANK}, {COLUMNS}]\n  %0: f32[{ROWS}, {COLUMNS}] = cast @w\n  \
         %1: f32[{ROWS}, {COLUMNS}] = matmul @b, @a\n  %2: f32[{ROWS}, {COLUMNS}] = add %0, %1\n  \
         %3: bf16[{ROWS}, {COLUMNS}] = cast %2\n  output w = %3\n}}\n"
    );
    let graph = Arc::new(tintype_ir::parse(&text)?);
    let zeros = |rows: usize, columns: usize, dtype| {
        Tensor::from_f32_as(dtype, [rows, columns], vec![0.5; rows * columns])
    };
    let parameters = Parameters::builder()
        .tensor("w", zeros(ROWS, COLUMNS, DType::BF16)?)
        .tensor("b", zeros(ROWS, RANK, DType::F32)?)
        .tensor("a", zeros(RANK, COLUMNS, DType::F32)?)
        .build()?;
    let program = WeightProgram {
        graph: &graph,
        parameters: &parameters,
        wanted: None,
        evaluator: &CpuEvaluator,
        kept: None,
        in_place: None,
    };
    for round in ["first", "second", "third"] {
        let start = Instant::now();
        let report = bench.runner.run(&program, &mut |_, _| Ok(()))?;
        let enqueued = start.elapsed();
        bench.runner.stream().synchronize()?;
        println!(
            "speed   {round} run of a merge with upload: {:.2?}, enqueued after {enqueued:.2?}, {} MB",
            start.elapsed(),
            report.uploaded / 1_000_000
        );
    }
    println!("speed   memory {:?}", bench.device.memory_usage());
    Ok(())
}
