//! The axes of a product, and which of them are rows, columns, the batch, and repeated calls.
//!
//! Pure. An axis before the last two that goes on where the rows end is rows, too: `[2, 512, k]`
//! without gaps is 1024 rows. What is left joins where it can, the longest is the batch:
//!
//! ```text
//! input [2, 512:4608 rows, k]   ->  m 512, batch 2
//! input [b, h, m, k] · weight [h, k, n]  ->  batch h, repeated b times
//! ```

use tintype_tensor::DType;

use super::layout::{Matrix, ProductLayout, Repeat};
use crate::{Product, View};

/// An axis of the product, with the strides of input, weight and output in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Loop {
    size: usize,
    strides: [usize; 3],
}

/// The axes of a product: rows `m` of input and output, columns `n` of weight and output, the
/// inner axis `k` of input and weight, and all others.
pub(super) struct Loops {
    m: Loop,
    n: Loop,
    k: Loop,
    batch: Vec<Loop>,
}

impl Loops {
    /// The axes of size 1 are left out of the batch.
    pub(super) fn of(product: &Product) -> Option<Self> {
        let (input, output) = (&product.input, &product.output);
        let weight = product.weight_by_columns()?;
        let rank = output.axes.len();
        let batch = &output.shape()[..rank.saturating_sub(2)];
        if rank == 0 || input.axes.is_empty() || (!product.is_linear && rank < 2) {
            return None;
        }
        let n = *output.axes.last()?;
        let k = *input.axes.last()?;
        // A vector is one row.
        let one = |view: &View| view.axes.iter().rev().nth(1).copied();
        let (m_input, m_output) = (one(input), one(output));
        let m_size = m_output.map_or(1, |axis| axis.size);
        let [k_weight, n_weight] = *weight.axes.last_chunk::<2>()?;
        let sizes_fit = n_weight.size == n.size
            && k_weight.size == k.size
            && m_input.map_or(1, |axis| axis.size) == m_size;
        if !sizes_fit {
            return None;
        }
        let outer = |view: &View| outer_strides(view, batch);
        let (inputs, weights, outputs) = (outer(input)?, outer(&weight)?, outer(output)?);
        let all = batch.iter().enumerate().map(|(place, &size)| Loop {
            size,
            strides: [inputs[place], weights[place], outputs[place]],
        });
        let stride = |axis: Option<crate::Axis>| axis.map_or(0, |axis| axis.stride);
        Some(Self {
            m: Loop {
                size: m_size,
                strides: [stride(m_input), 0, stride(m_output)],
            },
            n: Loop {
                size: n.size,
                strides: [0, n_weight.stride, n.stride],
            },
            k: Loop {
                size: k.size,
                strides: [k.stride, k_weight.stride, 0],
            },
            batch: all.filter(|axis| axis.size != 1).collect(),
        })
    }

    /// Makes axes of the batch to rows where the weight is the same for all, and joins those that
    /// are one for all three; the order of the batch means nothing.
    pub(super) fn fold(&mut self) {
        while let Some(place) = self.batch.iter().rposition(|axis| self.is_rows(axis)) {
            let axis = self.batch.remove(place);
            self.m = if self.m.size == 1 {
                axis
            } else {
                Loop {
                    size: self.m.size * axis.size,
                    ..self.m
                }
            };
        }
        while let Some((outer, inner)) = self.joined() {
            let axis = self.batch[inner];
            self.batch[inner].size = axis.size * self.batch[outer].size;
            self.batch.remove(outer);
        }
    }

    fn is_rows(&self, axis: &Loop) -> bool {
        let are_apart = axis.strides[0] > 0 && axis.strides[2] > 0;
        axis.strides[1] == 0 && are_apart && (self.m.size == 1 || follows(axis, &self.m))
    }

    fn joined(&self) -> Option<(usize, usize)> {
        let places = 0..self.batch.len();
        let pairs = places
            .clone()
            .flat_map(|a| places.clone().map(move |b| (a, b)));
        let mut pairs = pairs.filter(|(a, b)| a != b);
        pairs.find(|&(outer, inner)| follows(&self.batch[outer], &self.batch[inner]))
    }

    pub(super) fn layout(self, dtypes: [DType; 3]) -> Option<ProductLayout> {
        let writes_twice = |axis: &Loop| axis.size > 1 && axis.strides[2] == 0;
        let mut written = self.batch.iter().chain([&self.m, &self.n]);
        if written.any(writes_twice) {
            return None;
        }
        self.oriented(dtypes, false)
            .or_else(|| self.oriented(dtypes, true))
    }

    /// The layout with A the weight, or with A the input.
    fn oriented(&self, dtypes: [DType; 3], is_swapped: bool) -> Option<ProductLayout> {
        // In places of cuBLASLt: which of input, weight and output are A, B and D.
        let order = if is_swapped { [0, 1, 2] } else { [1, 0, 2] };
        let (rows, columns) = if is_swapped {
            (self.m, self.n)
        } else {
            (self.n, self.m)
        };
        let [a, b, d] = order;
        let along = |axis: Loop, operand: usize| (axis.size, axis.strides[operand]);
        // The inner axis comes first, so that it lies together where either axis could.
        let (first, a_plain) = stored(along(self.k, a), along(rows, a))?;
        let (second, b_turned) = stored(along(self.k, b), along(columns, b))?;
        let (third, d_turned) = stored(along(rows, d), along(columns, d))?;
        if d_turned {
            return None;
        }
        let mut batch = self.batch.clone();
        batch.sort_by_key(|axis| axis.size);
        let batched = batch.pop().unwrap_or(Loop {
            size: 1,
            strides: [0; 3],
        });
        let repeats = batch.into_iter().map(|axis| Repeat {
            size: axis.size,
            strides: order.map(|operand| axis.strides[operand]),
        });
        let matrix = |(rows, columns, leading), operand: usize| Matrix {
            dtype: dtypes[operand],
            rows,
            columns,
            leading,
            batch_stride: batched.strides[operand],
        };
        let layout = ProductLayout {
            rows: rows.size,
            columns: columns.size,
            inner: self.k.size,
            batch: batched.size,
            matrices: [matrix(first, a), matrix(second, b), matrix(third, d)],
            transposed: [!a_plain, b_turned],
            is_swapped,
            repeats: repeats.collect(),
            scaling: None,
            bias: None,
            gelu: false,
            alignments: [1; 3],
        };
        (layout.calls() <= MOST_CALLS).then_some(layout)
    }
}

impl Product {
    /// The weight as `[…, k, n]`, of linear layers too.
    fn weight_by_columns(&self) -> Option<View> {
        let rank = self.weight.axes.len();
        if rank < 2 || (self.is_linear && rank != 2) {
            return None;
        }
        Some(if self.is_linear {
            self.weight.transpose(&[1, 0])
        } else {
            self.weight.clone()
        })
    }
}

/// The strides of the axes before the last two, for a batch of these sizes; `None` where they are
/// neither of these sizes nor repeated.
fn outer_strides(view: &View, batch: &[usize]) -> Option<Vec<usize>> {
    let own = view.axes.len().saturating_sub(2);
    let missing = batch.len().checked_sub(own)?;
    let strides = batch.iter().enumerate().map(|(place, &size)| {
        let Some(place) = place.checked_sub(missing) else {
            return Some(0);
        };
        match view.axes[place] {
            axis if axis.size == size => Some(axis.stride),
            axis if axis.size == 1 => Some(0),
            _ => None,
        }
    });
    strides.collect()
}

/// Whether a position of `outer` is as far as all of `inner`, in all three.
fn follows(outer: &Loop, inner: &Loop) -> bool {
    let pairs = outer.strides.into_iter().zip(inner.strides);
    inner.size > 1 && pairs.into_iter().all(|(a, b)| a == b * inner.size)
}

/// Rows, columns and leading dimension of a matrix with these two axes (size and stride), and
/// whether the second is the one that lies together. `None` where neither is, or columns overlap.
fn stored(first: (usize, usize), second: (usize, usize)) -> Option<((usize, usize, usize), bool)> {
    let column_major = |(rows, stride): (usize, usize), (columns, leading): (usize, usize)| {
        if rows != 1 && stride != 1 {
            return None;
        }
        match columns {
            1 => Some((rows, columns, rows)),
            _ if leading >= rows => Some((rows, columns, leading)),
            _ => None,
        }
    };
    let plain = column_major(first, second).map(|found| (found, false));
    plain.or_else(|| column_major(second, first).map(|found| (found, true)))
}

/// More calls than this are better left to one kernel.
const MOST_CALLS: usize = 64;
