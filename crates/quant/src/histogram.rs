//! Magnitudes counted, for methods that need more than the greatest one.
//!
//! A bin is 1/128 of an octave: the upper 15 bits of a magnitude's f32. So bins need no range to
//! be known ahead, and the counts do not depend on the order in which values come.
//!
//! ```
//! use tintype_quant::Histogram;
//!
//! let mut histogram = Histogram::new();
//! histogram.add(&[0.5, -1.0, 2.0, 100.0]);
//! assert_eq!(histogram.maximum(), 100.0);
//! assert!((histogram.percentile(75.0) - 2.0).abs() < 0.02);
//! ```

use tintype_tensor::DType;

use crate::E4M3_MAX;

/// Counts of magnitudes.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    /// Of the magnitudes in each bin, so that a bin stands for their mean.
    sums: Vec<f64>,
    maximum: f32,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    /// No values.
    pub fn new() -> Self {
        Self {
            counts: vec![0; BINS],
            sums: vec![0.0; BINS],
            maximum: 0.0,
        }
    }

    /// Counts values. One that is not finite makes the maximum not finite and is counted nowhere.
    pub fn add(&mut self, values: &[f32]) {
        for value in values {
            let magnitude = value.abs();
            if !magnitude.is_finite() {
                self.maximum = f32::NAN;
                continue;
            }
            // Once it is NaN it stays so.
            if magnitude > self.maximum {
                self.maximum = magnitude;
            }
            let bin = (magnitude.to_bits() >> 16) as usize;
            self.counts[bin] += 1;
            self.sums[bin] += f64::from(magnitude);
        }
    }

    /// The greatest magnitude; 0 without values, NaN if one was not finite.
    pub fn maximum(&self) -> f32 {
        self.maximum
    }

    /// The least magnitude that `percent` of all do not exceed, to the width of a bin.
    pub fn percentile(&self, percent: f64) -> f32 {
        let total: u64 = self.counts.iter().sum();
        let wanted = (percent / 100.0 * total as f64).ceil() as u64;
        let mut below = 0;
        for (bin, &count) in self.counts.iter().enumerate() {
            below += count;
            if count > 0 && below >= wanted {
                let mean = (self.sums[bin] / count as f64) as f32;
                return if below == total { self.maximum } else { mean };
            }
        }
        self.maximum
    }

    /// The magnitude that E4M3's greatest value should stand for, so that rounding to codes
    /// and cutting off what is greater have the least mean squared error: of multiples of the
    /// maximum, the best one.
    pub fn least_squared_error(&self) -> f32 {
        let candidates = (1..=MULTIPLIERS).map(|step| {
            let multiplier = step as f32 / MULTIPLIERS as f32;
            self.maximum * multiplier
        });
        let mut best = (f64::INFINITY, self.maximum);
        // From the greatest on, so that of equals nothing is cut off.
        for amax in candidates.rev() {
            let error = self.squared_error(amax / E4M3_MAX);
            if error < best.0 {
                best = (error, amax);
            }
        }
        best.1
    }

    /// The sum of squared differences that codes of this scale make.
    fn squared_error(&self, scale: f32) -> f64 {
        let bins = self.counts.iter().zip(&self.sums);
        bins.filter(|(count, _)| **count > 0)
            .map(|(&count, &sum)| {
                let mean = sum / count as f64;
                let stored = DType::F8E4M3.round((mean / f64::from(scale)) as f32) * scale;
                count as f64 * (mean - f64::from(stored)).powi(2)
            })
            .sum()
    }
}

/// Without the sign, the upper half of an f32.
const BINS: usize = 1 << 15;

/// How many multiples of the maximum are tried.
const MULTIPLIERS: usize = 64;

#[cfg(test)]
mod tests {
    use tintype_tensor::TorchGenerator;

    use super::*;

    #[test]
    fn outliers_are_cut_off_where_that_costs_least() {
        let mut values = TorchGenerator::new(3)
            .randn([200_000])
            .unwrap()
            .to_f32_vec()
            .unwrap();
        let mut histogram = Histogram::new();
        histogram.add(&values);
        let greatest = values.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        assert_eq!(histogram.maximum(), greatest);
        let percentile = histogram.percentile(99.0);
        assert!((percentile - 2.576).abs() < 0.05, "{percentile}");
        assert_eq!(histogram.percentile(100.0), greatest);
        // The search agrees with trying every multiple on the values themselves.
        values.push(3000.0);
        histogram.add(&[3000.0]);
        let error = |amax: f32| -> f64 {
            let scale = amax / E4M3_MAX;
            let errors = values
                .iter()
                .map(|value| f64::from(value - DType::F8E4M3.round(value / scale) * scale).powi(2));
            errors.sum()
        };
        let found = histogram.least_squared_error();
        let tried = (1..=MULTIPLIERS).map(|step| 3000.0 * step as f32 / MULTIPLIERS as f32);
        let best = tried.map(error).fold(f64::INFINITY, f64::min);
        assert!(error(found) <= best * 1.05, "{found}");
    }

    #[test]
    fn what_is_not_finite_is_not_lost() {
        let mut histogram = Histogram::new();
        histogram.add(&[1.0, f32::INFINITY, 2.0]);
        assert!(histogram.maximum().is_nan());
        assert_eq!(Histogram::new().maximum(), 0.0);
    }
}
