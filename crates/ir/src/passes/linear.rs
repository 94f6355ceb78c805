//! `linear` from a product with a weight and the addition of a bias.
//!
//! A weight that stands transposed in the graph loses its transpose; one that stands
//! as `[in, out]` gets one, in the weight program. Weight and bias must be values of
//! the weight stage: a product of two activations stays a `matmul`.

use super::fusion::{Fused, Operand, fusion_pass};
use super::matcher::Matcher;
use super::norms::vector_of;
use crate::{BinaryOp, Node, Op, Stage, Value};

fusion_pass! {
    /// `x · weightᵀ (+ bias)`.
    FuseLinear, "linear", find
}

fn find(matcher: &mut Matcher, root: usize) -> Option<Fused> {
    let node = matcher.node(root);
    match (&node.op, node.operands.as_slice()) {
        (Op::MatMul, _) => product(matcher, node),
        (Op::Binary(BinaryOp::Add), &[a, b]) => [(a, b), (b, a)]
            .into_iter()
            .find_map(|(product, bias)| matcher.attempt(|m| with_bias(m, node, product, bias))),
        _ => None,
    }
}

/// A linear without bias, from `matmul` or from `linear` itself.
fn product(matcher: &mut Matcher, node: &Node) -> Option<Fused> {
    let (x, weight) = (*node.operands.first()?, *node.operands.get(1)?);
    if node.op == Op::Linear {
        let bare = node.operands.len() == 2;
        return bare.then(|| Fused::new(Op::Linear, [x, weight]));
    }
    let is_weight = matcher.stage_of(weight) == Stage::Weight
        && matcher.type_of(weight).rank() == 2
        && matcher.stage_of(x) != Stage::Weight;
    if node.op != Op::MatMul || !is_weight {
        return None;
    }
    let flipped = || Op::Transpose {
        permutation: vec![1, 0],
    };
    // The transpose may be shared, by a weight that two products use: it is no inner node.
    let weight = match matcher.graph.node_of(matcher.peel(weight)) {
        Some(inner) if inner.op == flipped() => Operand::from(inner.operands[0]),
        _ => Operand::with(weight, [flipped()]),
    };
    Some(Fused {
        op: Op::Linear,
        operands: vec![x.into(), weight],
        after: Vec::new(),
    })
}

fn with_bias(matcher: &mut Matcher, root: &Node, value: Value, bias: Value) -> Option<Fused> {
    if matcher.stage_of(bias) != Stage::Weight {
        return None;
    }
    let node = matcher.inner(value)?;
    let mut fused = product(matcher, node)?;
    let bias = matcher.peel(bias);
    fused
        .operands
        .push(vector_of(matcher, bias, root.ty.dims.last()?)?);
    Some(fused)
}
