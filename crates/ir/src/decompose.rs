//! Takes operations apart into simpler ones, for backends that lack them.
//!
//! Those of the second half of [`Op`] (and `gather_rows` and `argmax`) become
//! operations of the first half. Computing is in f32: operands of a smaller dtype are
//! cast first and the result is cast once at the end, so that taking an operation
//! apart adds no rounding. The fusions of [`passes`](crate::passes) undo it.
//!
//! Two are less exact than the operation itself: `rotary_table` computes its angles
//! in f32 instead of f64, and `argmax` compares and counts in f32, which is exact for
//! values and positions up to 2²⁴ and without NaN.
//!
//! ```
//! use tintype_ir::{Op, decompose, parse};
//! let graph = parse("graph g { input step %x: bf16[4] %0: bf16[4] = silu %x output y = %0 }")?;
//! let simple = decompose(&graph, &|_| false)?;
//! assert_eq!(simple.nodes().len(), 4); // cast, sigmoid, mul, cast
//! # Ok::<(), tintype_ir::Error>(())
//! ```

mod convolution;
mod norms;
mod rotary;
mod sequence;

use tintype_tensor::DType;

use crate::passes::Rewriter;
use crate::{BinaryOp, Constant, Dim, Graph, Op, ReduceOp, Result, TensorType, UnaryOp, Value};

/// The graph with every operation that `supported` refuses taken apart, and what that
/// gives too where it is refused. Operations of the first half stay in any case.
///
/// # Errors
/// [`Error::Type`](crate::Error::Type) for a convolution whose kernel has no static size,
/// or over [`MAX_KERNEL`] positions, or whose symbolic size cannot be cut into strides.
pub fn decompose(graph: &Graph, supported: &dyn Fn(&Op) -> bool) -> Result<Graph> {
    Rewriter::rewrite(graph, |rewriter, _, node| {
        if is_simple(&node.op) || supported(&node.op) {
            return Ok(None);
        }
        let operands: Vec<Value> = node.operands.iter().map(|&v| rewriter.map(v)).collect();
        let mut decomposer = Decomposer {
            rewriter,
            supported,
        };
        decomposer.add(node.op.clone(), &operands).map(Some)
    })
}

/// The most positions of a convolution's kernel that are taken apart.
pub const MAX_KERNEL: i64 = 1024;

/// Whether no rule takes this operation apart.
fn is_simple(op: &Op) -> bool {
    match op {
        Op::Unary(op) => !matches!(
            op,
            UnaryOp::Silu | UnaryOp::GeluErf | UnaryOp::GeluTanh | UnaryOp::GeluQuick
        ),
        Op::GatherRows
        | Op::ArgMax
        | Op::Linear
        | Op::Softmax
        | Op::LayerNorm { .. }
        | Op::RmsNorm { .. }
        | Op::GroupNorm { .. }
        | Op::Modulate
        | Op::GatedResidual
        | Op::Rotary
        | Op::RotaryTable { .. }
        | Op::Attention(_)
        | Op::Conv2d(_)
        | Op::UpsampleNearest { .. } => false,
        _ => true,
    }
}

/// Adds operations to a graph, those that are not supported taken apart.
struct Decomposer<'r, 'g, 's> {
    rewriter: &'r mut Rewriter<'g>,
    supported: &'s dyn Fn(&Op) -> bool,
}

impl Decomposer<'_, '_, '_> {
    /// The result of `op`; casts around what it is taken apart into.
    fn add(&mut self, op: Op, operands: &[Value]) -> Result<Value> {
        if is_simple(&op) || (self.supported)(&op) {
            return self.rewriter.op(op, operands);
        }
        let types: Vec<_> = operands.iter().map(|&v| self.type_of(v).clone()).collect();
        let result = crate::infer(&op, &types)?;
        let moves_only = matches!(op, Op::GatherRows | Op::UpsampleNearest { .. });
        let mut widened = Vec::with_capacity(operands.len());
        for &operand in operands {
            let is_float = self.type_of(operand).dtype.is_float();
            widened.push(if is_float && !moves_only {
                self.rewriter.cast(operand, DType::F32)?
            } else {
                operand
            });
        }
        let value = self.expand(&op, &widened)?;
        self.rewriter.cast(value, result.dtype)
    }

    fn expand(&mut self, op: &Op, operands: &[Value]) -> Result<Value> {
        match (op, operands) {
            (Op::Unary(op), &[x]) => self.activation(*op, x),
            (Op::GatherRows, &[x, indices]) => self.gather_rows(x, indices),
            (Op::ArgMax, &[x]) => self.argmax(x),
            (Op::Linear, &[x, weight]) => self.linear(x, weight, None),
            (Op::Linear, &[x, weight, bias]) => self.linear(x, weight, Some(bias)),
            (Op::Softmax, &[x]) => self.softmax(x),
            (Op::LayerNorm { epsilon }, &[x, ..]) => self.layer_norm(*epsilon, x, &operands[1..]),
            (Op::RmsNorm { epsilon }, &[x, ..]) => self.rms_norm(*epsilon, x, &operands[1..]),
            (Op::GroupNorm { groups, epsilon }, &[x, weight, bias]) => {
                self.group_norm(*groups, *epsilon, x, [weight, bias])
            }
            (Op::Modulate, &[x, scale, shift]) => self.modulate(x, scale, shift),
            (Op::GatedResidual, &[residual, gate, x]) => {
                let gated = self.binary(BinaryOp::Mul, gate, x)?;
                self.binary(BinaryOp::Add, residual, gated)
            }
            (Op::Rotary, &[x, table]) => self.rotary(x, table),
            (Op::RotaryTable { theta, dims }, &[ids]) => self.rotary_table(*theta, dims, ids),
            (Op::Attention(attributes), &[q, k, v]) => self.attention(attributes, [q, k, v], None),
            (Op::Attention(attributes), &[q, k, v, bias]) => {
                self.attention(attributes, [q, k, v], Some(bias))
            }
            (Op::Conv2d(attributes), &[x, weight, ..]) => {
                self.conv2d(attributes, x, weight, operands.get(2).copied())
            }
            (Op::UpsampleNearest { factor }, &[x]) => self.upsample(*factor, x),
            _ => self.rewriter.op(op.clone(), operands),
        }
    }

    fn activation(&mut self, op: UnaryOp, x: Value) -> Result<Value> {
        match op {
            UnaryOp::Silu => {
                let sigmoid = self.unary(UnaryOp::Sigmoid, x)?;
                self.binary(BinaryOp::Mul, x, sigmoid)
            }
            UnaryOp::GeluQuick => {
                let scaled = self.binary_scalar(BinaryOp::Mul, x, 1.702)?;
                let sigmoid = self.unary(UnaryOp::Sigmoid, scaled)?;
                self.binary(BinaryOp::Mul, x, sigmoid)
            }
            UnaryOp::GeluErf => {
                let scaled =
                    self.binary_scalar(BinaryOp::Mul, x, std::f32::consts::FRAC_1_SQRT_2)?;
                let curve = self.unary(UnaryOp::Erf, scaled)?;
                self.gelu_of_curve(x, curve)
            }
            UnaryOp::GeluTanh => {
                let square = self.binary(BinaryOp::Mul, x, x)?;
                let cube = self.binary(BinaryOp::Mul, square, x)?;
                let cubic = self.binary_scalar(BinaryOp::Mul, cube, 0.044715)?;
                let sum = self.binary(BinaryOp::Add, x, cubic)?;
                let factor = (2.0 / std::f32::consts::PI).sqrt();
                let scaled = self.binary_scalar(BinaryOp::Mul, sum, factor)?;
                let curve = self.unary(UnaryOp::Tanh, scaled)?;
                self.gelu_of_curve(x, curve)
            }
            _ => self.unary(op, x),
        }
    }

    /// `x/2 · (1 + curve)`.
    fn gelu_of_curve(&mut self, x: Value, curve: Value) -> Result<Value> {
        let raised = self.binary_scalar(BinaryOp::Add, curve, 1.0)?;
        let half = self.binary_scalar(BinaryOp::Mul, x, 0.5)?;
        self.binary(BinaryOp::Mul, half, raised)
    }

    fn linear(&mut self, x: Value, weight: Value, bias: Option<Value>) -> Result<Value> {
        let transposed = self.transpose(weight, &[1, 0])?;
        let dims = self.dims(x);
        // A product needs two axes.
        let rows = if dims.len() == 1 {
            self.reshape(x, vec![Dim::from(1), dims[0].clone()])?
        } else {
            x
        };
        let mut product = self.rewriter.op(Op::MatMul, &[rows, transposed])?;
        if dims.len() == 1 {
            let size = self.dims(product)[1].clone();
            product = self.reshape(product, vec![size])?;
        }
        match bias {
            Some(bias) => self.binary(BinaryOp::Add, product, bias),
            None => Ok(product),
        }
    }

    fn modulate(&mut self, x: Value, scale: Value, shift: Value) -> Result<Value> {
        let factor = self.binary_scalar(BinaryOp::Add, scale, 1.0)?;
        let scaled = self.binary(BinaryOp::Mul, x, factor)?;
        self.binary(BinaryOp::Add, scaled, shift)
    }

    fn upsample(&mut self, factor: usize, x: Value) -> Result<Value> {
        let dims = self.dims(x);
        let one = Dim::from(1);
        let [b, c, h, w] = [0, 1, 2, 3].map(|axis: usize| dims[axis].clone());
        let repeat = Dim::from(factor);
        let apart = vec![b.clone(), c.clone(), h.clone(), one.clone(), w.clone(), one];
        let x = self.reshape(x, apart)?;
        let repeated = vec![
            b.clone(),
            c.clone(),
            h.clone(),
            repeat.clone(),
            w.clone(),
            repeat.clone(),
        ];
        let x = self.rewriter.op(Op::Broadcast { dims: repeated }, &[x])?;
        let (height, width) = (times(&h, &repeat)?, times(&w, &repeat)?);
        self.reshape(x, vec![b, c, height, width])
    }
}

/// Operations in few words.
impl Decomposer<'_, '_, '_> {
    fn type_of(&self, value: Value) -> &TensorType {
        self.rewriter.type_of(value)
    }

    fn dims(&self, value: Value) -> Vec<Dim> {
        self.type_of(value).dims.clone()
    }

    fn unary(&mut self, op: UnaryOp, x: Value) -> Result<Value> {
        self.add(Op::Unary(op), &[x])
    }

    fn binary(&mut self, op: BinaryOp, a: Value, b: Value) -> Result<Value> {
        self.rewriter.op(Op::Binary(op), &[a, b])
    }

    fn binary_scalar(&mut self, op: BinaryOp, x: Value, number: f32) -> Result<Value> {
        let scalar = self.rewriter.scalar(DType::F32, number)?;
        self.binary(op, x, scalar)
    }

    fn integer(&mut self, value: i64) -> Result<Value> {
        let constant = Constant::integers(DType::I64, [], vec![value])?;
        self.rewriter.op(Op::Constant(constant), &[])
    }

    fn reshape(&mut self, x: Value, dims: Vec<Dim>) -> Result<Value> {
        self.rewriter.op(Op::Reshape { dims }, &[x])
    }

    fn transpose(&mut self, x: Value, permutation: &[usize]) -> Result<Value> {
        let permutation = permutation.to_vec();
        self.rewriter.op(Op::Transpose { permutation }, &[x])
    }

    fn slice(&mut self, x: Value, axis: usize, start: Dim, end: Dim) -> Result<Value> {
        self.rewriter.op(Op::Slice { axis, start, end }, &[x])
    }

    fn concat(&mut self, axis: usize, parts: &[Value]) -> Result<Value> {
        match parts {
            [part] => Ok(*part),
            _ => self.rewriter.op(Op::Concat { axis }, parts),
        }
    }

    fn reduce_last(&mut self, kind: ReduceOp, x: Value) -> Result<Value> {
        let axes = vec![self.type_of(x).rank() - 1];
        self.rewriter.op(Op::Reduce { kind, axes }, &[x])
    }
}

/// A product of dimensions, or the error that names it.
fn times(a: &Dim, b: &Dim) -> Result<Dim> {
    let overflow = || crate::Error::Overflow(format!("({a}) * ({b})"));
    a.checked_mul(b).ok_or_else(overflow)
}
