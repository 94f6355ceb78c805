//! `modulate` and `gated_residual`: what surrounds the halves of a transformer block.

use super::fusion::{Fused, fusion_pass};
use super::matcher::Matcher;
use crate::{BinaryOp, Dim, Op, Value, broadcast_dims};

fusion_pass! {
    /// `x · (1 + scale) + shift`.
    FuseModulate, "modulate", modulate
}
fusion_pass! {
    /// `residual + gate · x`, where the gate is repeated over some axis of `x`: that
    /// tells it apart from any other product that is added.
    FuseGatedResidual, "gated_residual", gated_residual
}

/// The operands of an addition, in both orders.
fn sums(matcher: &Matcher, root: usize) -> Option<[(Value, Value); 2]> {
    let node = matcher.node(root);
    match (&node.op, node.operands.as_slice()) {
        (Op::Binary(BinaryOp::Add), &[a, b]) => Some([(a, b), (b, a)]),
        _ => None,
    }
}

/// The factors of an inner multiplication, in both orders. They are not taken apart
/// further: a factor may be a product itself.
fn factors(matcher: &mut Matcher, value: Value) -> Option<[(Value, Value); 2]> {
    let node = matcher.inner(value)?;
    match (&node.op, node.operands.as_slice()) {
        (Op::Binary(BinaryOp::Mul), &[a, b]) => Some([(a, b), (b, a)]),
        _ => None,
    }
}

fn modulate(matcher: &mut Matcher, root: usize) -> Option<Fused> {
    let dims = &matcher.node(root).ty.dims;
    sums(matcher, root)?
        .into_iter()
        .find_map(|(scaled, shift)| {
            matcher.attempt(|m| {
                let (x, scale) = factors(m, scaled)?.into_iter().find_map(|(x, factor)| {
                    let scale = m.attempt(|m| m.one_plus(factor))?;
                    (m.type_of(x).dims == *dims).then_some((x, scale))
                })?;
                Some(Fused::new(Op::Modulate, [x, scale, shift]))
            })
        })
}

fn gated_residual(matcher: &mut Matcher, root: usize) -> Option<Fused> {
    let dims = &matcher.node(root).ty.dims;
    sums(matcher, root)?
        .into_iter()
        .find_map(|(gated, residual)| {
            matcher.attempt(|m| {
                let orders = factors(m, gated)?;
                let whole = |value: Value| m.type_of(value).dims == *dims;
                let (gate, x) = orders.into_iter().find(|&(gate, x)| {
                    whole(x) && m.scalar(gate).is_none() && is_repeated(&m.type_of(gate).dims, dims)
                })?;
                whole(residual).then(|| Fused::new(Op::GatedResidual, [residual, gate, x]))
            })
        })
}

/// Whether `part` is smaller than `whole` and broadcasts to it.
fn is_repeated(part: &[Dim], whole: &[Dim]) -> bool {
    part != whole && broadcast_dims(part, whole).is_some_and(|dims| dims == whole)
}
