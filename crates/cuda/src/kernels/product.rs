//! Products without a library: linear layers and batches of matrices, of any strides.
//!
//! A linear layer is one product of all its rows; so is a product of matrices whose right one is
//! the same for all. Any other has one product for each outer position of its output.
//!
//! ```ignore
//! let kernels = product("linear_gelu", &call, &machine)?;
//! ```

use super::Machine;
use super::address::{is_packed, joined, offset};
use super::tiles::{Bias, Operand, Output, Scales, Tiles};
use crate::{Axis, Codes, Generated, Product, Result, View};

/// The kernel of a product.
///
/// # Errors
/// As [`Tiles::generate`].
pub(super) fn product(step: &str, call: &Product, machine: &Machine) -> Result<Generated> {
    let parts = Parts::of(call);
    let count = |axes: &[Axis]| axes.iter().map(|axis| axis.size).product::<usize>();
    let left = rows_along(
        &call.input,
        &parts.left_batch,
        &parts.left_rows,
        parts.left_k,
    );
    let right = rows_along(
        &call.weight,
        &parts.right_batch,
        &[parts.columns],
        parts.right_k,
    );
    let batch = offset("batch", &parts.output_batch);
    let rows = offset("m", &parts.output_rows);
    let step_of_columns = parts.output_columns.stride;
    let even = |axis: &&Axis| axis.size == 1 || axis.stride.is_multiple_of(2);
    let outer = parts.output_batch.iter().chain(&parts.output_rows);
    let tiles = Tiles {
        batch: count(&parts.output_batch),
        depth: parts.left_k.size,
        left,
        right,
        bias: call.bias.as_ref().map(|view| Bias {
            view,
            place: offset("(n)", &view.axes),
        }),
        scales: call.codes.as_ref().map(scales),
        gelu: call.gelu,
        output: Output {
            view: &call.output,
            place: format!("{batch} + {rows}"),
            step: step_of_columns,
            is_paired: step_of_columns == 1
                && parts.columns.size.is_multiple_of(2)
                && call.output.offset.is_multiple_of(2)
                && outer.filter(|axis| !even(axis)).count() == 0,
        },
    };
    tiles.generate(step, machine)
}

/// Scales are vectors over the rows of an operand, or one number.
fn scales(codes: &Codes) -> Scales<'_> {
    let [input, weight] = &codes.scales;
    Scales {
        views: [input, weight],
        places: [offset("m", &input.axes), offset("n", &weight.axes)],
        output: codes.output.as_ref().map(|[scale, _]| scale),
    }
}

/// The axes of a product by what they are.
struct Parts {
    left_batch: Vec<Axis>,
    left_rows: Vec<Axis>,
    left_k: Axis,
    right_batch: Vec<Axis>,
    /// Of the right operand: its rows, the columns of the output.
    columns: Axis,
    right_k: Axis,
    output_batch: Vec<Axis>,
    output_rows: Vec<Axis>,
    output_columns: Axis,
}

impl Parts {
    fn of(call: &Product) -> Self {
        let (outer, output_columns) = last_of(&call.output.axes);
        if call.is_linear {
            let (left_rows, left_k) = last_of(&call.input.axes);
            return Self {
                left_batch: Vec::new(),
                left_rows: left_rows.to_vec(),
                left_k,
                right_batch: Vec::new(),
                columns: call.weight.axes[0],
                right_k: call.weight.axes[1],
                output_batch: Vec::new(),
                output_rows: outer.to_vec(),
                output_columns,
            };
        }
        let (output_batch, output_row) = last_of(outer);
        let sizes: Vec<usize> = output_batch.iter().map(|axis| axis.size).collect();
        let (left_batch, left_row, left_k) = matrices_of(&call.input, &sizes);
        let (right_batch, right_k, columns) = matrices_of(&call.weight, &sizes);
        let mut parts = Self {
            left_batch,
            left_rows: vec![left_row],
            left_k,
            right_batch,
            columns,
            right_k,
            output_batch: output_batch.to_vec(),
            output_rows: vec![output_row],
            output_columns,
        };
        parts.fold_batch();
        parts
    }

    /// Where the right matrix is the same for all, the others' rows are those of one.
    fn fold_batch(&mut self) {
        let is_same = |axis: &Axis| axis.size == 1 || axis.stride == 0;
        if self.right_batch.iter().all(is_same) {
            self.right_batch.clear();
            self.left_rows.splice(0..0, self.left_batch.drain(..));
            self.output_rows.splice(0..0, self.output_batch.drain(..));
        }
    }
}

fn last_of(axes: &[Axis]) -> (&[Axis], Axis) {
    let (last, outer) = axes.split_last().expect("the verifier has seen the rank");
    (outer, *last)
}

/// Outer axes repeated to these sizes, and the axes of each matrix.
fn matrices_of(view: &View, outer: &[usize]) -> (Vec<Axis>, Axis, Axis) {
    let rank = view.axes.len();
    let (rows, columns) = (view.axes[rank - 2], view.axes[rank - 1]);
    let shape = [outer, &[rows.size, columns.size]].concat();
    let mut axes = view.broadcast(&shape).axes;
    axes.truncate(outer.len());
    (axes, rows, columns)
}

fn rows_along<'a>(view: &'a View, batch: &[Axis], rows: &[Axis], k: Axis) -> Operand<'a> {
    let outer = [batch, rows].concat();
    Operand {
        view,
        rows: rows.iter().map(|axis| axis.size).product(),
        place: format!(
            "at = {} + {} + {}; return true;",
            offset("batch", batch),
            offset("row", rows),
            offset("k", &[k])
        ),
        is_packed: is_packed(view.offset, &outer, &[k], 8),
        is_along_rows: joined(rows).last().is_some_and(|axis| axis.stride == 1) && k.stride != 1,
    }
}
