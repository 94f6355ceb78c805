//! What `--dtype` says, and how a transformer is quantized for `fp8`.
//!
//! A plan depends on which layers are quantized and on the scales of attentions, which are numbers
//! in the graph. Other scales are weights of an engine: where none are at hand, what is compiled
//! ahead is for the default recipe, and for every table that was measured with it.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context as _, Result};
use tintype::quant::{self, ModelIdentity, Recipe, ScaleTable, Scales};
use tintype::{Architecture, DType, FluxPipeline, ModelKind, Sizes};
use tintype_ir::Graph;
use tintype_weights::Parameters;

/// The dtype in which models are computed, and whether the transformer is quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Precision {
    /// Of what is not quantized.
    pub(crate) dtype: DType,
    pub(crate) is_fp8: bool,
}

/// Which layers of the transformer are quantized, with which scales.
#[derive(Debug, Clone)]
pub(crate) struct Quantization {
    pub(crate) recipe: Recipe,
    pub(crate) scales: Scales,
    /// Whether the scales are those of a model, and not only names.
    is_measured: bool,
}

impl FromStr for Precision {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let is_fp8 = text == FP8;
        let dtype = if is_fp8 { "bf16" } else { text };
        Ok(Self {
            dtype: dtype.parse().context("--dtype")?,
            is_fp8,
        })
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_fp8 {
            f.write_str(FP8)
        } else {
            write!(f, "{}", self.dtype)
        }
    }
}

impl Quantization {
    /// By the table that is named, or by that of the model.
    pub(crate) fn of_table(origin: &str, table: &ScaleTable) -> Result<Self> {
        Ok(Self {
            recipe: table.recipe.clone(),
            scales: table.scales().with_context(|| origin.to_owned())?,
            is_measured: true,
        })
    }

    /// As the checkpoint of a pipeline came, if that was in FP8.
    pub(crate) fn imported(pipeline: &FluxPipeline) -> Result<Option<Self>> {
        let graph = pipeline.transformer_graph()?;
        let imported = quant::import(&graph, &pipeline.transformer_parameters()?)?;
        Ok(imported.map(|imported| Self {
            recipe: imported.recipe,
            scales: imported.scales,
            is_measured: true,
        }))
    }

    /// For what is compiled ahead: by the table that is named, that of the model, its checkpoint if
    /// that is in FP8, or else the default recipe. No weights are compared, since none are compiled.
    pub(crate) fn ahead(
        architecture: &Architecture,
        pipeline: Option<&FluxPipeline>,
        scales: Option<&Path>,
    ) -> Result<Self> {
        let graph = whole(architecture)?;
        if let Some((origin, table)) = table(pipeline, scales)? {
            let model = ModelIdentity {
                weights: table.model.weights.clone(),
                graph: graph.hash().to_string(),
            };
            table.check(&origin, &model, &graph)?;
            return Self::of_table(&origin, &table);
        }
        // A model need not have its weights at hand to be compiled.
        let imported = pipeline.map(Self::imported);
        if let Some(Ok(Some(imported))) = imported {
            return Ok(imported);
        }
        let recipe = Recipe::flux().fitted_to(&graph);
        let mut scales = Scales::new();
        for name in recipe.scale_names(&graph)? {
            scales.insert(name, 1.0)?;
        }
        Ok(Self {
            recipe,
            scales,
            is_measured: false,
        })
    }

    /// The graph of a model with this, which is for transformers alone.
    pub(crate) fn apply(&self, kind: ModelKind, graph: Graph) -> Result<Graph> {
        if kind != ModelKind::Transformer {
            return Ok(graph);
        }
        Ok(quant::quantize(&graph, &self.recipe, &self.scales)?.graph)
    }

    /// The parameters of a model with the scales, where they are known.
    pub(crate) fn with_scales(
        &self,
        kind: ModelKind,
        parameters: Option<Parameters>,
    ) -> Result<Option<Parameters>> {
        match parameters {
            Some(own) if self.is_measured && kind == ModelKind::Transformer => {
                let builder = Parameters::builder().parameters(&own);
                let all = builder.parameters(&self.scales.parameters()?).build()?;
                Ok(Some(all))
            }
            other => Ok(other),
        }
    }
}

/// The table in this file, or among the files of the model; with what messages call it.
pub(crate) fn table(
    pipeline: Option<&FluxPipeline>,
    scales: Option<&Path>,
) -> Result<Option<(String, ScaleTable)>> {
    let own = Path::new(OWN_SCALES);
    let (origin, bytes) = match (scales, pipeline) {
        (Some(path), _) => (path.to_owned(), std::fs::read(path)),
        (None, Some(pipeline)) if pipeline.files().contains(own) => {
            let bytes = pipeline.files().read(own, SCALES_LIMIT);
            (pipeline.files().path(own), bytes.map(Cow::into_owned))
        }
        _ => return Ok(None),
    };
    let origin = origin.display().to_string();
    let bytes = bytes.with_context(|| format!("{origin}: cannot be read"))?;
    let text = String::from_utf8(bytes).with_context(|| format!("{origin}: not UTF-8"))?;
    let table = ScaleTable::from_json(&origin, &text)?;
    Ok(Some((origin, table)))
}

/// The transformer's graph by which tables know it.
fn whole(architecture: &Architecture) -> Result<Graph> {
    let mut architecture = architecture.clone();
    architecture.euler_step = false;
    Ok(architecture.graph(ModelKind::Transformer, DType::BF16, &Sizes::default())?)
}

/// What `--dtype` calls it.
pub(crate) const FP8: &str = "fp8";

/// Scales among the files of a model.
pub(crate) const OWN_SCALES: &str = "scales.json";

/// The most that is read of them, in bytes.
const SCALES_LIMIT: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fp8_is_bf16_with_a_quantized_transformer() {
        for name in ["f32", "bf16", "f16", FP8] {
            let precision: Precision = name.parse().unwrap();
            assert_eq!(precision.to_string(), name);
            assert_eq!(precision.is_fp8, name == FP8);
        }
        let precision: Precision = FP8.parse().unwrap();
        assert_eq!(precision.dtype, DType::BF16);
        assert!("f4e2m1x".parse::<Precision>().is_err());
    }

    #[test]
    fn without_scales_the_default_recipe_is_compiled() {
        let architecture = Architecture::flux_dev();
        let quantization = Quantization::ahead(&architecture, None, None).unwrap();
        assert_eq!(quantization.recipe, Recipe::flux());
        assert!(!quantization.is_measured);
        let names = quantization.scales.names().count();
        // Of a double block twelve linears, of a single one five, each by its own name.
        assert_eq!(names, 19 * 12 + 38 * 5);
    }
}
