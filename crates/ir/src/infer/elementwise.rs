//! Elementwise operations and sources of values.

use tintype_tensor::DType;

use super::Check;
use crate::{BinaryOp, RelativeBuckets, Result, TensorType, broadcast_dims};

impl Check<'_> {
    pub(super) fn iota(&self, ty: &TensorType, axis: usize) -> Result<TensorType> {
        self.axis(ty, axis)?;
        self.ensure(ty.dtype != DType::Bool, || {
            format!("expected a number type, found {ty}")
        })?;
        Ok(ty.clone())
    }

    pub(super) fn binary(
        &self,
        op: BinaryOp,
        a: &TensorType,
        b: &TensorType,
    ) -> Result<TensorType> {
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

    pub(super) fn clamp(&self, operand: &TensorType, min: f32, max: f32) -> Result<TensorType> {
        // Also refuses NaN, which is not ordered.
        self.ensure(min <= max, || {
            format!("expected min <= max, found {min} and {max}")
        })?;
        self.float(operand).cloned()
    }

    pub(super) fn relative_buckets(&self, attributes: &RelativeBuckets) -> Result<TensorType> {
        let (buckets, distance) = (attributes.buckets, attributes.max_distance);
        let fits = buckets >= 4 && distance > buckets / 2 && distance <= MAX_DISTANCE;
        self.ensure(fits, || {
            format!(
                "expected at least 4 buckets and a distance beyond half of them of at most \
                 {MAX_DISTANCE}, found {buckets} and {distance}"
            )
        })?;
        let dims = [attributes.queries.clone(), attributes.keys.clone()];
        Ok(TensorType::new(DType::I64, dims))
    }

    pub(super) fn select(&self, operands: &[TensorType]) -> Result<TensorType> {
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
}

/// The greatest distance of relative positions, so that arithmetic on them is exact in f32.
const MAX_DISTANCE: usize = 1 << 24;
