//! Which operations run together: library calls, and groups that become one kernel.
//!
//! A group has one domain, the sizes over which it runs, and perhaps row axes, over which it
//! reduces. An operation joins the groups of its operands if their domains fit and no value
//! would have to leave the group and come back. Views, concatenations and constants are no
//! work and belong to no unit.
//!
//! ```ignore
//! let units = Units::of(&graph, &shapes);
//! ```

use std::collections::{BTreeSet, HashSet};

use tintype_ir::{Binding, Graph, Op, Result, Value};
use tintype_tensor::Shape;

use super::codes::Reads;

/// The shape of every value.
pub(super) struct Shapes {
    inputs: Vec<Shape>,
    parameters: Vec<Shape>,
    nodes: Vec<Shape>,
}

impl Shapes {
    /// The shapes of a graph's values for these sizes.
    pub(super) fn of_graph(graph: &Graph, binding: &Binding) -> Result<Self> {
        let shapes = |types: Vec<&tintype_ir::TensorType>| -> Result<Vec<Shape>> {
            types.into_iter().map(|ty| ty.shape(binding)).collect()
        };
        Ok(Self {
            inputs: shapes(graph.inputs().iter().map(|input| &input.ty).collect())?,
            parameters: shapes(graph.parameters().iter().map(|given| &given.ty).collect())?,
            nodes: shapes(graph.nodes().iter().map(|node| &node.ty).collect())?,
        })
    }

    /// The shape of one value.
    pub(super) fn of(&self, value: Value) -> &Shape {
        match value {
            Value::Input(index) => &self.inputs[index],
            Value::Parameter(index) => &self.parameters[index],
            Value::Node(index) => &self.nodes[index],
        }
    }
}

/// What a unit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A kernel that is generated.
    Generated,
    /// Any other: one operation, perhaps with what its library applies to its result.
    Single,
}

/// Over which axes a group reduces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rows {
    /// It does not.
    None,
    /// These axes, ascending.
    Axes(Vec<usize>),
    /// The channels and pixels of each of so many groups of channels.
    ChannelGroups(usize),
}

/// Nodes that run together.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    pub(super) kind: Kind,
    /// Ascending, so in an order in which they can be computed.
    pub(super) nodes: BTreeSet<usize>,
    /// The sizes over which a group runs.
    pub(super) domain: Shape,
    pub(super) rows: Rows,
}

/// The units of a graph, in an order in which they can run.
pub(super) struct Units<'a> {
    graph: &'a Graph,
    reads: &'a Reads<'a>,
    formed: Vec<Option<Unit>>,
    unit_of: Vec<Option<usize>>,
    /// For each node, the nodes with a unit that it depends on, seen through all others.
    sources: Vec<Vec<usize>>,
}

impl<'a> Units<'a> {
    /// Forms the units of a graph whose nodes read this, and whose values have these shapes.
    pub(super) fn of(graph: &'a Graph, reads: &'a Reads<'a>, shapes: &Shapes) -> Vec<Unit> {
        let mut units = Self {
            graph,
            reads,
            formed: Vec::new(),
            unit_of: vec![None; graph.nodes().len()],
            sources: Vec::new(),
        };
        for index in 0..graph.nodes().len() {
            units.add(index, shapes);
        }
        units.join_siblings();
        units.ordered()
    }

    fn add(&mut self, index: usize, shapes: &Shapes) {
        let node = &self.graph.nodes()[index];
        let sources = self.sources_of(index);
        self.sources.push(sources);
        if is_no_work(&node.op) || !self.reads.needs(index) {
            return;
        }
        if let Some(product) = self.reads.layer_of(index) {
            let unit = self.unit_of[product];
            self.unit_of[index] = unit;
            self.unit_mut(unit).nodes.insert(index);
            return;
        }
        let (domain, rows) = domain_of(self.graph, index, shapes);
        let kind = if is_generated(&node.op) {
            Kind::Generated
        } else {
            Kind::Single
        };
        self.unit_of[index] = Some(self.formed.len());
        self.formed.push(Some(Unit {
            kind,
            nodes: BTreeSet::from([index]),
            domain,
            rows,
        }));
        if kind == Kind::Generated {
            self.join_operands(index);
        }
    }

    /// The nodes with a unit that a node reads, seen through views and concatenations.
    fn sources_of(&self, index: usize) -> Vec<usize> {
        let mut sources = BTreeSet::new();
        for &operand in self.reads.operands(index) {
            if let Value::Node(source) = operand {
                match self.unit_of[source] {
                    Some(_) => _ = sources.insert(source),
                    None => sources.extend(&self.sources[source]),
                }
            }
        }
        sources.into_iter().collect()
    }

    fn join_operands(&mut self, index: usize) {
        let reads = self.reads;
        for &operand in reads.operands(index) {
            let Value::Node(source) = operand else {
                continue;
            };
            let (Some(from), Some(into)) = (self.unit_of[source], self.unit_of[index]) else {
                continue;
            };
            let is_apart = |from| self.is_around(from, into) || self.is_viewed(from, into);
            if from != into && self.fit(from, into) && !is_apart(from) {
                self.join(from, into);
            }
        }
    }

    /// Groups that do the same with parts of one product: queries and keys.
    fn join_siblings(&mut self) {
        for second in 0..self.formed.len() {
            for first in 0..second {
                if self.are_siblings(first, second) {
                    self.join(first, second);
                }
            }
        }
    }

    fn are_siblings(&self, first: usize, second: usize) -> bool {
        let (Some(a), Some(b)) = (&self.formed[first], &self.formed[second]) else {
            return false;
        };
        let operations = |unit: &Unit| -> Vec<&'static str> {
            let nodes = unit.nodes.iter();
            nodes
                .map(|&node| self.graph.nodes()[node].op.name())
                .collect()
        };
        let inputs = |unit: &Unit| -> HashSet<usize> {
            let nodes = unit.nodes.iter().flat_map(|&node| &self.sources[node]);
            nodes
                .copied()
                .filter(|node| !unit.nodes.contains(node))
                .collect()
        };
        let alike = a.kind == Kind::Generated
            && b.kind == Kind::Generated
            && a.nodes.len() <= MOST_SIBLINGS
            && (a.rows != Rows::None && a.rows == b.rows && a.domain == b.domain);
        alike
            && operations(a) == operations(b)
            && !inputs(a).is_disjoint(&inputs(b))
            && !self.reaches(second, first, false)
            && !self.reaches(first, second, false)
    }

    fn fit(&self, from: usize, into: usize) -> bool {
        let (a, b) = (self.unit(from), self.unit(into));
        let same_rows = a.rows == Rows::None || b.rows == Rows::None || a.rows == b.rows;
        let last = Rows::Axes(vec![a.domain.len().saturating_sub(1)]);
        let in_order = |unit: &Unit| unit.rows == Rows::None || unit.rows == last;
        let is_rotary = |unit: &Unit| {
            let mut nodes = unit.nodes.iter();
            nodes.any(|&node| self.graph.nodes()[node].op == Op::Rotary)
        };
        let turned = is_rotary(a) || is_rotary(b);
        a.kind == Kind::Generated
            && a.domain == b.domain
            && same_rows
            && (!turned || (in_order(a) && in_order(b)))
    }

    /// Whether `into` also depends on `from` by way of other units.
    fn is_around(&self, from: usize, into: usize) -> bool {
        self.reaches(into, from, true)
    }

    /// Whether `into` also reads `from` through views: elements that another thread has.
    fn is_viewed(&self, from: usize, into: usize) -> bool {
        let inside = &self.unit(from).nodes;
        let is_view_of = |operand: &Value| match *operand {
            Value::Node(view) if self.unit_of[view].is_none() => self.sources[view]
                .iter()
                .any(|source| inside.contains(source)),
            _ => false,
        };
        let mut nodes = self.unit(into).nodes.iter();
        nodes.any(|&node| self.graph.nodes()[node].operands.iter().any(is_view_of))
    }

    /// Whether `from` depends on `target`, directly or, if that does not count, through others.
    fn reaches(&self, from: usize, target: usize, indirectly: bool) -> bool {
        let oldest = self.unit(target).nodes.first().copied();
        let mut seen = HashSet::from([from]);
        let mut open = self.needed_by(from);
        if indirectly {
            open.retain(|&unit| unit != target);
        }
        while let Some(unit) = open.pop() {
            if unit == target {
                return true;
            }
            if seen.insert(unit) && self.unit(unit).nodes.last().copied() >= oldest {
                open.extend(self.needed_by(unit));
            }
        }
        false
    }

    fn needed_by(&self, unit: usize) -> Vec<usize> {
        let nodes = self.unit(unit).nodes.iter();
        let sources = nodes.flat_map(|&node| &self.sources[node]);
        let units = sources.filter_map(|&source| self.unit_of[source]);
        let needed: BTreeSet<usize> = units.filter(|&other| other != unit).collect();
        needed.into_iter().collect()
    }

    fn join(&mut self, from: usize, into: usize) {
        let taken = self.formed[from].take().expect("a unit that is alive");
        for &node in &taken.nodes {
            self.unit_of[node] = Some(into);
        }
        let unit = self.unit_mut(Some(into));
        unit.nodes.extend(taken.nodes);
        if unit.rows == Rows::None {
            unit.rows = taken.rows;
        }
    }

    fn unit(&self, index: usize) -> &Unit {
        self.formed[index].as_ref().expect("a unit that is alive")
    }

    fn unit_mut(&mut self, index: Option<usize>) -> &mut Unit {
        let unit = index.and_then(|index| self.formed[index].as_mut());
        unit.expect("a unit that is alive")
    }

    /// The units by when their last node stands, but after all that they need.
    fn ordered(mut self) -> Vec<Unit> {
        let mut waiting: BTreeSet<(usize, usize)> = BTreeSet::new();
        for (index, unit) in self.formed.iter().enumerate() {
            let last = unit.as_ref().and_then(|unit| unit.nodes.last());
            waiting.extend(last.map(|&last| (last, index)));
        }
        let needs: Vec<Vec<usize>> = (0..self.formed.len())
            .map(|unit| {
                if self.formed[unit].is_some() {
                    self.needed_by(unit)
                } else {
                    Vec::new()
                }
            })
            .collect();
        let mut done = HashSet::new();
        let mut ordered = Vec::new();
        while !waiting.is_empty() {
            let is_ready =
                |&&(_, unit): &&(usize, usize)| needs[unit].iter().all(|need| done.contains(need));
            let next = *waiting
                .iter()
                .find(is_ready)
                .expect("units without a cycle");
            waiting.remove(&next);
            done.insert(next.1);
            ordered.extend(self.formed[next.1].take());
        }
        ordered
    }
}

/// Groups of more nodes than this have work enough of their own.
const MOST_SIBLINGS: usize = 8;

/// What changes or names a view.
fn is_no_work(op: &Op) -> bool {
    matches!(
        op,
        Op::Constant(_)
            | Op::Reshape { .. }
            | Op::Broadcast { .. }
            | Op::Transpose { .. }
            | Op::Slice { .. }
            | Op::Concat { .. }
            | Op::Gather { .. }
            | Op::GatherRows
            | Op::UpsampleNearest { .. }
    )
}

fn is_generated(op: &Op) -> bool {
    matches!(
        op,
        Op::Iota { .. }
            | Op::Unary(_)
            | Op::Binary(_)
            | Op::Select
            | Op::Cast { .. }
            | Op::Clamp { .. }
            | Op::Reduce { .. }
            | Op::Softmax
            | Op::LayerNorm { .. }
            | Op::RmsNorm { .. }
            | Op::GroupNorm { .. }
            | Op::Modulate
            | Op::GatedResidual
            | Op::Rotary
    )
}

fn domain_of(graph: &Graph, index: usize, shapes: &Shapes) -> (Shape, Rows) {
    let shape = shapes.of(Value::Node(index)).clone();
    let last = || Rows::Axes(vec![shape.len().saturating_sub(1)]);
    match &graph.nodes()[index].op {
        Op::Reduce { axes, .. } => {
            let source = graph.nodes()[index].operands[0];
            (shapes.of(source).clone(), Rows::Axes(axes.clone()))
        }
        Op::Softmax | Op::LayerNorm { .. } | Op::RmsNorm { .. } => (shape.clone(), last()),
        Op::GroupNorm { groups, .. } => (shape, Rows::ChannelGroups(*groups)),
        _ => (shape, Rows::None),
    }
}
