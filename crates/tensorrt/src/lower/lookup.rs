//! Operations that look positions up.

use tintype_ir::{Dim, RelativeBuckets};
use tintype_tensor::{DType, Tensor as HostTensor};

use super::composer::{Composer, tensor_error};
use super::layers::{Kind, Tensor};
use crate::Result;
use crate::network::{ElementWise, Reduction, Unary};

impl Composer<'_> {
    pub(super) fn gather(&mut self, table: Tensor, indices: Tensor, axis: usize) -> Result<Tensor> {
        let found = self.dims(indices);
        self.carried(&[table], |composer, table| {
            let mut ty = composer.ty(table[0]).clone();
            ty.dims.splice(axis..=axis, found);
            let kind = Kind::Gather {
                axis,
                elementwise: 0,
            };
            Ok(composer.add(kind, &[table[0], indices], ty))
        })
    }

    /// `x[b, indices[b], …]`.
    pub(super) fn gather_rows(&mut self, x: Tensor, indices: Tensor) -> Result<Tensor> {
        self.carried(&[x], |composer, x| {
            let mut ty = composer.ty(x[0]).clone();
            ty.dims.remove(1);
            let kind = Kind::Gather {
                axis: 1,
                elementwise: 1,
            };
            Ok(composer.add(kind, &[x[0], indices], ty))
        })
    }

    /// The least of the positions that hold the greatest value. The library's own search does
    /// not say which of equals it finds.
    pub(super) fn argmax(&mut self, x: Tensor) -> Result<Tensor> {
        let mut dims = self.dims(x);
        let last = dims.len() - 1;
        let size = dims[last].clone();
        let greatest = self.reduce(Reduction::Max, x, &[last]);
        let is_greatest = self.elementwise(ElementWise::Equal, x, greatest)?;
        let positions = self.count(DType::I64, size);
        let mut along = vec![Dim::from(1); dims.len()];
        along[last] = self.ty(positions).dims[0].clone();
        let positions = self.reshape(positions, along)?;
        let nowhere = self.integer(DType::I64, dims.len(), i64::MAX);
        let candidates = self.select(is_greatest, positions, nowhere)?;
        let first = self.reduce(Reduction::Min, candidates, &[last]);
        dims.pop();
        self.reshape(first, dims)
    }

    /// T5's buckets: those of distances stand in a table, since a logarithm at the edge of a
    /// bucket could fall on either side.
    pub(super) fn relative_buckets(&mut self, attributes: &RelativeBuckets) -> Result<Tensor> {
        let dims = [attributes.queries.clone(), attributes.keys.clone()];
        let dims = self.in_network(&dims)?;
        let (queries, keys) = (dims[0].clone(), dims[1].clone());
        let query = self.count(DType::I64, queries.clone());
        let query = self.reshape(query, vec![queries, 1.into()])?;
        let key = self.count(DType::I64, keys.clone());
        let key = self.reshape(key, vec![1.into(), keys])?;
        // How far the key is behind the query.
        let behind = self.elementwise(ElementWise::Difference, query, key)?;
        let table = buckets_of_distances(attributes);
        let farthest = table.len() as i64 - 1;
        let table =
            HostTensor::new(vec![table.len()], table).map_err(|error| tensor_error(&error))?;
        let table = self.literal(table);
        let (zero, farthest) = (
            self.integer(DType::I64, 2, 0),
            self.integer(DType::I64, 2, farthest),
        );
        let distance = if attributes.bidirectional {
            self.unary(Unary::Abs, behind)
        } else {
            self.elementwise(ElementWise::Max, behind, zero)?
        };
        let distance = self.elementwise(ElementWise::Min, distance, farthest)?;
        let buckets = self.gather(table, distance, 0)?;
        if !attributes.bidirectional {
            return Ok(buckets);
        }
        let is_later = self.elementwise(ElementWise::Less, behind, zero)?;
        let half = self.integer(DType::I64, 2, attributes.buckets as i64 / 2);
        let offset = self.select(is_later, half, zero)?;
        self.elementwise(ElementWise::Sum, buckets, offset)
    }
}

/// The bucket of each distance up to the one from which on all share the last.
///
/// In f32 and in this order, so that edges fall as on the CPU and in PyTorch.
fn buckets_of_distances(attributes: &RelativeBuckets) -> Vec<i64> {
    let buckets = attributes.buckets / if attributes.bidirectional { 2 } else { 1 };
    let exact = buckets / 2;
    let bucket = |distance: usize| {
        if distance < exact {
            return distance as i64;
        }
        let ratio = (distance as f32 / exact as f32).ln()
            / (attributes.max_distance as f64 / exact as f64).ln() as f32;
        let far = exact + (ratio * (buckets - exact) as f32) as usize;
        far.min(buckets - 1) as i64
    };
    let mut table: Vec<i64> = (0..=attributes.max_distance).map(bucket).collect();
    // Later ones are the last bucket, too.
    let last = table
        .iter()
        .position(|&bucket| bucket == buckets as i64 - 1);
    table.truncate(last.map_or(table.len(), |last| last + 1));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_of_t5() {
        let attributes = RelativeBuckets {
            buckets: 32,
            max_distance: 128,
            bidirectional: true,
            queries: Dim::from(1),
            keys: Dim::from(1),
        };
        let table = buckets_of_distances(&attributes);
        assert_eq!(table[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 8]);
        assert_eq!((table.last(), table.is_sorted()), (Some(&15), true));
    }
}
