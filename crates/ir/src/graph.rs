//! The graph: inputs, parameters, nodes in execution order, outputs.
//!
//! Nodes are stored in an order in which every operand comes before its use, and
//! are never changed in place: a pass builds a new graph (see
//! [`Rewriter`](crate::passes::Rewriter)). Each node has one result.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::{Dim, Op, Stage, Symbol, TensorType};

/// A value of a graph: where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Value {
    /// The input at this index.
    Input(usize),
    /// The parameter at this index.
    Parameter(usize),
    /// The result of the node at this index.
    Node(usize),
}

/// A value that the caller gives at each run of its stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// Its name, unique among inputs.
    pub name: String,
    /// When it is known: request or step.
    pub stage: Stage,
    /// Its type; dimensions may hold symbols.
    pub ty: TensorType,
}

/// A named weight. Its type has no symbols.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Its name in the checkpoint, unique among parameters.
    pub name: String,
    /// Its type in this graph.
    pub ty: TensorType,
}

/// One operation.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What it computes.
    pub op: Op,
    /// What it reads.
    pub operands: Vec<Value>,
    /// The type of its result.
    pub ty: TensorType,
    /// The module it belongs to, for example `transformer_blocks.0.attn.to_q`.
    /// Names of weights in the engine come from here.
    pub label: Option<Arc<str>>,
}

/// A named result.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Its name, unique among outputs.
    pub name: String,
    /// The value.
    pub value: Value,
}

/// A graph. Made by a [`GraphBuilder`](crate::GraphBuilder), a pass or the parser.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Graph {
    pub(crate) name: String,
    pub(crate) symbols: BTreeMap<Symbol, RangeInclusive<usize>>,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) inputs: Vec<Input>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) outputs: Vec<Output>,
}

impl Graph {
    /// The graph's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The symbols with their ranges.
    pub fn symbols(&self) -> &BTreeMap<Symbol, RangeInclusive<usize>> {
        &self.symbols
    }

    /// The parameters, in order of declaration.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The inputs, in order of declaration.
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// The nodes, operands before uses.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The outputs, in order of declaration.
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// The parameter of this name.
    pub fn parameter(&self, name: &str) -> Option<&Parameter> {
        self.parameters
            .iter()
            .find(|parameter| parameter.name == name)
    }

    /// The type of a value of this graph.
    pub fn type_of(&self, value: Value) -> &TensorType {
        match value {
            Value::Input(index) => &self.inputs[index].ty,
            Value::Parameter(index) => &self.parameters[index].ty,
            Value::Node(index) => &self.nodes[index].ty,
        }
    }

    /// The node that makes a value, if one does.
    pub fn node_of(&self, value: Value) -> Option<&Node> {
        match value {
            Value::Node(index) => Some(&self.nodes[index]),
            _ => None,
        }
    }

    /// The stage of every node.
    ///
    /// A node has the latest stage of its operands. A result whose dimensions
    /// hold symbols is known no earlier than the inputs that bind them: at the
    /// request, or at the step for a symbol that only step inputs bind.
    pub fn stages(&self) -> Vec<Stage> {
        let bound = self.symbol_stages();
        let mut stages: Vec<Stage> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let symbols = node.ty.dims.iter().flat_map(Dim::symbols);
            let known = symbols.map(|symbol| bound.get(symbol).copied().unwrap_or(Stage::Request));
            let least = known.fold(Stage::Weight, Stage::max);
            let stage = node
                .operands
                .iter()
                .map(|&operand| self.stage_of(operand, &stages))
                .fold(least, Stage::max);
            stages.push(stage);
        }
        stages
    }

    /// The first stage at which an input binds each symbol.
    fn symbol_stages(&self) -> BTreeMap<&Symbol, Stage> {
        let mut stages = BTreeMap::new();
        for input in &self.inputs {
            for symbol in input.ty.dims.iter().filter_map(Dim::as_symbol) {
                let stage = stages.entry(symbol).or_insert(input.stage);
                *stage = input.stage.min(*stage);
            }
        }
        stages
    }

    /// The stage of a value, given the stages of the nodes.
    pub fn stage_of(&self, value: Value, stages: &[Stage]) -> Stage {
        match value {
            Value::Input(index) => self.inputs[index].stage,
            Value::Parameter(_) => Stage::Weight,
            Value::Node(index) => stages[index],
        }
    }

    /// How often each node's result is read, by nodes and outputs.
    pub fn use_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.nodes.len()];
        let operands = self.nodes.iter().flat_map(|node| &node.operands);
        let outputs = self.outputs.iter().map(|output| &output.value);
        for value in operands.chain(outputs) {
            if let Value::Node(index) = *value {
                counts[index] += 1;
            }
        }
        counts
    }
}
