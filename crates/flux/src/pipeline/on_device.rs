//! The loop over steps where latents stay on a device: one launch each, nobody waits.
//!
//! It is for requests that need no look at what lies between the steps: one prompt, the Euler
//! method, an observer that does not look. The others run in `denoise`.

use std::time::Instant;

use tintype_backend::{DeviceTensor, Error as BackendError, RequestState, Tensors};
use tintype_refit::Picture;
use tintype_tensor::Tensor;

use super::check::Run;
use super::denoise::step_inputs;
use crate::{Observer, Result};

/// The latents after all steps. Each step reads what the one before wrote, and writes where the
/// one before that did.
pub(super) fn run_steps(
    picture: &mut Picture<'_>,
    state: &dyn RequestState,
    latents: Tensor,
    run: &mut Run,
    observer: &mut dyn Observer,
) -> Result<Tensor> {
    let start = Instant::now();
    let count = run.schedule.steps();
    let mut latents = DeviceTensor::from(latents);
    let mut outputs = [Tensors::new(), Tensors::new()];
    for index in 0..count {
        let inputs = step_inputs(index, &latents);
        let [into, _] = &mut outputs;
        picture.step_into(state, &inputs, into)?;
        latents = result_of(into)?;
        observer.passed(index);
        outputs.swap(0, 1);
    }
    let latents = latents.to_host()?;
    let steps = u32::try_from(count.max(1)).unwrap_or(u32::MAX);
    run.timings
        .steps
        .extend(vec![start.elapsed() / steps; count]);
    Ok(latents)
}

fn result_of(outputs: &Tensors) -> Result<DeviceTensor> {
    let missing = || BackendError::MissingOutput {
        name: LATENTS.to_owned(),
        found: outputs
            .iter()
            .map(|(name, _)| name)
            .collect::<Vec<_>>()
            .join(", "),
    };
    Ok(outputs.get(LATENTS).cloned().ok_or_else(missing)?)
}

/// The output of the graph that the next step reads.
const LATENTS: &str = "latents";
