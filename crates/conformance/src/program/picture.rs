//! The picture that the model inside the program draws in f32, against the CPU's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tintype_backend::Backend;
use tintype_cpu::CpuBackend;
use tintype_flux::{FluxPipeline, ModelFiles, Output, Request, Sizes};
use tintype_tensor::{DType, relative_error};

use super::machine::Machine;
use super::report::{Label, Measured, Report};
use super::{Arguments, Result, on_each_gpu};

const PROMPTS: [(&str, u64); 2] = [
    ("a red circle above a blue square", 7),
    (
        "a small green triangle to the left of a large yellow star",
        11,
    ),
];

/// The least likeness: the peak signal over the noise in decibels, with a peak of 1.
const DECIBELS: f64 = 40.0;

pub(super) fn run(machine: &Machine, _: &Arguments, report: &mut Report) -> Result<()> {
    let count = PROMPTS.len() + 1;
    on_each_gpu(machine, report, count, |on, backend, report| {
        let mut row = |case: &str, result: &dyn Fn() -> Result<Measured>| {
            let start = Instant::now();
            let result = result();
            let label = Label::new(case, on).of(DType::F32);
            report.compare(label, start.elapsed(), result);
        };
        for (prompt, seed) in PROMPTS {
            row(prompt, &|| {
                compare(backend, &drawing(prompt, seed), Plans::OfTheSize)
            });
        }
        let (prompt, seed) = PROMPTS[0];
        let flat = drawing(prompt, seed).size(96, 192);
        row("plans of many sizes", &|| {
            compare(backend, &flat, Plans::OfManySizes)
        });
        Ok(())
    })
}

/// The model inside the program on a backend.
pub(super) fn shapes() -> Result<FluxPipeline> {
    let files = ModelFiles::embedded(tintype_shapes::LABEL, tintype_shapes::FILES);
    Ok(FluxPipeline::from_files(files)?)
}

fn drawing(prompt: &str, seed: u64) -> Request {
    Request::new(prompt).seed(seed)
}

/// What plans are made for.
#[derive(Clone, Copy)]
enum Plans {
    OfTheSize,
    OfManySizes,
}

fn compare(backend: &Arc<dyn Backend>, request: &Request, plans: Plans) -> Result<Measured> {
    let draw = |backend: Arc<dyn Backend>| -> Result<Output> {
        let pipeline = shapes()?;
        let mut sizes = Sizes::of_request(request, pipeline.defaults());
        if let Plans::OfManySizes = plans {
            (sizes.heights, sizes.widths) = (64..=256, 64..=256);
        }
        let pipeline = pipeline.shared_backend(backend).sizes(sizes);
        Ok(pipeline.generate(request)?)
    };
    let (found, expected) = (
        draw(Arc::clone(backend))?,
        draw(Arc::new(CpuBackend::new()))?,
    );
    let pixels = |output: &Output| -> Result<Vec<f32>> {
        let pixels = output.pixels.as_ref().ok_or("no picture")?;
        Ok(pixels.to_f32_vec()?)
    };
    let (found_pixels, expected_pixels) = (pixels(&found)?, pixels(&expected)?);
    let pairs = found_pixels.iter().zip(&expected_pixels);
    let noise: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let noise = noise / expected_pixels.len() as f64;
    let latents = relative_error(
        &found.latents.to_f32_vec()?,
        &expected.latents.to_f32_vec()?,
    );
    let steps: f64 = found.timings.steps.iter().map(Duration::as_secs_f64).sum();
    Ok(Measured {
        // Root of the noise: 0.01 is 40 dB.
        error: noise.sqrt(),
        allowed: 10f64.powf(-DECIBELS / 20.0),
        note: format!(
            "{:.1} dB, latents off by {latents:.1e}, {} steps in {:.1} ms",
            -10.0 * noise.max(1e-30).log10(),
            found.timings.steps.len(),
            steps * 1e3
        ),
    })
}
