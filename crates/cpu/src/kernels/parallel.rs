//! Cutting slices into tasks by shape, so that results never depend on threads.

use rayon::prelude::*;

/// Elements that one task of a memory-bound kernel handles: large enough to hide
/// the cost of a task, small enough to stay in a core's cache between passes.
pub(super) const GRAIN: usize = 16 * 1024;

/// Calls `body(first_row, rows)` for blocks of whole rows of `out`, in parallel.
///
/// `rows` is a piece of `out` with a whole number of rows of `width` values.
pub(super) fn for_row_blocks<T: Send>(
    out: &mut [T],
    width: usize,
    body: impl Fn(usize, &mut [T]) + Sync,
) {
    if out.is_empty() {
        return;
    }
    assert_eq!(out.len() % width, 0, "whole rows");
    let rows_per_block = (GRAIN / width).max(1);
    if out.len() <= GRAIN {
        body(0, out);
        return;
    }
    out.par_chunks_mut(rows_per_block * width)
        .enumerate()
        .for_each(|(index, rows)| body(index * rows_per_block, rows));
}

/// Calls `body(offset, chunk)` for pieces of `out`, in parallel.
pub(super) fn for_chunks<T: Send>(out: &mut [T], body: impl Fn(usize, &mut [T]) + Sync) {
    for_row_blocks(out, 1, body);
}
