//! Attention of one block of queries: the arithmetic inside a task.

use pulp::{Arch, Simd, WithSimd};

use super::engine::tile_product;
use super::math;
use super::panels::Buffer;

/// How many queries a block has, and how many keys (or dims) a left panel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LaneShape {
    pub(super) queries: usize,
    pub(super) rows: usize,
}

/// The shape for the best instruction set of this machine.
pub(super) fn lane_shape() -> LaneShape {
    struct Shape;
    impl WithSimd for Shape {
        type Output = LaneShape;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _simd: S) -> LaneShape {
            let rows = if S::REGISTER_COUNT >= 32 {
                WIDE_ROWS
            } else {
                NARROW_ROWS
            };
            LaneShape {
                queries: VECTORS * S::F32_LANES,
                rows,
            }
        }
    }
    Arch::new().dispatch(Shape)
}

/// What is added to the scores of a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mask<'a> {
    /// `[queries of the block, key_len]`.
    pub(super) bias: Option<&'a [f32]>,
    pub(super) causal: bool,
    pub(super) first_query: usize,
}

/// The buffers of a block of keys.
pub(super) struct Block {
    scores: Buffer,
}

impl Block {
    pub(super) fn new() -> Self {
        Self {
            scores: Buffer::new(KEYS * lane_shape().queries),
        }
    }
}

/// Adds the attention of packed, scaled queries to `output[dims, queries]`, which is zero.
///
/// `keys` are panels `[key_len / rows][head_dim][rows]`, `values` panels
/// `[head_dim / rows][key_len][rows]`.
pub(super) fn attend(
    block: &mut Block,
    query: &[f32],
    keys: &[f32],
    values: &[f32],
    (key_len, head_dim): (usize, usize),
    mask: Mask,
    output: &mut [f32],
) {
    let scores = block.scores.get_mut();
    Arch::new().dispatch(Attend {
        scores,
        query,
        keys,
        values,
        key_len,
        head_dim,
        mask,
        output,
    });
}

/// Sums of a register tile: 8 × 3 of 32 registers, 4 × 3 of 16.
const WIDE_ROWS: usize = 8;
const NARROW_ROWS: usize = 4;
const VECTORS: usize = 3;
/// Keys of a block: its scores stay in a core's first cache.
const KEYS: usize = 96;

struct Attend<'a> {
    scores: &'a mut [f32],
    query: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    key_len: usize,
    head_dim: usize,
    mask: Mask<'a>,
    output: &'a mut [f32],
}

/// The running maximum and sum of each query.
struct Running<S: Simd> {
    largest: [S::f32s; VECTORS],
    total: [S::f32s; VECTORS],
}

impl WithSimd for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if S::REGISTER_COUNT >= 32 {
            self.run::<S, WIDE_ROWS>(simd);
        } else {
            self.run::<S, NARROW_ROWS>(simd);
        }
    }
}

impl Attend<'_> {
    #[inline(always)]
    fn run<S: Simd, const ROWS: usize>(mut self, simd: S) {
        let mut running = Running::<S> {
            largest: [simd.splat_f32s(f32::NEG_INFINITY); VECTORS],
            total: [simd.splat_f32s(0.0); VECTORS],
        };
        let queries = VECTORS * S::F32_LANES;
        let seen = if self.mask.causal {
            self.key_len.min(self.mask.first_query + queries)
        } else {
            self.key_len
        };
        for first in (0..seen).step_by(KEYS) {
            let count = KEYS.min(seen - first);
            self.score::<S, ROWS>(simd, first, count);
            self.add_mask(first, count, queries);
            let scores = &mut self.scores[..count * queries];
            let correction = soften::<S>(simd, scores, &mut running);
            self.accumulate::<S, ROWS>(simd, first, count, correction);
        }
        let (rows, _) = S::as_mut_simd_f32s(self.output);
        let (rows, _) = rows.as_chunks_mut::<VECTORS>();
        for row in rows {
            for (value, &total) in row.iter_mut().zip(&running.total) {
                *value = simd.div_f32s(*value, total);
            }
        }
    }

    /// `scores[key][query] = key · query` for `count` keys from `first`.
    #[inline(always)]
    fn score<S: Simd, const ROWS: usize>(&mut self, simd: S, first: usize, count: usize) {
        let panel = ROWS * self.head_dim;
        let panels = self.keys[first * self.head_dim..].chunks_exact(panel);
        let (rows, _) = S::as_mut_simd_f32s(&mut self.scores[..]);
        let (rows, _) = rows.as_chunks_mut::<VECTORS>();
        let groups = rows.chunks_exact_mut(ROWS).take(count.div_ceil(ROWS));
        for (panel, rows) in panels.zip(groups) {
            let sums = tile_product::<S, ROWS, ROWS, VECTORS>(simd, panel, self.query);
            rows.copy_from_slice(&sums);
        }
    }

    #[inline(always)]
    fn add_mask(&mut self, first: usize, count: usize, queries: usize) {
        let rows = self.scores[..count * queries].chunks_exact_mut(queries);
        for (index, row) in rows.enumerate() {
            let key = first + index;
            if let Some(bias) = self.mask.bias {
                let column = bias[key..].iter().step_by(self.key_len);
                for (score, &bias) in row.iter_mut().zip(column) {
                    *score += bias;
                }
            }
            if self.mask.causal {
                let hidden = key.saturating_sub(self.mask.first_query).min(queries);
                row[..hidden].fill(f32::NEG_INFINITY);
            }
        }
    }

    /// `output[dim][query] = output · correction + Σ_key values[key][dim] · scores[key][query]`.
    #[inline(always)]
    fn accumulate<S: Simd, const ROWS: usize>(
        &mut self,
        simd: S,
        first: usize,
        count: usize,
        correction: [S::f32s; VECTORS],
    ) {
        let scores = &self.scores[..count * VECTORS * S::F32_LANES];
        let panels = self.values.chunks_exact(ROWS * self.key_len);
        let (rows, _) = S::as_mut_simd_f32s(&mut self.output[..]);
        let (rows, _) = rows.as_chunks_mut::<VECTORS>();
        for (panel, rows) in panels.zip(rows.chunks_exact_mut(ROWS)) {
            let panel = &panel[first * ROWS..(first + count) * ROWS];
            let sums = tile_product::<S, ROWS, ROWS, VECTORS>(simd, panel, scores);
            for (row, sums) in rows.iter_mut().zip(&sums) {
                for vector in 0..VECTORS {
                    row[vector] = simd.mul_add_f32s(row[vector], correction[vector], sums[vector]);
                }
            }
        }
    }
}

/// Turns scores into `exp(score − maximum)`; returns what earlier sums are multiplied by.
#[inline(always)]
fn soften<S: Simd>(simd: S, scores: &mut [f32], running: &mut Running<S>) -> [S::f32s; VECTORS] {
    let zero = simd.splat_f32s(0.0);
    let lowest = simd.splat_f32s(f32::MIN);
    let before = running.largest;
    let (rows, _) = S::as_simd_f32s(scores);
    let (rows, _) = rows.as_chunks::<VECTORS>();
    for row in rows {
        for (largest, &score) in running.largest.iter_mut().zip(row) {
            *largest = simd.max_f32s(score, *largest);
        }
    }
    // As long as a query has seen no key its maximum is −∞, and −∞ − (−∞) would be NaN.
    let center = running
        .largest
        .map(|largest| simd.max_f32s(largest, lowest));
    let queries = VECTORS * S::F32_LANES;
    let centers: &[f32] = bytemuck::cast_slice(&center);
    for row in scores.chunks_exact_mut(queries) {
        for (score, &center) in row.iter_mut().zip(centers) {
            *score = math::exp_normal(*score - center);
        }
    }
    let mut sums = [zero; VECTORS];
    let (rows, _) = S::as_simd_f32s(scores);
    let (rows, _) = rows.as_chunks::<VECTORS>();
    for row in rows {
        for (sum, &weight) in sums.iter_mut().zip(row) {
            *sum = simd.add_f32s(*sum, weight);
        }
    }
    let mut correction = [zero; VECTORS];
    for vector in 0..VECTORS {
        correction[vector] = simd.sub_f32s(before[vector], center[vector]);
    }
    for value in bytemuck::cast_slice_mut::<S::f32s, f32>(&mut correction) {
        *value = math::exp_normal(*value);
    }
    for vector in 0..VECTORS {
        running.total[vector] =
            simd.mul_add_f32s(running.total[vector], correction[vector], sums[vector]);
    }
    correction
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::panels::Lines;
    use crate::kernels::testing::{Random, assert_near};

    /// One block of queries over several blocks of keys with one instruction set.
    fn check<S: Simd>(simd: S) {
        let mut random = Random::new(22);
        let group = if S::REGISTER_COUNT >= 32 {
            WIDE_ROWS
        } else {
            NARROW_ROWS
        };
        let (queries, key_len, head_dim) = (VECTORS * S::F32_LANES, 2 * KEYS + 13, 19);
        let data = [queries, key_len, key_len].map(|tokens| random.values(tokens * head_dim));
        let [query, key, value] = &data;
        let pack = |data, strides: (usize, usize), sizes: (usize, usize), group: usize| {
            let mut out = vec![0.0; sizes.0.next_multiple_of(group) * sizes.1];
            let lines = Lines {
                data,
                line_stride: strides.0,
                depth_stride: strides.1,
            };
            lines.pack((0, sizes.0), (0, sizes.1), group, &mut out);
            out
        };
        let packed_query = pack(query, (head_dim, 1), (queries, head_dim), queries);
        let keys = pack(key, (head_dim, 1), (key_len, head_dim), group);
        let values = pack(value, (1, head_dim), (head_dim, key_len), group);
        let mut output = vec![0.0; head_dim.next_multiple_of(group) * queries];
        simd.vectorize(Attend {
            scores: &mut vec![0.0; KEYS * queries],
            query: &packed_query,
            keys: &keys,
            values: &values,
            key_len,
            head_dim,
            mask: Mask {
                bias: None,
                causal: false,
                first_query: 0,
            },
            output: &mut output,
        });
        let mut expected = vec![0.0; head_dim * queries];
        for (lane, query) in query.chunks_exact(head_dim).enumerate() {
            let dot = |key: &[f32]| -> f64 {
                query
                    .iter()
                    .zip(key)
                    .map(|(&a, &b)| f64::from(a) * f64::from(b))
                    .sum()
            };
            let weights: Vec<f64> = key
                .chunks_exact(head_dim)
                .map(|key| dot(key).exp())
                .collect();
            let total: f64 = weights.iter().sum();
            for (weight, value) in weights.iter().zip(value.chunks_exact(head_dim)) {
                for (dim, &value) in value.iter().enumerate() {
                    expected[dim * queries + lane] += weight / total * f64::from(value);
                }
            }
        }
        assert_near(&output[..head_dim * queries], &expected, 3e-6);
    }

    #[test]
    fn every_instruction_set_attends_alike() {
        check(pulp::Scalar);
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(simd) = pulp::x86::V3::try_new() {
                check(simd);
            }
            if let Some(simd) = pulp::x86::V4::try_new() {
                check(simd);
            }
        }
    }
}
