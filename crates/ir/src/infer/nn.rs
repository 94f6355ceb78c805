//! Products, norms, attention and convolution.

use tintype_tensor::DType;

use super::Check;
use crate::{Attention, Conv2d, Dim, Error, Op, Result, TensorType, broadcast_dims};

impl Check<'_> {
    pub(super) fn matmul(&self, a: &TensorType, b: &TensorType) -> Result<TensorType> {
        self.float(a)?;
        self.ensure(a.dtype == b.dtype && a.rank() >= 2 && b.rank() >= 2, || {
            format!("expected [.., m, k] and [.., k, n] of one dtype, found {a} and {b}")
        })?;
        let (outer_a, inner_a) = a.dims.split_at(a.rank() - 2);
        let (outer_b, inner_b) = b.dims.split_at(b.rank() - 2);
        let outer = broadcast_dims(outer_a, outer_b).filter(|_| inner_a[1] == inner_b[0]);
        let Some(mut dims) = outer else {
            return self.error(format!("{a} and {b} do not multiply"));
        };
        dims.extend([inner_a[0].clone(), inner_b[1].clone()]);
        Ok(a.with_dims(dims))
    }

    pub(super) fn linear(&self, operands: &[TensorType]) -> Result<TensorType> {
        let (x, weight) = (self.float(&operands[0])?, &operands[1]);
        self.rank(weight, 2)?;
        let expected = TensorType::new(x.dtype, [weight.dims[0].clone(), self.last(x)?.clone()]);
        self.expect("weight", &expected, weight)?;
        if let Some(bias) = operands.get(2) {
            self.expect(
                "bias",
                &TensorType::new(x.dtype, [weight.dims[0].clone()]),
                bias,
            )?;
        }
        let mut dims = x.dims.clone();
        dims[x.rank() - 1] = weight.dims[0].clone();
        Ok(x.with_dims(dims))
    }

    pub(super) fn softmax(&self, x: &TensorType) -> Result<TensorType> {
        self.last(x)?;
        self.float(x).cloned()
    }

    pub(super) fn norm(&self, operands: &[TensorType], epsilon: f32) -> Result<TensorType> {
        let x = self.float(&operands[0])?;
        self.epsilon(epsilon)?;
        let weight_alone = matches!(self.op, Op::LayerNorm { .. }) && operands.len() == 2;
        self.ensure(!weight_alone, || {
            "expected 1 or 3 operands, found 2".to_owned()
        })?;
        let expected = TensorType::new(x.dtype, [self.last(x)?.clone()]);
        for (index, operand) in operands.iter().enumerate().skip(1) {
            self.expect(self.op.role(index), &expected, operand)?;
        }
        Ok(x.clone())
    }

    fn epsilon(&self, epsilon: f32) -> Result<()> {
        self.ensure(epsilon >= 0.0 && epsilon.is_finite(), || {
            format!("epsilon: expected a finite number of at least 0, found {epsilon}")
        })
    }

    pub(super) fn group_norm(
        &self,
        operands: &[TensorType],
        groups: usize,
        epsilon: f32,
    ) -> Result<TensorType> {
        self.epsilon(epsilon)?;
        let x = self.float(&operands[0])?;
        self.rank(x, 4)?;
        let channels = x.dims[1].as_constant();
        let divides = (1..=MAX_GROUPS).contains(&groups)
            && channels.is_some_and(|channels| channels % groups as i64 == 0);
        self.ensure(divides, || {
            format!("{groups} groups do not divide the channels of {x}")
        })?;
        let expected = TensorType::new(x.dtype, [x.dims[1].clone()]);
        self.expect("weight", &expected, &operands[1])?;
        self.expect("bias", &expected, &operands[2])?;
        Ok(x.clone())
    }

    pub(super) fn same_as_first(&self, operands: &[TensorType]) -> Result<TensorType> {
        let first = self.float(&operands[0])?;
        for operand in &operands[1..] {
            let fits = operand.dtype == first.dtype
                && broadcast_dims(&first.dims, &operand.dims)
                    .is_some_and(|dims| dims == first.dims);
            self.ensure(fits, || format!("{operand} does not broadcast to {first}"))?;
        }
        Ok(first.clone())
    }

    pub(super) fn modulate(&self, operands: &[TensorType]) -> Result<TensorType> {
        self.same_as_first(operands)
    }

    pub(super) fn gated_residual(&self, operands: &[TensorType]) -> Result<TensorType> {
        self.expect("input", &operands[0], &operands[2])?;
        self.same_as_first(operands)
    }

    pub(super) fn rotary(&self, x: &TensorType, table: &TensorType) -> Result<TensorType> {
        self.float(x)?;
        self.rank(x, 4)?;
        let half = x.dims[3].div_exact(&Dim::from(2));
        let Some(half) = half else {
            return self.error(format!("expected an even head dimension, found {x}"));
        };
        let expected = TensorType::new(DType::F32, [x.dims[1].clone(), half, Dim::from(2)]);
        self.expect("table", &expected, table)?;
        Ok(x.clone())
    }

    pub(super) fn rotary_table(
        &self,
        ids: &TensorType,
        theta: f32,
        dims: &[usize],
    ) -> Result<TensorType> {
        self.float(ids)?;
        self.ensure(theta > 0.0 && theta.is_finite(), || {
            format!("theta: expected a finite number above 0, found {theta}")
        })?;
        self.rank(ids, 2)?;
        let axes = ids.dims[1].as_constant();
        let even = dims.iter().all(|dim| dim % 2 == 0 && *dim <= MAX_HEAD_DIM);
        self.ensure(even && axes == Some(dims.len() as i64), || {
            format!("expected an even dimension for each axis of ids, found {dims:?} for {ids}")
        })?;
        let half: usize = dims.iter().sum::<usize>() / 2;
        Ok(TensorType::new(
            DType::F32,
            [ids.dims[0].clone(), Dim::from(half), Dim::from(2)],
        ))
    }

    pub(super) fn attention(
        &self,
        operands: &[TensorType],
        attributes: &Attention,
    ) -> Result<TensorType> {
        self.finite("scale", attributes.scale)?;
        let (q, k, v) = (self.float(&operands[0])?, &operands[1], &operands[2]);
        let fits = q.rank() == 4
            && k.rank() == 4
            && v.rank() == 4
            && q.dtype == k.dtype
            && k.dtype == v.dtype
            && [0, 2]
                .iter()
                .all(|&i| q.dims[i] == k.dims[i] && k.dims[i] == v.dims[i])
            && q.dims[3] == k.dims[3]
            && k.dims[1] == v.dims[1];
        self.ensure(fits, || {
            format!("expected [b, s, h, d] operands that fit, found {q}, {k}, {v}")
        })?;
        if let Some(bias) = operands.get(3) {
            let scores = [&q.dims[0], &q.dims[2], &q.dims[1], &k.dims[1]].map(Clone::clone);
            let fits = bias.dtype.is_float()
                && bias.rank() == 4
                && bias.dims[2..] == scores[2..]
                && broadcast_dims(&scores, &bias.dims).is_some_and(|dims| dims == scores);
            self.ensure(fits, || {
                format!("bias {bias} does not fit scores {scores:?}")
            })?;
        }
        let mut dims = q.dims.clone();
        dims[3] = v.dims[3].clone();
        Ok(q.with_dims(dims))
    }

    pub(super) fn conv2d(
        &self,
        operands: &[TensorType],
        attributes: &Conv2d,
    ) -> Result<TensorType> {
        let (x, weight) = (self.float(&operands[0])?, &operands[1]);
        self.rank(x, 4)?;
        self.rank(weight, 4)?;
        let groups = Dim::from(attributes.groups.min(MAX_GROUPS));
        let channels = weight.dims[1].checked_mul(&groups);
        let has_kernel = |dim: &Dim| dim.as_constant().is_none_or(|size| size > 0);
        let fits = (1..=MAX_GROUPS).contains(&attributes.groups)
            && weight.dims[2..].iter().all(has_kernel)
            && x.dtype == weight.dtype
            && channels.as_ref() == Some(&x.dims[1])
            && weight.dims[0].div_exact(&groups).is_some();
        self.ensure(fits, || {
            format!(
                "{x} and weight {weight} do not fit {} groups",
                attributes.groups
            )
        })?;
        if let Some(bias) = operands.get(2) {
            self.expect(
                "bias",
                &TensorType::new(x.dtype, [weight.dims[0].clone()]),
                bias,
            )?;
        }
        let [top, bottom, left, right] = attributes.padding;
        let height = self.convolved(
            &x.dims[2],
            &weight.dims[2],
            (top, bottom),
            attributes.stride[0],
        )?;
        let width = self.convolved(
            &x.dims[3],
            &weight.dims[3],
            (left, right),
            attributes.stride[1],
        )?;
        Ok(x.with_dims(vec![
            x.dims[0].clone(),
            weight.dims[0].clone(),
            height,
            width,
        ]))
    }

    /// `(size + padding − kernel) / stride + 1`. The division need not be exact for
    /// a size known now; for a polynomial the part that depends on symbols must be.
    pub(super) fn convolved(
        &self,
        size: &Dim,
        kernel: &Dim,
        padding: (usize, usize),
        stride: usize,
    ) -> Result<Dim> {
        let padding = i64::try_from(padding.0.saturating_add(padding.1)).ok();
        let span = padding
            .and_then(|padding| size.checked_add(&Dim::from(padding)))
            .and_then(|padded| padded.checked_sub(kernel));
        let (Some(span), Ok(stride @ 1..)) = (span, i64::try_from(stride)) else {
            return self.error(format!(
                "stride {stride} or the padded size of {size} is out of range"
            ));
        };
        let constant = span.evaluate(|_| Some(0)).unwrap_or(0);
        let floored = constant
            .div_euclid(stride)
            .checked_mul(stride)
            .and_then(|floored| {
                span.checked_sub(&Dim::from(constant))?
                    .checked_add(&Dim::from(floored))
            });
        let steps = floored.and_then(|span| span.div_exact(&Dim::from(stride)));
        let result = steps.and_then(|steps| steps.checked_add(&Dim::from(1)));
        let positive = |dim: &Dim| dim.as_constant().is_none_or(|size| size > 0);
        match result {
            Some(result) if positive(&result) => Ok(result),
            _ => self.error(format!(
                "a kernel of {kernel} with stride {stride} does not fit size {size}"
            )),
        }
    }

    pub(super) fn upsample(&self, x: &TensorType, factor: usize) -> Result<TensorType> {
        self.rank(x, 4)?;
        self.ensure((1..=MAX_FACTOR).contains(&factor), || {
            format!("factor: expected 1 to {MAX_FACTOR}, found {factor}")
        })?;
        let factor = Dim::from(factor);
        let mut dims = x.dims.clone();
        for dim in &mut dims[2..] {
            *dim = dim
                .checked_mul(&factor)
                .ok_or_else(|| Error::Overflow(x.to_string()))?;
        }
        Ok(x.with_dims(dims))
    }
}

/// Bounds on attributes from outside that enter arithmetic on dimensions.
const MAX_GROUPS: usize = 1 << 20;
const MAX_FACTOR: usize = 1 << 10;
const MAX_HEAD_DIM: usize = 1 << 16;
