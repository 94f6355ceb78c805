//! What a caller sees and may change while a picture is made.

use std::time::Duration;

use tintype_backend::Tensors;
use tintype_tensor::Tensor;

/// Called while a request runs. Every method has a default that does nothing.
pub trait Observer {
    /// A part of the work begins; `steps` says how many steps it has, 0 if it is one piece.
    fn begin(&mut self, part: Part, steps: usize) {
        let _ = (part, steps);
    }

    /// Whether [`Observer::step`] wants to see latents. If not, they may stay on a device from the
    /// first step to the last, and only [`Observer::passed`] is called.
    fn looks(&self) -> bool {
        true
    }

    /// A step, from 0, is done or given to a device, which may be at it still.
    fn passed(&mut self, index: usize) {
        let _ = index;
    }

    /// A step has ended. Latents and embeddings in `step` may be replaced, and the
    /// rest of the steps skipped.
    fn step(&mut self, step: &mut StepEnd) {
        let _ = step;
    }

    /// The transformer has computed what its graph gives once per request (`None`), or at a
    /// step, from 0. With true classifier-free guidance it does so twice.
    fn outputs(&mut self, step: Option<usize>, outputs: &Tensors) {
        let _ = (step, outputs);
    }
}

/// Nobody looks.
impl Observer for () {
    fn looks(&self) -> bool {
        false
    }
}

/// A closure sees steps alone.
impl<F: FnMut(&mut StepEnd)> Observer for F {
    fn step(&mut self, step: &mut StepEnd) {
        self(step);
    }
}

/// A part of the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Part {
    /// A model is read, compiled and given its weights.
    Load(&'static str),
    /// Prompts are encoded.
    Encode,
    /// Steps run.
    Denoise,
    /// Pictures are decoded.
    Decode,
}

/// The state after a step.
#[derive(Debug)]
#[non_exhaustive]
pub struct StepEnd {
    /// The step, from 0.
    pub index: usize,
    /// The number of steps.
    pub count: usize,
    /// The timestep that the model was told, 0 to 1000.
    pub timestep: f32,
    /// How long the step took.
    pub duration: Duration,
    /// Packed latents, in the pipeline's dtype. A replacement has the same shape.
    pub latents: Tensor,
    /// T5's result. A replacement has the same shape, and is used from the next step on.
    pub prompt_embeds: Tensor,
    /// Skip the steps that remain, and decode what there is.
    pub interrupt: bool,
}
