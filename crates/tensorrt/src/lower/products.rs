//! Linear layers, convolution, and what stands around them.

use tintype_ir::{Conv2d, Dim, TensorType, Value};
use tintype_tensor::DType;

use super::composer::Composer;
use super::layers::{Kind, Tensor};
use crate::Result;
use crate::network::{ConvolutionOptions, ElementWise};

impl Composer<'_> {
    /// `x · weightᵀ + bias`, the weight turned by the product: kernels for that read it as it
    /// lies. Rows of several pictures become one list, so that it is one product and not many.
    pub(super) fn linear(
        &mut self,
        source: Value,
        x: Tensor,
        weight: Value,
        bias: Option<Value>,
    ) -> Result<Tensor> {
        let dims = self.dims(x);
        let (width, outer) = dims.split_last().expect("inference wants an axis");
        let one = Dim::from(1);
        let is_one_list = outer.len() > 1 && outer[..outer.len() - 1].iter().all(|dim| *dim == one);
        let rows = if outer.len() == 1 || is_one_list {
            x
        } else {
            let count = product(outer)?;
            self.reshape(x, vec![count, width.clone()])?
        };
        let rows = self.own_copy(source, rows)?;
        let rank = self.rank(rows);
        let weight_dims = self.graph.type_of(weight).dims.clone();
        let weight_dims = self.in_network(&weight_dims)?;
        let mut result = outer.to_vec();
        result.push(weight_dims[0].clone());
        let weight = self.value_as(weight, with_ones(rank, weight_dims))?;
        let mut product = self.multiply(rows, weight, [false, true])?;
        if let Some(bias) = bias {
            let bias_dims = self.graph.type_of(bias).dims.clone();
            let bias_dims = self.in_network(&bias_dims)?;
            let bias = self.value_as(bias, with_ones(rank, bias_dims))?;
            product = self.elementwise(ElementWise::Sum, product, bias)?;
        }
        self.reshape(product, result)
    }

    /// A copy of rows that many linear layers read, for one of them.
    ///
    /// The library would make one product of all, for which it puts their weights together, in
    /// memory, at build and at refit: 6.6 GB for the modulation of FLUX. Rows of a repetition it
    /// does not see to be the same.
    fn own_copy(&mut self, source: Value, rows: Tensor) -> Result<Tensor> {
        let readers = self.linear_readers(source);
        if readers > 1
            && let Some([x, scale]) = self.quantized_from(rows)
        {
            return self.own_codes(source, rows, [x, scale]);
        }
        if readers <= MANY_READERS {
            return Ok(rows);
        }
        let dims = self.dims(rows);
        let mut one = vec![Dim::from(1)];
        one.extend(dims.iter().cloned());
        let (copies, number) = if let Some(&known) = self.copies.get(&source) {
            known
        } else {
            let mut all = one.clone();
            all[0] = Dim::from(readers);
            let list = self.reshape(rows, one)?;
            (self.repeat(list, all)?, 0)
        };
        self.copies.insert(source, (copies, number + 1));
        let copy = self.slice(copies, 0, Dim::from(number), Dim::from(1));
        self.reshape(copy, dims)
    }

    /// Rows that went through codes which several linear layers read, for one of them: through
    /// codes of its own, which are the same.
    ///
    /// One product of weights with different scales would need a pass over its result. So that the
    /// library sees no equal codes, the scales of all but the first are limited to numbers so small
    /// that only those of zeros are near.
    fn own_codes(
        &mut self,
        source: Value,
        rows: Tensor,
        [x, scale]: [Tensor; 2],
    ) -> Result<Tensor> {
        let number = self.copies.get(&source).map_or(0, |&(_, number)| number);
        self.copies.insert(source, (rows, number + 1));
        if number == 0 {
            return Ok(rows);
        }
        let least = f32::MIN_POSITIVE * number as f32;
        let scale = self.with_number(ElementWise::Max, scale, least)?;
        let ty = self.ty(rows).clone();
        let x = self.reshape(x, ty.dims.clone())?;
        let codes = self.ty(x).with_dtype(DType::F8E4M3);
        let codes = self.add(Kind::Quantize(None), &[x, scale], codes);
        Ok(self.add(Kind::Dequantize(None), &[codes, scale], ty))
    }

    /// What rows were before they went through codes, but for their dimensions, and the scale.
    fn quantized_from(&self, rows: Tensor) -> Option<[Tensor; 2]> {
        let mut dequantize = self.maker(rows)?;
        if dequantize.kind == Kind::Reshape {
            dequantize = self.maker(dequantize.inputs[0])?;
        }
        self.through_codes(dequantize)
    }

    /// `x · (1 + scale) + shift`, rounded once.
    pub(super) fn modulate(&mut self, x: Tensor, scale: Tensor, shift: Tensor) -> Result<Tensor> {
        let dtype = self.dtype(x);
        let wide = self.cast(x, DType::F32)?;
        let (scale, shift) = (self.cast(scale, DType::F32)?, self.cast(shift, DType::F32)?);
        let factor = self.with_number(ElementWise::Sum, scale, 1.0)?;
        let scaled = self.elementwise(ElementWise::Product, wide, factor)?;
        let shifted = self.elementwise(ElementWise::Sum, scaled, shift)?;
        self.cast(shifted, dtype)
    }

    /// `residual + gate · x`, rounded once.
    pub(super) fn gated_residual(
        &mut self,
        residual: Tensor,
        gate: Tensor,
        x: Tensor,
    ) -> Result<Tensor> {
        let dtype = self.dtype(residual);
        let residual = self.cast(residual, DType::F32)?;
        let (gate, x) = (self.cast(gate, DType::F32)?, self.cast(x, DType::F32)?);
        let gated = self.elementwise(ElementWise::Product, gate, x)?;
        let sum = self.elementwise(ElementWise::Sum, residual, gated)?;
        self.cast(sum, dtype)
    }

    pub(super) fn convolution(
        &mut self,
        x: Tensor,
        weight: Tensor,
        bias: Option<Tensor>,
        attributes: &Conv2d,
    ) -> Result<Tensor> {
        let of_weight = self.dims(weight);
        let size = |axis: usize| of_weight[axis].as_constant().map(|size: i64| size as usize);
        let (Some(maps), Some(height), Some(width)) = (size(0), size(2), size(3)) else {
            return self.refuse(format!("a weight of {}", self.ty(weight)));
        };
        let options = ConvolutionOptions {
            maps,
            kernel: [height, width],
            stride: attributes.stride,
            padding: attributes.padding,
            groups: attributes.groups,
        };
        let types: Vec<TensorType> = [x, weight]
            .iter()
            .map(|&operand| self.ty(operand).clone())
            .collect();
        let ty = tintype_ir::infer(&tintype_ir::Op::Conv2d(attributes.clone()), &types)?;
        let inputs: Vec<Tensor> = [x, weight].into_iter().chain(bias).collect();
        Ok(self.add(Kind::Convolution(options), &inputs, ty))
    }

    pub(super) fn upsample(&mut self, x: Tensor, factor: usize) -> Result<Tensor> {
        let mut ty = self.ty(x).clone();
        for dim in &mut ty.dims[2..] {
            let larger = dim.checked_mul(&Dim::from(factor));
            *dim = larger.ok_or_else(|| tintype_ir::Error::Overflow(dim.to_string()))?;
        }
        // Whole numbers, bools and 8-bit floats are carried by floats that hold them.
        let dtype = self.dtype(x);
        if matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
            let scales = vec![1.0, 1.0, factor as f32, factor as f32];
            return Ok(self.add(Kind::Resize(scales), &[x], ty));
        }
        self.repeat_pixels(x, factor, ty.dims)
    }

    /// Each pixel repeated along two axes that are put in for it.
    fn repeat_pixels(&mut self, x: Tensor, factor: usize, dims: Vec<Dim>) -> Result<Tensor> {
        let [b, c, h, w] = [0, 1, 2, 3].map(|axis: usize| self.ty(x).dims[axis].clone());
        let (one, factor) = (Dim::from(1), Dim::from(factor));
        let apart = vec![b.clone(), c.clone(), h.clone(), one.clone(), w.clone(), one];
        let repeated = vec![b, c, h, factor.clone(), w, factor];
        self.carried(&[x], |composer, x| {
            let apart = composer.reshape(x[0], apart)?;
            let repeated = composer.repeat(apart, repeated)?;
            composer.reshape(repeated, dims)
        })
    }
}

/// Up to so many linear layers may become one: the projections of an attention, and a gate.
const MANY_READERS: usize = 4;

/// The product of dimensions.
fn product(dims: &[Dim]) -> Result<Dim> {
    let product = dims
        .iter()
        .try_fold(Dim::from(1), |product, dim| product.checked_mul(dim));
    let overflow = || tintype_ir::Error::Overflow(format!("{dims:?}"));
    Ok(product.ok_or_else(overflow)?)
}

/// Dimensions with leading ones up to a rank.
pub(super) fn with_ones(rank: usize, dims: Vec<Dim>) -> Vec<Dim> {
    let missing = rank.saturating_sub(dims.len());
    std::iter::repeat_n(Dim::from(1), missing)
        .chain(dims)
        .collect()
}
