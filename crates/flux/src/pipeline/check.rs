//! A request checked whole, before anything is computed.

use tintype_tensor::{DType, Tensor, TorchGenerator};

use super::FluxPipeline;
use crate::defaults::MAX_SEQUENCE_LENGTH;
use crate::latents::LatentSize;
use crate::output::Timings;
use crate::scheduler::{Schedule, ScheduleRequest};
use crate::{Error, ModelDefaults, Request, Result, Seed};

/// A checked request while it runs.
pub(super) struct Run {
    pub(super) request: Request,
    /// Prompts, or rows of embeddings.
    pub(super) prompts: usize,
    pub(super) num_images: usize,
    pub(super) size: LatentSize,
    pub(super) schedule: Schedule,
    pub(super) guidance_scale: f32,
    /// Present if true classifier-free guidance takes effect.
    pub(super) true_cfg_scale: Option<f32>,
    pub(super) max_sequence_length: usize,
    pub(super) lora_scale: f32,
    pub(super) generators: Generators,
    pub(super) timings: Timings,
}

/// The sources of noise of a request.
pub(super) enum Generators {
    Joint(TorchGenerator),
    PerImage(Vec<TorchGenerator>),
}

impl Run {
    pub(super) fn new(pipeline: &FluxPipeline, request: &Request) -> Result<Self> {
        pipeline.chosen_backend()?;
        check_dtype(pipeline.dtype)?;
        let mut request = request.clone();
        let prompts = check_prompts(&request)?;
        check_negative(&request, prompts)?;
        let defaults = &pipeline.defaults;
        let max_sequence_length = max_sequence_length(&request, defaults)?;
        let size = check_size(&mut request, defaults)?;
        let num_images = request.num_images.unwrap_or(1);
        let batch = prompts.saturating_mul(num_images);
        if !(1..=MAX_BATCH).contains(&batch) {
            let expected = format!("1 to {MAX_BATCH} pictures in all");
            return Err(Error::argument("num_images", expected, num_images));
        }
        let guidance_default = match request.image {
            Some(_) => defaults.guidance_scale_with_image,
            None => defaults.guidance_scale,
        };
        let guidance_scale = finite(
            "guidance_scale",
            request.guidance_scale.unwrap_or(guidance_default),
        )?;
        let true_cfg_scale = finite("true_cfg_scale", request.true_cfg_scale.unwrap_or(1.0))?;
        let has_negative =
            request.negative_prompt.is_some() || request.tensors.negative_prompt_embeds.is_some();
        let schedule = schedule(pipeline, &request, size)?;
        let lora_scale = finite("lora_scale", request.lora_scale.unwrap_or(1.0))?;
        // The output tells the request whole, so that it can be made again.
        request.steps.get_or_insert(schedule.steps());
        request.guidance_scale = Some(guidance_scale);
        request.true_cfg_scale = Some(true_cfg_scale);
        request.num_images = Some(num_images);
        request.max_sequence_length = Some(max_sequence_length);
        request.lora_scale = Some(lora_scale);
        let run = Self {
            prompts,
            num_images,
            size,
            schedule,
            guidance_scale,
            true_cfg_scale: (true_cfg_scale > 1.0 && has_negative).then_some(true_cfg_scale),
            max_sequence_length,
            lora_scale,
            generators: generators(&mut request, batch)?,
            timings: Timings::default(),
            request,
        };
        run.check_tensors(pipeline)?;
        Ok(run)
    }

    /// The number of pictures.
    pub(super) fn batch(&self) -> usize {
        self.prompts * self.num_images
    }

    fn check_tensors(&self, pipeline: &FluxPipeline) -> Result<()> {
        let config = &pipeline.configs.transformer;
        let tensors = &self.request.tensors;
        for (name, tensor) in [
            ("prompt_embeds", &tensors.prompt_embeds),
            ("negative_prompt_embeds", &tensors.negative_prompt_embeds),
        ] {
            if let Some(tensor) = tensor {
                let tokens = tensor.shape().get(1).copied().unwrap_or(0);
                expect_shape(
                    name,
                    tensor,
                    &[self.prompts, tokens.max(1), config.joint_attention_dim],
                )?;
            }
        }
        for (name, tensor) in [
            ("pooled_prompt_embeds", &tensors.pooled_prompt_embeds),
            (
                "negative_pooled_prompt_embeds",
                &tensors.negative_pooled_prompt_embeds,
            ),
        ] {
            if let Some(tensor) = tensor {
                expect_shape(name, tensor, &[self.prompts, config.pooled_projection_dim])?;
            }
        }
        if let Some(latents) = &tensors.latents {
            let shape = self
                .size
                .packed_shape(self.batch(), pipeline.configs.vae.latent_channels);
            expect_shape("latents", latents, &shape)?;
        }
        Ok(())
    }
}

/// The greatest batch that the graphs are built for.
const MAX_BATCH: usize = 64;

fn check_prompts(request: &Request) -> Result<usize> {
    let tensors = &request.tensors;
    let given = |name: &str, count: usize| {
        Err(Error::argument(
            name,
            "either prompts or `prompt_embeds`",
            format!("{count} prompts and embeddings"),
        ))
    };
    let Some(embeds) = &tensors.prompt_embeds else {
        if request.prompt.is_empty() {
            return Err(Error::argument(
                "prompt",
                "a prompt or `prompt_embeds`",
                "neither",
            ));
        }
        if tensors.pooled_prompt_embeds.is_some() {
            return Err(Error::argument(
                "pooled_prompt_embeds",
                "`prompt_embeds` with it",
                "none",
            ));
        }
        same_count("prompt_2", request.prompt.len(), request.prompt_2.as_ref())?;
        return Ok(request.prompt.len());
    };
    if !request.prompt.is_empty() {
        return given("prompt", request.prompt.len());
    }
    if let Some(prompts) = &request.prompt_2 {
        return given("prompt_2", prompts.len());
    }
    if tensors.pooled_prompt_embeds.is_none() {
        return Err(Error::argument(
            "prompt_embeds",
            "`pooled_prompt_embeds` with it",
            "none",
        ));
    }
    match **embeds.shape() {
        [prompts, tokens, _] if prompts > 0 && tokens > 0 => Ok(prompts),
        _ => Err(Error::argument(
            "prompt_embeds",
            "[prompts, tokens, width]",
            embeds.shape(),
        )),
    }
}

fn check_negative(request: &Request, prompts: usize) -> Result<()> {
    let tensors = &request.tensors;
    let Some(negative) = &tensors.negative_prompt_embeds else {
        if tensors.negative_pooled_prompt_embeds.is_some() {
            let expected = "`negative_prompt_embeds` with it";
            return Err(Error::argument(
                "negative_pooled_prompt_embeds",
                expected,
                "none",
            ));
        }
        if request.negative_prompt.is_none() && request.negative_prompt_2.is_some() {
            return Err(Error::argument(
                "negative_prompt_2",
                "`negative_prompt` with it",
                "none",
            ));
        }
        same_count("negative_prompt", prompts, request.negative_prompt.as_ref())?;
        same_count(
            "negative_prompt_2",
            prompts,
            request.negative_prompt_2.as_ref(),
        )?;
        return Ok(());
    };
    for (name, prompts) in [
        ("negative_prompt", &request.negative_prompt),
        ("negative_prompt_2", &request.negative_prompt_2),
    ] {
        if prompts.is_some() {
            return Err(Error::argument(
                name,
                "either it or `negative_prompt_embeds`",
                "both",
            ));
        }
    }
    if tensors.negative_pooled_prompt_embeds.is_none() {
        let expected = "`negative_pooled_prompt_embeds` with it";
        return Err(Error::argument("negative_prompt_embeds", expected, "none"));
    }
    match &tensors.prompt_embeds {
        Some(positive) if positive.shape() != negative.shape() => {
            let expected = format!("the shape of `prompt_embeds`, {}", positive.shape());
            Err(Error::argument(
                "negative_prompt_embeds",
                expected,
                negative.shape(),
            ))
        }
        _ => Ok(()),
    }
}

/// A second list of prompts has one for each of the first, or one for all.
fn same_count(name: &str, expected: usize, prompts: Option<&Vec<String>>) -> Result<()> {
    match prompts.map(Vec::len) {
        None | Some(1) => Ok(()),
        Some(found) if found == expected => Ok(()),
        Some(found) => Err(Error::argument(
            name,
            format!("1 or {expected} prompts"),
            found,
        )),
    }
}

fn check_dtype(dtype: DType) -> Result<()> {
    match dtype {
        DType::F32 | DType::BF16 | DType::F16 => Ok(()),
        other => Err(Error::argument("dtype", "f32, bf16 or f16", other)),
    }
}

fn max_sequence_length(request: &Request, defaults: &ModelDefaults) -> Result<usize> {
    let usual = defaults.max_sequence_length;
    let tokens = request.max_sequence_length.unwrap_or(usual);
    if (1..=MAX_SEQUENCE_LENGTH).contains(&tokens) {
        if tokens > usual {
            tracing::warn!(
                "max_sequence_length {tokens}: the model is made for {usual}, more may draw worse"
            );
        }
        return Ok(tokens);
    }
    let expected = format!("1 to {MAX_SEQUENCE_LENGTH}");
    Err(Error::argument("max_sequence_length", expected, tokens))
}

fn check_size(request: &mut Request, defaults: &ModelDefaults) -> Result<LatentSize> {
    let height = *request.height.get_or_insert(defaults.height);
    let width = *request.width.get_or_insert(defaults.width);
    let size = LatentSize::from_pixels(height, width)?;
    if let Some((height, width)) = size.floored_from {
        let (floored_height, floored_width) = (size.pixel_height(), size.pixel_width());
        tracing::warn!(
            "size {width}×{height} is floored to {floored_width}×{floored_height}, multiples of 16"
        );
    }
    (request.height, request.width) = (Some(size.pixel_height()), Some(size.pixel_width()));
    Ok(size)
}

fn schedule(pipeline: &FluxPipeline, request: &Request, size: LatentSize) -> Result<Schedule> {
    let steps = request.steps.unwrap_or(pipeline.defaults.steps);
    let schedule_request = ScheduleRequest {
        sigmas: request.sigmas.clone(),
        ..ScheduleRequest::with_steps(steps, size.image_tokens())
    };
    if let (Some(sigmas), Some(steps)) = (&request.sigmas, request.steps)
        && sigmas.len() != steps
    {
        return Err(Error::argument(
            "sigmas",
            format!("{steps} noise levels, as `steps` says"),
            sigmas.len(),
        ));
    }
    let schedule = Schedule::new(&pipeline.configs.scheduler, &schedule_request)?;
    match &request.image {
        Some(initial) => schedule.truncate_for_strength(initial.strength),
        None => Ok(schedule),
    }
}

fn generators(request: &mut Request, batch: usize) -> Result<Generators> {
    if request.seed == Seed::Random {
        request.seed = Seed::One(random_seed());
    }
    match &request.seed {
        Seed::PerImage(seeds) if seeds.len() != batch => Err(Error::argument(
            "seed",
            format!("{batch} seeds, one for each picture"),
            seeds.len(),
        )),
        Seed::PerImage(seeds) => Ok(Generators::PerImage(
            seeds
                .iter()
                .map(|&seed| TorchGenerator::new(seed))
                .collect(),
        )),
        Seed::One(seed) => Ok(Generators::Joint(TorchGenerator::new(*seed))),
        Seed::Random => unreachable!("chosen above"),
    }
}

/// A seed that differs from run to run: the standard library's hash keys are random.
/// 32 bits, as many as enter the generator's state.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish() & u64::from(u32::MAX)
}

fn finite(argument: &str, value: f32) -> Result<f32> {
    if value.is_finite() {
        Ok(value)
    } else {
        Err(Error::argument(argument, "a finite number", value))
    }
}

pub(super) fn expect_shape(argument: &str, tensor: &Tensor, expected: &[usize]) -> Result<()> {
    let is_float = matches!(tensor.dtype(), DType::F32 | DType::BF16 | DType::F16);
    if is_float && **tensor.shape() == *expected {
        return Ok(());
    }
    let found = format!("{}{}", tensor.dtype(), tensor.shape());
    Err(Error::argument(
        argument,
        format!("floats of shape {expected:?}"),
        found,
    ))
}
