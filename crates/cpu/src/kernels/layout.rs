//! Moving values: permutation of axes, concatenation, slices, gathered rows.
//!
//! Nothing is computed, so these work on any element type.

use std::ops::Range;

use rayon::prelude::*;

use super::parallel::{GRAIN, for_row_blocks};

/// `out[i_p0, i_p1, …] = x[i_0, i_1, …]`: axis `a` of `out` is axis `permutation[a]` of `x`.
///
/// # Panics
/// If `permutation` is none or a length does not fit.
pub fn permute<T: Copy + Send + Sync>(
    shape: &[usize],
    permutation: &[usize],
    x: &[T],
    out: &mut [T],
) {
    let mut sorted = permutation.to_vec();
    sorted.sort_unstable();
    assert!(
        sorted.iter().copied().eq(0..shape.len()),
        "permute: a permutation of the axes"
    );
    assert_eq!(
        x.len(),
        shape.iter().product::<usize>(),
        "permute: input length"
    );
    assert_eq!(x.len(), out.len(), "permute: output length");
    let axes = merged_axes(shape, permutation);
    match axes.as_slice() {
        _ if x.is_empty() => {}
        [] => out.copy_from_slice(x),
        [.., Axis { stride: 1, .. }] => copy_rows(&axes, x, out),
        _ => transpose(&axes, x, out),
    }
}

/// An axis of the output with its stride in the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Axis {
    dim: usize,
    stride: usize,
}

/// The output's axes; those that stay side by side become one.
fn merged_axes(shape: &[usize], permutation: &[usize]) -> Vec<Axis> {
    let stride = |axis: usize| shape[axis + 1..].iter().product::<usize>();
    let mut axes: Vec<Axis> = Vec::new();
    for axis in permutation.iter().copied().filter(|&axis| shape[axis] != 1) {
        let next = Axis {
            dim: shape[axis],
            stride: stride(axis),
        };
        match axes.last_mut() {
            Some(last) if last.stride == next.dim * next.stride => {
                *last = Axis {
                    dim: last.dim * next.dim,
                    stride: next.stride,
                };
            }
            _ => axes.push(next),
        }
    }
    axes
}

/// Where the output's position `index` over `axes` lies in the input.
fn input_offset(axes: &[Axis], mut index: usize) -> usize {
    let mut offset = 0;
    for axis in axes.iter().rev() {
        offset += index % axis.dim * axis.stride;
        index /= axis.dim;
    }
    offset
}

fn copy_rows<T: Copy + Send + Sync>(axes: &[Axis], x: &[T], out: &mut [T]) {
    let (last, outer) = axes.split_last().expect("there is an axis");
    for_row_blocks(out, last.dim, |first, rows| {
        let mut walk = Walk::new(outer, first);
        for row in rows.chunks_exact_mut(last.dim) {
            row.copy_from_slice(&x[walk.offset..walk.offset + last.dim]);
            walk.advance();
        }
    });
}

/// The input's offset while the output's outer axes are walked through in order; the
/// divisions of [`input_offset`] would cost as much as a short row.
struct Walk<'a> {
    axes: &'a [Axis],
    position: Vec<usize>,
    offset: usize,
}

impl<'a> Walk<'a> {
    fn new(axes: &'a [Axis], mut index: usize) -> Self {
        let offset = input_offset(axes, index);
        let mut position = vec![0; axes.len()];
        for (value, axis) in position.iter_mut().zip(axes).rev() {
            *value = index % axis.dim;
            index /= axis.dim;
        }
        Self {
            axes,
            position,
            offset,
        }
    }

    fn advance(&mut self) {
        for (value, axis) in self.position.iter_mut().zip(self.axes).rev() {
            *value += 1;
            self.offset += axis.stride;
            if *value < axis.dim {
                return;
            }
            self.offset -= axis.dim * axis.stride;
            *value = 0;
        }
    }
}

/// The case where the input's last axis is not the output's: small squares, so that
/// lines of both sides stay in cache.
fn transpose<T: Copy + Send + Sync>(axes: &[Axis], x: &[T], out: &mut [T]) {
    let (last, outer) = axes.split_last().expect("there is an axis");
    let near = outer
        .iter()
        .position(|axis| axis.stride == 1)
        .expect("one axis has stride 1");
    let (outer, near, middle) = (&outer[..near], outer[near], &outer[near + 1..]);
    let middle_count: usize = middle.iter().map(|axis| axis.dim).product();
    let slab = middle_count * last.dim;
    let slabs_per_task = (4 * GRAIN / slab).max(1).next_multiple_of(HEIGHT);
    out.par_chunks_mut(slabs_per_task * slab)
        .enumerate()
        .for_each(|(task, block)| {
            let first = task * slabs_per_task;
            let mut done = 0;
            while done * slab < block.len() {
                // Runs of slabs that share the position over the outer axes.
                let index = first + done;
                let run = (near.dim - index % near.dim).min(block.len() / slab - done);
                let start = input_offset(outer, index / near.dim) + index % near.dim;
                let target = &mut block[done * slab..(done + run) * slab];
                for position in 0..middle_count {
                    let x = &x[start + input_offset(middle, position)..];
                    transpose_plane(x, last, &mut target[position * last.dim..], run, slab);
                }
                done += run;
            }
        });
}

/// `out[row · slab + column] = x[row + column · stride]`, through a small block: both
/// sides move whole cache lines even where strides of powers of two share cache sets,
/// and each page of the input is visited for several lines.
fn transpose_plane<T: Copy>(x: &[T], columns: &Axis, out: &mut [T], rows: usize, slab: usize) {
    let mut block = [x[0]; HEIGHT * WIDTH];
    for row in (0..rows).step_by(HEIGHT) {
        let height = HEIGHT.min(rows - row);
        for column in (0..columns.dim).step_by(WIDTH) {
            let width = WIDTH.min(columns.dim - column);
            for (index, line) in block.chunks_exact_mut(HEIGHT).take(width).enumerate() {
                let start = (column + index) * columns.stride + row;
                line[..height].copy_from_slice(&x[start..start + height]);
            }
            for index in 0..height {
                let target = &mut out[(row + index) * slab + column..][..width];
                for (value, line) in target.iter_mut().zip(block.chunks_exact(HEIGHT)) {
                    *value = line[index];
                }
            }
        }
    }
}

/// Rows of the output, neighbours in the input.
const HEIGHT: usize = 64;
/// Columns of the output: a cache line of f32.
const WIDTH: usize = 16;

/// Joins `parts` along `axis`; `shapes[i]` is the shape of `parts[i]`.
///
/// # Panics
/// If the shapes differ beside `axis` or a length does not fit.
pub fn concat<T: Copy + Send + Sync>(
    axis: usize,
    shapes: &[&[usize]],
    parts: &[&[T]],
    out: &mut [T],
) {
    assert_eq!(shapes.len(), parts.len(), "concat: shapes and parts");
    let Some(first) = shapes.first() else {
        return assert!(out.is_empty(), "concat: output length");
    };
    let outer: usize = first[..axis].iter().product();
    let widths: Vec<usize> = shapes
        .iter()
        .map(|shape| shape[axis..].iter().product())
        .collect();
    for ((shape, part), width) in shapes.iter().zip(parts).zip(&widths) {
        assert_eq!(
            shape[..axis],
            first[..axis],
            "concat: axes before the joined one"
        );
        assert_eq!(
            shape[axis + 1..],
            first[axis + 1..],
            "concat: axes after the joined one"
        );
        assert_eq!(part.len(), outer * width, "concat: part length");
    }
    let width: usize = widths.iter().sum();
    assert_eq!(out.len(), outer * width, "concat: output length");
    if outer == 1 {
        // One long row: the parts themselves are the tasks' pieces.
        let mut rest = out;
        for part in parts {
            let (target, after) = rest.split_at_mut(part.len());
            copy(part, target);
            rest = after;
        }
        return;
    }
    for_row_blocks(out, width, |first, rows| {
        for (index, mut row) in rows.chunks_exact_mut(width).enumerate() {
            for (part, &width) in parts.iter().zip(&widths) {
                let (target, after) = row.split_at_mut(width);
                target.copy_from_slice(&part[(first + index) * width..][..width]);
                row = after;
            }
        }
    });
}

fn copy<T: Copy + Send + Sync>(x: &[T], out: &mut [T]) {
    for_row_blocks(out, 1, |offset, chunk| {
        chunk.copy_from_slice(&x[offset..offset + chunk.len()]);
    });
}

/// The part of `x` of `shape` inside `ranges`, one for each axis.
///
/// # Panics
/// If a range is out of bounds or a length does not fit.
pub fn slice<T: Copy + Send + Sync>(
    shape: &[usize],
    ranges: &[Range<usize>],
    x: &[T],
    out: &mut [T],
) {
    assert_eq!(shape.len(), ranges.len(), "slice: a range for each axis");
    assert_eq!(
        x.len(),
        shape.iter().product::<usize>(),
        "slice: input length"
    );
    assert!(
        ranges
            .iter()
            .zip(shape)
            .all(|(range, &dim)| range.start <= range.end && range.end <= dim),
        "slice: ranges inside the shape"
    );
    assert_eq!(
        out.len(),
        ranges.iter().map(Range::len).product::<usize>(),
        "slice: output length"
    );
    // Whole inner axes belong to the run that is copied at once.
    let whole = |axis: &usize| ranges[*axis].len() == shape[*axis];
    let kept = (0..shape.len()).rev().take_while(whole).count();
    let inner: usize = shape[shape.len() - kept..].iter().product();
    let Some(cut) = (shape.len() - kept).checked_sub(1) else {
        return copy(x, out);
    };
    let run = ranges[cut].len() * inner;
    if out.is_empty() {
        return;
    }
    for_row_blocks(out, run, |first, rows| {
        for (index, row) in rows.chunks_exact_mut(run).enumerate() {
            let (mut rest, mut step) = (first + index, inner * shape[cut]);
            let mut start = ranges[cut].start * inner;
            for axis in (0..cut).rev() {
                start += (ranges[axis].start + rest % ranges[axis].len()) * step;
                rest /= ranges[axis].len();
                step *= shape[axis];
            }
            row.copy_from_slice(&x[start..start + run]);
        }
    });
}

/// The rows `indices` of `x[rows, width]`: an embedding.
///
/// # Panics
/// If an index is out of range or a length does not fit.
pub fn gather_rows<T: Copy + Send + Sync>(width: usize, x: &[T], indices: &[usize], out: &mut [T]) {
    assert_eq!(
        out.len(),
        indices.len() * width,
        "gather_rows: output length"
    );
    for_row_blocks(out, width, |first, rows| {
        for (row, &index) in rows.chunks_exact_mut(width).zip(&indices[first..]) {
            row.copy_from_slice(&x[index * width..(index + 1) * width]);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count_up(count: usize) -> Vec<u32> {
        (0..count as u32).map(|value| value + 1).collect()
    }

    fn permute_reference(shape: &[usize], permutation: &[usize], x: &[u32]) -> Vec<u32> {
        let out_shape: Vec<usize> = permutation.iter().map(|&axis| shape[axis]).collect();
        let at = |index: usize| {
            let (mut rest, mut offset) = (index, 0);
            for (axis, &dim) in out_shape.iter().enumerate().rev() {
                offset += rest % dim * shape[permutation[axis] + 1..].iter().product::<usize>();
                rest /= dim;
            }
            x[offset]
        };
        (0..x.len()).map(at).collect()
    }

    #[test]
    fn permutes_any_rank() {
        let cases: [(&[usize], &[usize]); 12] = [
            (&[], &[]),
            (&[7], &[0]),
            (&[3, 5], &[1, 0]),
            (&[65, 129], &[1, 0]),
            (&[300, 257], &[1, 0]),
            (&[2, 65, 4, 33], &[0, 2, 1, 3]),
            (&[2, 65, 4, 33], &[0, 3, 1, 2]),
            (&[2, 65, 4, 33], &[3, 1, 0, 2]),
            (&[2, 65, 4, 33], &[0, 2, 3, 1]),
            (&[3, 1, 17, 1, 5], &[4, 1, 0, 3, 2]),
            (&[2, 16, 6, 2, 5, 2], &[0, 2, 4, 1, 3, 5]),
            (&[400, 3, 90], &[2, 1, 0]),
        ];
        for (shape, permutation) in cases {
            let x = count_up(shape.iter().product());
            let mut out = vec![0; x.len()];
            permute(shape, permutation, &x, &mut out);
            assert_eq!(
                out,
                permute_reference(shape, permutation, &x),
                "{shape:?} {permutation:?}"
            );
        }
    }

    #[test]
    fn concat_and_slice_are_inverse() {
        for (axis, first, second) in [
            (0, [3, 5, 17], [4, 5, 17]),
            (1, [3, 5, 17], [3, 1, 17]),
            (2, [300, 65, 3], [300, 65, 1]),
        ] {
            let a = count_up(first.iter().product());
            let b = count_up(second.iter().product());
            let mut shape = first;
            shape[axis] += second[axis];
            let mut joined = vec![0; a.len() + b.len()];
            concat(axis, &[&first, &second], &[&a, &b], &mut joined);
            let mut ranges = shape.map(|dim| 0..dim);
            ranges[axis] = 0..first[axis];
            let mut part = vec![0; a.len()];
            slice(&shape, &ranges, &joined, &mut part);
            assert_eq!(part, a);
            ranges[axis] = first[axis]..shape[axis];
            let mut part = vec![0; b.len()];
            slice(&shape, &ranges, &joined, &mut part);
            assert_eq!(part, b);
        }
    }

    #[test]
    fn slices_several_axes() {
        let x = count_up(4 * 5 * 6);
        let mut out = vec![0; 2 * 3 * 4];
        slice(&[4, 5, 6], &[1..3, 2..5, 1..5], &x, &mut out);
        let expected: Vec<u32> = (1..3)
            .flat_map(|i| (2..5).flat_map(move |j| (1..5).map(move |k| i * 30 + j * 6 + k + 1)))
            .collect();
        assert_eq!(out, expected);
    }

    #[test]
    fn gathers_rows() {
        let mut out = [0; 6];
        gather_rows(2, &count_up(8), &[3, 0, 3], &mut out);
        assert_eq!(out, [7, 8, 1, 2, 7, 8]);
    }
}
