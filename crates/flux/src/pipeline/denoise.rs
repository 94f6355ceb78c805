//! The loop over steps.

use std::time::Instant;

use tintype_backend::{DeviceTensor, RequestState, Tensors};
use tintype_refit::{Picture, Signature};
use tintype_tensor::{DType, Tensor};

use super::check::{Generators, Run};
use super::drawing::Drawing;
use super::encode::{Embeddings, Prompts};
use super::modules::ModelKind;
use super::on_device::run_steps;
use crate::latents::{image_ids, text_ids};
use crate::scheduler::{euler_step, stochastic_step};
use crate::{Error, Observer, Part, Result, StepEnd};

/// What the loop leaves.
pub(super) struct Denoised {
    pub(super) latents: Tensor,
    pub(super) prompt_embeds: Tensor,
}

impl Drawing<'_> {
    /// Runs the steps of the request's schedule on packed latents.
    pub(super) fn denoise(&mut self, prompts: &Prompts, latents: Tensor) -> Result<Denoised> {
        let configs = &self.pipeline.configs;
        let settings = Settings {
            dtype: self.pipeline.dtype,
            euler_step: self.pipeline.architecture().euler_step,
            guidance_embeds: configs.transformer.guidance_embeds,
            stochastic_sampling: configs.scheduler.stochastic_sampling,
        };
        let module = self.module(ModelKind::Transformer)?;
        let inputs = settings.request_inputs(&self.run, &prompts.positive)?;
        let signature = Signature::of(&inputs).and(&step_inputs(0, &latents.clone().into()));
        let mut picture = self.begin(ModelKind::Transformer, &module, &signature)?;
        let (run, observer) = (&mut self.run, &mut *self.observer);
        let start = Instant::now();
        let mut positive = picture.prepare(&inputs)?;
        let negative = prompts.negative.as_ref();
        let negative = negative
            .map(|negative| settings.prepare(&mut picture, run, negative))
            .transpose()?;
        for state in [Some(&positive), negative.as_ref()].into_iter().flatten() {
            observer.outputs(None, state.outputs());
        }
        run.timings.prepare += start.elapsed();
        observer.begin(Part::Denoise, run.schedule.steps());
        let first = Denoised {
            latents,
            prompt_embeds: prompts.positive.prompt.clone(),
        };
        let denoised = if settings.stays_on_device() && negative.is_none() && !observer.looks() {
            let latents = run_steps(
                &mut picture,
                positive.as_ref(),
                first.latents,
                run,
                observer,
            )?;
            Denoised { latents, ..first }
        } else {
            let mut steps = Steps {
                settings,
                picture: &mut picture,
                run,
                observer,
                positive: &mut positive,
                negative: negative.as_deref(),
                pooled: &prompts.positive.pooled,
            };
            steps.run(first)?
        };
        drop((positive, negative, picture));
        drop(module);
        self.release(ModelKind::Transformer);
        Ok(denoised)
    }
}

/// The loop with latents on the host after each step.
struct Steps<'s, 'm> {
    settings: Settings,
    picture: &'s mut Picture<'m>,
    run: &'s mut Run,
    observer: &'s mut dyn Observer,
    positive: &'s mut Box<dyn RequestState>,
    negative: Option<&'s dyn RequestState>,
    pooled: &'s Tensor,
}

impl Steps<'_, '_> {
    fn run(&mut self, mut state: Denoised) -> Result<Denoised> {
        for index in 0..self.run.schedule.steps() {
            let after = self.step(index, &state)?;
            state = after.state;
            if after.interrupt {
                break;
            }
            if after.other_prompt {
                let embeddings = Embeddings {
                    prompt: state.prompt_embeds.clone(),
                    pooled: self.pooled.clone(),
                };
                let inputs = self.settings.request_inputs(self.run, &embeddings)?;
                *self.positive = self.picture.prepare(&inputs)?;
            }
        }
        Ok(state)
    }

    fn step(&mut self, index: usize, state: &Denoised) -> Result<Observed> {
        let start = Instant::now();
        let cfg = self.negative.zip(self.run.true_cfg_scale);
        let observer = &mut *self.observer;
        let velocity = predict(
            self.picture,
            index,
            &state.latents,
            self.positive.as_ref(),
            cfg,
            &mut |outputs: &Tensors| observer.outputs(Some(index), outputs),
        )?;
        let (settings, run) = (self.settings, &mut *self.run);
        let latents = settings.advance(run, index, &state.latents, &velocity)?;
        let duration = start.elapsed();
        run.timings.steps.push(duration);
        let end = StepEnd {
            index,
            count: run.schedule.steps(),
            timestep: run.schedule.timesteps[index],
            duration,
            latents,
            prompt_embeds: state.prompt_embeds.clone(),
            interrupt: false,
        };
        observer.passed(index);
        observed(end, state, settings.dtype, observer)
    }
}

/// What the steps need of the pipeline while they hold its model.
#[derive(Clone, Copy)]
struct Settings {
    dtype: DType,
    /// Whether the graph takes the step, and its lengths.
    euler_step: bool,
    guidance_embeds: bool,
    stochastic_sampling: bool,
}

impl Settings {
    /// Whether the graph's own step is the one that the scheduler would take.
    fn stays_on_device(self) -> bool {
        self.euler_step && !self.stochastic_sampling
    }

    fn prepare(
        self,
        picture: &mut Picture<'_>,
        run: &Run,
        embeddings: &Embeddings,
    ) -> Result<Box<dyn RequestState>> {
        Ok(picture.prepare(&self.request_inputs(run, embeddings)?)?)
    }

    fn request_inputs(self, run: &Run, embeddings: &Embeddings) -> Result<Tensors> {
        let mut inputs = request_inputs(run, self.guidance_embeds, embeddings)?;
        if self.euler_step {
            let sigmas = run.schedule.sigmas.windows(2);
            let lengths: Vec<f32> = sigmas.map(|pair| pair[1] - pair[0]).collect();
            let lengths = Tensor::from_f32_as(self.dtype, [lengths.len()], lengths)?;
            inputs.insert("step_lengths", lengths);
        }
        Ok(inputs)
    }

    /// The latents after a step along `velocity`.
    fn advance(
        self,
        run: &mut Run,
        index: usize,
        latents: &Tensor,
        velocity: &[f32],
    ) -> Result<Tensor> {
        let mut values = latents.to_f32_vec()?;
        let sigmas = [run.schedule.sigmas[index], run.schedule.sigmas[index + 1]];
        if self.stochastic_sampling {
            let noise = run.generators.step_noise(latents.shape())?;
            stochastic_step(&mut values, velocity, &noise, sigmas, self.dtype)?;
        } else {
            euler_step(&mut values, velocity, sigmas[0], sigmas[1], self.dtype)?;
        }
        let shape = latents.shape().clone();
        Ok(Tensor::from_f32_as(self.dtype, shape, values)?)
    }
}

/// What an observer made of a step.
struct Observed {
    state: Denoised,
    other_prompt: bool,
    interrupt: bool,
}

/// Shows the end of a step to the observer and takes over what it replaced.
fn observed(
    mut end: StepEnd,
    before: &Denoised,
    dtype: DType,
    observer: &mut dyn Observer,
) -> Result<Observed> {
    observer.step(&mut end);
    replaced("latents", &before.latents, &end.latents)?;
    let other_prompt = replaced("prompt_embeds", &before.prompt_embeds, &end.prompt_embeds)?;
    Ok(Observed {
        state: Denoised {
            latents: end.latents.to_dtype(dtype)?,
            prompt_embeds: end.prompt_embeds.to_dtype(dtype)?,
        },
        other_prompt,
        interrupt: end.interrupt,
    })
}

/// The velocity at a step; with true classifier-free guidance
/// `negative + scale · (positive − negative)`, each operation rounded as torch does.
fn predict(
    picture: &mut Picture<'_>,
    index: usize,
    latents: &Tensor,
    positive: &dyn RequestState,
    negative: Option<(&dyn RequestState, f32)>,
    seen: &mut dyn FnMut(&Tensors),
) -> Result<Vec<f32>> {
    let inputs = step_inputs(index, &latents.clone().into());
    let mut velocity_at = |state: &dyn RequestState| -> Result<Vec<f32>> {
        let outputs = picture.step(state, &inputs)?;
        seen(&outputs);
        Ok(outputs.host("sample")?.to_f32_vec()?)
    };
    let mut velocity = velocity_at(positive)?;
    if let Some((negative, scale)) = negative {
        let dtype = latents.dtype();
        let base = velocity_at(negative)?;
        for (velocity, base) in velocity.iter_mut().zip(base) {
            let difference = dtype.round(*velocity - base);
            *velocity = dtype.round(base + dtype.round(scale * difference));
        }
    }
    Ok(velocity)
}

pub(super) fn step_inputs(index: usize, latents: &DeviceTensor) -> Tensors {
    Tensors::new()
        .with("step_index", Tensor::scalar(index as i64))
        .with("hidden_states", latents.clone())
}

fn request_inputs(
    run: &Run,
    guidance_embeds: bool,
    Embeddings { prompt, pooled }: &Embeddings,
) -> Result<Tensors> {
    let timesteps: Vec<f32> = run
        .schedule
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
