//! A request while it runs: what it holds of the pipeline, from its first model to its last.

use std::sync::Arc;
use std::time::Instant;

use tintype_backend::Tensors;
use tintype_refit::{MutableModule, Picture, Signature, State};
use tintype_tensor::{DType, Tensor};

use super::FluxPipeline;
use super::check::Run;
use super::live::Live;
use super::modules::ModelKind;
use crate::{Observer, Output, Part, Result};

/// A request under way. The state it holds keeps changes waiting.
pub(super) struct Drawing<'p> {
    pub(super) pipeline: &'p FluxPipeline,
    live: &'p Live,
    pub(super) run: Run,
    pub(super) observer: &'p mut dyn Observer,
    /// The models in use; with `low_memory` nobody else may hold them.
    held: [Option<Arc<MutableModule>>; 5],
}

impl<'p> Drawing<'p> {
    pub(super) fn new(
        pipeline: &'p FluxPipeline,
        live: &'p Live,
        run: Run,
        observer: &'p mut dyn Observer,
    ) -> Self {
        Self {
            pipeline,
            live,
            run,
            observer,
            held: Default::default(),
        }
    }

    pub(super) fn run(mut self) -> Result<Output> {
        self.expect_room()?;
        let prompts = self.encode_prompts()?;
        let latents = self.initial_latents()?;
        let denoised = self.denoise(&prompts, latents)?;
        warn_of_overflow(&denoised.latents)?;
        let pixels = if self.run.request.latents_only {
            None
        } else {
            Some(self.decode(&denoised.latents)?)
        };
        Ok(Output {
            request: self.run.request,
            latents: denoised.latents.to_dtype(DType::F32)?,
            pixels,
            prompt_embeds: denoised.prompt_embeds.to_dtype(DType::F32)?,
            pooled_prompt_embeds: prompts.positive.pooled.to_dtype(DType::F32)?,
            timings: self.run.timings,
        })
    }

    /// The module of this kind, held until it is released.
    pub(super) fn module(&mut self, kind: ModelKind) -> Result<Arc<MutableModule>> {
        let held = &mut self.held[kind as usize];
        if held.is_none() {
            *held = Some(self.pipeline.module(self.live, kind)?);
        }
        Ok(Arc::clone(held.as_ref().expect("taken just now")))
    }

    /// Begins to run a module on such inputs: compiles and brings weights, if need be.
    pub(super) fn begin<'m>(
        &mut self,
        kind: ModelKind,
        module: &'m Arc<MutableModule>,
        signature: &Signature,
    ) -> Result<Picture<'m>> {
        let start = Instant::now();
        // What does not fit is told by the picture.
        if !matches!(module.state_for(signature), Ok(State::Live) | Err(_)) {
            let part = Part::Load(kind.component().name());
            self.observer.begin(part, 0);
        }
        let picture = module.picture(signature);
        self.run.timings.load += start.elapsed();
        if picture.is_err() {
            self.pipeline.modules.forget_failed(kind, module);
        }
        Ok(picture?)
    }

    /// Runs a module that has no step inputs.
    pub(super) fn call(&mut self, kind: ModelKind, inputs: &Tensors) -> Result<Tensors> {
        let module = self.module(kind)?;
        let mut picture = self.begin(kind, &module, &Signature::of(inputs))?;
        Ok(picture.prepare(inputs)?.outputs().clone())
    }

    /// Brings a module without running it.
    pub(super) fn load(&mut self, kind: ModelKind, signature: &Signature) -> Result<()> {
        let module = self.module(kind)?;
        self.begin(kind, &module, signature).map(drop)
    }

    /// Lets go of a model that is done, if `low_memory` says so.
    pub(super) fn release(&mut self, kind: ModelKind) {
        if self.pipeline.low_memory {
            self.held[kind as usize] = None;
        }
    }
}

/// Such a picture is black; f16 overflows in places where f32 and bf16 do not.
fn warn_of_overflow(latents: &Tensor) -> Result<()> {
    if !latents.to_f32_vec()?.iter().all(|value| value.is_finite()) {
        tracing::warn!(
            "the latents are not finite in {}: the weights, or the dtype, do not suit",
            latents.dtype()
        );
    }
    Ok(())
}
