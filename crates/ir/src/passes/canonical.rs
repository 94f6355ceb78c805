//! Brings nodes and parameters into an order that follows from what they compute.
//!
//! Two graphs that differ in the numbers of their values, in the order of independent nodes, or
//! in what no output needs, have one canonical form. Names that are counted, those of weights
//! without a label and of what a request hands to the step, are then the same too.

use super::Pass;
use crate::{Graph, Value};

/// [`canonical`] as a pass.
#[derive(Debug, Clone, Copy)]
pub struct Canonical;

impl Pass for Canonical {
    fn name(&self) -> &'static str {
        "canonical"
    }

    fn run(&self, graph: &Graph) -> crate::Result<Graph> {
        Ok(canonical(graph))
    }
}

/// The graph with its nodes as a walk from the outputs, by their names, meets them: the operands
/// of a node one after the other, then the node. Inputs and outputs stay in their order.
pub fn canonical(graph: &Graph) -> Graph {
    let mut walk = Walk {
        graph,
        nodes: vec![None; graph.nodes.len()],
        parameters: vec![None; graph.parameters.len()],
        result: Graph {
            parameters: Vec::new(),
            nodes: Vec::new(),
            ..graph.clone()
        },
    };
    let mut outputs: Vec<_> = graph.outputs.iter().collect();
    outputs.sort_by(|a, b| a.name.cmp(&b.name));
    for output in outputs {
        walk.reach(output.value);
    }
    let mut result = std::mem::take(&mut walk.result);
    for output in &mut result.outputs {
        output.value = walk.moved(output.value);
    }
    result
}

struct Walk<'a> {
    graph: &'a Graph,
    /// The new number of each node that was met.
    nodes: Vec<Option<usize>>,
    /// The new number of each parameter that was met.
    parameters: Vec<Option<usize>>,
    result: Graph,
}

impl Walk<'_> {
    /// Adds what `value` needs and is. The stack is one of our own: a graph may be as deep as
    /// it likes.
    fn reach(&mut self, value: Value) {
        let mut stack = vec![(value, false)];
        while let Some((value, is_ready)) = stack.pop() {
            match value {
                Value::Input(_) => {}
                Value::Parameter(index) => self.add_parameter(index),
                Value::Node(index) if self.nodes[index].is_some() => {}
                Value::Node(index) if is_ready => self.add_node(index),
                Value::Node(index) => {
                    stack.push((value, true));
                    let operands = self.graph.nodes[index].operands.iter().rev();
                    stack.extend(operands.map(|&operand| (operand, false)));
                }
            }
        }
    }

    fn add_parameter(&mut self, index: usize) {
        if self.parameters[index].is_none() {
            self.parameters[index] = Some(self.result.parameters.len());
            let parameter = self.graph.parameters[index].clone();
            self.result.parameters.push(parameter);
        }
    }

    fn add_node(&mut self, index: usize) {
        let mut node = self.graph.nodes[index].clone();
        for operand in &mut node.operands {
            *operand = self.moved(*operand);
        }
        self.nodes[index] = Some(self.result.nodes.len());
        self.result.nodes.push(node);
    }

    fn moved(&self, value: Value) -> Value {
        match value {
            Value::Input(_) => value,
            Value::Parameter(index) => {
                Value::Parameter(self.parameters[index].expect("met before its use"))
            }
            Value::Node(index) => Value::Node(self.nodes[index].expect("met before its use")),
        }
    }
}
