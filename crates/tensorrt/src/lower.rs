//! Graphs to networks.
//!
//! [`lower`] adds a request or step program to a [`Network`]. It works in two steps:
//! [`Layers::of`] decides without the library which layers stand for the graph, which constants
//! they read and which shapes the inputs may have, and prints itself ([`Layers::describe`]);
//! [`Layers::add_to`] adds these to a network.
//!
//! Networks are strongly typed, so that each rounding is where the layers say. Sizes are
//! polynomials over symbols: inputs have -1 there, and what a reshape, slice, repetition or count
//! needs is computed by layers on sizes.
//!
//! Every constant is named. What the weight program hands over is a placeholder of its name; all
//! else is a literal whose name tells its content, so that neither depends on value numbers.
//!
//! # How each operation is done
//!
//! *In f32* means: operands are cast to f32, the result is cast once. The library fuses casts with
//! the layers around them.
//!
//! | operation | layers |
//! |---|---|
//! | `constant` | literal |
//! | `iota` | count (a fill with steps of 1), reshaped and repeated; in i64 or f32, then cast |
//! | `neg` `abs` `exp` `log` `sqrt` `sin` `cos` `erf` `reciprocal` | unary |
//! | `rsqrt` | square root and reciprocal in f32 |
//! | `tanh` `sigmoid` `gelu_erf` `gelu_tanh` | activation |
//! | `silu` `gelu_quick` | `x · sigmoid(c · x)` in f32 |
//! | `add` `sub` `mul` `div` `max` `min` `pow` `equal` `less` | elementwise, ranks made equal by leading ones |
//! | `pow` of whole numbers | through f32: exact up to 2²⁴ |
//! | `select` | select; bools through i32 |
//! | `cast` | cast; whole numbers are limited before they get narrower; to and from f8 by quantize and dequantize with a scale of 1, or the scale that is multiplied with |
//! | `clamp` | activation with limits; NaN may not stay |
//! | `reshape` `transpose` | shuffle |
//! | `broadcast` | slice with steps of 0 |
//! | `slice` `concat` | slice, concatenation |
//! | `gather` | gather along an axis |
//! | `gather_rows` | gather with one axis that goes along |
//! | `argmax` | positions of what equals the maximum, the least of them |
//! | `reduce_sum` `reduce_mean` | reduction in f32 |
//! | `reduce_max` | reduction |
//! | `matmul` | matrix product |
//! | `linear` | matrix product with the weight turned, and a sum; where over four read one value, of copies of it |
//! | `relative_buckets` | table of the bucket of each distance, gathered at `|key − query|` |
//! | `softmax` | softmax |
//! | `layer_norm` | normalization over the last axis; without weight and bias, by ones and zeros |
//! | `rms_norm` | square, mean, square root, reciprocal in f32, the weight too |
//! | `group_norm` | normalization over height and width with groups |
//! | `modulate` `gated_residual` | elementwise in f32 |
//! | `rotary` | rotary embedding in f32 on `[b, h, s, d]` |
//! | `rotary_table` | turns in three parts, the whole ones dropped, then sine and cosine: exact where f32 angles are not |
//! | `attention` | attention on `[b, h, s, d]`, query and key each times the scale's square root; a bias is its mask; causal with a bias: −∞ put into the mask |
//! | `attention` with values of another size than keys | two products and a softmax in f32 |
//! | `conv2d` | convolution; where its weight is no parameter or literal, taken apart into one product |
//! | `upsample_nearest` | nearest-neighbour resize |
//!
//! Operations on f8 compute in f32. `u8` is carried as i32 and wraps around by the floor of a
//! quotient; inputs and outputs are u8 all the same. `f4e2m1` is refused: the library has it for
//! blocks with scales only. Bools that no layer moves are moved as i32.

mod attention;
mod composer;
mod describe;
mod elementwise;
mod emit;
mod layers;
mod lookup;
mod movement;
mod norms;
mod products;
mod quantized;
mod ranges;
mod rotary;
mod sizes;
mod words;

use std::borrow::Cow;
use std::collections::BTreeMap;

use tintype_ir::{Graph, Node, Op, TensorType, Value, decompose, infer};
use tintype_tensor::DType;

pub use layers::{InputKind, Layers, LoweredInput, LoweredOutput, PlacedWeight, WeightSource};
pub use ranges::SizeRange;

use crate::network::Network;
use crate::{Profile, Result};
use composer::Composer;
use layers::Tensor;
use ranges::Symbols;

/// Changes when the same graph is lowered to other layers, so that plans of before are not used.
pub const REVISION: u32 = 2;

/// How a graph is lowered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LowerOptions {
    /// Ranges of symbols, within those of the graph, which hold for symbols that are not here.
    /// A range of one size makes that size a number.
    pub symbols: BTreeMap<String, SizeRange>,
    /// Whether weights of f8 are placeholders of bf16 that hold their codes as numbers.
    pub widen_f8_weights: bool,
}

impl LowerOptions {
    /// The options with a range for a symbol.
    #[must_use]
    pub fn with_symbol(mut self, symbol: &str, range: SizeRange) -> Self {
        self.symbols.insert(symbol.to_owned(), range);
        self
    }
}

/// What a network was lowered from: what to give, what to expect, what to set.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Lowered {
    /// The graph's name.
    pub name: String,
    /// The inputs.
    pub inputs: Vec<LoweredInput>,
    /// The outputs.
    pub outputs: Vec<LoweredOutput>,
    /// Every named constant.
    pub weights: Vec<PlacedWeight>,
    listing: String,
}

/// Adds a program to an empty network.
///
/// # Errors
/// [`Error::Graph`](crate::Error::Graph) for an operation whose operands do not fit,
/// [`Error::Lowering`](crate::Error::Lowering) for what TensorRT cannot do,
/// [`Error::Setting`](crate::Error::Setting) for ranges outside of the graph's, or what the
/// library says.
pub fn lower(network: &Network<'_>, program: &Graph, options: &LowerOptions) -> Result<Lowered> {
    Layers::of(program, options)?.add_to(network)
}

impl Layers {
    /// The layers of a program.
    ///
    /// # Errors
    /// As [`lower`], without those of the library.
    pub fn of(program: &Graph, options: &LowerOptions) -> Result<Self> {
        check_types(program)?;
        let program = prepared(program)?;
        let symbols = Symbols::new(program.symbols(), &options.symbols)?;
        let mut composer = Composer::new(&program, Self::empty(program.name(), symbols));
        composer.widens_f8_weights = options.widen_f8_weights;
        composer.declare_inputs()?;
        for (index, node) in program.nodes().iter().enumerate() {
            composer.begin(index, node);
            let tensor = composer.node(node)?;
            composer.expect_type(tensor, node)?;
            composer.nodes.push(tensor);
        }
        composer.declare_outputs()?;
        let mut layers = composer.layers;
        layers.drop_unused();
        Ok(layers)
    }
}

impl Lowered {
    /// The lowered network, a layer a line.
    pub fn describe(&self) -> &str {
        &self.listing
    }

    /// The constants whose values come by refit.
    pub fn placeholders(&self) -> impl Iterator<Item = &PlacedWeight> {
        self.weights.iter().filter(|weight| weight.is_placeholder())
    }

    /// Whether a size is known at run time only, so that a profile is needed.
    pub fn is_dynamic(&self) -> bool {
        self.inputs.iter().any(|input| input.shapes.is_some())
    }

    /// Sets the shapes that the inputs may have.
    ///
    /// # Errors
    /// What the library says.
    pub fn set_profile(&self, profile: &mut Profile<'_>) -> Result<()> {
        for input in &self.inputs {
            if let Some([min, opt, max]) = &input.shapes {
                profile.set_shape(&input.tensor, min, opt, max)?;
            }
        }
        Ok(())
    }
}

/// Each node has the type that inference gives. The verifier asks for more than a program of
/// three can give: symbols that only another one's inputs bind.
fn check_types(program: &Graph) -> Result<()> {
    for (index, node) in program.nodes().iter().enumerate() {
        let types: Vec<TensorType> = node
            .operands
            .iter()
            .map(|&operand| program.type_of(operand).clone())
            .collect();
        let expected = infer(&node.op, &types)?;
        if expected != node.ty {
            return Err(crate::Error::Lowering {
                name: format!("%{index}"),
                operation: node.op.name(),
                reason: format!("expected the type {expected}, found {}", node.ty),
            });
        }
    }
    Ok(())
}

/// The graph with convolutions taken apart whose weights are computed: the library's read
/// constants only.
fn prepared(program: &Graph) -> Result<Cow<'_, Graph>> {
    let is_fixed = |value: Value| match value {
        Value::Parameter(_) => true,
        Value::Input(_) => false,
        Value::Node(index) => matches!(program.nodes()[index].op, Op::Constant(_)),
    };
    let is_odd = |node: &Node| {
        matches!(node.op, Op::Conv2d(_)) && !node.operands[1..].iter().all(|&v| is_fixed(v))
    };
    if !program.nodes().iter().any(is_odd) {
        return Ok(Cow::Borrowed(program));
    }
    let apart = decompose(program, &|op| !matches!(op, Op::Conv2d(_)))?;
    Ok(Cow::Owned(apart))
}

impl Composer<'_> {
    /// The layers of one node. Those that compute do so in f32 where an operand is f8.
    fn node(&mut self, node: &Node) -> Result<Tensor> {
        let operands = node
            .operands
            .iter()
            .map(|&value| self.graph.type_of(value).dtype);
        let has_f8 = operands
            .chain([node.ty.dtype])
            .any(|dtype| dtype == DType::F8E4M3);
        if has_f8 && computes(&node.op) {
            return self.node_of_f8(node);
        }
        let mut operands = Vec::with_capacity(node.operands.len());
        for &operand in &node.operands {
            // These read parameters with dimensions of their own.
            let later = matches!(operand, Value::Parameter(_)) && reads_weights(&node.op);
            operands.push(if later {
                Tensor(usize::MAX)
            } else {
                self.tensor(operand)?
            });
        }
        self.operation(node, &operands)
    }

    /// The layers of one operation: an arm for each, so that a new one is not forgotten.
    fn operation(&mut self, node: &Node, x: &[Tensor]) -> Result<Tensor> {
        let values = &node.operands;
        match &node.op {
            Op::Constant(constant) => self.constant_values(constant),
            Op::Iota { ty, axis } => self.iota(ty, *axis),
            Op::Unary(op) => self.unary_operation(*op, x[0]),
            Op::Binary(op) => self.binary(*op, [x[0], x[1]], values, node.ty.dtype),
            Op::Select => self.choose(x[0], x[1], x[2]),
            Op::Cast { dtype } => self.cast_values(values[0], x[0], *dtype),
            Op::Clamp { min, max } => Ok(self.clamp(x[0], *min, *max)),
            Op::Reshape { dims } => self.move_reshape(x[0], dims),
            Op::Broadcast { dims } => self.move_broadcast(x[0], dims),
            Op::Transpose { permutation } => self.move_transpose(x[0], permutation),
            Op::Slice { axis, start, end } => self.move_slice(x[0], *axis, start, end),
            Op::Concat { axis } => self.move_concat(x, *axis),
            Op::Gather { axis } => self.gather(x[0], x[1], *axis),
            Op::GatherRows => self.gather_rows(x[0], x[1]),
            Op::ArgMax => self.argmax(x[0]),
            Op::Reduce { kind, axes } => self.reduction(*kind, x[0], axes),
            Op::MatMul => self.multiply(x[0], x[1], [false, false]),
            Op::RelativeBuckets(attributes) => self.relative_buckets(attributes),
            Op::Linear => self.linear(values[0], x[0], values[1], values.get(2).copied()),
            Op::Softmax => self.softmax(x[0]),
            Op::LayerNorm { epsilon } => self.layer_norm(x[0], &values[1..], *epsilon),
            Op::RmsNorm { epsilon } => self.rms_norm(x[0], values.get(1).copied(), *epsilon),
            Op::GroupNorm { groups, epsilon } => {
                self.group_norm(x[0], &values[1..], *groups, *epsilon)
            }
            Op::Modulate => self.modulate(x[0], x[1], x[2]),
            Op::GatedResidual => self.gated_residual(x[0], x[1], x[2]),
            Op::Rotary => self.rotary(x[0], x[1]),
            Op::RotaryTable { theta, dims } => self.rotary_table(x[0], *theta, dims),
            Op::Attention(attributes) => {
                self.attention([x[0], x[1], x[2]], x.get(3).copied(), attributes)
            }
            Op::Conv2d(attributes) => self.convolution(x[0], x[1], x.get(2).copied(), attributes),
            Op::UpsampleNearest { factor } => self.upsample(x[0], *factor),
            other => self.refuse(format!("`{}` is not known here", other.name())),
        }
    }

    /// The type that inference gave is the type that the layers have.
    fn expect_type(&self, tensor: Tensor, node: &Node) -> Result<()> {
        let mut expected = self.layers.symbols.ty(&node.ty)?;
        expected.dtype = carrier(expected.dtype);
        if *self.ty(tensor) == expected {
            return Ok(());
        }
        self.refuse(format!(
            "expected {expected}, its layers give {}",
            self.ty(tensor)
        ))
    }
}

/// The dtype by which values of a dtype are carried inside the network.
fn carrier(dtype: DType) -> DType {
    match dtype {
        DType::U8 => DType::I32,
        other => other,
    }
}

/// Whether an operation does arithmetic on floats, rather than moving values.
fn computes(op: &Op) -> bool {
    !matches!(
        op,
        Op::Constant(_)
            | Op::Select
            | Op::Cast { .. }
            | Op::Reshape { .. }
            | Op::Broadcast { .. }
            | Op::Transpose { .. }
            | Op::Slice { .. }
            | Op::Concat { .. }
            | Op::Gather { .. }
            | Op::GatherRows
            | Op::UpsampleNearest { .. }
    )
}

/// Whether an operation gives its parameters dimensions that fit its layers.
fn reads_weights(op: &Op) -> bool {
    matches!(
        op,
        Op::Linear | Op::LayerNorm { .. } | Op::RmsNorm { .. } | Op::GroupNorm { .. }
    )
}
