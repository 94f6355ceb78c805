//! Computes equal things once.
//!
//! Two nodes are equal if operation, attributes, operands and type are; operands of
//! commutative operations may change places. Labels do not tell nodes apart: the
//! first one's stays.

use std::collections::HashMap;

use super::{Pass, Rewriter};
use crate::{Graph, Node, Op, Result, Value};

/// [`common_subexpressions`] as a pass.
#[derive(Debug, Clone, Copy)]
pub struct CommonSubexpressions;

impl Pass for CommonSubexpressions {
    fn name(&self) -> &'static str {
        "common_subexpressions"
    }

    fn run(&self, graph: &Graph) -> Result<Graph> {
        common_subexpressions(graph)
    }
}

/// The graph with each node that repeats an earlier one left out.
pub fn common_subexpressions(graph: &Graph) -> Result<Graph> {
    // Attributes hold floats and cannot be hashed: nodes are found by name and operands, and
    // then compared. Constants have neither, so their types tell them apart.
    let mut seen: HashMap<Key, Vec<(usize, Value)>> = HashMap::new();
    Rewriter::rewrite(graph, |rewriter, index, node| {
        let key = key(rewriter, node);
        let earlier = seen.entry(key).or_default();
        let equal = |&&(other, _): &&(usize, Value)| {
            let other = &graph.nodes[other];
            other.op == node.op && other.ty == node.ty
        };
        if let Some(&(_, value)) = earlier.iter().find(equal) {
            return Ok(Some(value));
        }
        let operands: Vec<Value> = node.operands.iter().map(|&v| rewriter.map(v)).collect();
        let value = rewriter.op(node.op.clone(), &operands)?;
        earlier.push((index, value));
        Ok(Some(value))
    })
}

/// Operation and type, and operands of the new graph.
type Key = (String, Vec<Value>);

fn key(rewriter: &Rewriter, node: &Node) -> Key {
    let mut operands: Vec<Value> = node.operands.iter().map(|&v| rewriter.map(v)).collect();
    if matches!(&node.op, Op::Binary(op) if op.is_commutative()) {
        operands.sort_unstable();
    }
    (format!("{} {}", node.op.name(), node.ty), operands)
}
