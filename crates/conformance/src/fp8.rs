//! Graphs in FP8 where no scale was measured.
//!
//! ```
//! use tintype_conformance::fp8::with_equal_scales;
//! use tintype_quant::{Granularity, Recipe, Rule};
//!
//! let graph = tintype_ir::parse(
//!     "graph g { param @proj.weight: bf16[4, 2] input step %x: bf16[3, 2] \
//!      %0: bf16[3, 4] = linear %x, @proj.weight  # proj\n output y = %0 }",
//! )?;
//! let recipe = Recipe::new([Rule::linears(["proj"], Granularity::PerTensor)]);
//! let quantized = with_equal_scales(&graph, &recipe, 0.02)?;
//! assert_eq!(quantized.layers, ["proj"]);
//! # Ok::<(), tintype_quant::Error>(())
//! ```

use tintype_ir::Graph;
use tintype_quant::{QuantizedGraph, Recipe, Result, Scales, quantize};

/// A graph with the layers of a recipe quantized, as far as it has them, and one scale for the
/// inputs of all. That of a weight follows from its values.
///
/// # Errors
/// A scale that is zero, negative or not finite.
pub fn with_equal_scales(graph: &Graph, recipe: &Recipe, scale: f32) -> Result<QuantizedGraph> {
    let recipe = recipe.fitted_to(graph);
    let mut scales = Scales::new();
    for name in recipe.scale_names(graph)? {
        scales.insert(name, scale)?;
    }
    quantize(graph, &recipe, &scales)
}
