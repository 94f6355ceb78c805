//! Running a case and measuring the result.

use std::path::Path;
use std::sync::Arc;

use tintype_backend::Backend;
use tintype_flux::{FluxPipeline, Request, Seed, Sizes, StepEnd};
use tintype_tensor::{DType, Tensor, relative_error};
use tintype_weights::Parameters;

use crate::{Callback, Case, Error, KindOfCase, RequestRecord, Result, SeedRecord};

/// How far a result is from the recording.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Errors {
    /// Of the last latents: ‖a−b‖₂ / ‖b‖₂.
    pub latents: f64,
    /// The greatest of a pixel in 0..=1, both rounded to 8 bits; 0 for latent output.
    pub pixel: f64,
}

/// Runs a case on a backend.
pub fn run_case(
    fixtures: &Path,
    case: &Case,
    backend: &Arc<dyn Backend>,
    dtype: DType,
) -> Result<Errors> {
    let recorded = Parameters::open(fixtures.join(&case.expected.file))?;
    let mut pipeline = FluxPipeline::from_pretrained(fixtures.join(&case.pipeline))?
        .shared_backend(Arc::clone(backend))
        .dtype(dtype);
    let request = request_of(&case.request, case.kind, &recorded)?;
    let sizes = Sizes::of_request(&request, pipeline.defaults());
    pipeline = pipeline.sizes(sizes);
    let names: Vec<String> = (0..case.loras.len())
        .map(|index| format!("lora{index}"))
        .collect();
    for (lora, name) in case.loras.iter().zip(&names) {
        pipeline.load_lora(fixtures.join(&lora.file), name)?;
    }
    let scales: Vec<(&str, f32)> = names
        .iter()
        .zip(&case.loras)
        .map(|(name, lora)| (name.as_str(), lora.scale))
        .collect();
    pipeline.set_adapters(&scales)?;
    let callback = case.request.callback.clone();
    let output = pipeline.generate_with(&request, &mut |step: &mut StepEnd| {
        if let Some(callback) = &callback {
            act(callback, step);
        }
    })?;
    let expected = recorded.get(&case.expected.latents)?;
    expected.expect_shape(output.latents.shape().clone())?;
    let latents = relative_error(&output.latents.to_f32()?, &expected.to_f32()?);
    let pixel = match (&output.pixels, &case.expected.images) {
        (Some(pixels), Some(name)) => greatest_difference(pixels, &recorded.get(name)?)?,
        (None, None) => 0.0,
        (found, _) => {
            let (expected, found) = match found {
                Some(_) => ("no pictures", "some"),
                None => ("pictures", "none"),
            };
            return Err(wrong(
                &case.expected.file,
                format!("expected {expected}, found {found}"),
            ));
        }
    };
    Ok(Errors { latents, pixel })
}

/// The request that a record describes; its tensors come from `recorded`.
pub fn request_of(
    record: &RequestRecord,
    kind: KindOfCase,
    recorded: &Parameters,
) -> Result<Request> {
    let mut request = Request::with_prompts(record.prompt.iter().cloned());
    request.prompt_2.clone_from(&record.prompt_2);
    request.negative_prompt.clone_from(&record.negative_prompt);
    request
        .negative_prompt_2
        .clone_from(&record.negative_prompt_2);
    request.true_cfg_scale = record.true_cfg_scale;
    (request.height, request.width) = (record.height, record.width);
    (request.steps, request.num_images) = (record.steps, record.num_images);
    request.sigmas.clone_from(&record.sigmas);
    request.guidance_scale = record.guidance;
    request.max_sequence_length = record.max_sequence_length;
    request.lora_scale = record.lora_scale;
    request.vae_tiling = record.vae_tiling;
    request.latents_only = record.output_type.as_deref() == Some("latent");
    request.seed = match &record.seed {
        None => Seed::Random,
        Some(SeedRecord::One(seed)) => Seed::One(*seed),
        Some(SeedRecord::Many(seeds)) => Seed::PerImage(seeds.clone()),
    };
    for (argument, name) in &record.tensors {
        let tensor = recorded.get(name)?;
        let slot = match argument.as_str() {
            "latents" => &mut request.tensors.latents,
            "prompt_embeds" => &mut request.tensors.prompt_embeds,
            "pooled_prompt_embeds" => &mut request.tensors.pooled_prompt_embeds,
            "negative_prompt_embeds" => &mut request.tensors.negative_prompt_embeds,
            "negative_pooled_prompt_embeds" => &mut request.tensors.negative_pooled_prompt_embeds,
            "image" if kind == KindOfCase::ImageToImage => {
                request = request.pixels(tensor, record.strength.unwrap_or(0.6));
                continue;
            }
            other => return Err(wrong(name, format!("`{other}` is no tensor of a request"))),
        };
        *slot = Some(tensor);
    }
    Ok(request)
}

fn wrong(path: &str, message: String) -> Error {
    Error::Fixture {
        path: path.to_owned(),
        message,
    }
}

fn act(callback: &Callback, step: &mut StepEnd) {
    if step.index != callback.after_step {
        return;
    }
    if let Some(factor) = callback.scale_latents {
        step.latents = scaled(&step.latents, factor);
    }
    if let Some(factor) = callback.scale_prompt_embeds {
        step.prompt_embeds = scaled(&step.prompt_embeds, factor);
    }
    step.interrupt |= callback.interrupt;
}

fn scaled(tensor: &Tensor, factor: f32) -> Tensor {
    let values = tensor.to_f32_vec().expect("latents are floats");
    let values = values.into_iter().map(|value| value * factor).collect();
    Tensor::from_f32_as(tensor.dtype(), tensor.shape().clone(), values).expect("the same shape")
}

/// Both rounded to 8 bits, as they are in a PNG.
fn greatest_difference(pixels: &Tensor, expected: &Tensor) -> Result<f64> {
    expected.expect_shape(pixels.shape().clone())?;
    let byte = |value: f32| (255.0 * value).round_ties_even();
    let is_bytes = expected.dtype() == DType::U8;
    let expected = expected.to_f32_vec()?;
    let pairs = pixels.to_f32_vec()?.into_iter().zip(expected);
    let differences = pairs.map(|(found, expected)| {
        let expected = if is_bytes { expected } else { byte(expected) };
        f64::from((byte(found) - expected).abs()) / 255.0
    });
    // `max` ignores a NaN, which must not pass.
    Ok(differences.fold(0.0, |greatest, one| {
        if one.is_nan() || one > greatest {
            one
        } else {
            greatest
        }
    }))
}
