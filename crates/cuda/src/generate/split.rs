//! Long rows on many multiprocessors: one kernel of rows as several, which hand on sums.
//!
//! A row is one block's at most, so a group norm over millions of elements would keep most of the
//! GPU idle. For each reduction, chunks of the rows are reduced to partial results in scratch
//! memory, and these to the row's value; what remains runs element by element:
//!
//! ```text
//! x[32 rows, 4194304] → mean    partial[32, 64] → sum[32]
//!                     → square  partial[32, 64] → sum[32]
//!                     → y[32, 4194304], with the two values of its row
//! ```
//!
//! All parts are expressions again, so the same generator writes them.

use tintype_ir::{BinaryOp, ReduceOp};
use tintype_tensor::DType;

use super::expression::{Expression, Instruction, Store};
use super::schedule::join_axes;
use super::{Generated, KernelArgument, generate};
use crate::{Axis, Place, Result, View};

/// The kernels of an expression, in order: several where its rows are long and few, else one.
///
/// # Errors
/// As [`generate`].
pub fn generate_split(
    expression: &Expression,
    name: &str,
    multiprocessors: usize,
) -> Result<Vec<Generated>> {
    let Some((parts, scratch_bytes)) = split(expression, multiprocessors) else {
        return Ok(vec![generate(expression, name)?]);
    };
    let kernels = parts.iter().map(|part| {
        let mut kernel = generate(part, name)?;
        kernel.scratch_bytes = scratch_bytes;
        for argument in &mut kernel.arguments {
            if let KernelArgument::Address { place, bytes } = *argument
                && place == SCRATCH
            {
                *argument = KernelArgument::Scratch { bytes };
            }
        }
        Ok(kernel)
    });
    kernels.collect()
}

/// Stands for the scratch memory while parts are views.
pub(super) const SCRATCH: Place = Place::Buffer(usize::MAX);

/// The parts of an expression and their scratch memory in bytes; `None` where one kernel is good.
pub(super) fn split(
    expression: &Expression,
    multiprocessors: usize,
) -> Option<(Vec<Expression>, usize)> {
    let mut whole = expression.clone();
    join_axes(&mut whole);
    let rows = whole.count() / whole.row_length().max(1);
    let stays = |instruction: &Instruction| {
        matches!(
            instruction,
            Instruction::Position(_) | Instruction::Turn(..)
        )
    };
    let is_long = whole.row_axes > 0
        && rows > 0
        && rows < 2 * multiprocessors
        && whole.row_length() >= LONG_ROW
        && !whole.instructions.iter().any(stays);
    if !is_long {
        return None;
    }
    let cuts = cuts_of(&whole, (8 * multiprocessors).div_ceil(rows));
    let chunks: usize = cuts.iter().product();
    if chunks < 2 {
        return None;
    }
    let mut splitter = Splitter {
        whole,
        cuts,
        parts: Vec::new(),
        scratch: 0,
    };
    splitter.reductions();
    splitter.stores();
    Some((splitter.parts, splitter.scratch * size_of::<f32>()))
}

struct Splitter {
    whole: Expression,
    /// Into how many parts each row axis is cut.
    cuts: Vec<usize>,
    parts: Vec<Expression>,
    /// Floats of scratch memory that are taken.
    scratch: usize,
}

impl Splitter {
    /// Puts a load in the place of each reduction, after the parts that compute it.
    fn reductions(&mut self) {
        for number in 0..self.whole.instructions.len() {
            let Instruction::Reduce(op, source) = self.whole.instructions[number] else {
                continue;
            };
            let value = self.reduce(op, source);
            self.whole.loads.push(value);
            self.whole.instructions[number] = Instruction::Load(self.whole.loads.len() - 1);
        }
    }

    /// The parts that compute one reduction; gives where the rows' values lie.
    fn reduce(&mut self, op: ReduceOp, source: usize) -> View {
        let first = self.first_row_axis();
        let outer = self.whole.domain[..first].to_vec();
        let chunks: usize = self.cuts.iter().product();
        let rows: usize = outer.iter().product();

        let (mut partial, source) = closure(&self.whole, source);
        partial = self.cut(&partial);
        let chunk_op = match op {
            ReduceOp::Max => ReduceOp::Max,
            _ => ReduceOp::Sum,
        };
        partial
            .instructions
            .push(Instruction::Reduce(chunk_op, source));
        let kept = partial.domain.len() - partial.row_axes;
        let chunk_values = self.floats(rows * chunks, &partial.domain[..kept]);
        let view = repeated(&chunk_values, &partial.domain);
        self.parts.push(with_store(partial, view));

        let shape = [rows, chunks];
        let loaded = View {
            axes: View::contiguous(SCRATCH, DType::F32, &shape).axes,
            ..chunk_values
        };
        let mut joined = Expression {
            domain: shape.to_vec(),
            row_axes: 1,
            instructions: vec![Instruction::Load(0), Instruction::Reduce(chunk_op, 0)],
            loads: vec![loaded],
            stores: Vec::new(),
        };
        if !matches!(op, ReduceOp::Max | ReduceOp::Sum) {
            let factor = 1.0 / self.whole.row_length() as f32;
            joined.instructions.push(Instruction::Float(factor));
            joined
                .instructions
                .push(Instruction::Binary(BinaryOp::Mul, 1, 2));
        }
        let row_values = self.floats(rows, &outer);
        let flat = View {
            axes: View::contiguous(SCRATCH, DType::F32, &[rows]).axes,
            ..row_values.clone()
        };
        let view = repeated(&flat, &shape);
        self.parts.push(with_store(joined, view));
        repeated(&row_values, &self.whole.domain)
    }

    /// What is left to be stored: values of rows, and values of elements.
    fn stores(&mut self) {
        let of_rows = self.whole.are_of_rows();
        let first = self.first_row_axis();
        for store in std::mem::take(&mut self.whole.stores) {
            let (mut part, value) = closure(&self.whole, store.value);
            let mut view = store.view;
            if of_rows[store.value] {
                part.domain.truncate(first);
                let views = part.loads.iter_mut().chain([&mut view]);
                views.for_each(|view| view.axes.truncate(first));
                if first == 0 {
                    part.domain.push(1);
                    let views = part.loads.iter_mut().chain([&mut view]);
                    views.for_each(|view| view.axes.push(ONE));
                }
            }
            part.row_axes = 0;
            part.stores.push(Store {
                value,
                view,
                scale: store.scale,
            });
            self.parts.push(part);
        }
    }

    fn first_row_axis(&self) -> usize {
        self.whole.domain.len() - self.whole.row_axes
    }

    /// Scratch memory for so many floats, of this shape.
    fn floats(&mut self, count: usize, shape: &[usize]) -> View {
        let mut view = View::contiguous(SCRATCH, DType::F32, shape);
        view.offset = self.scratch;
        self.scratch += count.next_multiple_of(64);
        view
    }

    /// The same with chunks as rows.
    fn cut(&self, expression: &Expression) -> Expression {
        let first = self.first_row_axis();
        let cut_axes = |axes: &[Axis]| {
            let cuts = || axes[first..].iter().zip(&self.cuts);
            let outer = cuts().map(|(axis, &cut)| {
                let inner = axis.size / cut;
                Axis {
                    size: cut,
                    stride: axis.stride * inner,
                    step: axis.step * inner,
                }
            });
            let inner = cuts().map(|(axis, &cut)| Axis {
                size: axis.size / cut,
                ..*axis
            });
            axes[..first]
                .iter()
                .copied()
                .chain(outer)
                .chain(inner)
                .collect()
        };
        let mut expression = expression.clone();
        for view in &mut expression.loads {
            view.axes = cut_axes(&view.axes);
        }
        let inner = self.whole.domain[first..].iter().zip(&self.cuts);
        let inner: Vec<usize> = inner.map(|(size, cut)| size / cut).collect();
        expression.domain.truncate(first);
        expression.domain.extend(&self.cuts);
        expression.domain.extend(inner);
        expression
    }
}

/// Into how many parts each row axis is cut, from the outermost on, so that a row has about
/// `wanted` chunks and none is short.
fn cuts_of(expression: &Expression, wanted: usize) -> Vec<usize> {
    let axes = &expression.domain[expression.domain.len() - expression.row_axes..];
    let mut wanted = wanted.min(expression.row_length() / SHORT_CHUNK);
    let mut cuts = Vec::new();
    for (number, &size) in axes.iter().enumerate() {
        let is_last = number + 1 == axes.len();
        let cut = if size <= wanted && !is_last {
            size
        } else {
            // Rows of packs stay rows of packs.
            let pack = if is_last && size.is_multiple_of(8) {
                8
            } else {
                1
            };
            let most = (4 * wanted).min(size);
            let divides = |&cut: &usize| size.is_multiple_of(cut * pack);
            (wanted..=most)
                .find(divides)
                .or_else(|| (1..=wanted).rev().find(divides))
                .unwrap_or(1)
        };
        wanted = if cut == size { wanted.div_ceil(cut) } else { 1 };
        cuts.push(cut);
    }
    cuts
}

/// What one value needs, without stores, and the value's number in it.
fn closure(expression: &Expression, value: usize) -> (Expression, usize) {
    let mut is_needed = vec![false; expression.instructions.len()];
    is_needed[value] = true;
    for number in (0..=value).rev() {
        if is_needed[number] {
            for operand in expression.instructions[number].operands() {
                is_needed[operand] = true;
            }
        }
    }
    let mut part = Expression {
        instructions: Vec::new(),
        loads: Vec::new(),
        stores: Vec::new(),
        ..expression.clone()
    };
    let mut number_of = vec![0; is_needed.len()];
    for number in (0..=value).filter(|&number| is_needed[number]) {
        let moved = moved(expression.instructions[number], &number_of);
        let moved = match moved {
            Instruction::Load(load) => {
                part.loads.push(expression.loads[load].clone());
                Instruction::Load(part.loads.len() - 1)
            }
            other => other,
        };
        number_of[number] = part.instructions.len();
        part.instructions.push(moved);
    }
    (part, number_of[value])
}

/// The instruction with operands that have other numbers.
fn moved(instruction: Instruction, number_of: &[usize]) -> Instruction {
    let of = |number: usize| number_of[number];
    match instruction {
        Instruction::Load(_)
        | Instruction::Float(_)
        | Instruction::Integer(_)
        | Instruction::Position(_) => instruction,
        Instruction::Unary(op, x) => Instruction::Unary(op, of(x)),
        Instruction::Binary(op, a, b) => Instruction::Binary(op, of(a), of(b)),
        Instruction::Select(condition, a, b) => Instruction::Select(of(condition), of(a), of(b)),
        Instruction::Clamp(x, low, high) => Instruction::Clamp(of(x), low, high),
        Instruction::Cast(dtype, x) => Instruction::Cast(dtype, of(x)),
        Instruction::Wrap(dtype, x) => Instruction::Wrap(dtype, of(x)),
        Instruction::Reduce(op, x) => Instruction::Reduce(op, of(x)),
        Instruction::Turn(x, table) => Instruction::Turn(of(x), of(table)),
    }
}

/// A view of the outer axes, the same for all positions of the others.
fn repeated(view: &View, domain: &[usize]) -> View {
    let mut view = view.clone();
    let known = view.axes.len();
    let others = domain[known..].iter().map(|&size| Axis {
        size,
        stride: 0,
        step: 0,
    });
    view.axes.extend(others);
    view
}

/// The expression with its last value stored.
fn with_store(mut expression: Expression, view: View) -> Expression {
    expression.stores.push(Store {
        value: expression.instructions.len() - 1,
        view,
        scale: None,
    });
    expression
}

const ONE: Axis = Axis {
    size: 1,
    stride: 0,
    step: 0,
};

/// Shorter rows take a block no longer than the launches of several kernels do.
const LONG_ROW: usize = 1 << 16;

/// Shorter chunks are not worth a block.
const SHORT_CHUNK: usize = 1 << 12;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Plan, Work};
    use tintype_ir::{Binding, parse};

    fn expression(text: &str) -> Expression {
        let plan = Plan::new(&parse(text).unwrap(), &Binding::new()).unwrap();
        let Work::Kernel(expression) = plan.steps[0].work.clone() else {
            panic!("a kernel");
        };
        expression
    }

    const GROUP_NORM: &str = "graph g { input step %x: bf16[1, 128, 512, 512] \
        param @w: bf16[128] param @b: bf16[128] \
        %0: bf16[1, 128, 512, 512] = group_norm %x, @w, @b {groups = 32, epsilon = 1e-6} \
        %1: bf16[1, 128, 512, 512] = silu %0 output y = %1 }";

    #[test]
    fn a_group_norm_of_long_rows_becomes_five_kernels() {
        let (parts, bytes) = split(&expression(GROUP_NORM), 132).unwrap();
        let domains: Vec<(Vec<usize>, usize)> = parts
            .iter()
            .map(|part| (part.domain.clone(), part.row_axes))
            .collect();
        let chunks = domains[1].0[1];
        assert_eq!(parts.len(), 5);
        assert!(chunks >= 2 * 132 / 32, "{chunks}");
        assert_eq!(domains[1], (vec![32, chunks], 1));
        assert_eq!(domains[4].1, 0);
        assert_eq!(parts[0].count(), parts[4].count());
        assert_eq!(bytes, 2 * (32 * chunks + 64) * 4);
        let kernels = generate_split(&expression(GROUP_NORM), "norm", 132).unwrap();
        let scratch = |kernel: &Generated| {
            let is_scratch =
                |argument: &&KernelArgument| matches!(argument, KernelArgument::Scratch { .. });
            kernel.arguments.iter().filter(is_scratch).count()
        };
        let counts: Vec<usize> = kernels.iter().map(scratch).collect();
        assert_eq!(counts, [1, 2, 2, 2, 2]);
    }

    #[test]
    fn short_rows_and_many_rows_stay_one_kernel() {
        let short = "graph g { input step %x: f32[4, 1024] \
            %0: f32[4, 1024] = softmax %x output y = %0 }";
        assert!(split(&expression(short), 132).is_none());
        let many = "graph g { input step %x: f32[1024, 131072] \
            %0: f32[1024, 131072] = softmax %x output y = %0 }";
        assert!(split(&expression(many), 132).is_none());
    }

    #[test]
    fn rows_are_cut_from_the_outermost_axis_on() {
        let of = |row: &[usize], wanted| {
            let expression = Expression {
                domain: row.to_vec(),
                row_axes: row.len(),
                instructions: Vec::new(),
                loads: Vec::new(),
                stores: Vec::new(),
            };
            cuts_of(&expression, wanted)
        };
        assert_eq!(of(&[4, 1 << 20], 33), [4, 16]);
        assert_eq!(of(&[1 << 20], 33), [64]);
        assert_eq!(of(&[1_000_003], 33), [1]);
        assert_eq!(of(&[512, 4096], 32), [32, 1]);
    }
}
