//! Floats of 8 bits: quantize and dequantize with the scale that the graph multiplies with.

use tintype_ir::{BinaryOp, Node, Op, TensorType, Value};
use tintype_tensor::DType;

use super::composer::Composer;
use super::layers::{Kind, Layer, Tensor};
use crate::Result;

impl Composer<'_> {
    /// An operation with operands or a result of f8: in f32, rounded once.
    pub(super) fn node_of_f8(&mut self, node: &Node) -> Result<Tensor> {
        let mut operands = Vec::with_capacity(node.operands.len());
        for &operand in &node.operands {
            let tensor = self.tensor(operand)?;
            let is_f8 = self.dtype(tensor) == DType::F8E4M3;
            operands.push(if is_f8 {
                self.cast(tensor, DType::F32)?
            } else {
                tensor
            });
        }
        // The operation reads what it is given, in no graph.
        let result = self.operation_on_f32(node, &operands)?;
        self.cast(result, super::carrier(node.ty.dtype))
    }

    fn operation_on_f32(&mut self, node: &Node, x: &[Tensor]) -> Result<Tensor> {
        match &node.op {
            Op::Linear => {
                let product = self.multiply_turned(x[0], x[1])?;
                match x.get(2) {
                    Some(&bias) => {
                        self.elementwise(crate::network::ElementWise::Sum, product, bias)
                    }
                    None => Ok(product),
                }
            }
            Op::LayerNorm { .. } | Op::RmsNorm { .. } | Op::GroupNorm { .. } => {
                self.refuse("norms of f8e4m3; cast to f32 before")
            }
            Op::Conv2d(_) => self.refuse("a convolution of f8e4m3; cast before"),
            _ => self.operation(node, x),
        }
    }

    fn multiply_turned(&mut self, x: Tensor, weight: Tensor) -> Result<Tensor> {
        let mut dims = self.dims(x);
        let rows = if dims.len() == 1 {
            self.at_rank(x, 2)?
        } else {
            x
        };
        let product = self.multiply(rows, weight, [false, true])?;
        dims.pop();
        dims.extend(self.dims(product).pop());
        self.reshape(product, dims)
    }

    /// Quantize or dequantize by a scale of one.
    pub(super) fn scale_of_one(
        &mut self,
        x: Tensor,
        kind: Kind,
        ty: &TensorType,
    ) -> Result<Tensor> {
        // The library's layers take no scalars.
        let dims = self.dims(x);
        let x = if dims.is_empty() {
            self.at_rank(x, 1)?
        } else {
            x
        };
        let one = self.number(DType::F32, 0, 1.0)?;
        let inside = ty.with_dims(self.dims(x));
        let result = self.add(kind, &[x, one], inside);
        self.reshape(result, dims)
    }

    /// `cast(x) · scale` of an `x` of f8 and one scale, which is a parameter or constant: a
    /// dequantize, which kernels for f8 take in.
    pub(super) fn dequantized(
        &mut self,
        operands: [Value; 2],
        dtype: DType,
    ) -> Result<Option<Tensor>> {
        let graph = self.graph;
        for [cast, scale] in [operands, [operands[1], operands[0]]] {
            let Some(node) = graph.node_of(cast) else {
                continue;
            };
            let (Op::Cast { .. }, &[of]) = (&node.op, node.operands.as_slice()) else {
                continue;
            };
            let ty = graph.type_of(of);
            let fits = ty.rank() >= graph.type_of(scale).rank().max(1);
            if ty.dtype != DType::F8E4M3 || !fits || !self.is_scale(scale) {
                continue;
            }
            let x = self.tensor(of)?;
            let scale = self.value_as(scale, Vec::new())?;
            let scale = self.cast(scale, DType::F32)?;
            let ty = self.ty(x).with_dtype(dtype);
            return Ok(Some(self.add(Kind::Dequantize(None), &[x, scale], ty)));
        }
        Ok(None)
    }

    /// `cast(x / scale)` to f8, likewise: a quantize.
    pub(super) fn quantized(&mut self, value: Value) -> Result<Option<Tensor>> {
        let Some(node) = self.graph.node_of(value) else {
            return Ok(None);
        };
        let is_quotient = node.op == Op::Binary(BinaryOp::Div);
        if !is_quotient || node.ty.rank() == 0 || !self.is_scale(node.operands[1]) {
            return Ok(None);
        }
        let (x, scale) = (node.operands[0], node.operands[1]);
        if self.graph.type_of(x).dims != node.ty.dims {
            return Ok(None);
        }
        let mut x = self.tensor(x)?;
        // A quantize reads narrow floats as they are.
        if let Some(layer) = self.maker(x)
            && layer.kind == Kind::Cast
            && matches!(self.dtype(layer.inputs[0]), DType::F16 | DType::BF16)
        {
            x = layer.inputs[0];
        }
        let scale = self.value_as(scale, Vec::new())?;
        let scale = self.cast(scale, DType::F32)?;
        let ty = self.ty(x).with_dtype(DType::F8E4M3);
        Ok(Some(self.add(Kind::Quantize(None), &[x, scale], ty)))
    }

    /// What a dequantize to f32 reads, if `x` is the result of one and is to become narrower:
    /// the library's kernels for f8 want it in the dtype of the product.
    pub(super) fn widened_f8(&self, x: Tensor, dtype: DType) -> Option<Vec<Tensor>> {
        let layer = self.maker(x)?;
        let narrower = matches!(dtype, DType::F16 | DType::BF16) && self.dtype(x) == DType::F32;
        (layer.kind == Kind::Dequantize(None) && narrower).then(|| layer.inputs.clone())
    }

    /// What a dequantize of a quantize with the same scale reads, and the scale.
    pub(super) fn through_codes(&self, dequantize: &Layer) -> Option<[Tensor; 2]> {
        let [codes, scale] = dequantize.inputs[..] else {
            return None;
        };
        let quantize = self.maker(codes)?;
        let is_pair = dequantize.kind == Kind::Dequantize(None)
            && quantize.kind == Kind::Quantize(None)
            && quantize.inputs[1] == scale;
        is_pair.then(|| [quantize.inputs[0], scale])
    }

    /// Whether a value is one number that is known before the network runs.
    fn is_scale(&self, value: Value) -> bool {
        let ty = self.graph.type_of(value);
        let is_one = ty
            .static_shape()
            .is_some_and(|shape| shape.element_count() == 1);
        let is_fixed = match value {
            Value::Parameter(_) => true,
            Value::Input(_) => false,
            Value::Node(_) => {
                let node = self.graph.node_of(value);
                node.is_some_and(|node| matches!(node.op, Op::Constant(_)))
            }
        };
        is_one && is_fixed && ty.dtype.is_float()
    }
}
