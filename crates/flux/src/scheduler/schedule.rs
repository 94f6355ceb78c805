//! The noise levels and timesteps of one run.
//!
//! Follows the source of diffusers' `FlowMatchEulerDiscreteScheduler.set_timesteps`
//! and of `calculate_shift` in its FLUX pipelines, number by number: arithmetic
//! that numpy does in f32 is done in f32 here. It takes no step and reads no file.
//!
//! ```
//! use tintype_flux::scheduler::{FlowMatchEulerConfig, Schedule, ScheduleRequest};
//!
//! let request = ScheduleRequest { sigmas: Some(vec![1.0, 0.5]), ..Default::default() };
//! let schedule = Schedule::new(&FlowMatchEulerConfig::default(), &request)?;
//! assert_eq!(schedule.sigmas, [1.0, 0.5, 0.0]);
//! assert_eq!(schedule.timesteps, [1000.0, 500.0]);
//! # Ok::<(), tintype_flux::Error>(())
//! ```

use super::beta::beta_quantile;
use super::{FlowMatchEulerConfig, TimeShift};
use crate::{Error, Result};

/// The noise levels and timesteps of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// Noise levels, one more than steps: step `i` goes from `sigmas[i]` to `sigmas[i + 1]`.
    pub sigmas: Vec<f32>,
    /// What the model is told at each step, in training timesteps (0 to 1000 for FLUX).
    pub timesteps: Vec<f32>,
    /// The shift that the number of image tokens gives; used by dynamic shifting alone.
    pub mu: f64,
}

/// What a run asks of its schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleRequest {
    /// The number of steps; not read where `sigmas` are given.
    pub steps: usize,
    /// Noise levels before shifting, without the final zero.
    pub sigmas: Option<Vec<f64>>,
    /// The number of image tokens.
    pub image_seq_len: usize,
}

impl Default for ScheduleRequest {
    /// 28 steps for a picture of 1024×1024 pixels.
    fn default() -> Self {
        Self::with_steps(28, 4096)
    }
}

impl ScheduleRequest {
    /// A number of evenly spaced steps for that many image tokens.
    pub fn with_steps(steps: usize, image_seq_len: usize) -> Self {
        Self {
            steps,
            sigmas: None,
            image_seq_len,
        }
    }
}

impl Schedule {
    /// The schedule of a request.
    ///
    /// # Errors
    /// [`Error::Argument`] for no or too many steps, and for custom sigmas
    /// outside of 0 to 1 (or so far out that a step is not finite).
    pub fn new(config: &FlowMatchEulerConfig, request: &ScheduleRequest) -> Result<Self> {
        check_request(request)?;
        let mu = dynamic_shift(config, request.image_seq_len);
        let spaced = spacing(config, request);
        let shifted = shift(config, mu, spaced);
        let stretched = stretch(config, shifted);
        let sigmas = respace(config, stretched);
        let schedule = finish(config, mu, &sigmas);
        match schedule.sigmas.iter().find(|sigma| !sigma.is_finite()) {
            Some(sigma) => Err(Error::argument("sigmas", "a finite schedule", sigma)),
            None => Ok(schedule),
        }
    }

    /// The number of steps.
    pub fn steps(&self) -> usize {
        self.timesteps.len()
    }

    /// The last part of the schedule, for a picture that is noised by `strength`
    /// (0 to 1) rather than made from noise alone.
    ///
    /// # Errors
    /// [`Error::Argument`] if `strength` is out of range, or leaves no step.
    pub fn truncate_for_strength(&self, strength: f64) -> Result<Self> {
        if !(0.0..=1.0).contains(&strength) {
            return Err(Error::argument("strength", "0 to 1", strength));
        }
        let steps = self.steps() as f64;
        let kept = (steps * strength).min(steps);
        let first = (steps - kept).max(0.0) as usize;
        if first >= self.steps() {
            let expected = format!("enough to keep one of {} steps", self.steps());
            return Err(Error::argument("strength", expected, strength));
        }
        Ok(Self {
            sigmas: self.sigmas[first..].to_vec(),
            timesteps: self.timesteps[first..].to_vec(),
            mu: self.mu,
        })
    }
}

fn check_request(request: &ScheduleRequest) -> Result<()> {
    let expected = format!("1 to {MAX_STEPS}");
    let Some(sigmas) = &request.sigmas else {
        return if (1..=MAX_STEPS).contains(&request.steps) {
            Ok(())
        } else {
            Err(Error::argument("steps", expected, request.steps))
        };
    };
    if !(1..=MAX_STEPS).contains(&sigmas.len()) {
        return Err(Error::argument(
            "sigmas",
            format!("{expected} values"),
            sigmas.len(),
        ));
    }
    match sigmas.iter().find(|sigma| !(0.0..=1.0).contains(*sigma)) {
        Some(sigma) => Err(Error::argument("sigmas", "values of 0 to 1", sigma)),
        None => Ok(()),
    }
}

/// Noise levels in the precision that numpy holds them in.
struct Levels {
    values: Vec<f64>,
    /// Whether numpy holds an f32 array. Sums, products and quotients of f32
    /// values computed in f64 and rounded once are those of f32.
    single: bool,
}

impl Levels {
    fn round(single: bool, value: f64) -> f64 {
        if single {
            f64::from(value as f32)
        } else {
            value
        }
    }

    fn map(self, function: impl Fn(f64, &dyn Fn(f64) -> f64) -> f64) -> Self {
        let single = self.single;
        let round = |value: f64| Self::round(single, value);
        let values = self
            .values
            .into_iter()
            .map(|value| function(value, &round))
            .collect();
        Self { values, single }
    }
}

/// The line through (base length, base shift) and (max length, max shift).
fn dynamic_shift(config: &FlowMatchEulerConfig, image_seq_len: usize) -> f64 {
    let base = f64::from(config.base_image_seq_len);
    let slope =
        (config.max_shift - config.base_shift) / (f64::from(config.max_image_seq_len) - base);
    let offset = config.base_shift - slope * base;
    image_seq_len as f64 * slope + offset
}

/// Sigmas before any shift: the caller's, the scheduler's own, or the pipeline's `1 … 1/N`.
fn spacing(config: &FlowMatchEulerConfig, request: &ScheduleRequest) -> Levels {
    // use_flow_sigmas makes diffusers' pipelines drop even the caller's sigmas,
    // and then space num_inference_steps.
    if config.use_flow_sigmas {
        let steps = request.sigmas.as_ref().map_or(request.steps, Vec::len);
        return Levels {
            values: training_spacing(config, steps),
            single: false,
        };
    }
    let values = match &request.sigmas {
        Some(sigmas) => sigmas.clone(),
        None => linspace(1.0, 1.0 / request.steps as f64, request.steps),
    };
    Levels {
        values,
        single: false,
    }
    .into_single()
}

impl Levels {
    fn into_single(mut self) -> Self {
        self.single = true;
        self.map(|value, round| round(value))
    }
}

/// Evenly spaced between the ends of the training schedule, which a static shift moves.
fn training_spacing(config: &FlowMatchEulerConfig, steps: usize) -> Vec<f64> {
    let train = config.num_train_timesteps as f32;
    let end = |timestep: f32| {
        let sigma = timestep / train;
        let shift = config.shift as f32;
        if config.use_dynamic_shifting {
            sigma
        } else {
            shift * sigma / (1.0 + (config.shift - 1.0) as f32 * sigma)
        }
    };
    let train = f64::from(config.num_train_timesteps);
    let (largest, smallest) = (f64::from(end(train as f32)), f64::from(end(1.0)));
    linspace(largest * train, smallest * train, steps)
        .into_iter()
        .map(|timestep| timestep / train)
        .collect()
}

fn shift(config: &FlowMatchEulerConfig, mu: f64, levels: Levels) -> Levels {
    let factor = match config.time_shift_type {
        TimeShift::Exponential => mu.exp(),
        TimeShift::Linear => mu,
    };
    let dynamic = config.use_dynamic_shifting;
    levels.map(|sigma, round| {
        if dynamic {
            let factor = round(factor);
            let odds = round(round(1.0 / sigma) - 1.0);
            round(factor / round(factor + odds))
        } else {
            let scaled = round(round(config.shift) * sigma);
            let below = round(1.0 + round(round(config.shift - 1.0) * sigma));
            round(scaled / below)
        }
    })
}

/// Stretches the distance from 1 so that the last level is `shift_terminal`.
fn stretch(config: &FlowMatchEulerConfig, levels: Levels) -> Levels {
    // Zero means "no stretching" too, as in diffusers.
    let Some(terminal) = config.shift_terminal.filter(|&terminal| terminal != 0.0) else {
        return levels;
    };
    let Some(&last) = levels.values.last() else {
        return levels;
    };
    let round = |value| Levels::round(levels.single, value);
    let scale = round(round(1.0 - last) / round(1.0 - terminal));
    levels.map(|sigma, round| round(1.0 - round(round(1.0 - sigma) / scale)))
}

/// The Karras, exponential and beta spacings between the schedule's own ends.
fn respace(config: &FlowMatchEulerConfig, levels: Levels) -> Vec<f64> {
    let steps = levels.values.len();
    let (Some(&first), Some(&last)) = (levels.values.first(), levels.values.last()) else {
        return levels.values;
    };
    let largest = config.sigma_max.unwrap_or(first);
    let smallest = config.sigma_min.unwrap_or(last);
    if config.use_karras_sigmas {
        let (top, bottom) = (largest.powf(1.0 / RHO), smallest.powf(1.0 / RHO));
        let ramp = linspace(0.0, 1.0, steps).into_iter();
        ramp.map(|place| (top + place * (bottom - top)).powf(RHO))
            .collect()
    } else if config.use_exponential_sigmas {
        let logs = linspace(largest.ln(), smallest.ln(), steps).into_iter();
        logs.map(f64::exp).collect()
    } else if config.use_beta_sigmas {
        let places = linspace(0.0, 1.0, steps).into_iter();
        places
            .map(|place| smallest + beta_quantile(1.0 - place, BETA) * (largest - smallest))
            .collect()
    } else {
        levels.values
    }
}

fn finish(config: &FlowMatchEulerConfig, mu: f64, sigmas: &[f64]) -> Schedule {
    let train = config.num_train_timesteps as f32;
    let mut sigmas: Vec<f32> = sigmas.iter().map(|&sigma| sigma as f32).collect();
    if config.invert_sigmas {
        for sigma in &mut sigmas {
            *sigma = 1.0 - *sigma;
        }
    }
    let timesteps = sigmas.iter().map(|sigma| sigma * train).collect();
    sigmas.push(if config.invert_sigmas { 1.0 } else { 0.0 });
    Schedule {
        sigmas,
        timesteps,
        mu,
    }
}

/// `count` values from `start` to `stop`, computed as numpy does.
fn linspace(start: f64, stop: f64, count: usize) -> Vec<f64> {
    let step = (stop - start) / (count.max(2) - 1) as f64;
    let mut values: Vec<f64> = (0..count)
        .map(|index| index as f64 * step + start)
        .collect();
    if let Some(last) = values.get_mut(1..).and_then(<[f64]>::last_mut) {
        *last = stop;
    }
    values
}

/// More steps than anyone runs; a bound on what a request can allocate.
pub(crate) const MAX_STEPS: usize = 100_000;
/// The exponent of Karras et al., arXiv 2206.00364.
const RHO: f64 = 7.0;
/// Both parameters of the beta spacing, arXiv 2407.12173.
const BETA: f64 = 0.6;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn schnell_is_unshifted() {
        let config = FlowMatchEulerConfig::default();
        let schedule = Schedule::new(&config, &ScheduleRequest::with_steps(4, 1024)).unwrap();
        assert_eq!(schedule.sigmas, [1.0, 0.75, 0.5, 0.25, 0.0]);
        assert_eq!(schedule.mu, 0.63);
    }

    #[test]
    fn strength_keeps_the_last_steps() {
        let config = FlowMatchEulerConfig::default();
        let schedule = Schedule::new(&config, &ScheduleRequest::with_steps(4, 1024)).unwrap();
        let part = schedule.truncate_for_strength(0.6).unwrap();
        assert_eq!(part.sigmas, [0.75, 0.5, 0.25, 0.0]);
        assert_eq!(schedule.truncate_for_strength(1.0).unwrap(), schedule);
        assert_eq!(schedule.truncate_for_strength(0.1).unwrap().steps(), 1);
        for strength in [0.0, -0.1, 1.1, f64::NAN] {
            assert!(schedule.truncate_for_strength(strength).is_err());
        }
    }

    #[test]
    fn impossible_requests_are_refused() {
        let config = FlowMatchEulerConfig::default();
        for steps in [0, MAX_STEPS + 1, usize::MAX] {
            assert!(Schedule::new(&config, &ScheduleRequest::with_steps(steps, 16)).is_err());
        }
        for sigmas in [vec![], vec![1.0, f64::NAN], vec![2.0], vec![-0.5]] {
            let request = ScheduleRequest {
                sigmas: Some(sigmas),
                ..Default::default()
            };
            assert!(Schedule::new(&config, &request).is_err());
        }
    }

    proptest! {
        #[test]
        fn sigmas_fall_to_zero(
            steps in 1usize..200, tokens in 1usize..20000, shift in 0.1f64..10.0, dynamic: bool,
        ) {
            let config = FlowMatchEulerConfig {
                shift, use_dynamic_shifting: dynamic, ..Default::default()
            };
            let schedule = Schedule::new(&config, &ScheduleRequest::with_steps(steps, tokens)).unwrap();
            prop_assert_eq!(schedule.sigmas.len(), steps + 1);
            prop_assert!((schedule.sigmas[0] - 1.0).abs() < 1e-6);
            prop_assert!(schedule.sigmas.windows(2).all(|pair| pair[0] > pair[1]));
        }
    }
}
