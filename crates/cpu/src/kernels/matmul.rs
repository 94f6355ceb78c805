//! Products over the last two axes of batches.

use rayon::prelude::*;
use tintype_tensor::DType;

use super::product::{Matrix, Product, product};

/// A product over the last two axes, the axes before them broadcast.
#[derive(Debug, Clone, Copy)]
pub struct Matmul<'a> {
    /// `[…, rows, inner]`, or `[…, inner, rows]` if transposed; at least two axes.
    pub lhs_shape: &'a [usize],
    /// `[…, inner, columns]`, or `[…, columns, inner]` if transposed; at least two axes.
    pub rhs_shape: &'a [usize],
    /// Whether the last two axes of `lhs` are exchanged.
    pub transpose_lhs: bool,
    /// Whether the last two axes of `rhs` are exchanged.
    pub transpose_rhs: bool,
    /// The dtype of the result.
    pub rounding: DType,
}

/// `out[…, rows, columns] = lhs · rhs` for each position of the leading axes.
///
/// # Panics
/// If the shapes do not fit each other or a length does not fit.
pub fn matmul(options: &Matmul, lhs: &[f32], rhs: &[f32], out: &mut [f32]) {
    let (lhs_batch, [rows, inner]) = split_shape(options.lhs_shape, options.transpose_lhs);
    let (rhs_batch, [rhs_inner, columns]) = split_shape(options.rhs_shape, options.transpose_rhs);
    assert_eq!(inner, rhs_inner, "matmul: inner sizes");
    assert_eq!(
        lhs.len(),
        options.lhs_shape.iter().product::<usize>(),
        "matmul: left length"
    );
    assert_eq!(
        rhs.len(),
        options.rhs_shape.iter().product::<usize>(),
        "matmul: right length"
    );
    let batch = broadcast_batch(lhs_batch, rhs_batch);
    assert_eq!(
        out.len(),
        batch.len() * rows * columns,
        "matmul: output length"
    );
    let sizes = Product {
        rows,
        inner,
        columns,
        output_stride: columns,
        rounding: options.rounding,
    };
    if rows * columns == 0 {
        return;
    }
    out.par_chunks_mut(rows * columns)
        .zip(batch)
        .for_each(|(out, (left, right))| {
            let left = matrix(
                &lhs[left * rows * inner..][..rows * inner],
                rows,
                inner,
                options.transpose_lhs,
            );
            let right = matrix(
                &rhs[right * inner * columns..][..inner * columns],
                inner,
                columns,
                options.transpose_rhs,
            );
            product(&sizes, left, right, out);
        });
}

/// The leading axes, and the last two as rows and columns.
fn split_shape(shape: &[usize], transposed: bool) -> (&[usize], [usize; 2]) {
    let Some((batch, &[first, second])) = shape.split_last_chunk::<2>() else {
        panic!("matmul: at least two axes, found {shape:?}");
    };
    (
        batch,
        if transposed {
            [second, first]
        } else {
            [first, second]
        },
    )
}

/// The index into both operands' batches for each position of the broadcast batch.
fn broadcast_batch(lhs: &[usize], rhs: &[usize]) -> Vec<(usize, usize)> {
    let rank = lhs.len().max(rhs.len());
    let dim = |shape: &[usize], axis: usize| {
        (axis + shape.len())
            .checked_sub(rank)
            .map_or(1, |own| shape[own])
    };
    let mut indices = vec![(0, 0)];
    for axis in 0..rank {
        let (left, right) = (dim(lhs, axis), dim(rhs, axis));
        assert!(
            left == right || left == 1 || right == 1,
            "matmul: batch {left} against {right}"
        );
        let count = if left == 1 { right } else { left };
        indices = indices
            .into_iter()
            .flat_map(|(l, r)| {
                (0..count).map(move |i| {
                    (
                        l * left + if left == 1 { 0 } else { i },
                        r * right + if right == 1 { 0 } else { i },
                    )
                })
            })
            .collect();
    }
    indices
}

/// Row-major `data` as `rows` × `columns`, stored exchanged if `transposed`.
pub(super) fn matrix(data: &[f32], rows: usize, columns: usize, transposed: bool) -> Matrix<'_> {
    if transposed {
        Matrix::row_major(data, rows).transposed()
    } else {
        Matrix::row_major(data, columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{Random, assert_near};

    #[test]
    fn batches_broadcast() {
        let mut random = Random::new(14);
        let (lhs, rhs) = (random.values(2 * 3 * 5 * 7), random.values(3 * 7 * 4));
        let options = Matmul {
            lhs_shape: &[2, 3, 5, 7],
            rhs_shape: &[3, 4, 7],
            transpose_lhs: false,
            transpose_rhs: true,
            rounding: DType::BF16,
        };
        let mut out = vec![0.0; 2 * 3 * 5 * 4];
        matmul(&options, &lhs, &rhs, &mut out);
        let mut expected = Vec::new();
        for batch in 0..6 {
            for row in 0..5 {
                for column in 0..4 {
                    let sum: f32 = (0..7)
                        .map(|k| {
                            lhs[(batch * 5 + row) * 7 + k] * rhs[(batch % 3 * 4 + column) * 7 + k]
                        })
                        .sum();
                    expected.push(f64::from(sum));
                }
            }
        }
        assert_near(&out, &expected, 4e-3);
        assert!(out.iter().all(|&value| DType::BF16.round(value) == value));
    }
}
