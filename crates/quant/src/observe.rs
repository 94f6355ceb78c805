//! The pass that adds outputs for what calibration looks at.
//!
//! Absolute maxima are computed in the graph: all of a stage leave it as one vector, whatever
//! the backend. Methods that need more than a maximum get the values themselves.

use std::collections::{BTreeSet, HashMap};

use tintype_backend::Tensors;
use tintype_ir::{Graph, GraphBuilder, Stage, Value};
use tintype_tensor::{DType, Tensor};

use crate::Result;
use crate::insert::ATTENTION_PARTS;
use crate::rebuild::{Rebuild, absolute_maximum, all_axes};
use crate::sites::{SiteKind, Sites};

/// A graph with outputs for what is observed.
pub(crate) struct Observed {
    pub(crate) graph: Graph,
    /// Names of what is observed at the request and at a step.
    points: [Vec<String>; 2],
    with_values: bool,
}

/// What is observed: its name and its value in the graph.
type Point = (String, Value);

impl Observed {
    /// `graph` with outputs for all that the scales of `sites` follow from; with the values
    /// themselves if `with_values`.
    pub(crate) fn new(graph: &Graph, sites: &Sites, with_values: bool) -> Result<Self> {
        let mut rebuild = Rebuild::new(graph, &BTreeSet::new());
        let mut nodes = Vec::with_capacity(graph.nodes().len());
        for index in 0..graph.nodes().len() {
            let operands = rebuild.operands(index, &nodes);
            nodes.push(rebuild.copy(index, &operands));
        }
        rebuild.outputs(&nodes);
        let stages = graph.stages();
        let mut points = [Vec::new(), Vec::new()];
        for (name, value) in points_of(graph, sites) {
            let is_step = graph.stage_of(value, &stages) == Stage::Step;
            points[usize::from(is_step)].push((name, rebuild.value(value, &nodes)));
        }
        for (output, points) in OUTPUTS.iter().zip(&points) {
            if !with_values && !points.is_empty() {
                let maxima = maxima(&mut rebuild.b, points);
                rebuild.b.output(output, maxima);
            }
            for (name, value) in points.iter().filter(|_| with_values) {
                let value = rebuild.b.cast(*value, DType::F32);
                rebuild.b.output(&format!("{PREFIX}{name}"), value);
            }
        }
        Ok(Self {
            graph: rebuild.finish()?,
            points: points.map(|points| points.into_iter().map(|point| point.0).collect()),
            with_values,
        })
    }

    /// How many values are observed.
    pub(crate) fn len(&self) -> usize {
        self.points.iter().map(Vec::len).sum()
    }

    /// What was observed at a moment: each name with its maximum, or with its values.
    pub(crate) fn read(&self, is_step: bool, outputs: &Tensors) -> Result<Vec<(&str, Tensor)>> {
        let names = &self.points[usize::from(is_step)];
        if names.is_empty() {
            return Ok(Vec::new());
        }
        if self.with_values {
            let mut all = Vec::with_capacity(names.len());
            for name in names {
                let values = outputs.host(&format!("{PREFIX}{name}"))?;
                all.push((name.as_str(), values));
            }
            return Ok(all);
        }
        let maxima = outputs.host(OUTPUTS[usize::from(is_step)])?.to_f32_vec()?;
        let maxima = maxima.into_iter().map(Tensor::scalar);
        Ok(names.iter().map(String::as_str).zip(maxima).collect())
    }
}

/// All values that scales follow from, in the order of execution.
fn points_of(graph: &Graph, sites: &Sites) -> Vec<Point> {
    let mut points = Vec::new();
    for (index, site) in sites.iter() {
        let operands = &graph.nodes()[index].operands;
        match site.kind {
            SiteKind::Linear { granularity, .. } if granularity.has_static_input() => {
                points.push((format!("{}.input", site.name), operands[0]));
            }
            SiteKind::Linear { .. } => {}
            SiteKind::Attention => {
                for (part, &operand) in ATTENTION_PARTS.iter().zip(operands) {
                    points.push((format!("{}.{part}", site.name), operand));
                }
            }
        }
    }
    points
}

/// One vector of the absolute maxima; what several layers read is reduced once.
fn maxima(b: &mut GraphBuilder, points: &[Point]) -> Value {
    let mut known: HashMap<Value, Value> = HashMap::new();
    let mut parts = Vec::with_capacity(points.len());
    for &(_, value) in points {
        parts.push(*known.entry(value).or_insert_with(|| {
            let axes = all_axes(b, value);
            let maximum = absolute_maximum(b, value, &axes);
            b.reshape(maximum, [1usize])
        }));
    }
    b.concat(0, &parts)
}

/// The names of all scales that a graph of these sites needs.
pub(crate) fn names_of(graph: &Graph, sites: &Sites) -> BTreeSet<String> {
    let points = points_of(graph, sites).into_iter();
    points.map(|point| point.0).collect()
}

/// The outputs of the request and of a step.
const OUTPUTS: [&str; 2] = ["observed.request", "observed.step"];
const PREFIX: &str = "observed.";
