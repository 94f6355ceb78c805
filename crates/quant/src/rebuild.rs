//! A graph made anew, node by node, where parameters may become f32 and one node several.
//!
//! Beside the rewriter of `ir`, which keeps inputs and parameters as they are, this one may
//! declare more of them, and more outputs; and it may hold a source node's result twice.

use std::collections::{BTreeSet, HashMap};

use tintype_ir::{BinaryOp, Graph, GraphBuilder, Op, ReduceOp, TensorType, UnaryOp, Value};
use tintype_tensor::DType;

use crate::{E4M3_MAX, Result};

/// A graph in the making.
pub(crate) struct Rebuild<'g> {
    pub(crate) source: &'g Graph,
    pub(crate) b: GraphBuilder,
    /// Of each parameter of the source, as it is declared now.
    parameters: Vec<Value>,
    /// Of those that are f32 now: the value in the dtype that the source has.
    narrowed: HashMap<usize, Value>,
}

impl<'g> Rebuild<'g> {
    /// Declares symbols, inputs and parameters of `source`; those of `wide` as f32.
    pub(crate) fn new(source: &'g Graph, wide: &BTreeSet<usize>) -> Self {
        let mut b = GraphBuilder::new(source.name());
        for (symbol, range) in source.symbols() {
            b.symbol(symbol, range.clone());
        }
        for input in source.inputs() {
            b.input(&input.name, input.stage, input.ty.clone());
        }
        let declare = |(index, parameter): (usize, &tintype_ir::Parameter)| {
            let ty = if wide.contains(&index) {
                parameter.ty.with_dtype(DType::F32)
            } else {
                parameter.ty.clone()
            };
            b.parameter(&parameter.name, ty)
        };
        let parameters = source.parameters().iter().enumerate();
        let parameters = parameters.map(declare).collect();
        Self {
            source,
            b,
            parameters,
            narrowed: HashMap::new(),
        }
    }

    /// The parameter as it is declared: perhaps wider than in the source.
    pub(crate) fn parameter(&self, index: usize) -> Value {
        self.parameters[index]
    }

    /// The value that stands for one of the source; `nodes` has those of its nodes.
    pub(crate) fn value(&mut self, value: Value, nodes: &[Value]) -> Value {
        match value {
            Value::Input(_) => value,
            Value::Node(index) => nodes[index],
            Value::Parameter(index) => {
                let declared = self.parameters[index];
                let dtype = self.source.parameters()[index].ty.dtype;
                if self.b.type_of(declared).dtype == dtype {
                    return declared;
                }
                let b = &mut self.b;
                *self
                    .narrowed
                    .entry(index)
                    .or_insert_with(|| b.cast(declared, dtype))
            }
        }
    }

    /// The operands of a node.
    pub(crate) fn operands(&mut self, index: usize, nodes: &[Value]) -> Vec<Value> {
        let operands = &self.source.nodes()[index].operands;
        operands
            .iter()
            .map(|&operand| self.value(operand, nodes))
            .collect()
    }

    /// The operation of a source node on these operands, under its label.
    pub(crate) fn copy(&mut self, index: usize, operands: &[Value]) -> Value {
        let node = &self.source.nodes()[index];
        self.labelled(node.label.as_deref(), |b| b.op(node.op.clone(), operands))
    }

    /// Runs `body` with nodes under a label.
    pub(crate) fn labelled<T>(
        &mut self,
        label: Option<&str>,
        body: impl FnOnce(&mut GraphBuilder) -> T,
    ) -> T {
        let before = self.b.set_label(label);
        let result = body(&mut self.b);
        self.b.set_label(before.as_deref());
        result
    }

    /// The outputs of the source, on the values of `nodes`.
    pub(crate) fn outputs(&mut self, nodes: &[Value]) {
        for output in self.source.outputs() {
            let value = self.value(output.value, nodes);
            self.b.output(&output.name, value);
        }
    }

    /// The verified graph.
    pub(crate) fn finish(self) -> Result<Graph> {
        Ok(self.b.finish()?)
    }
}

/// `dequantize(quantize(x))` with E4M3 codes, in the dtype of `x`.
pub(crate) fn through_codes(b: &mut GraphBuilder, x: Value, scale: Value, dtype: DType) -> Value {
    let wide = b.cast(x, DType::F32);
    let quotient = b.binary(BinaryOp::Div, wide, scale);
    let codes = b.cast(quotient, DType::F8E4M3);
    let wide = b.cast(codes, DType::F32);
    let product = b.mul(wide, scale);
    b.cast(product, dtype)
}

/// The greatest absolute value over `axes`, f32 with sizes 1 there.
pub(crate) fn absolute_maximum(b: &mut GraphBuilder, x: Value, axes: &[usize]) -> Value {
    let wide = b.cast(x, DType::F32);
    let magnitude = b.unary(UnaryOp::Abs, wide);
    if axes.is_empty() {
        return magnitude;
    }
    b.reduce(ReduceOp::Max, magnitude, axes)
}

/// The scale that belongs to an absolute maximum. That of zeros alone is the least normal
/// number, so that nothing is divided by zero.
pub(crate) fn scale_of_maximum(b: &mut GraphBuilder, maximum: Value) -> Value {
    let greatest = b.scalar(DType::F32, E4M3_MAX);
    let scale = b.binary(BinaryOp::Div, maximum, greatest);
    let least = b.scalar(DType::F32, f32::MIN_POSITIVE);
    b.binary(BinaryOp::Max, scale, least)
}

/// A value of one element without axes.
pub(crate) fn without_axes(b: &mut GraphBuilder, x: Value) -> Value {
    if b.type_of(x).rank() == 0 {
        return x;
    }
    b.op(Op::Reshape { dims: Vec::new() }, &[x])
}

/// All axes of a value.
pub(crate) fn all_axes(b: &GraphBuilder, x: Value) -> Vec<usize> {
    (0..b.type_of(x).rank()).collect()
}

/// One f32.
pub(crate) fn number_type() -> TensorType {
    TensorType::new(DType::F32, [0usize; 0])
}
