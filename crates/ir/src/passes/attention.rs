//! `attention` from its two products and the softmax between them.
//!
//! Exported graphs compute on `[b, h, s, d]` and transpose before and after; the
//! operation takes `[b, s, h, d]`. The fusion puts transposes around it, which
//! [`simplify`](super::simplify) joins with those of the graph. Three axes are one head.

use super::fusion::{Fused, Operand, fusion_pass};
use super::matcher::{Factor, Matcher};
use crate::{Attention, BinaryOp, Dim, Node, Op, TensorType, Value};

fusion_pass! {
    /// `softmax(scale · q · kᵀ (+ bias, or causal)) · v`.
    FuseAttention, "attention", find
}

/// What the scores of an attention are made of.
struct Scores {
    /// `[.., queries, d]`
    query: Value,
    /// `[.., d, keys]`
    key_transposed: Value,
    scale: f32,
    bias: Option<Value>,
    causal: bool,
}

fn find(matcher: &mut Matcher, root: usize) -> Option<Fused> {
    let node = matcher.node(root);
    let (Op::MatMul, &[weights, value]) = (&node.op, node.operands.as_slice()) else {
        return None;
    };
    let softmax = matcher.inner(weights)?;
    if softmax.op != Op::Softmax {
        return None;
    }
    let scores = scores(matcher, softmax.operands[0])?;
    let attributes = Attention {
        scale: scores.scale,
        causal: scores.causal,
    };
    let rank = node.ty.rank();
    let dims = |value: Value| matcher.type_of(value).dims.as_slice();
    let mut operands = vec![
        Operand::with(scores.query, to_heads(rank, dims(scores.query), false)?),
        Operand::with(
            scores.key_transposed,
            to_heads(rank, dims(scores.key_transposed), true)?,
        ),
        Operand::with(value, to_heads(rank, dims(value), false)?),
    ];
    if let Some(bias) = scores.bias {
        operands.push(Operand::with(
            bias,
            bias_steps(matcher.type_of(bias), softmax)?,
        ));
    }
    Some(Fused {
        op: Op::Attention(attributes),
        operands,
        after: from_heads(&node.ty),
    })
}

/// What brings `[b, h, s, d]` (or `[b, h, d, s]`, or either without `h`) to `[b, s, h, d]`.
fn to_heads(rank: usize, dims: &[Dim], transposed: bool) -> Option<Vec<Op>> {
    if dims.len() != rank {
        return None;
    }
    let transpose = |permutation: &[usize]| Op::Transpose {
        permutation: permutation.to_vec(),
    };
    match (dims, transposed) {
        ([_, _, _, _], false) => Some(vec![transpose(&[0, 2, 1, 3])]),
        ([_, _, _, _], true) => Some(vec![transpose(&[0, 3, 1, 2])]),
        ([b, s, d], false) => Some(vec![one_head(b, s, d)]),
        ([b, d, s], true) => Some(vec![transpose(&[0, 2, 1]), one_head(b, s, d)]),
        _ => None,
    }
}

fn one_head(b: &Dim, s: &Dim, d: &Dim) -> Op {
    Op::Reshape {
        dims: vec![b.clone(), s.clone(), Dim::from(1), d.clone()],
    }
}

fn from_heads(result: &TensorType) -> Vec<Op> {
    if result.rank() == 3 {
        return vec![Op::Reshape {
            dims: result.dims.clone(),
        }];
    }
    vec![Op::Transpose {
        permutation: vec![0, 2, 1, 3],
    }]
}

/// Brings a bias to four axes, the last two of them whole.
fn bias_steps(bias: &TensorType, softmax: &Node) -> Option<Vec<Op>> {
    let scores = &softmax.ty.dims;
    let mut dims = bias.dims.clone();
    while dims.len() < scores.len() {
        dims.insert(0, Dim::from(1));
    }
    if scores.len() == 3 {
        dims.insert(1, Dim::from(1));
    }
    let reshape = (dims != bias.dims).then(|| Op::Reshape { dims: dims.clone() });
    let mut whole = dims.clone();
    let last = scores.len().checked_sub(2)?;
    whole.get_mut(2..)?.clone_from_slice(&scores[last..]);
    let broadcast = (whole != dims).then_some(Op::Broadcast { dims: whole });
    Some(reshape.into_iter().chain(broadcast).collect())
}

fn scores(matcher: &mut Matcher, value: Value) -> Option<Scores> {
    if let Some(masked) = matcher.attempt(|m| causal(m, value)) {
        let mut scores = scores_with_bias(matcher, masked)?;
        scores.causal = true;
        return Some(scores);
    }
    scores_with_bias(matcher, value)
}

fn scores_with_bias(matcher: &mut Matcher, value: Value) -> Option<Scores> {
    let plain = matcher.attempt(|m| scaled_product(m, value));
    if plain.is_some() {
        return plain;
    }
    let [a, b] = matcher.addends(value)?;
    let (mut scores, bias) = [(a, b), (b, a)].into_iter().find_map(|(product, bias)| {
        let found = matcher.attempt(|m| scaled_product(m, product));
        found.map(|scores| (scores, bias))
    })?;
    scores.bias = Some(bias);
    Some(scores)
}

/// `scale · (q · kᵀ)`, with the number before or after the product.
fn scaled_product(matcher: &mut Matcher, value: Value) -> Option<Scores> {
    let product = matcher.product(value);
    let [Factor::Value(product_value)] = product.factors[..] else {
        return None;
    };
    let node = matcher.inner(product_value)?;
    let (Op::MatMul, &[query, key]) = (&node.op, node.operands.as_slice()) else {
        return None;
    };
    let (query_scale, query) = without_scale(matcher, query);
    let (key_scale, key_transposed) = without_scale(matcher, key);
    let scale = product.scale * query_scale * key_scale;
    scale.is_finite().then_some(Scores {
        query,
        key_transposed,
        scale,
        bias: None,
        causal: false,
    })
}

/// The number that an operand of the first product is multiplied by, and the rest.
fn without_scale(matcher: &mut Matcher, value: Value) -> (f32, Value) {
    let found = matcher.attempt(|m| {
        let product = m.product(value);
        match product.factors[..] {
            [Factor::Value(rest)] if product.scale != 1.0 => Some((product.scale, rest)),
            _ => None,
        }
    });
    found.unwrap_or((1.0, value))
}

/// `select(query position < key position, −∞, scores)`: gives the scores. The condition
/// is shared by all attentions of a graph and so no inner node.
fn causal(matcher: &mut Matcher, value: Value) -> Option<Value> {
    let node = matcher.inner(value)?;
    let (Op::Select, &[condition, hidden, scores]) = (&node.op, node.operands.as_slice()) else {
        return None;
    };
    let condition = matcher.graph.node_of(condition)?;
    let Op::Binary(BinaryOp::Less) = condition.op else {
        return None;
    };
    let counts = |operand: Value, from_last: usize| {
        let node = matcher.graph.node_of(operand);
        let axis = node.map(|node| (&node.op, node.ty.rank()));
        matches!(axis, Some((Op::Iota { axis, .. }, rank)) if axis + from_last == rank)
    };
    let rows_below_columns = counts(condition.operands[0], 2) && counts(condition.operands[1], 1);
    let hides = matcher.scalar(hidden) == Some(f32::NEG_INFINITY);
    (rows_below_columns && hides).then_some(scores)
}
