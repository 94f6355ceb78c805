//! A hash of what a graph computes.

use std::collections::BTreeSet;
use std::fmt;

use crate::passes::canonical;
use crate::text::{Attribute, attributes};
use crate::{Graph, Node, Symbol, TensorType, Value};

/// A hash over operations, attributes, edges, types, ranges of symbols, and the names of inputs,
/// parameters and outputs.
///
/// It does not depend on the numbers of values, the order of independent nodes or of inputs,
/// parameters and outputs, on what no output needs (beside inputs), on labels, or on the graph's
/// name. So a program of a [`StagedGraph`](crate::StagedGraph) keeps its hash while the weight
/// program changes. It is the same on every machine.
///
/// ```
/// let graph = |text: &str| tintype_ir::parse(text).unwrap();
/// let hash = graph("graph a { input step %x: f32[2] %0: f32[2] = neg %x output y = %0 }").hash();
/// let dead = "graph b { input step %x: f32[2] %0: f32[2] = exp %x %1: f32[2] = neg %x output y = %1 }";
/// assert_eq!(graph(dead).hash(), hash);
/// let other = "graph a { input step %x: f32[2] %0: f32[2] = abs %x output y = %0 }";
/// assert_ne!(graph(other).hash(), hash);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GraphHash([u8; 32]);

impl GraphHash {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for GraphHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for GraphHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GraphHash({self})")
    }
}

impl Graph {
    /// The hash of what the graph computes; see [`GraphHash`].
    pub fn hash(&self) -> GraphHash {
        let graph = canonical(self);
        let mut hasher = Hasher::new();
        hasher.symbols(&graph);
        let mut inputs: Vec<_> = graph.inputs.iter().collect();
        inputs.sort_by(|a, b| a.name.cmp(&b.name));
        hasher.count(inputs.len());
        for input in inputs {
            hasher.text(input.stage.name());
            hasher.text(&input.name);
            hasher.ty(&input.ty);
        }
        hasher.count(graph.parameters.len());
        for parameter in &graph.parameters {
            hasher.text(&parameter.name);
            hasher.ty(&parameter.ty);
        }
        hasher.count(graph.nodes.len());
        for node in &graph.nodes {
            hasher.node(&graph, node);
        }
        let mut outputs: Vec<_> = graph.outputs.iter().collect();
        outputs.sort_by(|a, b| a.name.cmp(&b.name));
        hasher.count(outputs.len());
        for output in outputs {
            hasher.text(&output.name);
            hasher.value(&graph, output.value);
        }
        GraphHash(*hasher.0.finalize().as_bytes())
    }
}

/// Writes so that no two different graphs give the same bytes: texts carry their length, lists
/// their count.
struct Hasher(blake3::Hasher);

impl Hasher {
    fn new() -> Self {
        let mut hasher = Self(blake3::Hasher::new());
        hasher.text(VERSION);
        hasher
    }

    fn number(&mut self, number: u64) {
        self.0.update(&number.to_le_bytes());
    }

    fn count(&mut self, count: usize) {
        self.number(count as u64);
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.0.update(text.as_bytes());
    }

    fn ty(&mut self, ty: &TensorType) {
        self.text(&ty.to_string());
    }

    /// Those that occur, with their ranges.
    fn symbols(&mut self, graph: &Graph) {
        let nodes = graph.nodes.iter().map(|node| &node.ty);
        let inputs = graph.inputs.iter().map(|input| &input.ty);
        // Attributes hold no symbol that the types around them do not.
        let occurring: BTreeSet<&Symbol> = nodes
            .chain(inputs)
            .flat_map(|ty| &ty.dims)
            .flat_map(crate::Dim::symbols)
            .collect();
        self.count(occurring.len());
        for symbol in occurring {
            self.text(symbol);
            let range = graph.symbols.get(symbol);
            self.count(range.map_or(0, |range| *range.start()));
            self.count(range.map_or(0, |range| *range.end()));
        }
    }

    fn node(&mut self, graph: &Graph, node: &Node) {
        self.text(node.op.name());
        self.ty(&node.ty);
        let attributes = attributes(&node.op);
        self.count(attributes.len());
        for (name, attribute) in &attributes {
            self.text(name);
            self.attribute(attribute);
        }
        self.count(node.operands.len());
        for &operand in &node.operands {
            self.value(graph, operand);
        }
    }

    /// An input by its name, since the order of inputs does not matter; all else by its number
    /// in the canonical order.
    fn value(&mut self, graph: &Graph, value: Value) {
        match value {
            Value::Input(index) => {
                self.text("input");
                self.text(&graph.inputs[index].name);
            }
            Value::Parameter(index) => {
                self.text("parameter");
                self.count(index);
            }
            Value::Node(index) => {
                self.text("node");
                self.count(index);
            }
        }
    }

    fn attribute(&mut self, attribute: &Attribute) {
        match attribute {
            Attribute::Integer(value) => {
                self.text("integer");
                self.number(*value as u64);
            }
            Attribute::Float(value) => {
                self.text("float");
                self.number(u64::from(value.to_bits()));
            }
            Attribute::Bool(value) => self.text(if *value { "true" } else { "false" }),
            Attribute::Dim(dim) => {
                self.text("dimension");
                self.text(&dim.to_string());
            }
            Attribute::Integers(values) => {
                self.text("integers");
                self.count(values.len());
                for &value in values {
                    self.number(value as u64);
                }
            }
            Attribute::Floats(values) => {
                self.text("floats");
                self.count(values.len());
                for value in values {
                    self.number(u64::from(value.to_bits()));
                }
            }
        }
    }
}

/// Changes whenever the bytes that are hashed do.
const VERSION: &str = "tintype graph 1";
