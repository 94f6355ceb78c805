//! Layers of networks.

use tintype_backend::Result;
use tintype_ir::{Attention, Conv2d};
use tintype_tensor::DType;

use super::Call;
use crate::kernels::{
    self, Activation, AttentionBias, Binary, GroupNorm, Linear, Matmul, Modulation, Norm, Rotary,
    Strides, Weights,
};
use crate::value::Value;

impl Call<'_> {
    pub(super) fn linear(&self, activation: Option<Activation>) -> Result<Value> {
        let (x, weight) = (self.operands[0].as_floats()?, &self.operands[1]);
        let (inputs, outputs) = (weight.shape[1], weight.shape[0]);
        let options = Linear {
            rows: self.shape.element_count() / outputs.max(1),
            inputs,
            outputs,
            input_stride: inputs,
            output_stride: outputs,
            activation,
            rounding: self.dtype,
        };
        let bias = self.operands.get(2).map(Value::as_floats).transpose()?;
        let widened = Widened::new(weight)?;
        let weight = widened.weights();
        Ok(self.compute(|out| kernels::linear(&options, &x, weight, bias.as_deref(), out)))
    }

    pub(super) fn matmul(&self) -> Result<Value> {
        let [a, b] = self.operands else {
            unreachable!("verified")
        };
        let (left, right) = (a.as_floats()?, b.as_floats()?);
        let options = Matmul {
            lhs_shape: &a.shape,
            rhs_shape: &b.shape,
            transpose_lhs: false,
            transpose_rhs: false,
            rounding: self.dtype,
        };
        Ok(self.compute(|out| kernels::matmul(&options, &left, &right, out)))
    }

    fn norm(&self, epsilon: f32) -> Norm {
        Norm {
            width: self.width(),
            epsilon,
            rounding: self.dtype,
        }
    }

    pub(super) fn layer_norm(&self, epsilon: f32) -> Result<Value> {
        let x = self.operands[0].as_floats()?;
        let weight = self.operands.get(1).map(Value::as_floats).transpose()?;
        let bias = self.operands.get(2).map(Value::as_floats).transpose()?;
        let (weight, bias) = (weight.as_deref(), bias.as_deref());
        Ok(self.compute(|out| kernels::layer_norm(&self.norm(epsilon), &x, weight, bias, out)))
    }

    pub(super) fn rms_norm(&self, epsilon: f32) -> Result<Value> {
        let x = self.operands[0].as_floats()?;
        let weight = self.operands.get(1).map(Value::as_floats).transpose()?;
        let norm = self.norm(epsilon);
        Ok(self.compute(|out| kernels::rms_norm(&norm, &x, weight.as_deref(), out)))
    }

    pub(super) fn group_norm(&self, groups: usize, epsilon: f32, silu: bool) -> Result<Value> {
        let [x, weight, bias] = self.operands else {
            unreachable!("verified")
        };
        let channels = x.shape[1];
        let area = x.shape[2] * x.shape[3];
        let options = GroupNorm {
            channels,
            groups,
            area,
            epsilon,
            silu,
            rounding: self.dtype,
        };
        let (x, weight, bias) = (x.as_floats()?, weight.as_floats()?, bias.as_floats()?);
        Ok(self.compute(|out| kernels::group_norm(&options, &x, Some(&weight), Some(&bias), out)))
    }

    /// Whether operand `index` holds one row for each outermost position, as
    /// `[b, 1, …, 1, d]` against `[b, …, d]`: what the row kernels read.
    fn has_row_per_batch(&self, index: usize) -> bool {
        let (full, given) = (&self.shape, &self.operands[index].shape);
        let rank = full.len();
        rank >= 2
            && given.len() == rank
            && given[0] == full[0]
            && given[rank - 1] == full[rank - 1]
            && given[1..rank - 1].iter().all(|&size| size == 1)
    }

    pub(super) fn layer_norm_modulate(&self, epsilon: f32) -> Result<Value> {
        let [x, scale, shift] = self.operands else {
            unreachable!("verified")
        };
        let (values, scales, shifts) = (x.as_floats()?, scale.as_floats()?, shift.as_floats()?);
        if self.has_row_per_batch(1) && self.has_row_per_batch(2) {
            let modulation = Modulation {
                scale: &scales,
                shift: &shifts,
            };
            let norm = self.norm(epsilon);
            return Ok(
                self.compute(|out| kernels::layer_norm_modulate(&norm, &values, modulation, out))
            );
        }
        let norm = Norm {
            rounding: DType::F32,
            ..self.norm(epsilon)
        };
        let mut normed = self.buffer();
        kernels::layer_norm(&norm, &values, None, None, &mut normed);
        Ok(self.general_modulate(&normed, (&scales, &scale.shape), (&shifts, &shift.shape)))
    }

    pub(super) fn modulate(&self) -> Result<Value> {
        let [x, scale, shift] = self.operands else {
            unreachable!("verified")
        };
        let (values, scales, shifts) = (x.as_floats()?, scale.as_floats()?, shift.as_floats()?);
        if self.has_row_per_batch(1) && self.has_row_per_batch(2) {
            let modulation = Modulation {
                scale: &scales,
                shift: &shifts,
            };
            let (width, rounding) = (self.width(), self.dtype);
            return Ok(
                self.compute(|out| kernels::modulate(width, rounding, &values, modulation, out))
            );
        }
        Ok(self.general_modulate(&values, (&scales, &scale.shape), (&shifts, &shift.shape)))
    }

    /// Any shapes that broadcast; rounded once, at the end.
    fn general_modulate(
        &self,
        x: &[f32],
        scale: (&[f32], &[usize]),
        shift: (&[f32], &[usize]),
    ) -> Value {
        let factors: Vec<f32> = scale.0.iter().map(|scale| 1.0 + scale).collect();
        let mut scaled = self.buffer();
        let factors = (&*factors, scale.1);
        kernels::binary(
            Binary::Mul,
            DType::F32,
            (x, &self.shape),
            factors,
            &mut scaled,
        );
        self.compute(|out| {
            kernels::binary(Binary::Add, self.dtype, (&scaled, &self.shape), shift, out);
        })
    }

    pub(super) fn gated_residual(&self) -> Result<Value> {
        let [residual, gate, x] = self.operands else {
            unreachable!("verified")
        };
        let (base, gates, values) = (residual.as_floats()?, gate.as_floats()?, x.as_floats()?);
        let (width, rounding) = (self.width(), self.dtype);
        if self.has_row_per_batch(1) {
            return Ok(self.compute(|out| {
                kernels::gated_residual(width, rounding, &base, &gates, &values, out);
            }));
        }
        let mut gated = self.buffer();
        let (gates, values) = ((&*gates, &*gate.shape), (&*values, &*x.shape));
        kernels::binary(Binary::Mul, DType::F32, values, gates, &mut gated);
        let (base, gated) = ((&*base, &*residual.shape), (&*gated, &*self.shape));
        Ok(self.compute(|out| kernels::binary(Binary::Add, rounding, base, gated, out)))
    }

    pub(super) fn rotary(&self) -> Result<Value> {
        let [x, table] = self.operands else {
            unreachable!("verified")
        };
        let &[batch, tokens, heads, head_dim] = &*x.shape else {
            unreachable!("verified")
        };
        let rounding = self.dtype;
        let token_stride = heads * head_dim;
        let options = Rotary {
            batch,
            tokens,
            heads,
            head_dim,
            token_stride,
            rounding,
        };
        let (x, table) = (x.as_floats()?, table.as_floats()?);
        Ok(self.compute(|out| kernels::rotary(&options, &x, &table, out)))
    }

    pub(super) fn rotary_table(&self, theta: f32, dims: &[usize]) -> Result<Value> {
        let ids = self.operands[0].as_floats()?;
        Ok(self.compute(|out| kernels::rotary_table(dims, f64::from(theta), &ids, out)))
    }

    pub(super) fn attention(&self, attributes: &Attention) -> Result<Value> {
        let [q, k, v] = [0, 1, 2].map(|index| &self.operands[index]);
        let &[batch, query_len, heads, head_dim] = &*q.shape else {
            unreachable!("verified")
        };
        let key_len = k.shape[1];
        if v.shape[3] != head_dim {
            return self.error(format!("values of {} for heads of {head_dim}", v.shape[3]));
        }
        if key_len == 0 {
            // The mean of nothing, as for a query that sees no key.
            return Ok(self.compute(|out| out.fill(f32::NAN)));
        }
        let bias = self.operands.get(3);
        let bias_values = bias.map(Value::as_floats).transpose()?;
        let bias = bias
            .zip(bias_values.as_deref())
            .map(|(bias, values)| AttentionBias {
                data: values,
                batch: bias.shape[0],
                heads: bias.shape[1],
            });
        let options = kernels::Attention {
            key_len,
            key: Strides::packed(key_len, heads, head_dim),
            value: Strides::packed(key_len, heads, head_dim),
            scale: attributes.scale,
            causal: attributes.causal,
            rounding: self.dtype,
            ..kernels::Attention::new(batch, heads, query_len, head_dim)
        };
        let (q, k, v) = (q.as_floats()?, k.as_floats()?, v.as_floats()?);
        Ok(self.compute(|out| kernels::attention(&options, &q, &k, &v, bias, out)))
    }

    pub(super) fn conv2d(&self, attributes: &Conv2d) -> Result<Value> {
        let (x, weight) = (&self.operands[0], &self.operands[1]);
        let &[batch, channels, height, width] = &*x.shape else {
            unreachable!("verified")
        };
        let options = kernels::Conv2d {
            batch,
            channels,
            outputs: weight.shape[0],
            size: [height, width],
            kernel: [weight.shape[2], weight.shape[3]],
            stride: attributes.stride,
            padding: attributes.padding,
            groups: attributes.groups,
            rounding: self.dtype,
        };
        let bias = self.operands.get(2).map(Value::as_floats).transpose()?;
        let (x, widened) = (x.as_floats()?, Widened::new(weight)?);
        let weight = widened.weights();
        Ok(self.compute(|out| kernels::conv2d(&options, &x, weight, bias.as_deref(), out)))
    }

    pub(super) fn upsample(&self, factor: usize) -> Result<Value> {
        let x = &self.operands[0];
        let values = x.as_floats()?;
        let (rows, columns) = (x.shape[2], x.shape[3]);
        if factor == 2 {
            return Ok(
                self.compute(|out| kernels::upsample_nearest2([rows, columns], &values, out))
            );
        }
        Ok(self.compute(|out| {
            let width = columns * factor;
            for (index, row) in out.chunks_exact_mut(width.max(1)).enumerate() {
                let (plane, row_index) = (index / (rows * factor), index % (rows * factor));
                let source = &values[(plane * rows + row_index / factor) * columns..][..columns];
                for (out, &value) in row.chunks_exact_mut(factor).zip(source) {
                    out.fill(value);
                }
            }
        }))
    }
}

/// A weight as kernels read it: where it lies, or widened if it lies unaligned.
enum Widened<'a> {
    InPlace(Weights<'a>),
    Copy(std::borrow::Cow<'a, [f32]>),
}

impl<'a> Widened<'a> {
    fn new(weight: &'a Value) -> Result<Self> {
        match weight.as_weights() {
            Some(weights) => Ok(Self::InPlace(weights)),
            None => Ok(Self::Copy(weight.as_floats()?)),
        }
    }

    fn weights(&self) -> Weights<'_> {
        match self {
            Self::InPlace(weights) => *weights,
            Self::Copy(values) => Weights::F32(values),
        }
    }
}
