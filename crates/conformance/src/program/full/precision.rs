//! What `--dtype` says: the dtype of values, and what is in 8 bits beside them.
//!
//! | argument | values | linears of blocks | attention |
//! |---|---|---|---|
//! | `bf16`, `f16`, `f32` | these | as values | as values |
//! | `fp8` | bf16 | E4M3 by the recipe for FLUX | as values |
//! | `fp8-attention` | bf16 | the same | E4M3 |
//!
//! Scales are one constant: random models have no calibration, and numbers near 1 lie well within
//! eight bits with it. So times are those of a calibrated model, and errors near those.

use std::fmt;
use std::str::FromStr;

use tintype_ir::Graph;
use tintype_quant::{QuantizedGraph, Recipe, Scales, quantize};
use tintype_tensor::DType;

use super::super::Result;

/// What numbers are computed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Precision {
    /// The dtype of what is not quantized.
    pub(crate) values: DType,
    /// What is.
    pub(crate) narrow: Narrow,
}

/// What is in 8 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Narrow {
    Nothing,
    Linears,
    LinearsAndAttention,
}

impl Precision {
    /// A graph with what is quantized in it, and its scales; none where nothing is.
    pub(super) fn quantized(self, graph: &Graph) -> Result<Option<QuantizedGraph>> {
        let recipe = match self.narrow {
            Narrow::Nothing => return Ok(None),
            Narrow::Linears => Recipe::flux(),
            Narrow::LinearsAndAttention => Recipe::flux().with_attentions(["**"]),
        };
        let recipe = recipe.fitted_to(graph);
        let mut scales = Scales::new();
        for name in recipe.scale_names(graph)? {
            scales.insert(name, SCALE)?;
        }
        Ok(Some(quantize(graph, &recipe, &scales)?))
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (values, narrow) = match text {
            "fp8" => (DType::BF16, Narrow::Linears),
            "fp8-attention" => (DType::BF16, Narrow::LinearsAndAttention),
            other => {
                let values = other.parse::<DType>();
                (values.map_err(|error| error.to_string())?, Narrow::Nothing)
            }
        };
        Ok(Self { values, narrow })
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.narrow {
            Narrow::Nothing => self.values.fmt(f),
            Narrow::Linears => f.write_str("fp8"),
            Narrow::LinearsAndAttention => f.write_str("fp8-attention"),
        }
    }
}

/// The greatest code stands for 8.
const SCALE: f32 = 8.0 / 448.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_as_they_are_written() {
        for text in ["bf16", "f32", "fp8", "fp8-attention"] {
            assert_eq!(text.parse::<Precision>().unwrap().to_string(), text);
        }
        assert!("fp9".parse::<Precision>().is_err());
    }
}
