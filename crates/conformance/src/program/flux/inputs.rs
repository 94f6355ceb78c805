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
pub(crate) fn image_ids(tokens: usize) -> Vec<f32> {
    let side = tokens.isqrt().max(1);
    let id = |token: usize| [0.0, (token / side) as f32, (token % side) as f32];
    (0..tokens).flat_map(id).collect()
}

#[cfg(test)]
mod tests {
    use tintype_models::FluxTransformerConfig;
    use tintype_tensorrt::lower::{InputKind, LowerOptions};

    use super::*;

    /// What the section does on a GPU, as far as it goes without one.
    #[test]
    fn every_input_of_both_programs_is_given() {
        let shape = Shape {
            config: || FluxTransformerConfig {
                num_layers: 1,
                num_single_layers: 1,
                ..FluxTransformerConfig::dev()
            },
            image_tokens: 16,
            text_tokens: 8,
            steps: 3,
        };
        let staged = shape.staged().unwrap();
        let layers = [&staged.request, &staged.step];
        let layers = layers.map(|program| Layers::of(program, &LowerOptions::default()).unwrap());
        let [request, step] = &layers;
        let mut random = TorchGenerator::new(5);
        for input in request.inputs() {
            assert_eq!(input.kind, InputKind::Value, "{}", input.name);
            let tensor = values(&shape, input, &mut random).unwrap();
            assert_eq!(Some(tensor.shape().clone()), input.ty.static_shape());
        }
        let is_given = |name: &str| {
            let mut outputs = request.outputs().iter();
            matches!(name, "hidden_states" | "step_index")
                || outputs.any(|output| output.name == name)
        };
        for input in step.inputs() {
            assert_eq!(input.kind, InputKind::Value, "{}", input.name);
            assert!(is_given(&input.name), "{}", input.name);
        }
        let noise = noise(&shape, step).unwrap();
        let moved = moved(&noise, &noise, shape.steps).unwrap();
        assert_eq!(moved.shape(), noise.shape());
        assert_eq!(step.outputs().len(), 1);
    }

    #[test]
    fn ids_are_rows_and_columns() {
        let ids = image_ids(16);
        assert_eq!(ids.len(), 48);
        assert_eq!(ids[3 * 7..3 * 8], [0.0, 1.0, 3.0]);
    }
}
