//! Functions of one value, applied to every element.

use tintype_tensor::DType;

use super::parallel::for_chunks;
use super::{math, rounding::round_slice};

/// An elementwise function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unary {
    /// x itself: a cast to the rounding's dtype.
    Identity,
    /// −x.
    Neg,
    /// |x|.
    Abs,
    /// 1 / x.
    Recip,
    /// eˣ.
    Exp,
    /// ln x.
    Log,
    /// √x.
    Sqrt,
    /// 1 / √x.
    Rsqrt,
    /// sin x, x in radians.
    Sin,
    /// cos x, x in radians.
    Cos,
    /// tanh x.
    Tanh,
    /// erf x.
    Erf,
    /// 1 / (1 + e⁻ˣ).
    Sigmoid,
    /// max(x, 0).
    Relu,
    /// x · sigmoid(x).
    Silu,
    /// GELU with erf.
    GeluErf,
    /// GELU's tanh form.
    GeluTanh,
    /// GELU's form x · sigmoid(1.702·x).
    GeluQuick,
}

/// A function that a product applies as it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activation {
    /// x · sigmoid(x).
    Silu,
    /// GELU with erf.
    GeluErf,
    /// GELU's tanh form.
    GeluTanh,
    /// GELU's form x · sigmoid(1.702·x).
    GeluQuick,
}

impl From<Activation> for Unary {
    fn from(activation: Activation) -> Self {
        match activation {
            Activation::Silu => Self::Silu,
            Activation::GeluErf => Self::GeluErf,
            Activation::GeluTanh => Self::GeluTanh,
            Activation::GeluQuick => Self::GeluQuick,
        }
    }
}

/// `out[i] = function(x[i])`.
///
/// # Panics
/// If the lengths differ.
pub fn unary(function: Unary, rounding: DType, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "unary: input and output lengths");
    for_chunks(out, |offset, chunk| {
        let inputs = x[offset..offset + chunk.len()].chunks(PIECE);
        for (piece, input) in chunk.chunks_mut(PIECE).zip(inputs) {
            piece.copy_from_slice(input);
            apply(function, rounding, piece);
        }
    });
}

/// Applies `function` and the rounding in place, piece by piece while in cache.
pub(super) fn apply(function: Unary, rounding: DType, values: &mut [f32]) {
    for piece in values.chunks_mut(PIECE) {
        map(function, piece);
        round_slice(rounding, piece);
    }
}

const PIECE: usize = 2048;

fn map(function: Unary, values: &mut [f32]) {
    match function {
        Unary::Identity => {}
        Unary::Neg => neg(values),
        Unary::Abs => abs(values),
        Unary::Recip => recip(values),
        Unary::Exp => exp(values),
        Unary::Log => values.iter_mut().for_each(|x| *x = x.ln()),
        Unary::Sqrt => sqrt(values),
        Unary::Rsqrt => rsqrt(values),
        Unary::Sin => values.iter_mut().for_each(|x| *x = x.sin()),
        Unary::Cos => values.iter_mut().for_each(|x| *x = x.cos()),
        Unary::Tanh => tanh(values),
        Unary::Erf => erf(values),
        Unary::Sigmoid => sigmoid(values),
        Unary::Relu => relu(values),
        Unary::Silu => silu(values),
        Unary::GeluErf => gelu_erf(values),
        Unary::GeluTanh => gelu_tanh(values),
        Unary::GeluQuick => gelu_quick(values),
    }
}

macro_rules! maps {
    ($($name:ident = |$x:ident| $formula:expr;)*) => {
        $(vectorised! {
            fn $name<'a>(_simd; values: &'a mut [f32]) {
                for value in values {
                    let $x = *value;
                    *value = $formula;
                }
            }
        })*
    };
}

maps! {
    neg = |x| -x;
    abs = |x| x.abs();
    recip = |x| 1.0 / x;
    sqrt = |x| x.sqrt();
    rsqrt = |x| 1.0 / x.sqrt();
    relu = |x| if x < 0.0 { 0.0 } else { x };
    exp = |x| math::exp(x);
    tanh = |x| math::tanh(x);
    erf = |x| math::erf(x);
    sigmoid = |x| math::sigmoid(x);
    silu = |x| math::silu(x);
    gelu_erf = |x| math::gelu_erf(x);
    gelu_tanh = |x| math::gelu_tanh(x);
    gelu_quick = |x| math::gelu_quick(x);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::Random;

    #[test]
    fn every_function_rounds_once_and_at_any_length() {
        type Reference = fn(f64) -> f64;
        let functions: [(Unary, Reference); 10] = [
            (Unary::Identity, |x| x),
            (Unary::Neg, |x| -x),
            (Unary::Abs, f64::abs),
            (Unary::Recip, |x| 1.0 / x),
            (Unary::Exp, f64::exp),
            (Unary::Sin, f64::sin),
            (Unary::Cos, f64::cos),
            (Unary::Tanh, f64::tanh),
            (Unary::Relu, |x| x.max(0.0)),
            (Unary::Silu, |x| x / (1.0 + (-x).exp())),
        ];
        let mut random = Random::new(1);
        for length in [1, 3, 17, 65, 40_001] {
            let x = random.values(length);
            for (function, reference) in functions {
                let mut out = vec![0.0; length];
                unary(function, DType::F32, &x, &mut out);
                for (&value, &found) in x.iter().zip(&out) {
                    let expected = reference(f64::from(value));
                    let error = (f64::from(found) - expected).abs();
                    assert!(
                        error <= 3e-7 * expected.abs().max(1e-6),
                        "{function:?} {value}"
                    );
                }
                let mut rounded = vec![0.0; length];
                unary(function, DType::BF16, &x, &mut rounded);
                DType::BF16.round_slice(&mut out);
                assert_eq!(rounded, out);
            }
        }
    }

    #[test]
    fn positive_functions() {
        let x: Vec<f32> = Random::new(2)
            .values(65)
            .iter()
            .map(|x| x.abs() + 0.01)
            .collect();
        for (function, reference) in [
            (Unary::Log, f64::ln as fn(f64) -> f64),
            (Unary::Sqrt, f64::sqrt),
            (Unary::Rsqrt, |x| 1.0 / x.sqrt()),
        ] {
            let mut out = vec![0.0; x.len()];
            unary(function, DType::F32, &x, &mut out);
            for (&value, &found) in x.iter().zip(&out) {
                let expected = reference(f64::from(value));
                assert!((f64::from(found) - expected).abs() <= 2e-7 * expected.abs().max(1e-3));
            }
        }
    }

    #[test]
    fn activations_are_unary_functions() {
        let x = [0.5];
        let mut out = [0.0];
        unary(Activation::GeluErf.into(), DType::F32, &x, &mut out);
        assert!((out[0] - 0.345_731_2).abs() < 1e-6);
    }
}
