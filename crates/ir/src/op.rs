//! The operations.
//!
//! docs/ir.md in the repository gives each with its operands and formula. They
//! stand at the level that backends can use well; [`crate::decompose`] takes
//! those of the second half apart into those of the first.

use tintype_tensor::DType;

use crate::{Constant, Dim, TensorType};

/// An operation with its attributes.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Op {
    /// Values written in the graph itself.
    Constant(Constant),
    /// Whole numbers 0, 1, … along `axis`.
    Iota {
        /// The result's type.
        ty: TensorType,
        /// The axis along which values count.
        axis: usize,
    },
    /// One operand, element by element.
    Unary(UnaryOp),
    /// Two operands, element by element, sizes 1 repeated as needed.
    Binary(BinaryOp),
    /// `condition ? a : b`, element by element.
    Select,
    /// The same values in another dtype, rounded once.
    Cast {
        /// The result's dtype.
        dtype: DType,
    },
    /// Values limited to `min..=max`; NaN stays.
    Clamp {
        /// Least value.
        min: f32,
        /// Greatest value.
        max: f32,
    },
    /// The same elements in the same order under other dimensions.
    Reshape {
        /// The result's dimensions.
        dims: Vec<Dim>,
    },
    /// Sizes 1 and missing outer axes repeated.
    Broadcast {
        /// The result's dimensions.
        dims: Vec<Dim>,
    },
    /// Axes in another order: result axis `i` is operand axis `permutation[i]`.
    Transpose {
        /// A permutation of the axes.
        permutation: Vec<usize>,
    },
    /// Positions `start..end` of one axis.
    Slice {
        /// The axis.
        axis: usize,
        /// First position.
        start: Dim,
        /// One past the last position.
        end: Dim,
    },
    /// Operands one after another along an axis.
    Concat {
        /// The axis.
        axis: usize,
    },
    /// `table[…, indices, …]` along an axis: the axis is replaced by those of `indices`.
    Gather {
        /// The axis.
        axis: usize,
    },
    /// `x[b, indices[b], …]`: one position of axis 1 for each outermost index.
    GatherRows,
    /// The first position of the largest value along the last axis, as i64.
    ArgMax,
    /// A reduction over axes.
    Reduce {
        /// What is computed.
        kind: ReduceOp,
        /// The axes, ascending; they stay with size 1.
        axes: Vec<usize>,
    },
    /// `a[…, m, k] · b[…, k, n]`, outer axes repeated as needed.
    MatMul,
    /// The T5 bucket of every pair of positions, as `i64[queries, keys]`.
    RelativeBuckets(RelativeBuckets),

    /// `x[…, k] · weight[n, k]ᵀ (+ bias[n])`.
    Linear,
    /// Softmax over the last axis.
    Softmax,
    /// LayerNorm over the last axis (`x`, or `x, weight, bias`).
    LayerNorm {
        /// Added to the variance.
        epsilon: f32,
    },
    /// RMSNorm over the last axis (`x`, or `x, weight`).
    RmsNorm {
        /// Added to the mean of squares.
        epsilon: f32,
    },
    /// GroupNorm over `x[b, c, h, w]` with `weight[c]`, `bias[c]`.
    GroupNorm {
        /// Number of groups that the channels fall into.
        groups: usize,
        /// Added to the variance.
        epsilon: f32,
    },
    /// `x · (1 + scale) + shift`.
    Modulate,
    /// `residual + gate · x`.
    GatedResidual,
    /// Interleaved pairs of `x[b, s, h, d]` turned by `table[s, d/2, 2]` (cosine, sine; f32).
    Rotary,
    /// The table of [`Op::Rotary`] for `ids[s, axes]`: f32[s, sum(dims)/2, 2], angles in f64.
    RotaryTable {
        /// Base of the frequencies.
        theta: f32,
        /// How many of the head's dimensions each axis of ids turns.
        dims: Vec<usize>,
    },
    /// `softmax(scale · q·kᵀ + bias) · v` for `[b, s, h, d]` operands.
    Attention(Attention),
    /// Convolution of `x[b, c, h, w]` with `weight[o, c/groups, kh, kw]` (and `bias[o]`).
    Conv2d(Conv2d),
    /// Each pixel of `x[b, c, h, w]` repeated `factor` times along both axes.
    UpsampleNearest {
        /// How often.
        factor: usize,
    },
}

/// Attributes of [`Op::RelativeBuckets`].
#[derive(Debug, Clone, PartialEq)]
pub struct RelativeBuckets {
    /// Number of buckets, both directions together.
    pub buckets: usize,
    /// Distance from which on all share the last bucket.
    pub max_distance: usize,
    /// Whether later keys have buckets of their own.
    pub bidirectional: bool,
    /// Number of query positions.
    pub queries: Dim,
    /// Number of key positions.
    pub keys: Dim,
}

/// Attributes of [`Op::Attention`]. Operands: q, k, v, and perhaps a bias
/// `[b or 1, h or 1, q_len, k_len]` that is added to the scaled scores.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// Factor of the scores.
    pub scale: f32,
    /// Whether a query sees no later key.
    pub causal: bool,
}

/// Attributes of [`Op::Conv2d`].
#[derive(Debug, Clone, PartialEq)]
pub struct Conv2d {
    /// Step along height and width.
    pub stride: [usize; 2],
    /// Zeros added at top, bottom, left, right.
    pub padding: [usize; 4],
    /// Number of channel groups.
    pub groups: usize,
}

/// Operations on one operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UnaryOp {
    /// `−x`
    Neg,
    /// `|x|`
    Abs,
    /// `eˣ`
    Exp,
    /// Natural logarithm.
    Log,
    /// Square root.
    Sqrt,
    /// `1/√x`
    Rsqrt,
    /// `1/x`
    Reciprocal,
    /// Sine.
    Sin,
    /// Cosine.
    Cos,
    /// Hyperbolic tangent.
    Tanh,
    /// The error function.
    Erf,
    /// `1/(1 + e⁻ˣ)`
    Sigmoid,
    /// `x · sigmoid(x)`
    Silu,
    /// `x/2 · (1 + erf(x/√2))`
    GeluErf,
    /// `x/2 · (1 + tanh(√(2/π)(x + 0.044715x³)))`
    GeluTanh,
    /// `x · sigmoid(1.702x)`
    GeluQuick,
}

/// Operations on two operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BinaryOp {
    /// `a + b`
    Add,
    /// `a − b`
    Sub,
    /// `a · b`
    Mul,
    /// `a / b`
    Div,
    /// The greater.
    Max,
    /// The lesser.
    Min,
    /// `aᵇ`
    Pow,
    /// `a == b`, as bool.
    Equal,
    /// `a < b`, as bool.
    Less,
}

/// Reductions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReduceOp {
    /// The sum.
    Sum,
    /// The mean.
    Mean,
    /// The greatest value.
    Max,
}

macro_rules! names {
    ($type:ident { $($variant:ident = $name:literal),* $(,)? }) => {
        impl $type {
            /// Every one, in declaration order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in the text form.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// The one of this name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

names!(UnaryOp {
    Neg = "neg", Abs = "abs", Exp = "exp", Log = "log", Sqrt = "sqrt", Rsqrt = "rsqrt",
    Reciprocal = "reciprocal", Sin = "sin", Cos = "cos", Tanh = "tanh", Erf = "erf",
    Sigmoid = "sigmoid", Silu = "silu", GeluErf = "gelu_erf", GeluTanh = "gelu_tanh",
    GeluQuick = "gelu_quick",
});
names!(BinaryOp {
    Add = "add", Sub = "sub", Mul = "mul", Div = "div", Max = "max", Min = "min", Pow = "pow",
    Equal = "equal", Less = "less",
});
names!(ReduceOp { Sum = "reduce_sum", Mean = "reduce_mean", Max = "reduce_max" });

impl BinaryOp {
    /// Whether the operands may change places.
    pub const fn is_commutative(self) -> bool {
        matches!(
            self,
            Self::Add | Self::Mul | Self::Max | Self::Min | Self::Equal
        )
    }

    /// Whether the result is bool.
    pub const fn is_comparison(self) -> bool {
        matches!(self, Self::Equal | Self::Less)
    }
}

impl Op {
    /// The name in the text form.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Constant(_) => "constant",
            Self::Iota { .. } => "iota",
            Self::Unary(op) => op.name(),
            Self::Binary(op) => op.name(),
            Self::Select => "select",
            Self::Cast { .. } => "cast",
            Self::Clamp { .. } => "clamp",
            Self::Reshape { .. } => "reshape",
            Self::Broadcast { .. } => "broadcast",
            Self::Transpose { .. } => "transpose",
            Self::Slice { .. } => "slice",
            Self::Concat { .. } => "concat",
            Self::Gather { .. } => "gather",
            Self::GatherRows => "gather_rows",
            Self::ArgMax => "argmax",
            Self::Reduce { kind, .. } => kind.name(),
            Self::MatMul => "matmul",
            Self::RelativeBuckets(_) => "relative_buckets",
            Self::Linear => "linear",
            Self::Softmax => "softmax",
            Self::LayerNorm { .. } => "layer_norm",
            Self::RmsNorm { .. } => "rms_norm",
            Self::GroupNorm { .. } => "group_norm",
            Self::Modulate => "modulate",
            Self::GatedResidual => "gated_residual",
            Self::Rotary => "rotary",
            Self::RotaryTable { .. } => "rotary_table",
            Self::Attention(_) => "attention",
            Self::Conv2d(_) => "conv2d",
            Self::UpsampleNearest { .. } => "upsample_nearest",
        }
    }

    /// What the operand at `index` is to this operation: `weight`, `bias`, …
    /// Engine names of weights end in it.
    pub fn role(&self, index: usize) -> &'static str {
        let roles: &[&'static str] = match self {
            Self::Linear | Self::Conv2d(_) | Self::LayerNorm { .. } | Self::GroupNorm { .. } => {
                &["input", "weight", "bias"]
            }
            Self::RmsNorm { .. } => &["input", "weight"],
            Self::Modulate => &["input", "scale", "shift"],
            Self::GatedResidual => &["residual", "gate", "input"],
            Self::Rotary => &["input", "table"],
            Self::Attention(_) => &["query", "key", "value", "bias"],
            Self::Gather { .. } | Self::GatherRows => &["table", "indices"],
            Self::Binary(_) | Self::MatMul => &["left", "right"],
            Self::Select => &["condition", "left", "right"],
            _ => &["input"],
        };
        roles.get(index).copied().unwrap_or("operand")
    }
}
