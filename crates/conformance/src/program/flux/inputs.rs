//! What the transformer is fed: random prompts and noise.

use tintype_device::{CudaTensor, Staging, Stream};
use tintype_tensor::{DType, Tensor, TorchGenerator};
use tintype_tensorrt::lower::{Layers, LoweredInput};

use super::super::Result;
use super::build::Shape;

/// Inputs of the request program.
pub(super) fn of_request(
    shape: &Shape,
    layers: &Layers,
    stream: &Stream,
) -> Result<Vec<(String, CudaTensor)>> {
    let mut random = TorchGenerator::new(5);
    let mut staging = Staging::with_sizes(stream, 2, 1 << 20)?;
    let mut inputs = Vec::new();
    for input in layers.inputs() {
        let tensor = values(shape, input, &mut random)?;
        inputs.push((
            input.name.clone(),
            CudaTensor::upload(&tensor, &mut staging)?,
        ));
    }
    Ok(inputs)
}

/// Latents to begin with, as the step program takes them.
pub(super) fn noise(shape: &Shape, layers: &Layers) -> Result<Tensor> {
    let mut inputs = layers.inputs().iter();
    let input = inputs.find(|input| input.name == "hidden_states");
    values(
        shape,
        input.ok_or("no latents")?,
        &mut TorchGenerator::new(6),
    )
}

/// Latents after a step of equal steps.
pub(super) fn moved(latents: &Tensor, sample: &Tensor, steps: usize) -> Result<Tensor> {
    let (values, sample) = (latents.to_f32_vec()?, sample.to_f32_vec()?);
    let step = 1.0 / steps as f32;
    let moved = values
        .iter()
        .zip(sample)
        .map(|(value, speed)| value - step * speed);
    let shape = latents.shape().clone();
    Ok(Tensor::from_f32_as(
        latents.dtype(),
        shape,
        moved.collect(),
    )?)
}

fn values(shape: &Shape, input: &LoweredInput, random: &mut TorchGenerator) -> Result<Tensor> {
    let sizes = input.ty.static_shape().ok_or("a size is not known")?;
    let count = sizes.element_count();
    let values: Vec<f32> = match input.name.as_str() {
        "timesteps" => {
            let steps = shape.steps as f32;
            (0..count).map(|step| 1.0 - step as f32 / steps).collect()
        }
        "guidance" => vec![3.5; count],
        "text_ids" => vec![0.0; count],
        "image_ids" => image_ids(shape.image_tokens),
        _ => {
            let mut values = random.randn(vec![count.max(16)])?.to_f32_vec()?;
            values.truncate(count);
            values
        }
    };
    let dtype: DType = input.ty.dtype;
    Ok(Tensor::from_f32_as(dtype, sizes, values)?)
}

/// Row and column of each token of a picture as square as may be.
fn image_ids(tokens: usize) -> Vec<f32> {
    let side = tokens.isqrt().max(1);
    let id = |token: usize| [0.0, (token / side) as f32, (token % side) as f32];
    (0..tokens).flat_map(id).collect()
}
