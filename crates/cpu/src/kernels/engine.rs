//! The product of packed panels, which every large product is cut into.
//!
//! A left panel holds `tile().rows` rows, a right panel `tile().columns` columns; their
//! product stays in registers while the depth is walked through, as in K. Goto and
//! R. van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008). Depth
//! is cut every [`DEPTH`] values, so each result is the same sum in the same order,
//! wherever its row and column lie and whatever else is computed beside it.

use pulp::{Arch, Simd, WithSimd};

/// The depth of one pass; a right panel of this depth fits a core's first cache.
pub(super) const DEPTH: usize = 256;

/// How many rows and columns one register tile has on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// The tile of the best instruction set of this machine.
pub(super) fn tile() -> Tile {
    struct Shape;
    impl WithSimd for Shape {
        type Output = Tile;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _simd: S) -> Tile {
            let rows = if wide::<S>() { WIDE_ROWS } else { NARROW_ROWS };
            Tile {
                rows,
                columns: 2 * S::F32_LANES,
            }
        }
    }
    Arch::new().dispatch(Shape)
}

/// Multiplies packed panels: `rows[i][column + j] (+)= Σ_k left[k][i] · right[k][j]`.
///
/// `left` holds panels for all `rows`, `right` one panel, each of `depth` values per
/// line; `accumulate` adds to what the rows hold. Rows may end inside the panel.
pub(super) fn multiply(
    left: &[f32],
    right: &[f32],
    depth: usize,
    accumulate: bool,
    column: usize,
    rows: &mut [&mut [f32]],
) {
    Arch::new().dispatch(Multiply {
        left,
        right,
        depth,
        accumulate,
        column,
        rows,
    });
}

/// With 32 registers 12 × 2 sums, two vectors and a broadcast value fit; with 16, 6 × 2.
const WIDE_ROWS: usize = 12;
const NARROW_ROWS: usize = 6;

#[inline(always)]
fn wide<S: Simd>() -> bool {
    S::REGISTER_COUNT >= 32
}

struct Multiply<'a, 'b> {
    left: &'a [f32],
    right: &'a [f32],
    depth: usize,
    accumulate: bool,
    column: usize,
    rows: &'a mut [&'b mut [f32]],
}

impl WithSimd for Multiply<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if wide::<S>() {
            self.panels::<S, WIDE_ROWS>(simd);
        } else {
            self.panels::<S, NARROW_ROWS>(simd);
        }
    }
}

impl Multiply<'_, '_> {
    #[inline(always)]
    fn panels<S: Simd, const ROWS: usize>(self, simd: S) {
        let lefts = self.left.chunks_exact(ROWS * self.depth);
        for (left, rows) in lefts.zip(self.rows.chunks_mut(ROWS)) {
            // Few rows: a smaller tile does the same sums with less waste.
            if ROWS == WIDE_ROWS && rows.len() <= 4 {
                let sums = tile_product::<S, ROWS, 4, 2>(simd, left, self.right);
                store(simd, &sums, self.accumulate, self.column, rows);
            } else if ROWS == WIDE_ROWS && rows.len() <= 8 {
                let sums = tile_product::<S, ROWS, 8, 2>(simd, left, self.right);
                store(simd, &sums, self.accumulate, self.column, rows);
            } else {
                let sums = tile_product::<S, ROWS, ROWS, 2>(simd, left, self.right);
                store(simd, &sums, self.accumulate, self.column, rows);
            }
        }
    }
}

/// The first `ROWS` rows of a left panel of `STRIDE` rows times a right panel of
/// `VECTORS` vectors.
#[inline(always)]
pub(super) fn tile_product<
    S: Simd,
    const STRIDE: usize,
    const ROWS: usize,
    const VECTORS: usize,
>(
    simd: S,
    left: &[f32],
    right: &[f32],
) -> [[S::f32s; VECTORS]; ROWS] {
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
    let (lefts, _) = left.as_chunks::<STRIDE>();
    let (vectors, _) = S::as_simd_f32s(right);
    let (rights, _) = vectors.as_chunks::<VECTORS>();
    for (left, right) in lefts.iter().zip(rights) {
        for (sums, &value) in sums.iter_mut().zip(left) {
            let value = simd.splat_f32s(value);
            for (sum, &vector) in sums.iter_mut().zip(right) {
                *sum = simd.mul_add_e_f32s(value, vector, *sum);
            }
        }
    }
    sums
}

/// Writes or adds a tile to `rows` from `column` on, cut at the rows' ends.
#[inline(always)]
fn store<S: Simd, const ROWS: usize>(
    simd: S,
    sums: &[[S::f32s; 2]; ROWS],
    accumulate: bool,
    column: usize,
    rows: &mut [&mut [f32]],
) {
    let columns = 2 * S::F32_LANES;
    for (row, sums) in rows.iter_mut().zip(sums) {
        let row = &mut row[column..];
        if row.len() >= columns {
            let (vectors, _) = S::as_mut_simd_f32s(&mut row[..columns]);
            for (target, &sum) in vectors.iter_mut().zip(sums) {
                *target = if accumulate {
                    simd.add_f32s(*target, sum)
                } else {
                    sum
                };
            }
        } else {
            let values: &[f32] = bytemuck::cast_slice(sums);
            for (target, &sum) in row.iter_mut().zip(values) {
                *target = if accumulate { *target + sum } else { sum };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::panels::Lines;
    use crate::kernels::testing::{Random, assert_near};

    /// The product of random matrices with one instruction set.
    fn check<S: Simd>(simd: S) {
        let mut random = Random::new(21);
        let group = if wide::<S>() { WIDE_ROWS } else { NARROW_ROWS };
        let lanes = 2 * S::F32_LANES;
        for (rows, depth) in [(1, 1), (4, 17), (5, 65), (group + 7, 31), (3 * group, 3)] {
            let columns = lanes - lanes / 3;
            let (lhs, rhs) = (random.values(rows * depth), random.values(columns * depth));
            let pack = |data: &[f32], lines: usize, group: usize| {
                let mut out = vec![0.0; lines.next_multiple_of(group) * depth];
                let source = Lines {
                    data,
                    line_stride: depth,
                    depth_stride: 1,
                };
                source.pack((0, lines), (0, depth), group, &mut out);
                out
            };
            let (left, right) = (pack(&lhs, rows, group), pack(&rhs, columns, lanes));
            let mut out = vec![0.0; rows * columns];
            for accumulate in [false, true] {
                let rows = &mut out.chunks_exact_mut(columns).collect::<Vec<_>>();
                let (left, right) = (&left, &right);
                let column = 0;
                simd.vectorize(Multiply {
                    left,
                    right,
                    depth,
                    accumulate,
                    column,
                    rows,
                });
            }
            let mut expected = Vec::new();
            for row in lhs.chunks_exact(depth) {
                for column in rhs.chunks_exact(depth) {
                    let products = row
                        .iter()
                        .zip(column)
                        .map(|(&a, &b)| f64::from(a) * f64::from(b));
                    expected.push(2.0 * products.sum::<f64>());
                }
            }
            assert_near(&out, &expected, 1e-6);
        }
    }

    #[test]
    fn every_instruction_set_multiplies_alike() {
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
