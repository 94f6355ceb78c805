//! How far a backend may be from what diffusers computed in f32.

use tintype_tensor::DType;

use crate::{Error, Errors, Result};

/// The greatest errors allowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// Of the last latents: ‖a−b‖₂ / ‖b‖₂.
    pub latents: f64,
    /// Of a pixel in 0..=1, after rounding to 8 bits.
    pub pixel: f64,
}

impl Tolerance {
    /// The one table.
    ///
    /// f32 is held to rounding. The smaller dtypes are compared with f32 over several
    /// steps of a random model, which amplifies rounding; they are held to what
    /// separates rounding from a mistake, and measured per step elsewhere.
    pub fn of(_backend: &str, dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self {
                latents: 1e-4,
                pixel: 1.0 / 255.0,
            },
            DType::F16 => Self {
                latents: 5e-3,
                pixel: 4.0 / 255.0,
            },
            _ => Self {
                latents: 4e-2,
                pixel: 24.0 / 255.0,
            },
        }
    }

    /// An error that says what is too far.
    pub fn check(&self, errors: &Errors) -> Result<()> {
        let within = |what, expected: f64, found: f64| {
            // A NaN is not within anything.
            if found <= expected + 1e-9 {
                Ok(())
            } else {
                Err(Error::Tolerance {
                    what,
                    expected,
                    found,
                })
            }
        };
        within("latents", self.latents, errors.latents)?;
        within("pixel", self.pixel, errors.pixel)
    }
}
