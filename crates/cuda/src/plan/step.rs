//! The steps of a plan: what runs, on which views, and what it moves and computes.
//!
//! ```
//! use tintype_cuda::{Place, Product, View};
//! use tintype_tensor::DType;
//!
//! let view = |place, shape: &[usize]| View::contiguous(Place::Buffer(place), DType::BF16, shape);
//! let product = Product {
//!     input: view(0, &[1, 64, 32]),
//!     weight: view(1, &[96, 32]),
//!     bias: None,
//!     gelu: false,
//!     is_linear: true,
//!     output: view(2, &[1, 64, 96]),
//!     codes: None,
//! };
//! assert_eq!(product.operations(), 2 * 64 * 96 * 32);
//! ```

use tintype_ir::{Attention, Conv2d, Op};
use tintype_tensor::DType;

use crate::{Expression, Matrices, View};

/// One launch of a kernel or call of a library.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The module that it computes, from the graph.
    pub label: String,
    /// What it is called in listings: the pattern of a group, or the library's operation.
    pub name: String,
    /// What runs.
    pub work: Work,
}

/// What a step runs.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Work {
    /// A product of a library.
    Product(Product),
    /// An attention.
    Attention(AttentionCall),
    /// A convolution.
    Convolution(Convolution),
    /// A generated kernel.
    Kernel(Expression),
    /// One of the few operations with a kernel of its own.
    Special {
        /// The operation.
        op: Op,
        /// Its operands.
        inputs: Vec<View>,
        /// Its result.
        output: View,
    },
}

/// `input · weightᵀ + bias`, or a matrix product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Product {
    /// `[…, k]`
    pub input: View,
    /// `[n, k]` of a linear layer, `[…, k, n]` of a matrix product.
    pub weight: View,
    /// `[n]`
    pub bias: Option<View>,
    /// Whether GELU in its tanh form is applied to the sum.
    pub gelu: bool,
    /// Whether this is a linear layer.
    pub is_linear: bool,
    /// `[…, n]`, whose rows may be apart.
    pub output: View,
    /// What codes of 8 bits mean, where input and weight are such.
    pub codes: Option<Codes>,
}

/// What the codes that a linear layer reads, and perhaps writes, mean: it computes
/// `(Σ input · weight) · input scale · weight scale + bias`, then GELU, then codes of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Codes {
    /// Of the input and of the weight: f32, one (of no axes), or one for each row in order.
    pub scales: [View; 2],
    /// Where the output is codes too: what it is divided by before it is rounded, and 1 by that.
    pub output: Option<[View; 2]>,
    /// The dtype that the values have where they are no codes.
    pub dtype: DType,
}

/// `softmax(scale · q·kᵀ + bias) · v` of views `[b, s, h, d]`.
///
/// Query, key and value are all of 16 bits and more, or all codes of 8-bit floats.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionCall {
    /// Query, key and value.
    pub query_key_value: [View; 3],
    /// What codes of query, key and value are multiplied with, powers of two; 1 where they are
    /// none.
    pub scales: [f32; 3],
    /// Added to the scores.
    pub bias: Option<View>,
    /// Scale and mask.
    pub attributes: Attention,
    /// `[b, s, h, e]`
    pub output: View,
    /// One f32 that the result is multiplied with before it is rounded to codes.
    pub output_factor: Option<View>,
}

/// A convolution of views `[b, c, h, w]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Convolution {
    /// The pictures.
    pub input: View,
    /// `[o, c/groups, kh, kw]`
    pub weight: View,
    /// `[o]`
    pub bias: Option<View>,
    /// Stride, padding, groups.
    pub attributes: Conv2d,
    /// The result.
    pub output: View,
}

impl Codes {
    /// The views of all scales.
    pub fn views(&self) -> impl Iterator<Item = &View> {
        self.scales.iter().chain(self.output.iter().flatten())
    }

    /// The same, to be changed.
    pub(crate) fn views_mut(&mut self) -> impl Iterator<Item = &mut View> {
        self.scales
            .iter_mut()
            .chain(self.output.iter_mut().flatten())
    }

    /// Whether input and weight have one scale each.
    pub fn are_scalars(&self) -> bool {
        self.scales.iter().all(|scale| scale.count() == 1)
    }
}

impl Product {
    /// The views that are read: input, weight, bias, scales.
    pub fn reads(&self) -> Vec<&View> {
        let operands = [&self.input, &self.weight].into_iter().chain(&self.bias);
        let scales = self.codes.iter().flat_map(Codes::views);
        operands.chain(scales).collect()
    }

    /// The input and the output of a linear layer as equally many matrices, of equally many rows.
    pub fn matrices(&self) -> Option<[Matrices; 2]> {
        let (input, output) = (self.input.matrices()?, self.output.matrices()?);
        let batch = input.batch.max(output.batch);
        Some([input.split(batch)?, output.split(batch)?])
    }

    /// The floating-point operations.
    pub fn operations(&self) -> usize {
        let inner = self.input.axes.last().map_or(0, |axis| axis.size);
        2 * self.output.count() * inner
    }
}

impl Work {
    /// The views that are read.
    pub fn reads(&self) -> Vec<&View> {
        match self {
            Self::Product(call) => call.reads(),
            Self::Attention(call) => call
                .query_key_value
                .iter()
                .chain(&call.bias)
                .chain(&call.output_factor)
                .collect(),
            Self::Convolution(call) => [&call.input, &call.weight]
                .into_iter()
                .chain(&call.bias)
                .collect(),
            Self::Kernel(expression) => expression.loads.iter().collect(),
            Self::Special { inputs, .. } => inputs.iter().collect(),
        }
    }

    /// The views that are written.
    pub fn writes(&self) -> Vec<&View> {
        match self {
            Self::Product(call) => vec![&call.output],
            Self::Attention(call) => vec![&call.output],
            Self::Convolution(call) => vec![&call.output],
            Self::Kernel(expression) => expression.stores.iter().map(|store| &store.view).collect(),
            Self::Special { output, .. } => vec![output],
        }
    }

    /// The kind, as listings sum it up.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Product(_) => "product",
            Self::Attention(_) => "attention",
            Self::Convolution(_) => "convolution",
            Self::Kernel(_) => "kernel",
            Self::Special { .. } => "special",
        }
    }

    /// The floating-point operations of products, attention and convolutions; 0 for others.
    pub fn operations(&self) -> usize {
        match self {
            Self::Product(call) => call.operations(),
            Self::Attention(call) => {
                let [query, key, value] = &call.query_key_value;
                2 * query.count() * key.axes[1].size + 2 * call.output.count() * value.axes[1].size
            }
            Self::Convolution(call) => {
                let taps: usize = call.weight.axes[1..].iter().map(|axis| axis.size).product();
                2 * call.output.count() * taps
            }
            Self::Kernel(_) | Self::Special { .. } => 0,
        }
    }

    /// The bytes that must be read and written: each element once.
    pub fn bytes(&self) -> usize {
        let views = self.reads().into_iter().chain(self.writes());
        views.map(View::bytes).sum()
    }
}
