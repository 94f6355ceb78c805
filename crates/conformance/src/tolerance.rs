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

    /// The greatest relative error ‖a−b‖₂ / ‖b‖₂ of one output of one graph against the CPU's in
    /// the same dtype, from the same inputs.
    ///
    /// f32 allows for sums in another order, not for TF32, which is off by 1e-3. Whole numbers
    /// are equal.
    pub fn relative(dtype: DType) -> f64 {
        match dtype {
            DType::F32 => 1e-5,
            DType::F16 => 2e-3,
            // Three bits: what falls to another side when it is rounded is off by a sixteenth.
            DType::F8E4M3 => 4e-2,
            DType::BF16 => 1e-2,
            _ => 0.0,
        }
    }

    /// The same for a whole model, of which the CPU's own result in this dtype is off by `own`
    /// from the one in f32.
    ///
    /// Two results that round in other places are each off by as much as the dtype costs, in
    /// other directions; a deep model in 16 bits costs more than [`Tolerance::relative`] allows.
    /// f32 is held to ten times that of one operation for the many that follow each other.
    pub fn of_model(dtype: DType, own: f64) -> f64 {
        match dtype {
            DType::F32 => 1e-4,
            _ => Self::relative(dtype).max(2.0 * own),
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
