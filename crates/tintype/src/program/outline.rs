//! FP8 without scales: the graph as it will be, for questions that no scale answers otherwise.
//!
//! The recipe is the one that `tintype quantize` takes by default. Nothing is computed with this.

use anyhow::{Context as _, Result};
use tintype::DType;
use tintype::quant::{Recipe, Scales, quantize};
use tintype_ir::Graph;

/// What `--dtype` says: the dtype of graphs, and whether the transformer is quantized.
pub(crate) fn dtype(name: &str) -> Result<(DType, bool)> {
    match name {
        "fp8" => Ok((DType::BF16, true)),
        _ => Ok((name.parse().context("--dtype")?, false)),
    }
}

/// The transformer's graph, quantized.
pub(crate) fn quantized(transformer: &Graph) -> Result<Graph> {
    let (recipe, scales) = recipe(transformer)?;
    Ok(quantize(transformer, &recipe, &scales)?.graph)
}

/// The default recipe for a transformer, with scales of one.
pub(crate) fn recipe(transformer: &Graph) -> Result<(Recipe, Scales)> {
    let recipe = Recipe::flux().fitted_to(transformer);
    let mut scales = Scales::new();
    for name in recipe.scale_names(transformer)? {
        scales.insert(name, 1.0)?;
    }
    Ok((recipe, scales))
}
