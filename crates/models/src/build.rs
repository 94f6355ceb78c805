//! What the graphs of all models share: checked dtypes and symbols, heads.
//!
//! Nothing here knows a model.
//!
//! ```ignore
//! check_dtype("t5", DType::BF16)?;
//! let batch = symbol(&mut b, "t5", "batch", &(1..=4))?;
//! ```

use std::ops::RangeInclusive;

use tintype_ir::{Dim, Graph, GraphBuilder, TensorType, UnaryOp, Value};
use tintype_tensor::DType;

use crate::{Error, Result};

/// Refuses dtypes in which models are not computed.
pub(crate) fn check_dtype(model: &'static str, dtype: DType) -> Result<()> {
    match dtype {
        DType::F32 | DType::BF16 | DType::F16 => Ok(()),
        found => Err(Error::DType { model, found }),
    }
}

/// Declares a symbol; a range of one size gives that size instead, so that
/// what depends on it alone is computed when the model is loaded.
pub(crate) fn symbol(
    b: &mut GraphBuilder,
    model: &'static str,
    name: &str,
    range: &RangeInclusive<usize>,
) -> Result<Dim> {
    if range.is_empty() || *range.start() == 0 || *range.end() > MAX_SYMBOL {
        return Err(Error::Range {
            model,
            symbol: name.to_owned(),
            found: format!("{}..={}", range.start(), range.end()),
        });
    }
    if range.start() == range.end() {
        return Ok(Dim::from(*range.start()));
    }
    Ok(b.symbol(name, range.clone()))
}

/// The finished graph, or its first error with the model's name.
pub(crate) fn finish(model: &'static str, b: GraphBuilder) -> Result<Graph> {
    b.finish().map_err(|source| Error::Graph { model, source })
}

/// A linear layer of `x[b, s, d]` whose result is taken apart into heads: `[b, s, heads, head_dim]`.
pub(crate) fn heads_of(
    b: &mut GraphBuilder,
    module: &str,
    x: Value,
    heads: Heads,
    bias: bool,
) -> Value {
    let in_features = last_size(b, x);
    let projected = b.linear_named(module, x, heads.width(), in_features, bias);
    let dims = b.type_of(x).dims.clone();
    b.labelled(module, |b| {
        b.reshape(
            projected,
            [
                dims[0].clone(),
                dims[1].clone(),
                heads.count.into(),
                heads.size.into(),
            ],
        )
    })
}

/// `[b, s, heads, head_dim]` as `[b, s, heads · head_dim]`.
pub(crate) fn join_heads(b: &mut GraphBuilder, x: Value, heads: Heads) -> Value {
    let dims = b.type_of(x).dims.clone();
    b.reshape(x, [dims[0].clone(), dims[1].clone(), heads.width().into()])
}

/// A number of attention heads and the size of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heads {
    pub(crate) count: usize,
    pub(crate) size: usize,
}

impl Heads {
    pub(crate) const fn width(self) -> usize {
        self.count * self.size
    }

    /// `1/√size`.
    pub(crate) fn scale(self) -> f32 {
        (1.0 / (self.size as f64).sqrt()) as f32
    }
}

/// The size of the last axis, which every model knows when it is built.
pub(crate) fn last_size(b: &GraphBuilder, x: Value) -> usize {
    let size = b.type_of(x).dims.last().and_then(Dim::as_constant);
    // A model's own mistake shows as a type error of the operation that reads it.
    size.and_then(|size| usize::try_from(size).ok())
        .unwrap_or(0)
}

/// f16 only: values beyond its range, which are infinite by then, back at its ends.
pub(crate) fn clamp_f16(b: &mut GraphBuilder, x: Value) -> Value {
    if b.type_of(x).dtype != DType::F16 {
        return x;
    }
    let op = tintype_ir::Op::Clamp {
        min: -F16_MAX,
        max: F16_MAX,
    };
    b.op(op, &[x])
}

/// An embedding table `{module}.weight` of `[rows, width]`, read at `indices`.
pub(crate) fn embedding(
    b: &mut GraphBuilder,
    module: &str,
    dtype: DType,
    shape: [usize; 2],
    indices: Value,
) -> Value {
    let table = b.parameter(&format!("{module}.weight"), TensorType::new(dtype, shape));
    b.labelled(module, |b| b.gather(table, indices, 0))
}

/// An activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// `max(x, 0)`
    Relu,
    /// [`UnaryOp::Silu`]
    Silu,
    /// [`UnaryOp::GeluErf`]
    GeluErf,
    /// [`UnaryOp::GeluTanh`]
    GeluTanh,
    /// [`UnaryOp::GeluQuick`]
    GeluQuick,
}

impl Activation {
    /// Applies the function to each element.
    pub(crate) fn apply(self, b: &mut GraphBuilder, x: Value) -> Value {
        match self {
            Self::Relu => {
                let dtype = b.type_of(x).dtype;
                let zero = b.scalar(dtype, 0.0);
                b.binary(tintype_ir::BinaryOp::Max, x, zero)
            }
            Self::Silu => b.unary(UnaryOp::Silu, x),
            Self::GeluErf => b.unary(UnaryOp::GeluErf, x),
            Self::GeluTanh => b.unary(UnaryOp::GeluTanh, x),
            Self::GeluQuick => b.unary(UnaryOp::GeluQuick, x),
        }
    }
}

/// The greatest finite f16.
const F16_MAX: f32 = 65504.0;

/// Greatest size of a symbol: products of three stay within i64.
const MAX_SYMBOL: usize = 1 << 20;
