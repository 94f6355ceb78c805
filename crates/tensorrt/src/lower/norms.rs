//! Normalizations.

use tintype_ir::{Dim, Value};
use tintype_tensor::DType;

use super::composer::Composer;
use super::layers::{Kind, Tensor};
use super::products::with_ones;
use crate::Result;
use crate::network::{ElementWise, NormalizationOptions, Reduction};

impl Composer<'_> {
    /// LayerNorm by the library's layer, whose statistics are in f32.
    pub(super) fn layer_norm(
        &mut self,
        x: Tensor,
        affine: &[Value],
        epsilon: f32,
    ) -> Result<Tensor> {
        let (rank, dtype) = (self.rank(x), self.dtype(x));
        let width = self.dims(x).pop();
        // The library normalizes two axes or more, of which the first is not one.
        let rows = if rank == 1 { self.at_rank(x, 2)? } else { x };
        let Some(width) = width.as_ref().and_then(Dim::as_constant) else {
            return self.norm_of_symbolic_width(x, affine, epsilon);
        };
        let outer = vec![1; self.rank(rows) - 1];
        let sizes: Vec<usize> = outer.into_iter().chain([width as usize]).collect();
        let [scale, bias] = match affine {
            [weight, bias] => {
                let dims: Vec<Dim> = sizes.iter().map(|&size| Dim::from(size)).collect();
                [
                    self.value_as(*weight, dims.clone())?,
                    self.value_as(*bias, dims)?,
                ]
            }
            _ => [
                self.filled(dtype, &sizes, 1.0)?,
                self.filled(dtype, &sizes, 0.0)?,
            ],
        };
        let options = NormalizationOptions {
            axes: 1 << (self.rank(rows) - 1),
            groups: 1,
            epsilon,
        };
        let (ty, dims) = (self.ty(rows).clone(), self.dims(x));
        let result = self.add(Kind::Normalization(options), &[rows, scale, bias], ty);
        self.reshape(result, dims)
    }

    /// LayerNorm of rows whose size is known at run time only.
    fn norm_of_symbolic_width(
        &mut self,
        x: Tensor,
        affine: &[Value],
        epsilon: f32,
    ) -> Result<Tensor> {
        let (last, dtype) = (self.rank(x) - 1, self.dtype(x));
        let wide = self.cast(x, DType::F32)?;
        let mean = self.reduce(Reduction::Mean, wide, &[last]);
        let centred = self.elementwise(ElementWise::Difference, wide, mean)?;
        let mut result = self.over_root_of_mean_square(centred, epsilon)?;
        for (&value, operation) in affine.iter().zip([ElementWise::Product, ElementWise::Sum]) {
            let operand = self.tensor(value)?;
            let operand = self.cast(operand, DType::F32)?;
            result = self.elementwise(operation, result, operand)?;
        }
        self.cast(result, dtype)
    }

    /// RMSNorm in f32, the weight too; rounded once.
    pub(super) fn rms_norm(
        &mut self,
        x: Tensor,
        weight: Option<Value>,
        epsilon: f32,
    ) -> Result<Tensor> {
        let (rank, dtype) = (self.rank(x), self.dtype(x));
        let wide = self.cast(x, DType::F32)?;
        let mut result = self.over_root_of_mean_square(wide, epsilon)?;
        if let Some(weight) = weight {
            let dims = self.graph.type_of(weight).dims.clone();
            let dims = self.in_network(&dims)?;
            let weight = self.value_as(weight, with_ones(rank, dims))?;
            let weight = self.cast(weight, DType::F32)?;
            result = self.elementwise(ElementWise::Product, result, weight)?;
        }
        self.cast(result, dtype)
    }

    /// `x / √(mean(x²) + ε)` over the last axis, in f32.
    fn over_root_of_mean_square(&mut self, x: Tensor, epsilon: f32) -> Result<Tensor> {
        let squares = self.elementwise(ElementWise::Product, x, x)?;
        let mean = self.reduce(Reduction::Mean, squares, &[self.rank(x) - 1]);
        let raised = self.with_number(ElementWise::Sum, mean, epsilon)?;
        let factor = self.reciprocal_root(raised);
        self.elementwise(ElementWise::Product, x, factor)
    }

    /// GroupNorm by the library's layer.
    pub(super) fn group_norm(
        &mut self,
        x: Tensor,
        affine: &[Value],
        groups: usize,
        epsilon: f32,
    ) -> Result<Tensor> {
        let one = Dim::from(1);
        let per_channel = vec![one.clone(), self.ty(x).dims[1].clone(), one.clone(), one];
        let mut operands = vec![x];
        for &value in affine {
            operands.push(self.value_as(value, per_channel.clone())?);
        }
        // Of one group, the library's channels would be instances.
        let axes = if groups == 1 { 0b1110 } else { 0b1100 };
        let options = NormalizationOptions {
            axes,
            groups,
            epsilon,
        };
        let ty = self.ty(x).clone();
        Ok(self.add(Kind::Normalization(options), &operands, ty))
    }
}
