//! The places of a graph that a recipe is about, and what it says of each.
//!
//! A linear is named by its weight: `X` where that is the parameter `X.weight`. An attention is
//! named by its label. So names are those of the checkpoint.

use std::collections::BTreeMap;

use tintype_ir::{Graph, Op, Stage, Value};

use crate::recipe::Rule;
use crate::{Error, Format, Granularity, Pattern, Recipe, Result};

/// A linear or an attention that is quantized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Site {
    pub(crate) name: String,
    pub(crate) kind: SiteKind,
}

/// What is quantized, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SiteKind {
    Linear {
        /// The index of its weight among the parameters.
        weight: usize,
        granularity: Granularity,
    },
    Attention,
}

/// The quantized places of a graph, by the index of their node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sites {
    pub(crate) by_node: BTreeMap<usize, Site>,
}

impl Sites {
    /// What `recipe` says of `graph`; an error that names patterns without a match.
    pub(crate) fn of(graph: &Graph, recipe: &Recipe) -> Result<Self> {
        let (linears, attentions) = named(graph);
        let linear_names = || linears.values().map(|named| named.0.as_str());
        check(graph, recipe, "linears", |rule| &rule.linears, linear_names)?;
        let attention_names = || attentions.values().map(String::as_str);
        check(
            graph,
            recipe,
            "attentions",
            |rule| &rule.attentions,
            attention_names,
        )?;
        let mut by_node = BTreeMap::new();
        for (index, (name, weight)) in linears {
            if let Some(granularity) = decided(recipe, |rule| &rule.linears, &name) {
                let kind = SiteKind::Linear {
                    weight,
                    granularity,
                };
                by_node.insert(index, Site { name, kind });
            }
        }
        for (index, name) in attentions {
            if decided(recipe, |rule| &rule.attentions, &name).is_some() {
                let kind = SiteKind::Attention;
                by_node.insert(index, Site { name, kind });
            }
        }
        Ok(Self { by_node })
    }

    /// The sites alone, in the order of execution.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &Site)> {
        self.by_node.iter().map(|(&index, site)| (index, site))
    }
}

/// The names of all linears that have a weight of their own, and of all attentions.
///
/// A recipe is written against these.
pub fn layer_names(graph: &Graph) -> (Vec<String>, Vec<String>) {
    let (linears, attentions) = named(graph);
    let linears = linears.into_values().map(|(name, _)| name);
    (linears.collect(), attentions.into_values().collect())
}

/// Linears by their nodes, with name and index of the weight of their own; attentions with a name.
fn named(graph: &Graph) -> (BTreeMap<usize, (String, usize)>, BTreeMap<usize, String>) {
    let stages = graph.stages();
    let (mut linears, mut attentions) = (BTreeMap::new(), BTreeMap::new());
    for (index, node) in graph.nodes().iter().enumerate() {
        if stages[index] == Stage::Weight {
            continue;
        }
        match (&node.op, &node.label) {
            (Op::Linear, _) => {
                if let Some(named) = weight_name(graph, node.operands[1]) {
                    linears.insert(index, named);
                }
            }
            (Op::Attention(_), Some(label)) => {
                attentions.insert(index, label.to_string());
            }
            _ => {}
        }
    }
    (linears, attentions)
}

/// The module of a linear whose weight is a parameter, and the parameter's index.
fn weight_name(graph: &Graph, weight: Value) -> Option<(String, usize)> {
    let Value::Parameter(index) = weight else {
        return None;
    };
    let name = &graph.parameters()[index].name;
    let module = name.strip_suffix(".weight").unwrap_or(name);
    Some((module.to_owned(), index))
}

fn decided(
    recipe: &Recipe,
    patterns: impl Fn(&Rule) -> &[Pattern],
    name: &str,
) -> Option<Granularity> {
    let names = |rule: &&Rule| patterns(rule).iter().any(|pattern| pattern.matches(name));
    let rule = recipe.rules.iter().rev().find(names)?;
    (rule.format != Format::Kept).then_some(rule.granularity)
}

fn check<'n, N: Iterator<Item = &'n str>>(
    graph: &Graph,
    recipe: &Recipe,
    kind: &'static str,
    patterns: impl Fn(&Rule) -> &[Pattern],
    names: impl Fn() -> N,
) -> Result<()> {
    let all = recipe.rules.iter().flat_map(patterns);
    let lost: Vec<String> = all
        .filter(|pattern| !names().any(|name| pattern.matches(name)))
        .map(|pattern| format!("`{pattern}`"))
        .collect();
    if lost.is_empty() {
        return Ok(());
    }
    Err(Error::NoMatch {
        patterns: lost.join(", "),
        kind,
        graph: graph.name().to_owned(),
    })
}
