//! The pass that puts quantize and dequantize before linears and attentions.
//!
//! It runs on a model's graph as it was built, before any other pass: names are those of the
//! checkpoint there. What it adds is ordinary operations (see [`tintype_ir::Dequantized`]):
//!
//! - A linear's weight becomes a parameter in f32, from which the *weight program* computes
//!   scale and codes. So an overlay on it is merged in f32 and quantized after that, with a
//!   scale of its own.
//! - The scale of its input is a parameter, `@scales.X.input`: it is refitted like any weight.
//!   Linears that read the same value share the codes, with the greatest of their scales, so
//!   that q, k and v can be fused; what came with scales of its own part by part does not.
//! - The scales of an attention are numbers in the graph, powers of two. An attention without
//!   scales stays as it is.
//!
//! ```
//! use tintype_quant::{Granularity, Recipe, Rule, Scales, quantize};
//!
//! let graph = tintype_ir::parse(
//!     "graph g { param @proj.weight: bf16[4, 2] input step %x: bf16[3, 2] \
//!      %0: bf16[3, 4] = linear %x, @proj.weight  # proj\n output y = %0 }",
//! )?;
//! let recipe = Recipe::new([Rule::linears(["proj"], Granularity::PerTensor)]);
//! let mut scales = Scales::new();
//! scales.insert("proj.input", 0.5)?;
//! let quantized = quantize(&graph, &recipe, &scales)?;
//! let staged = tintype_ir::StagedGraph::split(&quantized.graph)?;
//! let weight = staged.step.parameter("proj.weight").expect("a linear has a weight");
//! assert_eq!(weight.ty.to_string(), "f8e4m3[4, 2]");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::{BTreeSet, HashMap};

use tintype_ir::{BinaryOp, Graph, TensorType, Value};
use tintype_tensor::DType;
use tintype_weights::Parameters;

use crate::rebuild::{
    Rebuild, absolute_maximum, number_type, scale_of_maximum, through_codes, without_axes,
};
use crate::scales::parameter_name;
use crate::sites::{Site, SiteKind, Sites};
use crate::{Error, Granularity, Recipe, Result, Scales, power_of_two_above};

/// A graph with quantized layers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct QuantizedGraph {
    /// The graph.
    pub graph: Graph,
    /// The scales that it reads beside the model's own parameters.
    pub parameters: Parameters,
    /// What is quantized in it, in the order of execution.
    pub layers: Vec<String>,
    /// Attentions that the recipe names and that have no scales: they are kept.
    pub unscaled: Vec<String>,
}

/// The graph with the layers of `recipe` quantized.
///
/// # Errors
/// [`Error::NoMatch`] for patterns that name nothing; [`Error::Table`] for a linear whose input
/// has no scale.
pub fn quantize(graph: &Graph, recipe: &Recipe, scales: &Scales) -> Result<QuantizedGraph> {
    let sites = Sites::of(graph, recipe)?;
    let mut inserter = Inserter::new(graph, &sites, scales);
    let mut nodes: Vec<Value> = Vec::with_capacity(graph.nodes().len());
    for index in 0..graph.nodes().len() {
        let operands = inserter.operands(index, &nodes);
        nodes.push(inserter.quantized(index, &operands)?);
    }
    inserter.rebuild.outputs(&nodes);
    let unscaled = inserter.unscaled;
    let layers = sites.iter().map(|(_, site)| site.name.clone());
    let layers = layers.filter(|name| !unscaled.contains(name)).collect();
    Ok(QuantizedGraph {
        graph: inserter.rebuild.finish()?,
        parameters: scales.parameters()?,
        layers,
        unscaled,
    })
}

/// Puts quantized layers into a graph that is made anew.
pub(crate) struct Inserter<'a> {
    pub(crate) rebuild: Rebuild<'a>,
    sites: &'a Sites,
    scales: &'a Scales,
    /// For each value of the source: the linears that share its codes.
    groups: HashMap<Value, Vec<&'a str>>,
    /// Scales that are declared or computed, by what they belong to.
    shared_scales: HashMap<Value, Value>,
    /// Values that went through codes, by what they were and by what scale.
    through: HashMap<(Value, Option<Value>), Value>,
    weights: HashMap<usize, Value>,
    pub(crate) unscaled: Vec<String>,
}

impl<'a> Inserter<'a> {
    pub(crate) fn new(graph: &'a Graph, sites: &'a Sites, scales: &'a Scales) -> Self {
        let mut wide = BTreeSet::new();
        let mut groups: HashMap<Value, Vec<&str>> = HashMap::new();
        for (index, site) in sites.iter() {
            let SiteKind::Linear {
                weight,
                granularity,
            } = site.kind
            else {
                continue;
            };
            wide.insert(weight);
            if granularity.has_static_input() && !scales.is_separate(&site.name) {
                let group = groups.entry(graph.nodes()[index].operands[0]).or_default();
                group.push(&site.name);
            }
        }
        Self {
            rebuild: Rebuild::new(graph, &wide),
            sites,
            scales,
            groups,
            shared_scales: HashMap::new(),
            through: HashMap::new(),
            weights: HashMap::new(),
            unscaled: Vec::new(),
        }
    }

    /// The operands of a node. The weight of a quantized linear is left as it is declared.
    pub(crate) fn operands(&mut self, index: usize, nodes: &[Value]) -> Vec<Value> {
        let node = &self.rebuild.source.nodes()[index];
        let quantized = match self.sites.by_node.get(&index).map(|site| site.kind) {
            Some(SiteKind::Linear { weight, .. }) => Some(weight),
            _ => None,
        };
        let mut operands = Vec::with_capacity(node.operands.len());
        for (position, &operand) in node.operands.iter().enumerate() {
            operands.push(match quantized {
                Some(weight) if position == 1 => self.rebuild.parameter(weight),
                _ => self.rebuild.value(operand, nodes),
            });
        }
        operands
    }

    /// The node on these operands, quantized if the recipe says so.
    pub(crate) fn quantized(&mut self, index: usize, operands: &[Value]) -> Result<Value> {
        let Some(site) = self.sites.by_node.get(&index) else {
            return Ok(self.rebuild.copy(index, operands));
        };
        match site.kind {
            SiteKind::Linear {
                weight,
                granularity,
            } => {
                let mut operands = operands.to_vec();
                operands[0] = self.input(site, granularity, index, operands[0])?;
                operands[1] = self.weight(site, granularity, weight, index)?;
                Ok(self.rebuild.copy(index, &operands))
            }
            SiteKind::Attention => {
                let operands = self.attention_operands(site, operands);
                Ok(self.rebuild.copy(index, &operands))
            }
        }
    }

    /// The input of a linear as its codes hold it.
    fn input(
        &mut self,
        site: &Site,
        granularity: Granularity,
        index: usize,
        x: Value,
    ) -> Result<Value> {
        let source = self.rebuild.source.nodes()[index].operands[0];
        let label = format!("{}.input", site.name);
        let scale = match granularity {
            Granularity::WeightOnly => return Ok(x),
            Granularity::PerRow => None,
            _ if self.scales.is_separate(&site.name) => Some(self.declared(&site.name)?),
            _ => Some(self.shared_scale(source)?),
        };
        if let Some(&through) = self.through.get(&(x, scale)) {
            return Ok(through);
        }
        let dtype = self.rebuild.b.type_of(x).dtype;
        let through = self.rebuild.labelled(Some(&label), |b| {
            let scale = scale.unwrap_or_else(|| {
                let last = b.type_of(x).rank() - 1;
                let maximum = absolute_maximum(b, x, &[last]);
                scale_of_maximum(b, maximum)
            });
            through_codes(b, x, scale, dtype)
        });
        self.through.insert((x, scale), through);
        Ok(through)
    }

    /// The greatest scale of all that read this value of the source.
    fn shared_scale(&mut self, source: Value) -> Result<Value> {
        if let Some(&scale) = self.shared_scales.get(&source) {
            return Ok(scale);
        }
        let names = self.groups[&source].clone();
        let mut scale = self.declared(names[0])?;
        for name in &names[1..] {
            let other = self.declared(name)?;
            let label = format!("{}.input", names[0]);
            scale = self
                .rebuild
                .labelled(Some(&label), |b| b.binary(BinaryOp::Max, scale, other));
        }
        self.shared_scales.insert(source, scale);
        Ok(scale)
    }

    /// The parameter that holds the scale of a linear's input.
    fn declared(&mut self, linear: &str) -> Result<Value> {
        let name = format!("{linear}.input");
        if self.scales.one(&name).is_none() {
            return Err(Error::Table {
                origin: "scales".to_owned(),
                expected: "one scale".to_owned(),
                found: match self.scales.get(&name) {
                    Some(tensor) => format!("{} of them", tensor.element_count()),
                    None => "none".to_owned(),
                },
                entry: name,
            });
        }
        let name = parameter_name(&name);
        Ok(self.rebuild.b.parameter(&name, number_type()))
    }

    /// The weight of a linear as its codes hold it, all of the weight program but the last
    /// product.
    fn weight(
        &mut self,
        site: &Site,
        granularity: Granularity,
        weight: usize,
        index: usize,
    ) -> Result<Value> {
        if let Some(&through) = self.weights.get(&weight) {
            return Ok(through);
        }
        let whole = self.rebuild.parameter(weight);
        let dtype = self.rebuild.source.nodes()[index].ty.dtype;
        let given = self.given_weight_scale(site, granularity, whole)?;
        let label = Some(site.name.as_str());
        let through = self.rebuild.labelled(label, |b| {
            let mut scale = if granularity.has_row_scales() {
                let maximum = absolute_maximum(b, whole, &[1]);
                scale_of_maximum(b, maximum)
            } else {
                let maximum = absolute_maximum(b, whole, &[0, 1]);
                let maximum = without_axes(b, maximum);
                scale_of_maximum(b, maximum)
            };
            if let Some(given) = given {
                // Codes that were made with this scale come out as they were; a weight that an
                // overlay has made greater gets the scale that it needs.
                scale = b.binary(BinaryOp::Max, given, scale);
            }
            through_codes(b, whole, scale, dtype)
        });
        self.weights.insert(weight, through);
        Ok(through)
    }

    /// The parameter that holds the least scale of a weight, if there is one.
    fn given_weight_scale(
        &mut self,
        site: &Site,
        granularity: Granularity,
        weight: Value,
    ) -> Result<Option<Value>> {
        let name = format!("{}.weight", site.name);
        let Some(scale) = self.scales.get(&name) else {
            return Ok(None);
        };
        let rows = self.rebuild.b.type_of(weight).dims[0].clone();
        let ty = TensorType::new(DType::F32, scale.shape().iter().copied());
        let fits = ty.rank() == 0 || (granularity.has_row_scales() && ty.dims[0] == rows);
        if !fits {
            return Err(Error::Table {
                origin: "scales".to_owned(),
                entry: name,
                expected: if granularity.has_row_scales() {
                    format!("one scale or {rows}")
                } else {
                    "one scale".to_owned()
                },
                found: format!("{} of them", scale.element_count()),
            });
        }
        let name = parameter_name(self.scales.owner(&name));
        Ok(Some(self.rebuild.b.parameter(&name, ty)))
    }

    /// Query, key and value as their codes hold them, and a bias as it is.
    fn attention_operands(&mut self, site: &Site, operands: &[Value]) -> Vec<Value> {
        let parts = ATTENTION_PARTS.map(|part| format!("{}.{part}", site.name));
        let scales: Option<Vec<f32>> = parts.iter().map(|name| self.scales.one(name)).collect();
        let Some(scales) = scales else {
            if !self.unscaled.contains(&site.name) {
                self.unscaled.push(site.name.clone());
            }
            return operands.to_vec();
        };
        let mut operands = operands.to_vec();
        for ((operand, name), scale) in operands.iter_mut().zip(&parts).zip(scales) {
            let dtype = self.rebuild.b.type_of(*operand).dtype;
            *operand = self.rebuild.labelled(Some(name), |b| {
                let scale = b.scalar(DType::F32, power_of_two_above(scale));
                through_codes(b, *operand, scale, dtype)
            });
        }
        operands
    }
}

/// What an attention reads, as its scales are named.
pub(crate) const ATTENTION_PARTS: [&str; 3] = ["query", "key", "value"];
