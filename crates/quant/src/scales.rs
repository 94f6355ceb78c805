//! Scales by name, checked, as the parameters that a quantized graph reads.
//!
//! `X.input` is the scale of what the linear `X` reads, `X.weight` one that its weight shall
//! have at least, `A.query`, `A.key` and `A.value` are those of what the attention `A` reads.
//! A scale is what codes are multiplied with: the greatest absolute value over 448 for E4M3.
//!
//! ```
//! use tintype_quant::Scales;
//!
//! let mut scales = Scales::new();
//! scales.insert("block.proj.input", 0.25)?;
//! assert!(scales.parameters()?.contains("scales.block.proj.input"));
//! assert!(scales.insert("block.proj.input", f32::NAN).is_err());
//! # Ok::<(), tintype_quant::Error>(())
//! ```

use std::collections::{BTreeMap, BTreeSet};

use tintype_tensor::Tensor;
use tintype_weights::Parameters;

use crate::{Calibrated, Error, Result};

/// Scales of one model by name.
#[derive(Debug, Clone, Default)]
pub struct Scales {
    values: BTreeMap<String, Tensor>,
    /// Linears whose inputs have scales of their own.
    separate: BTreeSet<String>,
    /// Scales that are those of another name.
    shared: BTreeMap<String, String>,
}

impl Scales {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Those that were measured.
    pub(crate) fn of(measured: &BTreeMap<String, Calibrated>) -> Result<Self> {
        let mut scales = Self::new();
        for (name, value) in measured {
            scales.insert(name, value.scale)?;
        }
        Ok(scales)
    }

    /// Adds a scale, or replaces the one of this name.
    ///
    /// # Errors
    /// [`Error::Table`] for a scale that is zero, negative or not finite.
    pub fn insert(&mut self, name: impl Into<String>, scale: f32) -> Result<()> {
        self.insert_tensor(name, &Tensor::scalar(scale))
    }

    /// Adds a scale for all, f32 of one element, or for each row, f32 `[rows]`.
    ///
    /// # Errors
    /// As [`Scales::insert`].
    pub fn insert_tensor(&mut self, name: impl Into<String>, scale: &Tensor) -> Result<()> {
        let name = name.into();
        let values = scale.to_f32_vec()?;
        for &value in &values {
            check_scale("scales", &name, value)?;
        }
        let tensor = match values.as_slice() {
            [one] => Tensor::scalar(*one),
            rows => Tensor::from_f32([rows.len(), 1], rows.to_vec())?,
        };
        self.values.insert(name, tensor);
        Ok(())
    }

    /// Says that the scale of a linear's input is its own, whatever others that read the same
    /// value have: it is never fused with them.
    pub fn keep_separate(&mut self, linear: impl Into<String>) {
        self.separate.insert(linear.into());
    }

    /// Says that the scale `name` is that of `other`. Weights that share a scale may be fused;
    /// weights with scales of their own never are.
    pub fn share(&mut self, name: impl Into<String>, other: impl Into<String>) {
        self.shared.insert(name.into(), other.into());
    }

    /// Whether the scale of a linear's input is its own.
    pub fn is_separate(&self, linear: &str) -> bool {
        self.separate.contains(linear)
    }

    /// The scale of this name: one value `[]`, or one for each row `[rows, 1]`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.values.get(self.owner(name))
    }

    /// The name under which a scale is kept.
    pub(crate) fn owner<'n>(&'n self, name: &'n str) -> &'n str {
        self.shared.get(name).map_or(name, String::as_str)
    }

    /// The scale of this name, where it is one value.
    pub fn one(&self, name: &str) -> Option<f32> {
        let values = self.get(name)?.to_f32_vec().ok()?;
        match values.as_slice() {
            [one] => Some(*one),
            _ => None,
        }
    }

    /// All names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// These and `others`; of two for one name, that of `others`.
    #[must_use]
    pub fn and(mut self, others: &Self) -> Self {
        self.values.extend(others.values.clone());
        self.separate.extend(others.separate.iter().cloned());
        self.shared.extend(others.shared.clone());
        self
    }

    /// The parameters of a quantized graph: each scale under `scales.` and its name.
    pub fn parameters(&self) -> Result<Parameters> {
        let mut builder = Parameters::builder();
        for (name, tensor) in &self.values {
            builder = builder.tensor(parameter_name(name), tensor.clone());
        }
        Ok(builder.build()?)
    }
}

/// The name that a scale has among parameters.
pub(crate) fn parameter_name(name: &str) -> String {
    format!("scales.{name}")
}

/// Refuses what no value can be divided by.
pub(crate) fn check_scale(origin: &str, name: &str, scale: f32) -> Result<()> {
    if scale.is_finite() && scale > 0.0 {
        return Ok(());
    }
    Err(Error::Table {
        origin: origin.to_owned(),
        entry: name.to_owned(),
        expected: "a finite scale above 0".to_owned(),
        found: scale.to_string(),
    })
}

/// The least power of two that is no less than a scale: dividing by it loses nothing.
///
/// ```
/// assert_eq!(tintype_quant::power_of_two_above(0.3), 0.5);
/// assert_eq!(tintype_quant::power_of_two_above(0.25), 0.25);
/// ```
pub fn power_of_two_above(scale: f32) -> f32 {
    let power = scale.log2().ceil().clamp(-126.0, 127.0);
    let found = power.exp2();
    // The logarithm is rounded, so its ceiling may be one off.
    if found < scale {
        found * 2.0
    } else if found * 0.5 >= scale {
        found * 0.5
    } else {
        found
    }
}

/// The greatest value of E4M3.
pub const E4M3_MAX: f32 = 448.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_the_least_above() {
        for bits in (0x0080_0000u32..0x7e80_0000).step_by(99_991) {
            let scale = f32::from_bits(bits);
            let power = power_of_two_above(scale);
            assert!(power >= scale && power * 0.5 < scale, "{scale} {power}");
            assert_eq!(power.to_bits() & 0x007f_ffff, 0);
        }
        assert_eq!(power_of_two_above(f32::MIN_POSITIVE), f32::MIN_POSITIVE);
    }

    #[test]
    fn scales_that_cannot_be_are_named() {
        for wrong in [0.0, -1.0, f32::INFINITY, f32::NAN] {
            let error = Scales::new().insert("a.input", wrong).unwrap_err();
            let expected =
                format!("scales: a.input: expected a finite scale above 0, found {wrong}");
            assert_eq!(error.to_string(), expected);
        }
    }
}
