//! From what layers read to scales.
//!
//! ```text
//! feed ─► graph with observers ─► maxima, or values ─► one scale for each input
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tintype_tensor::Tensor;
use tintype_weights::Parameters;

use crate::insert::ATTENTION_PARTS;
use crate::observe::Observed;
use crate::sites::Sites;
use crate::{E4M3_MAX, Error, Feed, Histogram, Moment, Recipe, Result, Scales};

/// How a scale follows from what was observed.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Method {
    /// From the greatest magnitude. Nothing is cut off; one number leaves the graph for each
    /// value, so that any backend will do.
    #[default]
    Max,
    /// From the magnitude that this part of all, in percent, does not exceed. All values leave
    /// the graph.
    Percentile(f64),
    /// From the multiple of the greatest magnitude with the least mean squared error. All
    /// values leave the graph.
    MeanSquaredError,
}

/// What calibration found for one value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibrated {
    /// The greatest magnitude that was seen.
    pub amax: f32,
    /// What codes are multiplied with.
    pub scale: f32,
    /// For what attentions read: the greatest magnitude at each step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<f32>,
}

/// Scales with what they were made from.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Calibration {
    /// By name, as in [`Scales`].
    pub values: BTreeMap<String, Calibrated>,
    /// How many examples were seen.
    pub examples: usize,
    /// The most steps that an example had.
    pub steps: usize,
}

impl Calibration {
    /// The scales alone.
    pub fn scales(&self) -> Result<Scales> {
        Scales::of(&self.values)
    }
}

/// Measures what the layers of `recipe` read on all of `feed`.
///
/// # Errors
/// [`Error::NoMatch`] for patterns that name nothing; [`Error::Calibration`] if nothing was seen,
/// or a value that is not finite, or nothing but zeros; what `feed` gives.
pub fn calibrate(feed: &mut dyn Feed, recipe: &Recipe, method: Method) -> Result<Calibration> {
    check_method(method)?;
    let graph = feed.graph()?;
    let sites = Sites::of(&graph, recipe)?;
    let observed = Observed::new(&graph, &sites, method != Method::Max)?;
    let mut collected = Collected::new(method);
    if observed.len() > 0 {
        feed.feed(
            &observed.graph,
            &Parameters::default(),
            &mut |moment, outputs| {
                for (name, tensor) in observed.read(moment.step.is_some(), outputs)? {
                    collected.add(name, moment, &tensor)?;
                }
                collected.count(moment);
                Ok(())
            },
        )?;
        if collected.examples == 0 {
            return Err(Error::Calibration {
                entry: "the examples".to_owned(),
                expected: "at least one".to_owned(),
                found: "none".to_owned(),
            });
        }
    }
    collected.finish()
}

fn check_method(method: Method) -> Result<()> {
    match method {
        Method::Percentile(percent) if !(percent > 0.0 && percent <= 100.0) => {
            Err(Error::Calibration {
                entry: "the percentile".to_owned(),
                expected: "a number above 0 and at most 100".to_owned(),
                found: percent.to_string(),
            })
        }
        _ => Ok(()),
    }
}

/// What was seen so far.
struct Collected {
    method: Method,
    maxima: BTreeMap<String, Vec<f32>>,
    histograms: BTreeMap<String, Histogram>,
    examples: usize,
    steps: usize,
}

impl Collected {
    fn new(method: Method) -> Self {
        Self {
            method,
            maxima: BTreeMap::new(),
            histograms: BTreeMap::new(),
            examples: 0,
            steps: 0,
        }
    }

    fn count(&mut self, moment: Moment) {
        self.examples = self.examples.max(moment.example + 1);
        self.steps = self.steps.max(moment.step.map_or(0, |step| step + 1));
    }

    fn add(&mut self, name: &str, moment: Moment, seen: &Tensor) -> Result<()> {
        let values = seen.to_f32()?;
        let mut maximum = 0.0f32;
        for value in values.iter() {
            if !value.is_finite() {
                return Err(not_finite(name, moment, *value));
            }
            maximum = maximum.max(value.abs());
        }
        let step = moment.step.unwrap_or(0);
        let maxima = self.maxima.entry(name.to_owned()).or_default();
        if maxima.len() <= step {
            maxima.resize(step + 1, 0.0);
        }
        maxima[step] = maxima[step].max(maximum);
        if self.method != Method::Max {
            let histogram = self.histograms.entry(name.to_owned()).or_default();
            histogram.add(&values);
        }
        Ok(())
    }

    fn finish(self) -> Result<Calibration> {
        let mut found = BTreeMap::new();
        for (name, steps) in self.maxima {
            let amax = steps.iter().fold(0.0f32, |a, &b| a.max(b));
            let cut = match (self.method, self.histograms.get(&name)) {
                (Method::Percentile(percent), Some(histogram)) => histogram.percentile(percent),
                (Method::MeanSquaredError, Some(histogram)) => histogram.least_squared_error(),
                _ => amax,
            };
            let scale = cut / E4M3_MAX;
            if scale < f32::MIN_POSITIVE {
                return Err(Error::Calibration {
                    entry: name,
                    expected: "values that a scale follows from; else keep the layer".to_owned(),
                    found: format!("none greater than {cut}"),
                });
            }
            let part = name.rsplit('.').next().unwrap_or_default();
            let of_attention = ATTENTION_PARTS.contains(&part);
            let steps = if of_attention { steps } else { Vec::new() };
            found.insert(name, Calibrated { amax, scale, steps });
        }
        Ok(Calibration {
            values: found,
            examples: self.examples,
            steps: self.steps,
        })
    }
}

fn not_finite(name: &str, moment: Moment, value: f32) -> Error {
    let step = moment
        .step
        .map_or(String::new(), |step| format!(" at step {}", step + 1));
    Error::Calibration {
        entry: name.to_owned(),
        expected: "finite values".to_owned(),
        found: format!("{value}{step} of example {}", moment.example + 1),
    }
}
