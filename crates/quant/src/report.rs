//! What was measured, in numbers and as a table for people.
//!
//! "Relative error" is ‖a − b‖₂ / ‖b‖₂, over all examples of a step; "cosine" that of the angle
//! between the two, as vectors of all their elements. One example with a great error can make most
//! of both, so that the [`Spread`] over examples stands beside them.

use std::fmt;

use serde::Serialize;

/// Sums of squares of two values that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Errors {
    difference: f64,
    reference: f64,
    other: f64,
}

impl Errors {
    pub(crate) fn new(difference: f32, reference: f32, other: f32) -> Self {
        let [difference, reference, other] = [difference, reference, other].map(f64::from);
        Self {
            difference,
            reference,
            other,
        }
    }

    pub(crate) fn add(&mut self, more: Self) {
        self.difference += more.difference;
        self.reference += more.reference;
        self.other += more.other;
    }

    /// ‖a − b‖₂ / ‖b‖₂: zero for equal values, infinite where only the reference is zero.
    pub fn relative(&self) -> f64 {
        if self.difference == 0.0 {
            return 0.0;
        }
        (self.difference / self.reference).sqrt()
    }

    /// a·b / (‖a‖₂ ‖b‖₂), from the lengths of a, b and their difference.
    pub fn cosine(&self) -> f64 {
        if self.difference == 0.0 {
            return 1.0;
        }
        let product = f64::midpoint(self.reference, self.other) - self.difference / 2.0;
        product / (self.reference * self.other).sqrt()
    }
}

impl Serialize for Errors {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let mut fields = serializer.serialize_struct("Errors", 2)?;
        fields.serialize_field("relative_error", &self.relative())?;
        fields.serialize_field("cosine", &self.cosine())?;
        fields.end()
    }
}

/// What one layer loses.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerReport {
    /// The layer.
    pub name: String,
    /// At each step, with all other layers as they are; one entry for what runs once per request.
    pub alone: Vec<Errors>,
    /// At each step, with every layer quantized.
    pub together: Vec<Errors>,
}

impl LayerReport {
    /// Over all steps, with all other layers as they are.
    pub fn sensitivity(&self) -> Errors {
        sum(&self.alone)
    }
}

/// What an output of the model loses.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OutputReport {
    /// The output.
    pub name: String,
    /// At each step, over all examples.
    pub steps: Vec<Errors>,
    /// At each step: of each example that has it.
    pub examples: Vec<Vec<Errors>>,
}

impl OutputReport {
    /// How the cosines of the examples lie at a step, from 0; `None` for a step that none had.
    pub fn spread(&self, step: usize) -> Option<Spread> {
        let examples = self.examples.get(step)?;
        let mut cosines: Vec<f64> = examples.iter().map(Errors::cosine).collect();
        cosines.sort_by(f64::total_cmp);
        let count = cosines.len();
        let near = cosines.iter().filter(|cosine| **cosine >= NEAR).count();
        // Unlike `f64::min`, keeps a number that is none.
        let lesser = |least: f64, &cosine: &f64| {
            if cosine.is_nan() || cosine < least {
                cosine
            } else {
                least
            }
        };
        Some(Spread {
            median: f64::midpoint(*cosines.get(count.checked_sub(1)? / 2)?, cosines[count / 2]),
            mean: cosines.iter().sum::<f64>() / count as f64,
            least: cosines.iter().fold(f64::INFINITY, lesser),
            near: near as f64 / count as f64,
        })
    }
}

/// How the cosines of single examples lie.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The mean.
    pub mean: f64,
    /// The least.
    pub least: f64,
    /// The part of all, 0 to 1, that is at least 0.999.
    pub near: f64,
}

/// What quantizing costs.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Layers, in the order of execution.
    pub layers: Vec<LayerReport>,
    /// The model's outputs.
    pub outputs: Vec<OutputReport>,
    /// Attentions that the recipe names and that have no scales: they are kept.
    pub unscaled: Vec<String>,
}

impl Report {
    /// The greatest relative error of an output at a step; NaN if one is.
    pub fn worst(&self) -> f64 {
        let steps = self.outputs.iter().flat_map(|output| &output.steps);
        steps.fold(0.0, |worst, errors| {
            let error = errors.relative();
            if error.is_nan() || error > worst {
                error
            } else {
                worst
            }
        })
    }

    /// Layers, the most sensitive first.
    pub fn by_sensitivity(&self) -> Vec<&LayerReport> {
        let mut layers: Vec<&LayerReport> = self.layers.iter().collect();
        let error = |layer: &LayerReport| layer.sensitivity().relative();
        layers.sort_by(|a, b| error(b).total_cmp(&error(a)));
        layers
    }

    /// A table of the outputs' steps and of the `count` most sensitive layers.
    pub fn table(&self, count: usize) -> String {
        let mut text = String::new();
        for output in &self.outputs {
            text += &format!(
                "output `{}`\n  step  relative error     cosine  \
                 of examples: median       mean      least  >= {NEAR}\n",
                output.name
            );
            for (index, errors) in output.steps.iter().enumerate() {
                let (relative, cosine) = (errors.relative(), errors.cosine());
                text += &format!("  {:4}  {relative:14.5}  {cosine:9.6}", index + 1);
                if let Some(spread) = output.spread(index) {
                    let (median, mean, least) = (spread.median, spread.mean, spread.least);
                    let near = 100.0 * spread.near;
                    text += &format!("  {median:19.6}  {mean:9.6}  {least:9.6}  {near:6.1} %");
                }
                text.push('\n');
            }
        }
        let worst = self.by_sensitivity();
        let shown = count.min(worst.len());
        text += &format!(
            "{shown} most sensitive of {} layers\n  alone: error     cosine  together: error  layer\n",
            worst.len()
        );
        for layer in worst.into_iter().take(count) {
            let (alone, together) = (layer.sensitivity(), sum(&layer.together));
            text += &format!(
                "  {:12.5}  {:9.6}  {:15.5}  {}\n",
                alone.relative(),
                alone.cosine(),
                together.relative(),
                layer.name
            );
        }
        for name in &self.unscaled {
            text += &format!("kept for want of scales: {name}\n");
        }
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.table(SHOWN))
    }
}

fn sum(steps: &[Errors]) -> Errors {
    let mut all = Errors::default();
    for &errors in steps {
        all.add(errors);
    }
    all
}

/// Layers that a report shows when it is printed.
const SHOWN: usize = 10;

/// The cosine from which on [`Spread::near`] counts an example.
const NEAR: f64 = 0.999;

#[cfg(test)]
mod tests {
    use tintype_tensor::{TorchGenerator, relative_error};

    use super::*;

    #[test]
    fn sums_give_error_and_angle() {
        let mut noise = TorchGenerator::new(5);
        let mut next = || noise.randn([64]).unwrap().to_f32_vec().unwrap();
        let (a, b) = (next(), next());
        let squares = |v: &[f32]| v.iter().map(|v| v * v).sum::<f32>();
        let difference: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
        let errors = Errors::new(squares(&difference), squares(&b), squares(&a));
        assert!((errors.relative() - relative_error(&a, &b)).abs() < 1e-5);
        let product: f32 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
        let cosine = f64::from(product / (squares(&a) * squares(&b)).sqrt());
        assert!((errors.cosine() - cosine).abs() < 1e-5);
        assert_eq!(
            (Errors::default().relative(), Errors::default().cosine()),
            (0.0, 1.0)
        );
    }

    #[test]
    fn one_example_does_not_hide_the_others() {
        // With as long a result, a difference of 2·(1 − c) is a cosine of c.
        let of_cosine = |cosine: f32| Errors::new(2.0 * (1.0 - cosine), 1.0, 1.0);
        let examples: Vec<Errors> = [0.9995, 0.5, 0.9998, 0.9996].map(of_cosine).to_vec();
        let output = OutputReport {
            name: "sample".to_owned(),
            steps: vec![sum(&examples)],
            examples: vec![examples],
        };
        let spread = output.spread(0).expect("there are examples");
        let near = |found: f64, expected: f64| (found - expected).abs() < 1e-6;
        assert!(
            near(spread.median, 0.99955) && near(spread.least, 0.5),
            "{spread:?}"
        );
        assert!(
            near(spread.mean, 0.874725) && near(spread.near, 0.75),
            "{spread:?}"
        );
        assert!(near(output.steps[0].cosine(), spread.mean));
        assert_eq!(output.spread(1), None);
    }

    #[test]
    fn a_number_that_is_none_is_the_worst() {
        let steps = vec![
            Errors::new(1.0, 4.0, 4.0),
            Errors::new(f32::NAN, 4.0, 4.0),
            Errors::new(0.1, 4.0, 4.0),
        ];
        let name = "sample".to_owned();
        let report = Report {
            outputs: vec![OutputReport {
                name,
                examples: steps.iter().map(|errors| vec![*errors]).collect(),
                steps,
            }],
            ..Report::default()
        };
        assert!(report.worst().is_nan());
        assert!(report.table(0).contains("NaN"));
    }
}
