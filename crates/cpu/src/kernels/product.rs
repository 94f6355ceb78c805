//! Products of strided matrices, cut into packed panels and tasks for many cores.

use rayon::prelude::*;
use tintype_tensor::DType;

use super::elementwise::{Activation, Unary, apply};
use super::engine::{DEPTH, multiply, tile};
use super::panels::{Buffer, Lines};

/// A matrix in memory: value (row, column) is at `row · row_stride + column · column_stride`.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    /// The values, from the first on.
    pub data: &'a [f32],
    /// Floats from a row to the next.
    pub row_stride: usize,
    /// Floats from a column to the next.
    pub column_stride: usize,
}

/// The sizes of `[rows, inner] · [inner, columns]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Product {
    /// Rows of the left matrix.
    pub rows: usize,
    /// Columns of the left matrix, rows of the right one.
    pub inner: usize,
    /// Columns of the right matrix.
    pub columns: usize,
    /// Floats from a row of the output to the next, at least `columns`.
    pub output_stride: usize,
    /// The dtype of the result.
    pub rounding: DType,
}

/// `out = lhs · rhs`, summed in f32.
///
/// # Panics
/// If a matrix is smaller than its sizes.
pub fn product(options: &Product, lhs: Matrix, rhs: Matrix, out: &mut [f32]) {
    let Product {
        rows,
        inner,
        columns,
        output_stride,
        rounding,
    } = *options;
    lhs.check(rows, inner);
    rhs.check(inner, columns);
    let right = Lines {
        data: rhs.data,
        line_stride: rhs.column_stride,
        depth_stride: rhs.row_stride,
    };
    let tile = tile();
    let chunk = columns_per_chunk(inner, tile.columns);
    let mut panels = Buffer::new(chunk.min(columns.next_multiple_of(tile.columns)) * inner);
    for first in (0..columns).step_by(chunk) {
        let count = chunk.min(columns - first);
        let panels = &mut panels.get_mut()[..count.next_multiple_of(tile.columns) * inner];
        // Each task packs the same few columns, whatever the number of threads.
        panels
            .par_chunks_mut(tile.columns * inner.max(1))
            .enumerate()
            .for_each(|(index, panel)| {
                let start = index * tile.columns;
                let lines = (first + start, tile.columns.min(count - start));
                pack_depths(&right, lines, inner, tile.columns, panel);
            });
        let epilogue = Epilogue {
            bias: None,
            activation: None,
            rounding,
        };
        let output = Output {
            columns: count,
            stride: output_stride,
            epilogue,
        };
        multiply_rows(lhs, (rows, inner), panels, &output, &mut out[first..]);
    }
}

/// Where and how a product is written.
pub(super) struct Output<'a> {
    pub(super) columns: usize,
    pub(super) stride: usize,
    pub(super) epilogue: Epilogue<'a>,
}

/// What is done to a product's values as they are written.
#[derive(Clone, Copy)]
pub(super) struct Epilogue<'a> {
    /// Added, one value per column.
    pub(super) bias: Option<&'a [f32]>,
    pub(super) activation: Option<Activation>,
    pub(super) rounding: DType,
}

/// How many columns of the right operand are packed at once, in whole tiles.
pub(super) fn columns_per_chunk(inner: usize, tile_columns: usize) -> usize {
    (CHUNK_VALUES / inner.max(1) / tile_columns).max(1) * tile_columns
}

/// Values of the right operand that are packed at once: 32 MiB.
const CHUNK_VALUES: usize = 8 << 20;

/// Packs one panel of `group` lines: its passes of at most [`DEPTH`] depths follow each other.
pub(super) fn pack_depths(
    lines: &Lines,
    range: (usize, usize),
    inner: usize,
    group: usize,
    panel: &mut [f32],
) {
    for depth in (0..inner).step_by(DEPTH) {
        let depths = DEPTH.min(inner - depth);
        let target = &mut panel[depth * group..(depth + depths) * group];
        lines.pack(range, (depth, depths), group, target);
    }
}

/// `out = lhs · panels` with the epilogue, in parallel over tiles of rows and columns.
///
/// `panels` holds the right operand as [`pack_depths`] writes it, panel after panel.
pub(super) fn multiply_rows(
    lhs: Matrix,
    (rows, inner): (usize, usize),
    panels: &[f32],
    output: &Output,
    out: &mut [f32],
) {
    let tile = tile();
    let (row_step, column_step) = task_shape(rows, output.columns, tile.columns);
    let left = Lines {
        data: lhs.data,
        line_stride: lhs.row_stride,
        depth_stride: lhs.column_stride,
    };
    let blocks = split(
        out,
        (rows, output.columns),
        output.stride,
        (row_step, column_step),
    );
    blocks.into_par_iter().for_each_init(
        || Buffer::new(row_step.next_multiple_of(tile.rows) * DEPTH),
        |buffer, mut block| {
            let columns = block.rows[0].len();
            let first = block.column / tile.columns;
            for depth in (0..inner).step_by(DEPTH) {
                let depths = DEPTH.min(inner - depth);
                let count = block.rows.len();
                let packed = &mut buffer.get_mut()[..count.next_multiple_of(tile.rows) * depths];
                left.pack((block.row, count), (depth, depths), tile.rows, packed);
                for index in 0..columns.div_ceil(tile.columns) {
                    let start = ((first + index) * inner + depth) * tile.columns;
                    let right = &panels[start..start + depths * tile.columns];
                    let column = index * tile.columns;
                    multiply(packed, right, depths, depth > 0, column, &mut block.rows);
                }
            }
            if inner == 0 {
                block.rows.iter_mut().for_each(|row| row.fill(0.0));
            }
            output.epilogue.apply(block.column, &mut block.rows);
        },
    );
}

/// A piece of an output: `rows[i]` starts at (`row + i`, `column`).
pub(super) struct Block<'a> {
    pub(super) row: usize,
    pub(super) column: usize,
    pub(super) rows: Vec<&'a mut [f32]>,
}

/// Cuts `out[rows, columns]`, rows `stride` apart, into blocks of `row_step` rows and
/// `column_step` columns.
pub(super) fn split(
    out: &mut [f32],
    (rows, columns): (usize, usize),
    stride: usize,
    (row_step, column_step): (usize, usize),
) -> Vec<Block<'_>> {
    if rows == 0 || columns == 0 {
        return Vec::new();
    }
    assert!(
        stride >= columns,
        "product: output stride {stride} for {columns} columns"
    );
    assert!(
        out.len() >= (rows - 1) * stride + columns,
        "product: output length"
    );
    let columns_of_blocks = columns.div_ceil(column_step);
    let mut blocks: Vec<Block> = Vec::new();
    for (row, line) in out.chunks_mut(stride).take(rows).enumerate() {
        if row.is_multiple_of(row_step) {
            blocks.extend((0..columns_of_blocks).map(|index| Block {
                row,
                column: index * column_step,
                rows: Vec::with_capacity(row_step.min(rows - row)),
            }));
        }
        let current = blocks.len() - columns_of_blocks;
        let pieces = line[..columns].chunks_mut(column_step);
        for (block, piece) in blocks[current..].iter_mut().zip(pieces) {
            block.rows.push(piece);
        }
    }
    blocks
}

/// Rows and columns of a task: enough tasks for many cores, large enough that packing
/// the left operand again for each column range costs little. Depends on sizes alone.
fn task_shape(rows: usize, columns: usize, tile_columns: usize) -> (usize, usize) {
    let row_tasks = rows.div_ceil(TASK_ROWS);
    let column_tasks = WANTED_TASKS.div_ceil(row_tasks.max(1));
    let column_step = columns.div_ceil(column_tasks).max(TASK_COLUMNS);
    (TASK_ROWS, column_step.next_multiple_of(tile_columns))
}

const TASK_ROWS: usize = 96;
const TASK_COLUMNS: usize = 256;
const WANTED_TASKS: usize = 64;

impl Epilogue<'_> {
    /// Finishes rows that start at `column` while they are in cache.
    pub(super) fn apply(&self, column: usize, rows: &mut [&mut [f32]]) {
        let function = self.activation.map_or(Unary::Identity, Unary::from);
        for row in rows {
            if let Some(bias) = self.bias {
                add_bias(&bias[column..column + row.len()], row);
            }
            apply(function, self.rounding, row);
        }
    }
}

vectorised! {
    fn add_bias<'a>(_simd; bias: &'a [f32], row: &'a mut [f32]) {
        for (value, &bias) in row.iter_mut().zip(bias) {
            *value += bias;
        }
    }
}

impl<'a> Matrix<'a> {
    /// A row-major matrix of `columns` columns.
    pub const fn row_major(data: &'a [f32], columns: usize) -> Self {
        Self {
            data,
            row_stride: columns,
            column_stride: 1,
        }
    }

    /// The same values with rows and columns exchanged.
    #[must_use]
    pub const fn transposed(self) -> Self {
        Self {
            data: self.data,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    fn check(&self, rows: usize, columns: usize) {
        if rows > 0 && columns > 0 {
            let last = (rows - 1) * self.row_stride + (columns - 1) * self.column_stride;
            assert!(
                last < self.data.len(),
                "product: matrix of {rows} rows, {columns} columns"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::matmul::matrix;
    use crate::kernels::testing::{Random, assert_near, same_for_any_threads};

    #[test]
    fn strided_products_follow_the_definition() {
        let mut random = Random::new(12);
        let sizes = [
            (1, 1, 1),
            (3, 17, 65),
            (13, 3, 33),
            (97, 300, 31),
            (200, 65, 700),
            (5, 0, 3),
        ];
        for (rows, inner, columns) in sizes {
            let lhs = random.values(rows * inner + 1);
            let rhs = random.values(inner * columns + 1);
            for transposed in [false, true] {
                let left = matrix(&lhs, rows, inner, transposed);
                let right = matrix(&rhs, inner, columns, !transposed);
                let stride = columns + 3;
                let options = Product {
                    rows,
                    inner,
                    columns,
                    output_stride: stride,
                    rounding: DType::F32,
                };
                let out = same_for_any_threads(|| {
                    let mut out = vec![7.0; rows * stride];
                    product(&options, left, right, &mut out);
                    out
                });
                let at = |m: &Matrix, r: usize, c: usize| {
                    f64::from(m.data[r * m.row_stride + c * m.column_stride])
                };
                let mut expected = vec![7.0; rows * stride];
                for row in 0..rows {
                    for column in 0..columns {
                        expected[row * stride + column] = (0..inner)
                            .map(|k| at(&left, row, k) * at(&right, k, column))
                            .sum();
                    }
                }
                assert_near(&out, &expected, 1e-6);
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_in_any_product() {
        let mut random = Random::new(13);
        let (inner, columns) = (700, 65);
        let (lhs, rhs) = (random.values(120 * inner), random.values(inner * columns));
        let run = |first: usize, rows: usize| {
            let mut out = vec![0.0; rows * columns];
            let options = Product {
                rows,
                inner,
                columns,
                output_stride: columns,
                rounding: DType::F32,
            };
            let left = Matrix::row_major(&lhs[first * inner..(first + rows) * inner], inner);
            product(&options, left, Matrix::row_major(&rhs, columns), &mut out);
            out
        };
        let whole = run(0, 120);
        for (first, rows) in [(0, 1), (5, 3), (100, 7), (90, 20)] {
            assert_eq!(
                run(first, rows),
                whole[first * columns..(first + rows) * columns]
            );
        }
    }
}
