//! LayerNorm and RMSNorm over the last axis, with or without their weights.

use super::Pass;
use super::activations::last_axis_reduction;
use super::fusion::{Fused, Operand, fuse, fusion_pass};
use super::matcher::{Factor, Matcher, Product};
use crate::{BinaryOp, Dim, Graph, Op, ReduceOp, Result, Value};

fusion_pass! {
    /// `x · rsqrt(mean(x²) + ε) (· weight)`.
    FuseRmsNorm, "rms_norm", rms_norm
}

/// `(x − mean x) · rsqrt(mean (x − mean x)² + ε) (· weight + bias)`.
///
/// A weight and bias that follow a [`Op::LayerNorm`] without them are taken in too.
#[derive(Debug, Clone, Copy)]
pub struct FuseLayerNorm;

impl Pass for FuseLayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn run(&self, graph: &Graph) -> Result<Graph> {
        // The whole pattern first: its middle is one without weights.
        fuse(&fuse(graph, affine_layer_norm)?, plain_layer_norm)
    }
}

fn rms_norm(matcher: &mut Matcher, root: usize) -> Option<Fused> {
    let mut product = matcher.root_product(root)?;
    let (x, epsilon) = normalised(matcher, &mut product)?;
    let mut fused = Fused::new(Op::RmsNorm { epsilon }, [x]);
    match product.factors.as_slice() {
        [] => {}
        &[Factor::Value(weight)] => fused.operands.push(vector(matcher, weight, x)?),
        _ => return None,
    }
    Some(fused)
}

/// Takes `x · rsqrt(mean(x²) + ε)` out of a product; gives `x` and ε.
fn normalised(matcher: &mut Matcher, product: &mut Product) -> Option<(Value, f32)> {
    let variance = product.take_inverse_sqrt()?;
    let sum = matcher.inner(variance)?;
    if sum.op != Op::Binary(BinaryOp::Add) {
        return None;
    }
    let (epsilon, mean) = matcher.split_scalar(sum)?;
    let squares = last_axis_reduction(matcher, mean, ReduceOp::Mean)?;
    let squares = matcher.product(squares);
    let [x, again] = squares.pair()?;
    if product.scale != 1.0 || squares.scale != 1.0 || x != again {
        return None;
    }
    product.take_value(x)?;
    Some((x, epsilon))
}

fn plain_layer_norm(matcher: &mut Matcher, root: usize) -> Option<Fused> {
    let mut product = matcher.root_product(root)?;
    let (x, epsilon) = centred_and_normalised(matcher, &mut product)?;
    product
        .factors
        .is_empty()
        .then(|| Fused::new(Op::LayerNorm { epsilon }, [x]))
}

fn affine_layer_norm(matcher: &mut Matcher, root: usize) -> Option<Fused> {
    let sum = matcher.node(root);
    let (Op::Binary(BinaryOp::Add), &[a, b]) = (&sum.op, sum.operands.as_slice()) else {
        return None;
    };
    [(a, b), (b, a)].into_iter().find_map(|(scaled, bias)| {
        matcher.attempt(|m| {
            let mut product = m.product(scaled);
            let found = m.attempt(|m| centred_and_normalised(m, &mut product));
            let (x, epsilon) = match found {
                Some(found) => found,
                None => bare_layer_norm(m, scaled, &mut product)?,
            };
            let &[Factor::Value(weight)] = product.factors.as_slice() else {
                return None;
            };
            let weight = vector(m, weight, x)?;
            let bias = vector(m, m.peel(bias), x)?;
            Some(Fused {
                op: Op::LayerNorm { epsilon },
                operands: vec![x.into(), weight, bias],
                after: Vec::new(),
            })
        })
    })
}

/// Takes a LayerNorm without weights, as an operation, out of a product.
fn bare_layer_norm(
    matcher: &mut Matcher,
    scaled: Value,
    product: &mut Product,
) -> Option<(Value, f32)> {
    *product = matcher.product(scaled);
    let (position, node) = product.factors.iter().enumerate().find_map(|(i, factor)| {
        let &Factor::Value(value) = factor else {
            return None;
        };
        let found = matcher.attempt(|m| {
            let node = m.inner(value)?;
            (matches!(node.op, Op::LayerNorm { .. }) && node.operands.len() == 1).then_some(node)
        });
        found.map(|node| (i, node))
    })?;
    product.factors.remove(position);
    match node.op {
        Op::LayerNorm { epsilon } if product.scale == 1.0 => Some((node.operands[0], epsilon)),
        _ => None,
    }
}

fn centred_and_normalised(matcher: &mut Matcher, product: &mut Product) -> Option<(Value, f32)> {
    let (centred, epsilon) = normalised(matcher, product)?;
    let node = matcher.inner(centred)?;
    let (Op::Binary(BinaryOp::Sub), &[x, mean]) = (&node.op, node.operands.as_slice()) else {
        return None;
    };
    let averaged = last_axis_reduction(matcher, mean, ReduceOp::Mean)?;
    (matcher.peel(averaged) == matcher.peel(x)).then_some((x, epsilon))
}

/// `value` as a vector of the size of the last axis of `x`, if it is one; axes of size 1
/// before it are dropped.
pub(super) fn vector(matcher: &Matcher, value: Value, x: Value) -> Option<Operand> {
    let size = matcher.type_of(x).dims.last()?;
    vector_of(matcher, value, size)
}

/// `value` as a vector of `size`, if it is one but for axes of size 1 before it.
pub(super) fn vector_of(matcher: &Matcher, value: Value, size: &Dim) -> Option<Operand> {
    let (last, before) = matcher.type_of(value).dims.split_last()?;
    let is_vector = last == size && before.iter().all(|dim| *dim == Dim::from(1));
    let reshape = (!before.is_empty()).then(|| Op::Reshape {
        dims: vec![size.clone()],
    });
    is_vector.then(|| Operand::with(value, reshape))
}
