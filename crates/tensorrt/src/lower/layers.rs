//! What a graph is lowered to, before the library sees it: layers, tensors, constants.
//!
//! Sizes stay polynomials over symbols here; only [`emit`](super::emit) makes tensors of sizes
//! of them. So lowering can be read and tested without the library.

use tintype_ir::{Dim, TensorType};
use tintype_tensor::{DType, Tensor as HostTensor};

use super::ranges::Symbols;
use crate::network::{
    Activation, AttentionOptions, ConvolutionOptions, ElementWise, NormalizationOptions, Reduction,
    Unary,
};

/// A lowered graph: layers in the order in which they are added.
#[derive(Debug, Clone)]
pub struct Layers {
    pub(super) name: String,
    pub(super) symbols: Symbols,
    /// The type of every tensor.
    pub(super) types: Vec<TensorType>,
    pub(super) inputs: Vec<LoweredInput>,
    /// The tensor of each input.
    pub(super) input_tensors: Vec<Tensor>,
    pub(super) all: Vec<Layer>,
    pub(super) outputs: Vec<LoweredOutput>,
    /// The tensor of each output.
    pub(super) output_tensors: Vec<Tensor>,
    pub(super) weights: Vec<PlacedWeight>,
}

/// A tensor, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Tensor(pub(super) usize);

/// A layer with one result.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    /// The label and name of the operation that it comes from.
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) inputs: Vec<Tensor>,
    pub(super) output: Tensor,
}

/// What a layer is. Sizes that the result's type shows are not repeated.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// The constant of this number.
    Constant(usize),
    Unary(Unary),
    Activation(Activation),
    /// An activation limited to a range.
    Clip(f32, f32),
    ElementWise(ElementWise),
    Select,
    Cast,
    Identity,
    Reshape,
    Transpose(Vec<usize>),
    /// From `start` along each axis; the result's type says how far.
    Slice(Vec<Dim>),
    /// Sizes 1 repeated.
    Repeat,
    Concatenate(usize),
    Gather {
        axis: usize,
        elementwise: usize,
    },
    /// 0, 1, … along the only axis.
    Count,
    Reduce(Reduction, u32),
    /// Whether each operand is turned.
    MatrixMultiply([bool; 2]),
    Softmax(usize),
    Normalization(NormalizationOptions),
    Convolution(ConvolutionOptions),
    /// Each element repeated along each axis.
    Resize(Vec<f32>),
    RotaryEmbedding,
    Attention(AttentionOptions),
    /// The axis of a scale of several values.
    Quantize(Option<usize>),
    Dequantize(Option<usize>),
}

/// An input of the network.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LoweredInput {
    /// The name in the graph; `symbol.<name>` for [`InputKind::Symbol`].
    pub name: String,
    /// The name of the engine's tensor: the same unless that was taken.
    pub tensor: String,
    /// Type in the graph, which is also the engine's.
    pub ty: TensorType,
    /// Smallest, usual and largest shape if a size is known at run time only.
    pub shapes: Option<[Vec<i64>; 3]>,
    /// What is given there.
    pub kind: InputKind,
}

/// What is given at an input.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum InputKind {
    /// The value of the graph's input.
    Value,
    /// Nothing but a size: a tensor `i32[size]` whose elements are never read.
    Symbol(String),
}

/// An output of the network.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LoweredOutput {
    /// The name in the graph.
    pub name: String,
    /// The name of the engine's tensor: the same unless that was taken.
    pub tensor: String,
    /// Type in the graph, which is also the engine's.
    pub ty: TensorType,
}

/// A named constant of the network.
#[derive(Debug, Clone)]
pub struct PlacedWeight {
    /// The name by which it is set.
    pub name: String,
    /// Its dtype.
    pub dtype: DType,
    /// Its sizes in the network, with the elements in the order of the weight.
    pub sizes: Vec<usize>,
    /// Where its values come from.
    pub source: WeightSource,
    /// Whether only sizes depend on it. The library computes with it on the host.
    pub is_size: bool,
}

/// Where the values of a constant come from.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum WeightSource {
    /// The output of the weight program that has the constant's name.
    Placeholder,
    /// These values, the same for ever.
    Literal(HostTensor),
}

impl PlacedWeight {
    /// The number of elements.
    pub fn count(&self) -> usize {
        self.sizes.iter().product()
    }

    /// Whether its values come by refit.
    pub fn is_placeholder(&self) -> bool {
        matches!(self.source, WeightSource::Placeholder)
    }
}

impl Layers {
    /// The inputs, in the graph's order; those that only give a size come last.
    pub fn inputs(&self) -> &[LoweredInput] {
        &self.inputs
    }

    /// The outputs, in the graph's order.
    pub fn outputs(&self) -> &[LoweredOutput] {
        &self.outputs
    }

    /// Every named constant but those that [`Layers::add_to`] adds for sizes.
    pub fn weights(&self) -> &[PlacedWeight] {
        &self.weights
    }

    pub(super) fn ty(&self, tensor: Tensor) -> &TensorType {
        &self.types[tensor.0]
    }

    pub(super) fn new_tensor(&mut self, ty: TensorType) -> Tensor {
        self.types.push(ty);
        Tensor(self.types.len() - 1)
    }

    /// Drops layers whose result is not used, and the constants that only they used.
    pub(super) fn drop_unused(&mut self) {
        let mut used = vec![false; self.types.len()];
        for output in &self.output_tensors {
            used[output.0] = true;
        }
        for layer in self.all.iter().rev() {
            if used[layer.output.0] {
                for input in &layer.inputs {
                    used[input.0] = true;
                }
            }
        }
        self.all.retain(|layer| used[layer.output.0]);
        let mut numbers = vec![None; self.weights.len()];
        let mut kept = Vec::new();
        for layer in &mut self.all {
            if let Kind::Constant(number) = &mut layer.kind {
                let new = numbers[*number].get_or_insert_with(|| {
                    kept.push(self.weights[*number].clone());
                    kept.len() - 1
                });
                *number = *new;
            }
        }
        self.weights = kept;
    }
}

impl Kind {
    /// The name in listings.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Constant(_) => "constant",
            Self::Unary(unary) => unary.name(),
            Self::Activation(activation) => activation.name(),
            Self::Clip(..) => "clip",
            Self::ElementWise(operation) => operation.name(),
            Self::Select => "select",
            Self::Cast => "cast",
            Self::Identity => "identity",
            Self::Reshape => "reshape",
            Self::Transpose(_) => "transpose",
            Self::Slice(_) => "slice",
            Self::Repeat => "repeat",
            Self::Concatenate(_) => "concatenate",
            Self::Gather { .. } => "gather",
            Self::Count => "count",
            Self::Reduce(Reduction::Sum, _) => "reduce_sum",
            Self::Reduce(Reduction::Mean, _) => "reduce_mean",
            Self::Reduce(Reduction::Max, _) => "reduce_max",
            Self::Reduce(Reduction::Min, _) => "reduce_min",
            Self::MatrixMultiply(_) => "matrix_multiply",
            Self::Softmax(_) => "softmax",
            Self::Normalization(_) => "normalization",
            Self::Convolution(_) => "convolution",
            Self::Resize(_) => "resize",
            Self::RotaryEmbedding => "rotary_embedding",
            Self::Attention(_) => "attention",
            Self::Quantize(_) => "quantize",
            Self::Dequantize(_) => "dequantize",
        }
    }
}
