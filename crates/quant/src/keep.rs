//! Keeping the worst layers until a bound holds.

use crate::{Error, Feed, Recipe, Report, Result, Scales, compare, layer_names};

/// What is left to quantize, and what it costs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Kept {
    /// The recipe, with a rule at its end that keeps layers.
    pub recipe: Recipe,
    /// The layers that it keeps, the worst first.
    pub layers: Vec<String>,
    /// What quantizing the others costs.
    pub report: Report,
}

/// The recipe with as few of its most sensitive layers kept as [`Report::worst`] needs to be at
/// most `bound`.
///
/// Layers are taken in the order of their error with all others as they are; how many, is found
/// by bisection. Each try is a run of `feed`.
///
/// # Errors
/// [`Error::Compare`] for a bound that is no positive number, or that does not hold even with
/// nothing quantized; what [`compare`](crate::compare()) gives.
pub fn keep_worst(
    feed: &mut dyn Feed,
    recipe: &Recipe,
    scales: &Scales,
    bound: f64,
) -> Result<Kept> {
    if !(bound > 0.0 && bound.is_finite()) {
        return Err(Error::Compare {
            what: "the bound of the relative error",
            expected: "a finite number above 0".to_owned(),
            found: bound.to_string(),
        });
    }
    // NaN holds no bound.
    let holds = |report: &Report| report.worst() <= bound;
    let first = compare(feed, recipe, scales)?;
    if holds(&first) {
        return Ok(Kept {
            recipe: recipe.clone(),
            layers: Vec::new(),
            report: first,
        });
    }
    let order = first.by_sensitivity();
    let order: Vec<String> = order.iter().map(|layer| layer.name.clone()).collect();
    let (_, attentions) = layer_names(&feed.graph()?);
    let mut keeping = |count: usize| -> Result<Kept> {
        let layers = &order[..count];
        let recipe = recipe.clone().keeping_layers(layers, &attentions);
        let report = compare(feed, &recipe, scales)?;
        Ok(Kept {
            recipe,
            layers: layers.to_vec(),
            report,
        })
    };
    // All of `low` are too few; `high` are enough.
    let (mut low, mut high) = (0, order.len());
    let mut found = keeping(high)?;
    if !holds(&found.report) {
        return Err(Error::Compare {
            what: "the relative error with all layers kept",
            expected: format!("at most {bound}"),
            found: found.report.worst().to_string(),
        });
    }
    while high - low > 1 {
        let count = usize::midpoint(low, high);
        let kept = keeping(count)?;
        if holds(&kept.report) {
            (high, found) = (count, kept);
        } else {
            low = count;
        }
    }
    Ok(found)
}
