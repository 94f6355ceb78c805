//! Where the time of a step goes, beside what the device could do.
//!
//! Steps of the plan are timed one by one, without a graph, so that their sum is a little more
//! than a step takes. The floor of a line is the larger of its operations over the rate of a large
//! product and its bytes over the rate of a copy, both measured in the same run.

use std::sync::Arc;

use serde_json::json;
use tintype_backend::{Backend, Changes, CompileOptions, Tensors};
use tintype_cpu::CpuEvaluator;
use tintype_cuda::{CudaBackend, CudaOptions, Profile, ProfileLine};
use tintype_device::{Device, DeviceBuffer};
use tintype_ir::{StagedGraph, parse};
use tintype_tensor::{DType, Shape, Tensor};

use super::super::machine::Machine;
use super::super::report::{Label, Report};
use super::super::{Arguments, Result};
use super::loaded::{Gauge, Loaded, parameters, step_inputs};
use super::median;
use super::precision::{Narrow, Precision};
use super::random::{noise, weight};
use super::size::Size;

/// Steps that are timed.
const ROUNDS: usize = 5;

pub(in super::super) fn run(
    machine: &Machine,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<()> {
    let profiled = profiled(machine, arguments, report, &Profile::new())?;
    let Some(Profiled { lines, peaks }) = profiled else {
        return Ok(());
    };
    for (what, lines) in [("request", &lines.request), ("step", &lines.step)] {
        let rows: Vec<Row> = lines.iter().map(|line| Row::new(line, peaks)).collect();
        print(what, &rows);
        let total: f64 = rows.iter().map(|row| row.milliseconds).sum();
        let floor: f64 = rows.iter().map(|row| row.floor).sum();
        report.figure(format!("{what}: sum of its parts"), total, "ms", None)?;
        report.figure(format!("{what}: floor"), floor, "ms", None)?;
        for kind in ["product", "attention", "convolution", "kernel", "special"] {
            let of_kind = || rows.iter().filter(|row| row.kind == kind);
            let (count, time): (usize, f64) = of_kind().fold((0, 0.0), |sum, row| {
                (sum.0 + row.count, sum.1 + row.milliseconds)
            });
            if count > 0 {
                let floor: f64 = of_kind().map(|row| row.floor).sum();
                report.figure(format!("{what}: {kind}, {count} of them"), time, "ms", None)?;
                report.figure(format!("{what}: {kind}, floor"), floor, "ms", None)?;
            }
        }
        report.table(
            &format!("profile of the {what}"),
            rows.iter().map(Row::json).collect(),
        );
    }
    Ok(())
}

/// Lines of both programs, each of one run.
pub(super) struct Lines {
    pub(super) request: Vec<ProfileLine>,
    pub(super) step: Vec<ProfileLine>,
}

/// What was measured.
pub(super) struct Profiled {
    pub(super) lines: Lines,
    pub(super) peaks: Peaks,
}

/// Runs a request and some steps under a profile; none without the backend.
pub(super) fn profiled(
    machine: &Machine,
    arguments: &Arguments,
    report: &mut Report,
    profile: &Profile,
) -> Result<Option<Profiled>> {
    let Some(entry) = machine.entry("cuda") else {
        report.skip(
            Label::new("profile", "cuda"),
            1,
            "the backend is not asked for",
        );
        return Ok(None);
    };
    if let Err(reason) = &entry.found {
        report.skip(Label::new("profile", "cuda"), 1, reason);
        return Ok(None);
    }
    let options = CudaOptions::new(Arc::new(CpuEvaluator)).with_profile(profile);
    let backend = CudaBackend::new(options)?;
    let (size, gauge) = (Size::new(arguments), Gauge::new("cuda")?);
    let peaks = Peaks::measure(&backend, profile, size.precision, report)?;
    let parameters = parameters(&size, arguments, report)?;
    let options = CompileOptions::default();
    let mut loaded = Loaded::new(&size, &backend, &options, &parameters, &gauge, report)?;
    let (request, latents) = (size.request(0)?, gauge.upload(size.latents(0)?)?);
    // Once without looking: kernels are compiled and algorithms timed.
    let state = loaded.session.prepare(&request)?;
    loaded
        .session
        .step(state.as_ref(), &step_inputs(0, latents.clone()))?;
    profile.take()?;
    gauge.pause(true);
    let state = loaded.session.prepare(&request)?;
    let request = profile.take()?;
    for index in 0..ROUNDS {
        let inputs = step_inputs(index % size.steps, latents.clone());
        loaded.session.step(state.as_ref(), &inputs)?;
    }
    let mut step = profile.take()?;
    gauge.pause(false);
    for line in &mut step {
        line.count /= ROUNDS;
        line.bytes /= ROUNDS;
        line.operations /= ROUNDS;
        line.milliseconds /= ROUNDS as f64;
    }
    let lines = Lines { request, step };
    Ok(Some(Profiled { lines, peaks }))
}

/// What the device can do, measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peaks {
    /// Bytes read and written in a second by a copy.
    pub(super) copy: f64,
    /// Operations in a second of a large product.
    pub(super) product: f64,
    /// The same of codes of 8 bits, where there are such.
    codes: f64,
}

impl Peaks {
    fn measure(
        backend: &CudaBackend,
        profile: &Profile,
        precision: Precision,
        report: &mut Report,
    ) -> Result<Self> {
        let dtype = precision.values;
        let product = product_rate(backend, profile, dtype, false)?;
        let codes = match precision.narrow {
            Narrow::Nothing => product,
            _ => product_rate(backend, profile, dtype, true)?,
        };
        let peaks = Self {
            copy: copy_rate(backend.device())?,
            product,
            codes,
        };
        report.figure(
            "a copy of 1 GiB, read and written",
            peaks.copy / 1e12,
            "TB/s",
            None,
        )?;
        let name = format!("a product of {SIDE}×{SIDE}×{SIDE}, {dtype}");
        report.figure(name, peaks.product / 1e12, "TFLOP/s", None)?;
        if precision.narrow != Narrow::Nothing {
            let name = format!("a product of {SIDE}×{SIDE}×{SIDE}, f8e4m3");
            report.figure(name, peaks.codes / 1e12, "TFLOP/s", None)?;
        }
        Ok(peaks)
    }
}

fn copy_rate(device: &Device) -> Result<f64> {
    let stream = device.new_stream()?;
    let [from, to] = [(), ()].map(|()| DeviceBuffer::allocate(&stream, COPIED));
    let (from, to) = (from?, to?);
    from.fill(0..COPIED, 0x5a, &stream)?;
    let mut times = Vec::new();
    for _ in 0..10 {
        let start = stream.record_timed()?;
        to.copy_from(0, &from, 0..COPIED, &stream)?;
        let end = stream.record_timed()?;
        times.push(f64::from(end.milliseconds_since(&start)?));
    }
    Ok(2.0 * COPIED as f64 / (median(&times) / 1e3))
}

/// The rate of a product of values, or of codes of 8 bits that mean such.
fn product_rate(
    backend: &CudaBackend,
    profile: &Profile,
    dtype: DType,
    are_codes: bool,
) -> Result<f64> {
    let shape = format!("[{SIDE}, {SIDE}]");
    let text = if are_codes {
        let value = |codes: &str, first: usize| {
            let (wide, scaled) = (first, first + 1);
            format!(
                "%{wide}: f32{shape} = cast {codes} %{scaled}: f32{shape} = mul %{wide}, @s \
                 %{}: {dtype}{shape} = cast %{scaled} ",
                first + 2
            )
        };
        format!(
            "graph \"product\" {{ param @w: f8e4m3{shape} param @s: f32[] \
             input step %x: f8e4m3{shape} {}{}%6: {dtype}{shape} = linear %2, %5 output y = %6 }}",
            value("%x", 0),
            value("@w", 3)
        )
    } else {
        format!(
            "graph \"product\" {{ param @w: {dtype}{shape} input step %x: {dtype}{shape} \
             %0: {dtype}{shape} = linear %x, @w output y = %0 }}"
        )
    };
    let of = if are_codes { DType::F8E4M3 } else { dtype };
    let staged = StagedGraph::split(&parse(&text)?)?;
    let executable = backend.compile(&staged, &CompileOptions::default())?;
    let matrix = weight("w", dtype, &Shape::from([SIDE, SIDE]))?.to_dtype(of)?;
    let mut parameters = tintype_weights::Parameters::builder().tensor("w", matrix);
    if are_codes {
        parameters = parameters.tensor("s", Tensor::scalar(1f32));
    }
    executable.refit(&Changes::all(&parameters.build()?))?;
    let mut session = executable.session()?;
    let state = session.prepare(&Tensors::new())?;
    let inputs = Tensors::new().with("x", noise("x", dtype, [SIDE, SIDE])?.to_dtype(of)?);
    session.step(state.as_ref(), &inputs)?;
    profile.take()?;
    for _ in 0..10 {
        session.step(state.as_ref(), &inputs)?;
    }
    let lines = profile.take()?;
    let operations: usize = lines.iter().map(|line| line.operations).sum();
    let milliseconds: f64 = lines.iter().map(|line| line.milliseconds).sum();
    Ok(operations as f64 / (milliseconds / 1e3))
}

/// A line with its floor.
struct Row {
    kind: &'static str,
    name: String,
    count: usize,
    milliseconds: f64,
    floor: f64,
    bytes: usize,
    operations: usize,
}

impl Row {
    fn new(line: &ProfileLine, peaks: Peaks) -> Self {
        let is_coded = line.name.starts_with("fp8_");
        let product = if is_coded { peaks.codes } else { peaks.product };
        let arithmetic = line.operations as f64 / product;
        let memory = line.bytes as f64 / peaks.copy;
        Self {
            kind: line.kind,
            name: line.name.clone(),
            count: line.count,
            milliseconds: line.milliseconds,
            floor: arithmetic.max(memory) * 1e3,
            bytes: line.bytes,
            operations: line.operations,
        }
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "kind": self.kind,
            "name": self.name,
            "count": self.count,
            "milliseconds": self.milliseconds,
            "floor_milliseconds": self.floor,
            "bytes": self.bytes,
            "operations": self.operations,
        })
    }
}

/// A table, the line that loses most first.
fn print(what: &str, rows: &[Row]) {
    let mut rows: Vec<&Row> = rows.iter().collect();
    let lost = |row: &&Row| row.milliseconds - row.floor;
    rows.sort_by(|a, b| lost(b).total_cmp(&lost(a)));
    println!("        {what}: kind, name, count; ms, floor, lost; TFLOP/s, TB/s");
    for row in rows {
        let seconds = row.milliseconds / 1e3;
        let rates = [row.operations, row.bytes].map(|count| count as f64 / seconds / 1e12);
        println!(
            "        {:<11} {:<32} {:>5} {:>9.4} {:>9.4} {:>9.4} {:>7.1} {:>6.2}",
            row.kind,
            row.name,
            row.count,
            row.milliseconds,
            row.floor,
            row.milliseconds - row.floor,
            rates[0],
            rates[1]
        );
    }
}

/// Bytes of the copy: no cache holds them.
const COPIED: usize = 1 << 30;

/// The side of the large product.
const SIDE: usize = 8192;
