//! What a generated kernel computes: one list of instructions for each element of a domain.
//!
//! Loads and stores are views over the domain. The last `row_axes` axes are the row: reductions
//! run over them, and their results are values of the whole row. All arithmetic is in f32 (whole
//! numbers in 64 bits); values are rounded where they are stored.
//!
//! ```
//! use tintype_cuda::{Expression, Instruction, Place, Store, View};
//! use tintype_ir::UnaryOp;
//! use tintype_tensor::DType;
//!
//! let view = |place| View::contiguous(Place::Buffer(place), DType::BF16, &[64, 32]);
//! let silu = Expression {
//!     domain: vec![64, 32],
//!     row_axes: 0,
//!     instructions: vec![Instruction::Load(0), Instruction::Unary(UnaryOp::Silu, 0)],
//!     loads: vec![view(0)],
//!     stores: vec![Store { value: 1, view: view(1), scale: None }],
//! };
//! assert_eq!(silu.count(), 64 * 32);
//! ```

use tintype_ir::{BinaryOp, ReduceOp, UnaryOp};
use tintype_tensor::DType;

use crate::View;

/// What a generated kernel computes.
#[derive(Debug, Clone, PartialEq)]
pub struct Expression {
    /// The sizes over which it runs.
    pub domain: Vec<usize>,
    /// How many of the last axes a reduction runs over.
    pub row_axes: usize,
    /// In order; each may use the results of those before it.
    pub instructions: Vec<Instruction>,
    /// What is read, with the axes of the domain.
    pub loads: Vec<View>,
    /// What is written.
    pub stores: Vec<Store>,
}

/// One instruction. Numbers of operands are those of instructions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Instruction {
    /// An element of a view.
    Load(usize),
    /// A number.
    Float(f32),
    /// A whole number.
    Integer(i64),
    /// The position along an axis of the domain.
    Position(usize),
    /// One operand.
    Unary(UnaryOp, usize),
    /// Two operands; whole numbers compute as whole numbers.
    Binary(BinaryOp, usize, usize),
    /// `condition ? a : b`
    Select(usize, usize, usize),
    /// Limited to a range; NaN stays.
    Clamp(usize, f32, f32),
    /// Another dtype. Between floats of 16 bits and more nothing is rounded.
    Cast(DType, usize),
    /// A whole number modulo those of an integer dtype.
    Wrap(DType, usize),
    /// A value of the row.
    Reduce(ReduceOp, usize),
    /// Pairs of elements turned by pairs of cosine and sine.
    Turn(usize, usize),
}

/// A result and where it goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Store {
    /// The instruction.
    pub value: usize,
    /// Where it goes, with the axes of the domain; a value of the row has no row axes' strides.
    pub view: View,
    /// What it is divided by before it is rounded, for 8-bit floats.
    pub scale: Option<f32>,
}

impl Instruction {
    /// The instructions that it reads.
    pub fn operands(&self) -> Vec<usize> {
        match *self {
            Self::Load(_) | Self::Float(_) | Self::Integer(_) | Self::Position(_) => Vec::new(),
            Self::Unary(_, x)
            | Self::Clamp(x, ..)
            | Self::Cast(_, x)
            | Self::Wrap(_, x)
            | Self::Reduce(_, x) => vec![x],
            Self::Binary(_, a, b) | Self::Turn(a, b) => vec![a, b],
            Self::Select(condition, a, b) => vec![condition, a, b],
        }
    }
}

impl Expression {
    /// The same with one result in another dtype, divided by `scale` before it is rounded.
    #[must_use]
    pub fn with_dtype(mut self, store: usize, dtype: DType, scale: Option<f32>) -> Self {
        self.stores[store].view.dtype = dtype;
        self.stores[store].scale = scale;
        self
    }

    /// How many elements the domain has.
    pub fn count(&self) -> usize {
        self.domain.iter().product()
    }

    /// How many elements a row has.
    pub fn row_length(&self) -> usize {
        self.domain[self.domain.len() - self.row_axes..]
            .iter()
            .product()
    }

    /// For each instruction, whether its result is a whole number.
    pub fn are_integers(&self) -> Vec<bool> {
        let mut integers: Vec<bool> = Vec::with_capacity(self.instructions.len());
        for instruction in &self.instructions {
            integers.push(match *instruction {
                Instruction::Load(load) => !self.loads[load].dtype.is_float(),
                Instruction::Integer(_) | Instruction::Position(_) | Instruction::Wrap(..) => true,
                Instruction::Cast(dtype, _) => !dtype.is_float(),
                Instruction::Binary(op, a, _) => op.is_comparison() || integers[a],
                Instruction::Select(_, a, _) => integers[a],
                _ => false,
            });
        }
        integers
    }

    /// For each instruction, whether its result is the same for all of a row.
    pub fn are_of_rows(&self) -> Vec<bool> {
        let first = self.domain.len() - self.row_axes;
        let is_fixed = |view: &View| {
            let mut axes = view.axes[first..].iter();
            axes.all(|axis| axis.size == 1 || (axis.stride == 0 && axis.step == 0))
        };
        let mut of_rows: Vec<bool> = Vec::with_capacity(self.instructions.len());
        for instruction in &self.instructions {
            of_rows.push(match *instruction {
                Instruction::Load(load) => self.row_axes > 0 && is_fixed(&self.loads[load]),
                Instruction::Position(axis) => self.row_axes > 0 && axis < first,
                Instruction::Reduce(..) => true,
                _ => {
                    let operands = instruction.operands();
                    operands.iter().all(|&operand| of_rows[operand])
                }
            });
        }
        of_rows
    }
}
