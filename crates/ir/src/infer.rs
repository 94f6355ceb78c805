//! Types of results: dtype and dimensions of each operation from its operands.
//!
//! The rules are strict: operands of one operation share a dtype unless the
//! operation says otherwise, and a conversion is always an explicit `cast`.

use tintype_tensor::DType;

use crate::{BinaryOp, Conv2d, Dim, Error, Op, Result, TensorType};

/// The type of the result of `op` on operands of the given types.
pub fn infer(op: &Op, operands: &[TensorType]) -> Result<TensorType> {
    let check = Check { op };
    check.operand_count(operands.len())?;
    match op {
        Op::Constant(constant) => Ok(constant.ty().clone()),
        Op::Iota { ty, axis } => check.iota(ty, *axis),
        Op::Unary(_) | Op::Clamp { .. } | Op::Softmax => check.float(&operands[0]).cloned(),
        Op::Binary(binary) => check.binary(*binary, &operands[0], &operands[1]),
        Op::Select => check.select(operands),
        Op::Cast { dtype } => Ok(operands[0].with_dtype(*dtype)),
        Op::Reshape { dims } => check.reshape(&operands[0], dims),
        Op::Broadcast { dims } => check.broadcast_to(&operands[0], dims),
        Op::Transpose { permutation } => check.transpose(&operands[0], permutation),
        Op::Slice { axis, start, end } => check.slice(&operands[0], *axis, start, end),
        Op::Concat { axis } => check.concat(operands, *axis),
        Op::Gather { axis } => check.gather(&operands[0], &operands[1], *axis),
        Op::GatherRows => check.gather_rows(&operands[0], &operands[1]),
        Op::ArgMax => check.argmax(&operands[0]),
        Op::Reduce { axes, .. } => check.reduce(&operands[0], axes),
        Op::MatMul => check.matmul(&operands[0], &operands[1]),
        Op::RelativeBuckets(attributes) => {
            check.ensure(
                attributes.buckets >= 4 && attributes.max_distance > attributes.buckets / 2,
                || {
                    format!(
                        "expected at least 4 buckets and a greater distance, found {} and {}",
                        attributes.buckets, attributes.max_distance
                    )
                },
            )?;
            let dims = [attributes.queries.clone(), attributes.keys.clone()];
            Ok(TensorType::new(DType::I64, dims))
        }
        Op::Linear => check.linear(operands),
        Op::LayerNorm { .. } | Op::RmsNorm { .. } => check.norm(operands),
        Op::GroupNorm { groups, .. } => check.group_norm(operands, *groups),
        Op::Modulate => check.modulate(operands),
        Op::GatedResidual => check.gated_residual(operands),
        Op::Rotary => check.rotary(&operands[0], &operands[1]),
        Op::RotaryTable { dims, .. } => check.rotary_table(&operands[0], dims),
        Op::Attention(_) => check.attention(operands),
        Op::Conv2d(attributes) => check.conv2d(operands, attributes),
        Op::UpsampleNearest { factor } => check.upsample(&operands[0], *factor),
    }
}

/// The dimensions of two operands repeated to match each other; `None` if they do not.
pub fn broadcast_dims(a: &[Dim], b: &[Dim]) -> Option<Vec<Dim>> {
    let rank = a.len().max(b.len());
    let one = Dim::from(1);
    let at = |dims: &[Dim], axis: usize| {
        (axis + dims.len())
            .checked_sub(rank)
            .map_or_else(|| one.clone(), |index| dims[index].clone())
    };
    (0..rank)
        .map(|axis| match (at(a, axis), at(b, axis)) {
            (a, b) if a == b || b == one => Some(a),
            (a, b) if a == one => Some(b),
            _ => None,
        })
        .collect()
}

/// The least and greatest number of operands of an operation.
pub(crate) fn operand_counts(op: &Op) -> (usize, usize) {
    match op {
        Op::Constant(_) | Op::Iota { .. } | Op::RelativeBuckets(_) => (0, 0),
        Op::Binary(_) | Op::MatMul | Op::Gather { .. } | Op::GatherRows | Op::Rotary => (2, 2),
        Op::RmsNorm { .. } => (1, 2),
        Op::Select | Op::Modulate | Op::GatedResidual | Op::GroupNorm { .. } => (3, 3),
        Op::Linear | Op::Conv2d(_) => (2, 3),
        Op::LayerNorm { .. } => (1, 3),
        Op::Attention(_) => (3, 4),
        Op::Concat { .. } => (1, usize::MAX),
        _ => (1, 1),
    }
}

struct Check<'a> {
    op: &'a Op,
}

impl Check<'_> {
    fn error<T>(&self, message: String) -> Result<T> {
        Err(Error::Type {
            op: self.op.name().to_owned(),
            message,
        })
    }

    fn ensure(&self, holds: bool, message: impl FnOnce() -> String) -> Result<()> {
        if holds { Ok(()) } else { self.error(message()) }
    }

    fn operand_count(&self, found: usize) -> Result<()> {
        let (least, most) = operand_counts(self.op);
        self.ensure((least..=most).contains(&found), || {
            let expected = match (least, most) {
                (least, most) if least == most => least.to_string(),
                (least, usize::MAX) => format!("{least} or more"),
                (least, most) => format!("{least} to {most}"),
            };
            format!("expected {expected} operands, found {found}")
        })
    }

    fn float<'t>(&self, ty: &'t TensorType) -> Result<&'t TensorType> {
        self.ensure(ty.dtype.is_float(), || {
            format!("expected a float operand, found {ty}")
        })?;
        Ok(ty)
    }

    fn rank(&self, ty: &TensorType, rank: usize) -> Result<()> {
        self.ensure(ty.rank() == rank, || {
            format!("expected {rank} axes, found {ty}")
        })
    }

    fn axis(&self, ty: &TensorType, axis: usize) -> Result<()> {
        self.ensure(axis < ty.rank(), || {
            format!("axis {axis} is not one of {ty}")
        })
    }

    fn last<'t>(&self, ty: &'t TensorType) -> Result<&'t Dim> {
        match ty.dims.last() {
            Some(dim) => Ok(dim),
            None => self.error(format!("expected at least one axis, found {ty}")),
        }
    }

    fn expect(&self, name: &str, expected: &TensorType, found: &TensorType) -> Result<()> {
        self.ensure(expected == found, || {
            format!("{name}: expected {expected}, found {found}")
        })
    }

    fn iota(&self, ty: &TensorType, axis: usize) -> Result<TensorType> {
        self.axis(ty, axis)?;
        self.ensure(ty.dtype != DType::Bool, || {
            format!("expected a number type, found {ty}")
        })?;
        Ok(ty.clone())
    }

    fn binary(&self, op: BinaryOp, a: &TensorType, b: &TensorType) -> Result<TensorType> {
        self.ensure(a.dtype == b.dtype, || {
            format!("expected one dtype, found {a} and {b}")
        })?;
        self.ensure(a.dtype != DType::Bool, || {
            format!("expected numbers, found {a}")
        })?;
        let Some(dims) = broadcast_dims(&a.dims, &b.dims) else {
            return self.error(format!("{a} and {b} do not broadcast"));
        };
        let dtype = if op.is_comparison() {
            DType::Bool
        } else {
            a.dtype
        };
        Ok(TensorType { dtype, dims })
    }

    fn select(&self, operands: &[TensorType]) -> Result<TensorType> {
        let [condition, a, b] = operands else {
            unreachable!("operands are counted")
        };
        self.ensure(condition.dtype == DType::Bool && a.dtype == b.dtype, || {
            format!("expected bool and one dtype, found {condition}, {a} and {b}")
        })?;
        let dims = broadcast_dims(&a.dims, &b.dims)
            .and_then(|dims| broadcast_dims(&dims, &condition.dims));
        match dims {
            Some(dims) => Ok(a.with_dims(dims)),
            None => self.error(format!("{condition}, {a} and {b} do not broadcast")),
        }
    }

    fn reshape(&self, operand: &TensorType, dims: &[Dim]) -> Result<TensorType> {
        let result = operand.with_dims(dims.to_vec());
        let (before, after) = (operand.element_count()?, result.element_count()?);
        self.ensure(before == after, || {
            format!("{operand} has {before} elements, {result} has {after}")
        })?;
        Ok(result)
    }

    fn broadcast_to(&self, operand: &TensorType, dims: &[Dim]) -> Result<TensorType> {
        let result = operand.with_dims(dims.to_vec());
        let fits = broadcast_dims(&operand.dims, dims).is_some_and(|both| both == dims);
        self.ensure(fits, || format!("{operand} does not broadcast to {result}"))?;
        Ok(result)
    }

    fn transpose(&self, operand: &TensorType, permutation: &[usize]) -> Result<TensorType> {
        let mut sorted = permutation.to_vec();
        sorted.sort_unstable();
        self.ensure(sorted.iter().copied().eq(0..operand.rank()), || {
            format!("{permutation:?} is no permutation of the axes of {operand}")
        })?;
        Ok(operand.with_dims(
            permutation
                .iter()
                .map(|&axis| operand.dims[axis].clone())
                .collect(),
        ))
    }

    fn slice(
        &self,
        operand: &TensorType,
        axis: usize,
        start: &Dim,
        end: &Dim,
    ) -> Result<TensorType> {
        self.axis(operand, axis)?;
        let size = &operand.dims[axis];
        let Some(length) = end.checked_sub(start) else {
            return Err(Error::Overflow(format!("{end} - {start}")));
        };
        // Symbols are not negative: an order that holds for each coefficient holds for all values.
        let ordered = |low: &Dim, high: &Dim| {
            high.checked_sub(low)
                .is_some_and(|gap| gap.terms().iter().all(|(c, _)| *c >= 0))
        };
        let within = ordered(&Dim::from(0), start) && ordered(start, end) && ordered(end, size);
        self.ensure(within, || {
            format!("{start}..{end} does not lie within axis {axis} of {operand}")
        })?;
        let mut dims = operand.dims.clone();
        dims[axis] = length;
        Ok(operand.with_dims(dims))
    }

    fn concat(&self, operands: &[TensorType], axis: usize) -> Result<TensorType> {
        let first = &operands[0];
        self.axis(first, axis)?;
        let mut total = Dim::from(0);
        for operand in operands {
            let others_equal = operand.dtype == first.dtype
                && operand.rank() == first.rank()
                && (0..first.rank()).all(|i| i == axis || operand.dims[i] == first.dims[i]);
            self.ensure(others_equal, || {
                format!("{first} and {operand} differ beside axis {axis}")
            })?;
            total = total
                .checked_add(&operand.dims[axis])
                .ok_or_else(|| Error::Overflow(format!("the sum along axis {axis}")))?;
        }
        let mut dims = first.dims.clone();
        dims[axis] = total;
        Ok(first.with_dims(dims))
    }

    fn index_type(&self, indices: &TensorType) -> Result<()> {
        self.ensure(matches!(indices.dtype, DType::I64 | DType::I32), || {
            format!("expected i64 or i32 indices, found {indices}")
        })
    }

    fn gather(&self, table: &TensorType, indices: &TensorType, axis: usize) -> Result<TensorType> {
        self.axis(table, axis)?;
        self.index_type(indices)?;
        let mut dims = table.dims.clone();
        dims.splice(axis..=axis, indices.dims.iter().cloned());
        Ok(table.with_dims(dims))
    }

    fn gather_rows(&self, table: &TensorType, indices: &TensorType) -> Result<TensorType> {
        self.index_type(indices)?;
        self.ensure(
            table.rank() >= 2 && indices.rank() == 1 && table.dims[0] == indices.dims[0],
            || format!("expected [b, n, …] and [b], found {table} and {indices}"),
        )?;
        let mut dims = table.dims.clone();
        dims.remove(1);
        Ok(table.with_dims(dims))
    }

    fn argmax(&self, operand: &TensorType) -> Result<TensorType> {
        self.last(operand)?;
        Ok(TensorType {
            dtype: DType::I64,
            dims: operand.dims[..operand.rank() - 1].to_vec(),
        })
    }

    fn reduce(&self, operand: &TensorType, axes: &[usize]) -> Result<TensorType> {
        self.float(operand)?;
        let ascending = axes.windows(2).all(|pair| pair[0] < pair[1]);
        self.ensure(
            !axes.is_empty() && ascending && axes.iter().all(|&a| a < operand.rank()),
            || format!("{axes:?} are not ascending axes of {operand}"),
        )?;
        let mut dims = operand.dims.clone();
        for &axis in axes {
            dims[axis] = Dim::from(1);
        }
        Ok(operand.with_dims(dims))
    }

    fn matmul(&self, a: &TensorType, b: &TensorType) -> Result<TensorType> {
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

    fn linear(&self, operands: &[TensorType]) -> Result<TensorType> {
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

    fn norm(&self, operands: &[TensorType]) -> Result<TensorType> {
        let x = self.float(&operands[0])?;
        let expected = TensorType::new(x.dtype, [self.last(x)?.clone()]);
        for (index, operand) in operands.iter().enumerate().skip(1) {
            self.expect(self.op.role(index), &expected, operand)?;
        }
        Ok(x.clone())
    }

    fn group_norm(&self, operands: &[TensorType], groups: usize) -> Result<TensorType> {
        let x = self.float(&operands[0])?;
        self.rank(x, 4)?;
        let channels = x.dims[1].as_constant();
        let divides = channels.is_some_and(|c| groups > 0 && c % groups as i64 == 0);
        self.ensure(divides, || {
            format!("{groups} groups do not divide the channels of {x}")
        })?;
        let expected = TensorType::new(x.dtype, [x.dims[1].clone()]);
        self.expect("weight", &expected, &operands[1])?;
        self.expect("bias", &expected, &operands[2])?;
        Ok(x.clone())
    }

    fn same_as_first(&self, operands: &[TensorType]) -> Result<TensorType> {
        let first = self.float(&operands[0])?;
        for operand in &operands[1..] {
            let fits = operand.dtype == first.dtype
                && broadcast_dims(&first.dims, &operand.dims)
                    .is_some_and(|dims| dims == first.dims);
            self.ensure(fits, || format!("{operand} does not broadcast to {first}"))?;
        }
        Ok(first.clone())
    }

    fn modulate(&self, operands: &[TensorType]) -> Result<TensorType> {
        self.same_as_first(operands)
    }

    fn gated_residual(&self, operands: &[TensorType]) -> Result<TensorType> {
        self.expect("input", &operands[0], &operands[2])?;
        self.same_as_first(operands)
    }

    fn rotary(&self, x: &TensorType, table: &TensorType) -> Result<TensorType> {
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

    fn rotary_table(&self, ids: &TensorType, dims: &[usize]) -> Result<TensorType> {
        self.float(ids)?;
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

    fn attention(&self, operands: &[TensorType]) -> Result<TensorType> {
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

    fn conv2d(&self, operands: &[TensorType], attributes: &Conv2d) -> Result<TensorType> {
        let (x, weight) = (self.float(&operands[0])?, &operands[1]);
        self.rank(x, 4)?;
        self.rank(weight, 4)?;
        let groups = Dim::from(attributes.groups.min(MAX_GROUPS));
        let channels = weight.dims[1].checked_mul(&groups);
        let fits = attributes.groups >= 1
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
    fn convolved(
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

    fn upsample(&self, x: &TensorType, factor: usize) -> Result<TensorType> {
        self.rank(x, 4)?;
        let factor = Dim::from(factor.clamp(1, MAX_GROUPS));
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
const MAX_HEAD_DIM: usize = 1 << 16;
