//! Recipes: which linears and attentions of a model are quantized, in which format, and how
//! finely their scales are cut.
//!
//! A recipe is a list of rules with patterns of full names, those of the checkpoint (in
//! diffusers' layout): what a fused linear is made of is named, never the fused one. Of the
//! rules that name a layer the last one decides; what none names is kept as it is.
//!
//! ```
//! use tintype_quant::Recipe;
//!
//! let recipe: Recipe = r#"{
//!   "version": 1,
//!   "rules": [
//!     {"linears": ["transformer_blocks.**"], "format": "e4m3", "granularity": "per_tensor"},
//!     {"linears": ["transformer_blocks.0.ff.net.2"], "format": "kept"},
//!     {"attentions": ["transformer_blocks.*.attn"], "format": "e4m3"}
//!   ]
//! }"#.parse()?;
//! assert_eq!(recipe.to_string().parse::<Recipe>()?, recipe);
//! # Ok::<(), tintype_quant::Error>(())
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tintype_ir::Graph;

use crate::{Error, Pattern, Result, layer_names};

/// Which layers are quantized, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    version: u32,
    /// The rules; of those that name a layer the last one decides.
    pub rules: Vec<Rule>,
}

/// What becomes of some layers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Linears, by the names of their modules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub linears: Vec<Pattern>,
    /// Attentions, by the names of their modules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attentions: Vec<Pattern>,
    /// The format of weights and activations.
    pub format: Format,
    /// What has a scale of its own. Attentions have one for each of query, key and value.
    #[serde(default)]
    pub granularity: Granularity,
}

/// The dtype of quantized values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Format {
    /// Not quantized.
    Kept,
    /// 8 bits, 4 of them for the exponent: [`tintype_tensor::DType::F8E4M3`].
    #[default]
    E4m3,
}

/// What has a scale of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Granularity {
    /// One scale for a weight, one for its input, which calibration gives.
    #[default]
    PerTensor,
    /// One scale for each row of a weight (output channel), one for its input.
    PerChannel,
    /// One scale for each row of a weight, and one for each row of its input, which is computed
    /// as it comes. Needs no calibration.
    PerRow,
    /// One scale for a weight; its input stays as it is. Needs no calibration, and saves memory
    /// alone.
    WeightOnly,
}

impl Granularity {
    /// Whether calibration must give a scale for the input.
    pub const fn has_static_input(self) -> bool {
        matches!(self, Self::PerTensor | Self::PerChannel)
    }

    /// Whether each row of a weight has a scale.
    pub const fn has_row_scales(self) -> bool {
        matches!(self, Self::PerChannel | Self::PerRow)
    }
}

impl Recipe {
    /// The version of the form that this crate writes.
    pub const VERSION: u32 = 1;

    /// A recipe of these rules.
    pub fn new(rules: impl Into<Vec<Rule>>) -> Self {
        Self {
            version: Self::VERSION,
            rules: rules.into(),
        }
    }

    /// The recipe for FLUX transformers: E4M3 per tensor for all linears of the blocks, and
    /// weights alone for their modulations, which run once per picture.
    ///
    /// Embedders (`x_embedder`, `context_embedder`, `time_text_embed`), `norm_out` and the last
    /// `proj_out` are kept, attention too.
    pub fn flux() -> Self {
        let blocks = ["transformer_blocks.**", "single_transformer_blocks.**"];
        Self::new([
            Rule::linears(blocks, Granularity::PerTensor),
            Rule::linears(FLUX_MODULATIONS, Granularity::WeightOnly),
        ])
    }

    /// [`Recipe::flux`] with the modulations (`AdaLN`) of blocks kept: they are a quarter of
    /// FLUX.1's parameters.
    pub fn flux_with_kept_modulations() -> Self {
        let mut recipe = Self::flux();
        recipe.rules[1].format = Format::Kept;
        recipe
    }

    /// The same without patterns that name nothing in `graph`, for a recipe that is made for a
    /// family of models of which not all have every kind of block.
    #[must_use]
    pub fn fitted_to(&self, graph: &Graph) -> Self {
        let (linears, attentions) = layer_names(graph);
        let fits =
            |names: &[String], pattern: &Pattern| names.iter().any(|name| pattern.matches(name));
        let mut rules = self.rules.clone();
        for rule in &mut rules {
            rule.linears.retain(|pattern| fits(&linears, pattern));
            rule.attentions.retain(|pattern| fits(&attentions, pattern));
        }
        rules.retain(|rule| !rule.linears.is_empty() || !rule.attentions.is_empty());
        Self::new(rules)
    }

    /// The names of all scales that calibration must give for a graph.
    ///
    /// # Errors
    /// [`Error::NoMatch`] for patterns that name nothing.
    pub fn scale_names(&self, graph: &Graph) -> Result<BTreeSet<String>> {
        let sites = crate::sites::Sites::of(graph, self)?;
        Ok(crate::observe::names_of(graph, &sites))
    }

    /// The same with these linears kept, whatever the rules before say.
    #[must_use]
    pub fn keeping<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        let linears: Vec<Pattern> = names.into_iter().map(Pattern::new).collect();
        if !linears.is_empty() {
            self.rules.push(Rule {
                linears,
                format: Format::Kept,
                ..Rule::default()
            });
        }
        self
    }

    /// The same with these layers kept, linears and attentions as their names say: those that
    /// [`Report`](crate::Report) gives.
    pub(crate) fn keeping_layers(mut self, names: &[String], graph_attentions: &[String]) -> Self {
        let is_attention = |name: &&String| graph_attentions.contains(name);
        let patterns = |wanted: bool| {
            let names = names.iter().filter(|name| is_attention(name) == wanted);
            names.map(|name| Pattern::new(name.as_str())).collect()
        };
        if !names.is_empty() {
            self.rules.push(Rule {
                linears: patterns(false),
                attentions: patterns(true),
                format: Format::Kept,
                ..Rule::default()
            });
        }
        self
    }

    /// The same with attention quantized where a pattern names it.
    #[must_use]
    pub fn with_attentions<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.rules.push(Rule {
            attentions: names.into_iter().map(Pattern::new).collect(),
            ..Rule::default()
        });
        self
    }
}

impl Rule {
    /// A rule that quantizes linears to E4M3.
    pub fn linears<N: Into<String>>(
        names: impl IntoIterator<Item = N>,
        granularity: Granularity,
    ) -> Self {
        Self {
            linears: names.into_iter().map(Pattern::new).collect(),
            granularity,
            ..Self::default()
        }
    }
}

impl FromStr for Recipe {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let recipe: Self =
            serde_json::from_str(text).map_err(|error| Error::Recipe(error.to_string()))?;
        if recipe.version != Self::VERSION {
            let (expected, found) = (Self::VERSION, recipe.version);
            return Err(Error::Recipe(format!(
                "expected version {expected}, found {found}"
            )));
        }
        let is_empty = |rule: &Rule| rule.linears.is_empty() && rule.attentions.is_empty();
        if let Some(index) = recipe.rules.iter().position(is_empty) {
            return Err(Error::Recipe(format!(
                "rule {}: expected `linears` or `attentions`, found neither",
                index + 1
            )));
        }
        Ok(recipe)
    }
}

/// As JSON.
impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_string_pretty(self).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

/// The layers that make scale, shift and gate of a block from time, guidance and text.
const FLUX_MODULATIONS: [&str; 2] = [
    "transformer_blocks.*.norm1*.linear",
    "single_transformer_blocks.*.norm.linear",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        text.parse::<Recipe>().unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(message("{}").starts_with("recipe: missing field `version`"));
        let other = message(r#"{"version": 2, "rules": []}"#);
        assert_eq!(other, "recipe: expected version 1, found 2");
        let empty = message(r#"{"version": 1, "rules": [{"format": "e4m3"}]}"#);
        assert_eq!(
            empty,
            "recipe: rule 1: expected `linears` or `attentions`, found neither"
        );
        let format = message(r#"{"version": 1, "rules": [{"linears": ["a"], "format": "e5m2"}]}"#);
        assert!(format.contains("unknown variant `e5m2`"), "{format}");
        let field = message(r#"{"version": 1, "rules": [{"linear": ["a"], "format": "e4m3"}]}"#);
        assert!(field.contains("unknown field `linear`"), "{field}");
    }

    #[test]
    fn the_last_rules_are_kept_in_the_text() {
        let recipe = Recipe::flux()
            .with_attentions(["transformer_blocks.*.attn"])
            .keeping(["transformer_blocks.0.ff.net.2"]);
        assert_eq!(recipe.to_string().parse::<Recipe>().unwrap(), recipe);
        assert_eq!(Recipe::flux().keeping([""; 0]), Recipe::flux());
    }
}
