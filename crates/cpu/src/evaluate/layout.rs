//! Operations that move elements, and those that make whole numbers.

use tintype_backend::Result;
use tintype_ir::RelativeBuckets;
use tintype_tensor::Shape;

use super::Call;
use super::elementwise::wrapped;
use crate::kernels;
use crate::value::Value;

impl Call<'_> {
    pub(super) fn iota(&self, axis: usize) -> Value {
        let strides = self.shape.strides();
        let at = |position: usize| position / strides[axis] % self.shape[axis];
        let positions = 0..self.shape.element_count();
        if self.dtype.is_float() {
            return self.compute(|out| {
                for (position, out) in out.iter_mut().enumerate() {
                    *out = self.dtype.round(at(position) as f32);
                }
            });
        }
        let values = positions
            .map(|position| wrapped(self.dtype, at(position) as i64))
            .collect();
        Value::integers(self.dtype, self.shape.clone(), values)
    }

    pub(super) fn broadcast(&self) -> Result<Value> {
        let x = &self.operands[0];
        if x.shape == self.shape {
            return Ok(x.clone());
        }
        let indices = self.indices(&x.shape);
        if let Some(values) = x.as_integers() {
            let repeated = indices.map(|index| values[index]).collect();
            return Ok(Value::integers(self.dtype, self.shape.clone(), repeated));
        }
        let values = x.as_floats()?;
        Ok(self.compute(|out| {
            for (out, index) in out.iter_mut().zip(indices) {
                *out = values[index];
            }
        }))
    }

    pub(super) fn transpose(&self, permutation: &[usize]) -> Result<Value> {
        let x = &self.operands[0];
        if let Some(values) = x.as_integers() {
            let mut out = vec![0; values.len()];
            kernels::permute(&x.shape, permutation, values, &mut out);
            return Ok(Value::integers(self.dtype, self.shape.clone(), out));
        }
        let values = x.as_floats()?;
        Ok(self.compute(|out| kernels::permute(&x.shape, permutation, &values, out)))
    }

    pub(super) fn slice(&self, axis: usize, start: usize) -> Result<Value> {
        let x = &self.operands[0];
        let mut ranges: Vec<_> = x.shape.iter().map(|&size| 0..size).collect();
        ranges[axis] = start..start + self.shape[axis];
        if ranges[axis].end > x.shape[axis] {
            return self.error(format!(
                "{:?} does not lie within {}",
                ranges[axis], x.shape
            ));
        }
        if let Some(values) = x.as_integers() {
            let mut out = vec![0; self.shape.element_count()];
            kernels::slice(&x.shape, &ranges, values, &mut out);
            return Ok(Value::integers(self.dtype, self.shape.clone(), out));
        }
        let values = x.as_floats()?;
        Ok(self.compute(|out| kernels::slice(&x.shape, &ranges, &values, out)))
    }

    pub(super) fn concat(&self, axis: usize) -> Result<Value> {
        let shapes: Vec<&[usize]> = self
            .operands
            .iter()
            .map(|operand| &*operand.shape)
            .collect();
        let integers: Option<Vec<&[i64]>> = self.operands.iter().map(Value::as_integers).collect();
        if let Some(parts) = integers {
            let mut out = vec![0; self.shape.element_count()];
            kernels::concat(axis, &shapes, &parts, &mut out);
            return Ok(Value::integers(self.dtype, self.shape.clone(), out));
        }
        let parts: Result<Vec<_>> = self.operands.iter().map(Value::as_floats).collect();
        let parts = parts?;
        let parts: Vec<&[f32]> = parts.iter().map(|part| &**part).collect();
        Ok(self.compute(|out| kernels::concat(axis, &shapes, &parts, out)))
    }

    /// A gather along any axis is one of rows: the table seen as `[outer, axis, inner]`.
    pub(super) fn gather(&self, axis: usize) -> Result<Value> {
        let [table, indices] = self.operands else {
            unreachable!("verified")
        };
        let outer: usize = table.shape[..axis].iter().product();
        let chosen = self.checked_indices(indices, table.shape[axis])?;
        let size = table.shape[axis];
        let rows: Vec<usize> = (0..outer)
            .flat_map(|block| chosen.iter().map(move |&index| block * size + index))
            .collect();
        self.take_rows(table, &rows, table.shape[axis + 1..].iter().product())
    }

    pub(super) fn gather_rows(&self) -> Result<Value> {
        let [table, indices] = self.operands else {
            unreachable!("verified")
        };
        let size = table.shape[1];
        let chosen = self.checked_indices(indices, size)?;
        let rows: Vec<usize> = chosen
            .iter()
            .enumerate()
            .map(|(batch, &index)| batch * size + index)
            .collect();
        self.take_rows(table, &rows, table.shape[2..].iter().product())
    }

    fn take_rows(&self, table: &Value, rows: &[usize], width: usize) -> Result<Value> {
        if let Some(values) = table.as_integers() {
            let mut out = vec![0; self.shape.element_count()];
            kernels::gather_rows(width, values, rows, &mut out);
            return Ok(Value::integers(self.dtype, self.shape.clone(), out));
        }
        // A table of embeddings is large and stored: only the rows that are read are widened.
        let Some(weights) = table.as_weights() else {
            let values = table.as_floats()?;
            return Ok(self.compute(|out| kernels::gather_rows(width, &values, rows, out)));
        };
        Ok(self.compute(|out| {
            for (&row, out) in rows.iter().zip(out.chunks_exact_mut(width.max(1))) {
                weights.widen(row * width..(row + 1) * width, out);
            }
        }))
    }

    fn checked_indices(&self, indices: &Value, size: usize) -> Result<Vec<usize>> {
        let values = indices.as_integers().expect("indices are whole numbers");
        let in_range = |&value: &i64| usize::try_from(value).ok().filter(|&index| index < size);
        match values.iter().find(|value| in_range(value).is_none()) {
            Some(wrong) => self.error(format!("index {wrong} is out of range, there are {size}")),
            None => Ok(values.iter().filter_map(in_range).collect()),
        }
    }

    /// T5's buckets (Raffel et al., 2020): near positions have one each, far ones
    /// share them by the logarithm of their distance.
    pub(super) fn relative_buckets(&self, attributes: &RelativeBuckets) -> Value {
        let (queries, keys) = (self.shape[0], self.shape[1]);
        let mut values = Vec::with_capacity(queries * keys);
        for query in 0..queries {
            values.extend((0..keys).map(|key| bucket(attributes, query, key) as i64));
        }
        Value::integers(self.dtype, Shape::from([queries, keys]), values)
    }
}

fn bucket(attributes: &RelativeBuckets, query: usize, key: usize) -> usize {
    let (buckets, offset, distance) = if attributes.bidirectional {
        let half = attributes.buckets / 2;
        (
            half,
            if key > query { half } else { 0 },
            key.abs_diff(query),
        )
    } else {
        (attributes.buckets, 0, query.saturating_sub(key))
    };
    let exact = buckets / 2;
    if distance < exact {
        return offset + distance;
    }
    // In f32 and in this order, so that distances at the edge of a bucket fall as in PyTorch.
    let ratio = (distance as f32 / exact as f32).ln()
        / (attributes.max_distance as f64 / exact as f64).ln() as f32;
    let far = exact + (ratio * (buckets - exact) as f32) as usize;
    offset + far.min(buckets - 1)
}
