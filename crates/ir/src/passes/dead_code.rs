//! Removes nodes and parameters that no output needs.
//!
//! Inputs stay, used or not: the caller gives them, and they bind symbols.

use super::Pass;
use crate::{Graph, Result, Value};

/// [`dead_code`] as a pass.
#[derive(Debug, Clone, Copy)]
pub struct DeadCode;

impl Pass for DeadCode {
    fn name(&self) -> &'static str {
        "dead_code"
    }

    fn run(&self, graph: &Graph) -> Result<Graph> {
        Ok(dead_code(graph))
    }
}

/// The graph without nodes and parameters that no output reaches.
pub fn dead_code(graph: &Graph) -> Graph {
    let (nodes, parameters) = reached(graph);
    let mut result = Graph {
        parameters: Vec::new(),
        nodes: Vec::new(),
        ..graph.clone()
    };
    let parameters = renumbered(&parameters);
    let nodes = renumbered(&nodes);
    let moved = |value: Value| match value {
        Value::Parameter(index) => Value::Parameter(parameters[index]),
        Value::Node(index) => Value::Node(nodes[index]),
        input @ Value::Input(_) => input,
    };
    let kept = |numbers: &[usize], index: usize| numbers[index] != usize::MAX;
    for (index, parameter) in graph.parameters.iter().enumerate() {
        if kept(&parameters, index) {
            result.parameters.push(parameter.clone());
        }
    }
    for (index, node) in graph.nodes.iter().enumerate() {
        if kept(&nodes, index) {
            let mut node = node.clone();
            node.operands
                .iter_mut()
                .for_each(|value| *value = moved(*value));
            result.nodes.push(node);
        }
    }
    for output in &mut result.outputs {
        output.value = moved(output.value);
    }
    result
}

/// Which nodes and which parameters an output reaches.
pub(crate) fn reached(graph: &Graph) -> (Vec<bool>, Vec<bool>) {
    let mut nodes = vec![false; graph.nodes.len()];
    let mut parameters = vec![false; graph.parameters.len()];
    let mut mark = |value: Value, nodes: &mut [bool]| match value {
        Value::Node(index) => nodes[index] = true,
        Value::Parameter(index) => parameters[index] = true,
        Value::Input(_) => {}
    };
    for output in &graph.outputs {
        mark(output.value, &mut nodes);
    }
    for index in (0..graph.nodes.len()).rev() {
        if nodes[index] {
            for &operand in &graph.nodes[index].operands {
                mark(operand, &mut nodes);
            }
        }
    }
    (nodes, parameters)
}

/// The new number of each thing that is kept, `usize::MAX` for the others.
fn renumbered(kept: &[bool]) -> Vec<usize> {
    let mut next = 0;
    let number = |&kept: &bool| {
        next += usize::from(kept);
        if kept { next - 1 } else { usize::MAX }
    };
    kept.iter().map(number).collect()
}
