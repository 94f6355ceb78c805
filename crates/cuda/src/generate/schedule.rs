//! How a kernel runs over its domain: axes joined where all views agree, elements taken in packs,
//! threads for each row.
//!
//! ```ignore
//! let schedule = Schedule::of(&mut expression);
//! ```

use super::expression::{Expression, Instruction};
use crate::View;

/// How a kernel runs over its domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Schedule {
    /// Elements that a thread takes together, along the last axis.
    pub(super) pack: usize,
    /// Threads of each row; 0 where there are no rows.
    pub(super) row_threads: usize,
    /// Packs of a row that each thread takes.
    pub(super) row_packs: usize,
    /// Whether the values of a row stay in registers between reductions.
    pub(super) is_kept: bool,
    /// Threads of a block.
    pub(super) threads: usize,
    /// Blocks of the grid.
    pub(super) blocks: usize,
}

impl Schedule {
    /// The schedule of an expression whose axes were joined.
    pub(super) fn of(expression: &Expression) -> Self {
        let last = expression.domain.last().copied().unwrap_or(1);
        let pack = PACKS
            .into_iter()
            .find(|pack| last.is_multiple_of(*pack))
            .unwrap_or(1);
        let packs = expression.count() / pack;
        if expression.row_axes == 0 {
            return Self {
                pack,
                row_threads: 0,
                row_packs: 1,
                is_kept: false,
                threads: THREADS,
                blocks: packs.div_ceil(THREADS).clamp(1, MOST_BLOCKS),
            };
        }
        let packs_of_row = (expression.row_length() / pack).max(1);
        let row_threads = if packs_of_row <= 32 {
            packs_of_row.next_power_of_two()
        } else {
            let rounds = packs_of_row.div_ceil(MOST_ROW_THREADS);
            packs_of_row
                .div_ceil(rounds)
                .next_multiple_of(32)
                .min(MOST_ROW_THREADS)
        };
        let row_packs = packs_of_row.div_ceil(row_threads);
        let rows = expression.count() / expression.row_length().max(1);
        let threads = if row_threads > 32 {
            row_threads
        } else {
            THREADS
        };
        Self {
            pack,
            row_threads,
            row_packs,
            is_kept: row_packs * pack <= MOST_KEPT,
            threads,
            blocks: rows.div_ceil(threads / row_threads).max(1),
        }
    }

    /// How many rows a block takes.
    pub(super) fn rows_of_block(&self) -> usize {
        self.threads / self.row_threads.max(1)
    }
}

/// Elements of a pack: 16 bytes of the narrow floats.
const PACKS: [usize; 4] = [8, 4, 2, 1];
const THREADS: usize = 256;
const MOST_ROW_THREADS: usize = 512;
const MOST_BLOCKS: usize = 1 << 16;

/// Elements of a row that a thread keeps in registers.
const MOST_KEPT: usize = 32;

/// Joins neighbouring axes wherever every view goes on from one to the next, and drops axes of
/// one position, within the row and outside of it.
pub(super) fn join_axes(expression: &mut Expression) {
    let is_position = |instruction: &Instruction| matches!(instruction, Instruction::Position(_));
    if expression.instructions.iter().any(is_position) {
        return;
    }
    let mut axis = expression.domain.len().saturating_sub(1);
    while axis > 0 {
        let row = expression.domain.len() - expression.row_axes;
        if axis != row && can_join(expression, axis) {
            join(expression, axis);
            if axis > row {
                expression.row_axes -= 1;
            }
        }
        axis -= 1;
    }
}

fn views(expression: &Expression) -> impl Iterator<Item = &View> {
    let stores = expression.stores.iter().map(|store| &store.view);
    expression.loads.iter().chain(stores)
}

/// Whether `axis` and the one before it can be one.
fn can_join(expression: &Expression, axis: usize) -> bool {
    views(expression).all(|view| {
        let (outer, inner) = (view.axes[axis - 1], view.axes[axis]);
        outer.size == 1
            || inner.size == 1
            || (outer.stride == inner.stride * inner.size && outer.step == inner.step * inner.size)
    })
}

fn join(expression: &mut Expression, axis: usize) {
    let size = expression.domain.remove(axis);
    expression.domain[axis - 1] *= size;
    let stores = expression.stores.iter_mut().map(|store| &mut store.view);
    for view in expression.loads.iter_mut().chain(stores) {
        let inner = view.axes.remove(axis);
        let outer = &mut view.axes[axis - 1];
        if inner.size != 1 {
            (outer.stride, outer.step) = (inner.stride, inner.step);
        }
        outer.size *= inner.size;
    }
}
