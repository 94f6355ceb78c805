//! How long a step takes: all of a picture's work in the transformer, divided by its steps.

use std::time::Instant;

use tintype_backend::{Backend, CompileOptions, DeviceTensor, Tensors};

use super::super::machine::{Found, Machine};
use super::super::report::{Label, Report};
use super::super::{Arguments, Result, on_each};
use super::loaded::{Gauge, Loaded, expect_numbers, parameters, step_inputs};
use super::median;
use super::precision::Narrow;
use super::size::Size;

/// What one step may take at 1024×1024 on an H100, batch 1.
fn step_milliseconds(narrow: Narrow) -> f64 {
    match narrow {
        Narrow::Nothing => 118.0,
        Narrow::Linears => 80.0,
        Narrow::LinearsAndAttention => 75.0,
    }
}

pub(in super::super) fn run(
    machine: &Machine,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<()> {
    on_each(machine, report, 1, |name, found: &Found, report| {
        measure(name, found.backend.as_ref(), arguments, report)
    })
}

fn measure(
    on: &'static str,
    backend: &dyn Backend,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<()> {
    let (size, gauge) = (Size::new(arguments), Gauge::new(on)?);
    let parameters = parameters(&size, arguments, report)?;
    let options = CompileOptions::default();
    let mut loaded = Loaded::new(&size, backend, &options, &parameters, &gauge, report)?;
    let (request, latents) = (size.request(0)?, gauge.upload(size.latents(0)?)?);
    let mut outputs = Tensors::new();
    // The first picture makes plans and kernels, the second captures, the third is as all others.
    for name in ["the first picture's steps", "the second's", "the third's"] {
        let start = Instant::now();
        loaded.picture(&size, &request, &latents, &mut outputs)?;
        gauge.settle()?;
        report.figure(name, start.elapsed().as_secs_f64(), "s", None)?;
    }
    let start = Instant::now();
    let sample = outputs.host("sample")?;
    let label = Label::new("a step gives numbers", on).of(size.dtype);
    report.check(label, start.elapsed(), expect_numbers(&sample));
    gauge.pause(true);
    let mut whole = Vec::new();
    for _ in 0..arguments.full.runs.max(1) {
        let start = Instant::now();
        loaded.picture(&size, &request, &latents, &mut outputs)?;
        gauge.settle()?;
        whole.push(start.elapsed().as_secs_f64() * 1e3 / size.steps as f64);
    }
    let is_asked = on == "cuda" && !arguments.full.small && size.batch == 1;
    let limit = is_asked.then(|| step_milliseconds(size.precision.narrow));
    let step = median(&whole);
    let least = whole.iter().copied().fold(f64::INFINITY, f64::min);
    let most = whole.iter().copied().fold(0.0, f64::max);
    report.figure("a step, least", least, "ms", None)?;
    report.figure("a step, most", most, "ms", None)?;
    report.figure(
        "a step, with its share of the request: median",
        step,
        "ms",
        limit,
    )?;
    parts(&mut loaded, &size, &gauge, (&request, &latents), report)?;
    gauge.pause(false);
    gauge.say_used("memory while stepping", report)?;
    gauge.say_peak("peak of memory while stepping", report)?;
    let again = outputs.host("sample")?;
    let result = if again.bytes() == sample.bytes() {
        Ok("to the bit".to_owned())
    } else {
        Err("the bits differ from those of the third picture".into())
    };
    let label = label.called("the last picture is the third again");
    report.check(label, start.elapsed(), result);
    Ok(())
}

/// What a request and single steps take, each waited for.
fn parts(
    loaded: &mut Loaded,
    size: &Size,
    gauge: &Gauge,
    (request, latents): (&Tensors, &DeviceTensor),
    report: &mut Report,
) -> Result<()> {
    let (mut requests, mut steps) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let start = Instant::now();
        let state = loaded.session.prepare(request)?;
        gauge.settle()?;
        requests.push(start.elapsed().as_secs_f64() * 1e3);
        for index in 0..4.min(size.steps) {
            let inputs = step_inputs(index, latents.clone());
            let start = Instant::now();
            let outputs = loaded.session.step(state.as_ref(), &inputs)?;
            gauge.settle()?;
            steps.push(start.elapsed().as_secs_f64() * 1e3);
            drop(outputs);
        }
    }
    report.figure("a request: median", median(&requests), "ms", None)?;
    report.figure(
        "a single step, waited for: median",
        median(&steps),
        "ms",
        None,
    )
}
