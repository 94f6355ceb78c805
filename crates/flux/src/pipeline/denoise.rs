//! The loop over steps.

use std::time::Instant;

use tintype_backend::{RequestState, Tensors};
use tintype_tensor::{DType, Tensor};

use super::FluxPipeline;
use super::check::{Generators, Run};
use super::encode::{Embeddings, Prompts};
use super::model::{Model, ModelKind};
use crate::latents::{image_ids, text_ids};
use crate::scheduler::{Schedule, euler_step, stochastic_step};
use crate::{Error, Observer, Part, Result, StepEnd};

/// What the loop leaves.
pub(super) struct Denoised {
    pub(super) latents: Tensor,
    pub(super) prompt_embeds: Tensor,
}

impl FluxPipeline {
    pub(super) fn denoise(
        &mut self,
        run: &mut Run,
        prompts: &Prompts,
        schedule: &Schedule,
        latents: Tensor,
        observer: &mut dyn Observer,
    ) -> Result<Denoised> {
        let (dtype, scheduler) = (self.dtype, self.configs.scheduler.clone());
        let guidance_embeds = self.configs.transformer.guidance_embeds;
        let model = self.model(ModelKind::Transformer, run, observer)?;
        let start = Instant::now();
        let request = |prompt: &Tensor, pooled: &Tensor| {
            request_inputs(run, schedule, guidance_embeds, prompt, pooled)
        };
        let Embeddings { prompt, pooled } = &prompts.positive;
        let mut positive = model.prepare(&request(prompt, pooled)?)?;
        let negative = match &prompts.negative {
            Some(negative) => Some(model.prepare(&request(&negative.prompt, &negative.pooled)?)?),
            None => None,
        };
        run.timings.prepare += start.elapsed();
        observer.begin(Part::Denoise, schedule.steps());
        let mut state = Denoised {
            latents,
            prompt_embeds: prompt.clone(),
        };
        for index in 0..schedule.steps() {
            let start = Instant::now();
            let cfg = negative.as_deref().zip(run.true_cfg_scale);
            let velocity = predict(model, index, &state.latents, positive.as_ref(), cfg)?;
            let mut values = state.latents.to_f32_vec()?;
            let sigmas = [schedule.sigmas[index], schedule.sigmas[index + 1]];
            if scheduler.stochastic_sampling {
                let noise = run.generators.step_noise(state.latents.shape())?;
                stochastic_step(&mut values, &velocity, &noise, sigmas, dtype)?;
            } else {
                euler_step(&mut values, &velocity, sigmas[0], sigmas[1], dtype)?;
            }
            let latents = Tensor::from_f32_as(dtype, state.latents.shape().clone(), values)?;
            let duration = start.elapsed();
            run.timings.steps.push(duration);
            let mut end = StepEnd {
                index,
                count: schedule.steps(),
                timestep: schedule.timesteps[index],
                duration,
                latents,
                prompt_embeds: state.prompt_embeds.clone(),
                interrupt: false,
            };
            observer.step(&mut end);
            let changed = replaced("prompt_embeds", &state.prompt_embeds, &end.prompt_embeds)?;
            replaced("latents", &state.latents, &end.latents)?;
            state = Denoised {
                latents: end.latents.to_dtype(dtype)?,
                prompt_embeds: end.prompt_embeds.to_dtype(dtype)?,
            };
            if end.interrupt {
                break;
            }
            if changed {
                let inputs =
                    request_inputs(run, schedule, guidance_embeds, &state.prompt_embeds, pooled)?;
                positive = model.prepare(&inputs)?;
            }
        }
        self.release(|models| models.transformer = None);
        Ok(state)
    }
}

/// The velocity at a step; with true classifier-free guidance
/// `negative + scale · (positive − negative)`, each operation rounded as torch does.
fn predict(
    model: &mut Model,
    index: usize,
    latents: &Tensor,
    positive: &dyn RequestState,
    negative: Option<(&dyn RequestState, f32)>,
) -> Result<Vec<f32>> {
    let inputs = Tensors::new()
        .with("step_index", Tensor::scalar(index as i64))
        .with("hidden_states", latents.clone());
    let mut velocity = model
        .step(positive, &inputs)?
        .host("sample")?
        .to_f32_vec()?;
    if let Some((negative, scale)) = negative {
        let dtype = latents.dtype();
        let base = model
            .step(negative, &inputs)?
            .host("sample")?
            .to_f32_vec()?;
        for (velocity, base) in velocity.iter_mut().zip(base) {
            let difference = dtype.round(*velocity - base);
            *velocity = dtype.round(base + dtype.round(scale * difference));
        }
    }
    Ok(velocity)
}

fn request_inputs(
    run: &Run,
    schedule: &Schedule,
    guidance_embeds: bool,
    prompt: &Tensor,
    pooled: &Tensor,
) -> Result<Tensors> {
    let timesteps: Vec<f32> = schedule
        .timesteps
        .iter()
        .map(|timestep| timestep / 1000.0)
        .collect();
    let text_tokens = prompt.shape()[1];
    let mut inputs = Tensors::new()
        .with("timesteps", Tensor::from_f32([timesteps.len()], timesteps)?)
        .with("pooled", pooled.clone())
        .with("prompt_embeds", prompt.clone())
        .with(
            "text_ids",
            Tensor::from_f32([text_tokens, 3], text_ids(text_tokens))?,
        )
        .with(
            "image_ids",
            Tensor::from_f32([run.size.image_tokens(), 3], image_ids(run.size))?,
        );
    if guidance_embeds {
        let guidance = vec![run.guidance_scale; run.batch()];
        inputs.insert("guidance", Tensor::from_f32([run.batch()], guidance)?);
    }
    Ok(inputs)
}

/// Whether an observer changed a tensor; an error if its replacement does not fit.
fn replaced(argument: &str, before: &Tensor, after: &Tensor) -> Result<bool> {
    let is_float = matches!(after.dtype(), DType::F32 | DType::BF16 | DType::F16);
    if !is_float || before.shape() != after.shape() {
        let expected = format!("floats of shape {}", before.shape());
        return Err(Error::argument(
            argument,
            expected,
            format!("{}{}", after.dtype(), after.shape()),
        ));
    }
    Ok(before.dtype() != after.dtype() || before.bytes() != after.bytes())
}

impl Generators {
    /// Noise for a stochastic step: one generator for all, or the first of a list.
    fn step_noise(&mut self, shape: &[usize]) -> Result<Vec<f32>> {
        let generator = match self {
            Self::Joint(generator) => generator,
            Self::PerImage(generators) => &mut generators[0],
        };
        Ok(generator.randn(shape)?.to_f32_vec()?)
    }
}
