//! Whole pictures of a pipeline in a folder: text encoders, transformer and autoencoder.
//!
//! `benches/peers/flux_weights.py --make` writes such a folder with random weights at the size of
//! FLUX.1-dev, which the peers load too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tintype_backend::Backend;
use tintype_flux::{FluxPipeline, Request, Sizes, Timings};

use super::super::machine::{Found, Machine};
use super::super::report::{Label, Report};
use super::super::{Arguments, Result, on_each};
use super::loaded::{Gauge, expect_numbers};
use super::median;

const PROMPT: &str = "a photo of a red fox sitting in the snow";

pub(in super::super) fn run(
    machine: &Machine,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<()> {
    on_each(machine, report, 1, |name, found: &Found, report| {
        if arguments.full.model.is_some() {
            return measure(name, &found.backend, arguments, report);
        }
        let reason = "no pipeline: name its folder with --model";
        report.skip(Label::new("pictures", name), 1, reason);
        Ok(())
    })
}

fn measure(
    on: &'static str,
    backend: &Arc<dyn Backend>,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<()> {
    let options = &arguments.full;
    let (gauge, side) = (Gauge::new(on)?, if options.small { 64 } else { 1024 });
    let mut request = Request::new(PROMPT)
        .size(side, side)
        .steps(options.steps)
        .seed(0);
    request.num_images = Some(options.batch);
    let folder = options.model.as_ref().ok_or("no folder")?;
    let pipeline = FluxPipeline::from_pretrained(folder)?;
    let sizes = Sizes::of_request(&request, pipeline.defaults());
    let pipeline = pipeline
        .shared_backend(Arc::clone(backend))
        .dtype(options.dtype.values)
        .sizes(sizes);
    let start = Instant::now();
    let first = pipeline.generate(&request)?;
    let seconds = start.elapsed().as_secs_f64();
    report.figure("the first picture, with loading", seconds, "s", None)?;
    report.figure("of it loading", first.timings.load.as_secs_f64(), "s", None)?;
    let label = Label::new("latents are numbers", on).of(options.dtype.values);
    report.check(label, start.elapsed(), expect_numbers(&first.latents));
    // Captured now.
    pipeline.generate(&request)?;
    let (mut whole, mut timings) = (Vec::new(), Vec::new());
    for _ in 0..options.runs.max(1) {
        let start = Instant::now();
        let output = pipeline.generate(&request)?;
        whole.push(start.elapsed().as_secs_f64());
        timings.push(output.timings);
    }
    let part = |of: &dyn Fn(&Timings) -> Duration| {
        let times: Vec<f64> = timings
            .iter()
            .map(|timings| of(timings).as_secs_f64())
            .collect();
        median(&times)
    };
    report.figure("a picture: median", median(&whole), "s", None)?;
    report.figure(
        "of it encoding texts",
        part(&|timings| timings.encode),
        "s",
        None,
    )?;
    report.figure(
        "of it the request",
        part(&|timings| timings.prepare),
        "s",
        None,
    )?;
    let steps = part(&|timings| timings.steps.iter().sum());
    report.figure("of it the steps", steps, "s", None)?;
    report.figure("of it decoding", part(&|timings| timings.decode), "s", None)?;
    gauge.say_peak("peak of memory", report)
}
