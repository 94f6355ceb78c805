//! Elementwise functions and softmax, found in what they are made of.

use tintype_tensor::DType;

use super::fusion::{Fused, fusion_pass};
use super::matcher::{Factor, Matcher, Product};
use crate::{BinaryOp, Node, Op, ReduceOp, UnaryOp, Value};

fusion_pass! {
    /// GELU in its three forms: by the error function, by tanh, by a sigmoid.
    Gelu, "gelu", gelu
}
fusion_pass! {
    /// `x · sigmoid(x)`, also `x / (1 + e⁻ˣ)`.
    Silu, "silu", silu
}
fusion_pass! {
    /// Softmax over the last axis with its greatest value subtracted first.
    Softmax, "softmax", softmax
}

fn gelu(matcher: &mut Matcher, root: usize) -> Option<Fused> {
    let product = matcher.root_product(root)?;
    let [a, b] = product.pair()?;
    for (x, other) in [(a, b), (b, a)] {
        let form = matcher.attempt(|m| gelu_form(m, product.scale, x, other));
        if let Some(op) = form {
            return Some(Fused::new(Op::Unary(op), [x]));
        }
    }
    None
}

/// Which GELU `scale · x · other` is.
fn gelu_form(matcher: &mut Matcher, scale: f32, x: Value, other: Value) -> Option<UnaryOp> {
    if scale == 1.0 {
        let inside = matcher.unary(UnaryOp::Sigmoid, other)?;
        return scaled_is(matcher, inside, 1.702, x).then_some(UnaryOp::GeluQuick);
    }
    if scale != 0.5 {
        return None;
    }
    let curve = matcher.one_plus(other)?;
    let node = matcher.inner(curve)?;
    match node.op {
        Op::Unary(UnaryOp::Erf) => {
            let factor = std::f32::consts::FRAC_1_SQRT_2;
            scaled_is(matcher, node.operands[0], factor, x).then_some(UnaryOp::GeluErf)
        }
        Op::Unary(UnaryOp::Tanh) => {
            is_tanh_argument(matcher, node.operands[0], x).then_some(UnaryOp::GeluTanh)
        }
        _ => None,
    }
}

/// Whether `value` is `factor · x`.
fn scaled_is(matcher: &mut Matcher, value: Value, factor: f32, x: Value) -> bool {
    let product = matcher.product(value);
    number_is(product.scale, factor) && product.factors == [Factor::Value(x)]
}

/// `√(2/π) · (x + 0.044715 x³)`, or with `x` drawn out: `√(2/π) · x · (1 + 0.044715 x²)`.
fn is_tanh_argument(matcher: &mut Matcher, value: Value, x: Value) -> bool {
    let mut product = matcher.product(value);
    if !number_is(product.scale, (2.0 / std::f32::consts::PI).sqrt()) {
        return false;
    }
    let drawn_out = product.factors.len() == 2;
    if drawn_out && product.take_value(x).is_none() {
        return false;
    }
    let [Factor::Value(sum)] = product.factors[..] else {
        return false;
    };
    let Some([a, b]) = matcher.addends(sum) else {
        return false;
    };
    [(a, b), (b, a)].into_iter().any(|(first, cubic)| {
        let first_fits = if drawn_out {
            matcher.is_number(first, 1.0)
        } else {
            matcher.peel(first) == x
        };
        let power = if drawn_out { 2 } else { 3 };
        let found = matcher.attempt(|m| is_cubic(&m.product(cubic), x, power).then_some(()));
        first_fits && found.is_some()
    })
}

fn is_cubic(product: &Product, x: Value, power: usize) -> bool {
    number_is(product.scale, 0.044715)
        && product.factors.len() == power
        && product
            .factors
            .iter()
            .all(|factor| *factor == Factor::Value(x))
}

/// Whether a factor is the number of a formula, perhaps rounded to a narrow dtype.
fn number_is(found: f32, expected: f32) -> bool {
    super::matcher::near(found, expected)
        || found == DType::BF16.round(expected)
        || found == DType::F16.round(expected)
}

fn silu(matcher: &mut Matcher, root: usize) -> Option<Fused> {
    let product = matcher.root_product(root)?;
    if product.scale != 1.0 {
        return None;
    }
    let x = match product.factors.as_slice() {
        &[Factor::Value(a), Factor::Value(b)] => {
            [(a, b), (b, a)].into_iter().find_map(|(x, s)| {
                let inside = matcher.attempt(|m| m.unary(UnaryOp::Sigmoid, s));
                inside.filter(|&inside| matcher.peel(inside) == x)
            })?
        }
        &[Factor::Value(x), Factor::Inverse(sum)] | &[Factor::Inverse(sum), Factor::Value(x)] => {
            let exponential = matcher.one_plus(sum)?;
            let negated = matcher.unary(UnaryOp::Exp, exponential)?;
            let inside = matcher.unary(UnaryOp::Neg, negated)?;
            (matcher.peel(inside) == x).then_some(x)?
        }
        _ => return None,
    };
    Some(Fused::new(Op::Unary(UnaryOp::Silu), [x]))
}

fn softmax(matcher: &mut Matcher, root: usize) -> Option<Fused> {
    let product = matcher.root_product(root)?;
    let (&[Factor::Value(exponentials), Factor::Inverse(sum)]
    | &[Factor::Inverse(sum), Factor::Value(exponentials)]) = product.factors.as_slice()
    else {
        return None;
    };
    let summed = last_axis_reduction(matcher, sum, ReduceOp::Sum)?;
    if product.scale != 1.0 || matcher.peel(summed) != exponentials {
        return None;
    }
    let shifted = matcher.unary(UnaryOp::Exp, exponentials)?;
    let Node {
        op: Op::Binary(BinaryOp::Sub),
        operands,
        ..
    } = matcher.inner(shifted)?
    else {
        return None;
    };
    let greatest = last_axis_reduction(matcher, operands[1], ReduceOp::Max)?;
    let same = matcher.peel(greatest) == matcher.peel(operands[0]);
    same.then(|| Fused::new(Op::Softmax, [operands[0]]))
}

/// The operand of an inner reduction over the last axis alone.
pub(super) fn last_axis_reduction(
    matcher: &mut Matcher,
    value: Value,
    kind: ReduceOp,
) -> Option<Value> {
    let node = matcher.inner(value)?;
    let operand = *node.operands.first()?;
    let last = matcher.type_of(operand).rank().checked_sub(1)?;
    let fits = matches!(&node.op, Op::Reduce { kind: found, axes } if *found == kind && axes[..] == [last]);
    fits.then_some(operand)
}
