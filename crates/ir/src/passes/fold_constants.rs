//! Evaluates what depends on constants alone.
//!
//! Only small results are folded, so that a graph stays a text that can be read and
//! a plan stays without weights. Parameters are never folded: they may change.

use std::collections::HashMap;

use super::{Pass, Rewriter};
use crate::{Constant, Evaluator, Graph, Node, Op, Result, TensorType, Value};

/// The most elements that a folded result, or a constant that it is computed from, has.
pub const FOLD_LIMIT: usize = 4096;

/// [`fold_constants`] as a pass.
#[derive(Clone, Copy)]
pub struct FoldConstants<'e> {
    /// Computes the operations.
    pub evaluator: &'e dyn Evaluator,
}

impl std::fmt::Debug for FoldConstants<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FoldConstants")
    }
}

impl Pass for FoldConstants<'_> {
    fn name(&self) -> &'static str {
        "fold_constants"
    }

    fn run(&self, graph: &Graph) -> Result<Graph> {
        fold_constants(graph, self.evaluator)
    }
}

/// The graph with every small result of constants written as a constant.
///
/// # Errors
/// What the evaluator says of an operation that it cannot compute.
pub fn fold_constants(graph: &Graph, evaluator: &dyn Evaluator) -> Result<Graph> {
    let mut constants: HashMap<Value, Constant> = HashMap::new();
    Rewriter::rewrite(graph, |rewriter, _, node| {
        if let Op::Constant(constant) = &node.op {
            let value = rewriter.op(node.op.clone(), &[])?;
            constants.insert(value, constant.clone());
            return Ok(Some(value));
        }
        let operands: Option<Vec<&Constant>> = node
            .operands
            .iter()
            .map(|&operand| constants.get(&rewriter.map(operand)))
            .collect();
        let Some(operands) = operands.filter(|operands| foldable(node, operands)) else {
            return Ok(None);
        };
        let tensors: Result<Vec<_>> = operands
            .iter()
            .map(|constant| constant.to_tensor())
            .collect();
        let result = evaluator.evaluate(&node.op, &tensors?, &node.ty)?;
        let constant = Constant::from_tensor(&result)?;
        let value = rewriter.op(Op::Constant(constant.clone()), &[])?;
        constants.insert(value, constant);
        Ok(Some(value))
    })
}

fn foldable(node: &Node, operands: &[&Constant]) -> bool {
    let types = operands.iter().map(|constant| constant.ty());
    // What counts positions stays: a causal mask is known by it.
    !operands.is_empty() && types.chain([&node.ty]).all(is_small)
}

fn is_small(ty: &TensorType) -> bool {
    let count = ty.static_shape().and_then(|shape| shape.checked_len().ok());
    count.is_some_and(|count| count <= FOLD_LIMIT)
}
