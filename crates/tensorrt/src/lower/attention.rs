//! Attention.

use tintype_ir::Attention;
use tintype_tensor::DType;

use super::composer::Composer;
use super::layers::{Kind, Tensor};
use crate::Result;
use crate::network::{AttentionOptions, ElementWise};

impl Composer<'_> {
    /// Attention by the library's layer, on `[b, h, s, d]`; by two products and a softmax where
    /// values have another size than keys.
    pub(super) fn attention(
        &mut self,
        qkv: [Tensor; 3],
        bias: Option<Tensor>,
        attributes: &Attention,
    ) -> Result<Tensor> {
        let by_layer = self.ty(qkv[0]).dims[3] == self.ty(qkv[2]).dims[3];
        let dtype = self.dtype(qkv[0]);
        if by_layer
            && bias.is_none()
            && !attributes.causal
            && let Some(coded) = self.coded(qkv)
        {
            let result = self.attention_of_codes(coded, attributes.scale, dtype)?;
            return Ok(self.transpose(result, &HEADS_FIRST));
        }
        let [q, k, v] = qkv.map(|operand| self.transpose(operand, &HEADS_FIRST));
        let result = if by_layer {
            let [q, k] = self.scaled([q, k], attributes.scale)?;
            let mask = match bias {
                Some(bias) if attributes.causal => Some(self.causal_mask(bias)?),
                other => other,
            };
            let mask = mask.map(|mask| self.cast(mask, dtype)).transpose()?;
            let options = AttentionOptions {
                causal: attributes.causal && mask.is_none(),
                decomposable: true,
                quantized: false,
            };
            let operands: Vec<Tensor> = [q, k, v].into_iter().chain(mask).collect();
            let ty = self.ty(q).clone();
            self.add(Kind::Attention(options), &operands, ty)
        } else {
            self.attention_of_products([q, k, v], bias, attributes)?
        };
        Ok(self.transpose(result, &HEADS_FIRST))
    }

    /// Query, key and value before they were quantized, each with its scale; none unless all three
    /// were, with numbers for scales: of other scales the library makes no fused attention.
    fn coded(&self, qkv: [Tensor; 3]) -> Option<[Coded; 3]> {
        let [q, k, v] = qkv.map(|operand| {
            let [value, scale] = self.through_codes(self.maker(operand)?)?;
            Some(Coded {
                value,
                scale,
                number: self.literal_number(scale)?,
            })
        });
        Some([q?, k?, v?])
    }

    /// Attention on codes. What the library wants around it: a quantize and a dequantize right
    /// before it, with nothing between, so that the scale of the product goes into that of the
    /// codes; and a scale of the probabilities, which are at most 1.
    fn attention_of_codes(
        &mut self,
        coded: [Coded; 3],
        scale: f32,
        dtype: DType,
    ) -> Result<Tensor> {
        // As in `scaled`: half of it in each, where there is a root.
        let root = scale.max(0.0).sqrt();
        let factors = if scale > 0.0 {
            [root, root, 1.0]
        } else {
            [scale, 1.0, 1.0]
        };
        let mut operands = Vec::with_capacity(4);
        for (operand, factor) in coded.into_iter().zip(factors) {
            let value = self.transpose(operand.value, &HEADS_FIRST);
            let ty = self.ty(value).clone();
            let codes = ty.with_dtype(DType::F8E4M3);
            let codes = self.add(Kind::Quantize(None), &[value, operand.scale], codes);
            let scale = self.number(DType::F32, 0, operand.number * factor)?;
            let ty = ty.with_dtype(dtype);
            operands.push(self.add(Kind::Dequantize(None), &[codes, scale], ty));
        }
        let ty = self.ty(operands[0]).clone();
        operands.push(self.number(DType::F32, 0, 1.0 / GREATEST_CODE)?);
        let options = AttentionOptions {
            causal: false,
            decomposable: true,
            quantized: true,
        };
        Ok(self.add(Kind::Attention(options), &operands, ty))
    }

    /// Query and key with the scale of their product, half of it in each: so neither leaves the
    /// range of f16. A negative scale has no root; it stays with the query, as does that of a tensor
    /// that is its own key.
    fn scaled(&mut self, [q, k]: [Tensor; 2], scale: f32) -> Result<[Tensor; 2]> {
        if scale == 1.0 {
            return Ok([q, k]);
        }
        // The library's builder crashes (TensorRT-RTX 1.7) where one tensor is both, scaled twice.
        if scale > 0.0 && q != k {
            let root = scale.sqrt();
            return Ok([self.scaled_once(q, root)?, self.scaled_once(k, root)?]);
        }
        Ok([self.scaled_once(q, scale)?, k])
    }

    /// `x · factor`, rounded once; a narrow float would not hold the factor.
    fn scaled_once(&mut self, x: Tensor, factor: f32) -> Result<Tensor> {
        let wide = self.unrounded(x)?;
        let scaled = self.with_number(ElementWise::Product, wide, factor)?;
        self.cast(scaled, self.dtype(x))
    }

    /// `softmax(scale · q·kᵀ + bias) · v` in f32.
    fn attention_of_products(
        &mut self,
        qkv: [Tensor; 3],
        bias: Option<Tensor>,
        attributes: &Attention,
    ) -> Result<Tensor> {
        let dtype = self.dtype(qkv[0]);
        let mut wide = qkv;
        for operand in &mut wide {
            *operand = self.cast(*operand, DType::F32)?;
        }
        let [q, k, v] = wide;
        let scores = self.multiply(q, k, [false, true])?;
        let mut scores = self.with_number(ElementWise::Product, scores, attributes.scale)?;
        if let Some(bias) = bias {
            let bias = self.cast(bias, DType::F32)?;
            scores = self.elementwise(ElementWise::Sum, scores, bias)?;
        }
        if attributes.causal {
            scores = self.causal_mask(scores)?;
        }
        let weights = self.softmax(scores)?;
        let result = self.multiply(weights, v, [false, false])?;
        self.cast(result, dtype)
    }

    /// `scores[…, queries, keys]` with −∞ where the key's position is after the query's.
    fn causal_mask(&mut self, scores: Tensor) -> Result<Tensor> {
        let dims = self.dims(scores);
        let (queries, keys) = (dims[2].clone(), dims[3].clone());
        let query = self.count(DType::I64, queries.clone());
        let query = self.reshape(query, vec![queries, 1.into()])?;
        let key = self.count(DType::I64, keys.clone());
        let key = self.reshape(key, vec![1.into(), keys])?;
        let later = self.elementwise(ElementWise::Less, query, key)?;
        let hidden = self.number(self.dtype(scores), 4, f32::NEG_INFINITY)?;
        self.select(later, hidden, scores)
    }
}

/// A value before it was quantized, and the scale of its codes as a tensor and as a number.
#[derive(Debug, Clone, Copy)]
struct Coded {
    value: Tensor,
    scale: Tensor,
    number: f32,
}

/// `[b, s, h, d]` as the library has it, `[b, h, s, d]`; and back.
const HEADS_FIRST: [usize; 4] = [0, 2, 1, 3];

/// The greatest value of f8e4m3.
const GREATEST_CODE: f32 = 448.0;
