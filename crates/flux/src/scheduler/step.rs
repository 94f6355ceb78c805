//! One step between two noise levels, and the noising of a picture.
//!
//! Pure functions on slices of f32; `dtype` is that of the model's prediction,
//! to which intermediate values are rounded where torch rounds them. A scalar
//! tensor does not widen its partner there, so in bf16 the step's length and its
//! product with the prediction are rounded to bf16 before the sum in f32.
//! (That is torch on a CPU, with the scalar as the first factor; the other way
//! round it would not round the scalar.)
//!
//! ```
//! use tintype_flux::scheduler::euler_step;
//! use tintype_tensor::DType;
//!
//! let mut sample = [1.0, 2.0];
//! euler_step(&mut sample, &[0.5, -0.5], 1.0, 0.5, DType::F32)?;
//! assert_eq!(sample, [0.75, 2.25]);
//! # Ok::<(), tintype_flux::Error>(())
//! ```

use tintype_tensor::DType;

use crate::{Error, Result};

/// `sample + (sigma_next − sigma) · velocity`, in place.
///
/// The length of the step and the product are rounded to `dtype`, the sum is
/// taken in f32, and the result is rounded to `dtype`.
///
/// # Errors
/// [`Error::Argument`] if the slices differ in length.
pub fn euler_step(
    sample: &mut [f32],
    velocity: &[f32],
    sigma: f32,
    sigma_next: f32,
    dtype: DType,
) -> Result<()> {
    check_len("velocity", sample, velocity)?;
    let length = dtype.round(sigma_next - sigma);
    for (value, velocity) in sample.iter_mut().zip(velocity) {
        *value = dtype.round(*value + dtype.round(length * velocity));
    }
    Ok(())
}

/// `(1 − sigma_next) · (sample − sigma · velocity) + sigma_next · noise`, in place:
/// the step of a configuration with `stochastic_sampling`.
///
/// # Errors
/// [`Error::Argument`] if the slices differ in length.
pub fn stochastic_step(
    sample: &mut [f32],
    velocity: &[f32],
    noise: &[f32],
    [sigma, sigma_next]: [f32; 2],
    dtype: DType,
) -> Result<()> {
    check_len("velocity", sample, velocity)?;
    check_len("noise", sample, noise)?;
    let scalar = dtype.round(sigma);
    for ((value, velocity), noise) in sample.iter_mut().zip(velocity).zip(noise) {
        let clean = *value - dtype.round(scalar * velocity);
        *value = dtype.round((1.0 - sigma_next) * clean + sigma_next * noise);
    }
    Ok(())
}

/// `sigma · noise + (1 − sigma) · latents`, in place: where image-to-image starts.
///
/// Every operation is rounded to `dtype`, as is `sigma` itself.
///
/// # Errors
/// [`Error::Argument`] if the slices differ in length.
pub fn scale_noise(latents: &mut [f32], noise: &[f32], sigma: f32, dtype: DType) -> Result<()> {
    check_len("noise", latents, noise)?;
    let sigma = dtype.round(sigma);
    let kept = dtype.round(1.0 - sigma);
    for (value, noise) in latents.iter_mut().zip(noise) {
        *value = dtype.round(dtype.round(sigma * noise) + dtype.round(kept * *value));
    }
    Ok(())
}

fn check_len(argument: &str, sample: &[f32], other: &[f32]) -> Result<()> {
    if sample.len() == other.len() {
        return Ok(());
    }
    let expected = format!("{} values", sample.len());
    Err(Error::argument(argument, expected, other.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_the_length_and_the_product_first() {
        let (sample, velocity, sigma_next) = (3.0e-3_f32, 1.0078125_f32, 0.1_f32);
        let mut stepped = [sample];
        euler_step(&mut stepped, &[velocity], 0.0, sigma_next, DType::BF16).unwrap();
        let product = DType::BF16.round(DType::BF16.round(sigma_next) * velocity);
        assert_ne!(product, DType::BF16.round(sigma_next * velocity));
        assert_eq!(stepped[0], DType::BF16.round(sample + product));
    }

    #[test]
    fn full_noise_forgets_the_picture() {
        let mut latents = [5.0, -7.0];
        scale_noise(&mut latents, &[0.25, 0.5], 1.0, DType::F32).unwrap();
        assert_eq!(latents, [0.25, 0.5]);
    }

    #[test]
    fn a_stochastic_step_to_zero_is_the_clean_picture() {
        let mut sample = [2.0];
        stochastic_step(&mut sample, &[1.0], &[9.0], [0.5, 0.0], DType::F32).unwrap();
        assert_eq!(sample, [1.5]);
    }

    #[test]
    fn lengths_must_agree() {
        assert!(euler_step(&mut [0.0], &[], 1.0, 0.0, DType::F32).is_err());
        assert!(scale_noise(&mut [0.0], &[0.0; 2], 1.0, DType::F32).is_err());
        assert!(stochastic_step(&mut [0.0], &[0.0], &[], [1.0, 0.0], DType::F32).is_err());
    }
}
