//! From the nodes of a group to the instructions of its kernel.
//!
//! Norms, softmax and modulation are taken apart into arithmetic and reductions here, so one
//! generator writes every kernel. What they mean is docs/ir.md.
//!
//! ```ignore
//! let expression = Express::new(&graph, &domain).group(&unit, &mut view_of)?;
//! ```

use std::collections::HashMap;

use tintype_ir::{BinaryOp, Graph, Node, Op, ReduceOp, UnaryOp, Value};
use tintype_tensor::DType;

use super::groups::{Rows, Unit};
use crate::{Error, Expression, Instruction, Result, View};

/// The domain of a group as the kernel runs over it, with the row axes last.
#[derive(Debug, Clone)]
pub(super) struct Domain {
    /// The sizes as the graph has them.
    shape: Vec<usize>,
    rows: Rows,
}

impl Domain {
    pub(super) fn of(unit: &Unit) -> Self {
        Self {
            shape: unit.domain.to_vec(),
            rows: unit.rows.clone(),
        }
    }

    /// A view of something that broadcasts to the domain, with the kernel's axes.
    pub(super) fn view(&self, view: &View) -> View {
        let view = view.broadcast(&self.shape);
        match &self.rows {
            Rows::None => view,
            Rows::Axes(axes) => view.transpose(&self.permutation(axes)),
            Rows::ChannelGroups(groups) => {
                let channels = view.axes[1];
                let size = channels.size / groups;
                let mut split = view;
                split.axes[1] = crate::Axis { size, ..channels };
                let outer = crate::Axis {
                    size: *groups,
                    stride: channels.stride * size,
                    step: channels.step * size,
                };
                split.axes.insert(1, outer);
                split
            }
        }
    }

    pub(super) fn row_axes(&self) -> usize {
        match &self.rows {
            Rows::None => 0,
            Rows::Axes(axes) => axes.len(),
            Rows::ChannelGroups(_) => self.shape.len() - 1,
        }
    }

    pub(super) fn sizes(&self) -> Vec<usize> {
        match &self.rows {
            Rows::None => self.shape.clone(),
            Rows::Axes(axes) => {
                let order = self.permutation(axes);
                order.into_iter().map(|axis| self.shape[axis]).collect()
            }
            Rows::ChannelGroups(groups) => {
                let mut sizes = self.shape.clone();
                sizes[1] /= groups;
                sizes.insert(1, *groups);
                sizes
            }
        }
    }

    /// The kernel's axis for one of the graph, where it is one.
    fn axis(&self, axis: usize) -> Option<usize> {
        match &self.rows {
            Rows::None => Some(axis),
            Rows::Axes(axes) => {
                let order = self.permutation(axes);
                order.iter().position(|&other| other == axis)
            }
            Rows::ChannelGroups(_) => None,
        }
    }

    fn permutation(&self, rows: &[usize]) -> Vec<usize> {
        let outer = (0..self.shape.len()).filter(|axis| !rows.contains(axis));
        outer.chain(rows.iter().copied()).collect()
    }
}

/// Puts the instructions of one group together.
pub(super) struct Express<'a> {
    graph: &'a Graph,
    domain: Domain,
    expression: Expression,
    /// The instruction of each value, once it has one.
    known: HashMap<Value, usize>,
}

impl<'a> Express<'a> {
    pub(super) fn new(graph: &'a Graph, unit: &Unit) -> Self {
        let domain = Domain::of(unit);
        Self {
            graph,
            expression: Expression {
                domain: domain.sizes(),
                row_axes: domain.row_axes(),
                instructions: Vec::new(),
                loads: Vec::new(),
                stores: Vec::new(),
            },
            domain,
            known: HashMap::new(),
        }
    }

    /// The expression so far and the instruction of each value. Its stores are the caller's.
    pub(super) fn finish(self) -> (Expression, HashMap<Value, usize>) {
        (self.expression, self.known)
    }

    /// Adds a node whose operands outside of the group lie at these views.
    pub(super) fn add(&mut self, index: usize, views: &HashMap<Value, View>) -> Result<()> {
        let node = &self.graph.nodes()[index];
        let mut operands = Vec::new();
        for (place, &value) in node.operands.iter().enumerate() {
            operands.push(match self.known.get(&value) {
                Some(&known) if !is_pairs(node, place) => known,
                _ => self.load(node, place, value, views),
            });
        }
        let result = self.node(node, &operands)?;
        self.known.insert(Value::Node(index), result);
        Ok(())
    }

    fn load(
        &mut self,
        node: &Node,
        place: usize,
        value: Value,
        views: &HashMap<Value, View>,
    ) -> usize {
        if let Some(Op::Constant(constant)) = self.graph.node_of(value).map(|node| &node.op) {
            let floats = constant.as_splat().map(Instruction::Float);
            let whole = constant.integer_values().filter(|values| values.len() == 1);
            if let Some(number) = floats.or(whole.map(|values| Instruction::Integer(values[0]))) {
                return self.push(number);
            }
        }
        let own = &views[&value];
        let view = match node.op {
            // Of each channel.
            Op::GroupNorm { .. } if place > 0 => {
                let channels = own.axes[0];
                let mut view = own.broadcast(&[1, 1, 1]);
                view.axes[0] = channels;
                view
            }
            // Cosine and sine of each pair stand where the pair's elements do.
            _ if is_pairs(node, place) => pairs(own),
            _ => own.clone(),
        };
        self.expression.loads.push(self.domain.view(&view));
        let load = self.push(Instruction::Load(self.expression.loads.len() - 1));
        let is_plain = !is_pairs(node, place) && !matches!(node.op, Op::GroupNorm { .. });
        if is_plain || place == 0 {
            self.known.insert(value, load);
        }
        load
    }

    fn push(&mut self, instruction: Instruction) -> usize {
        self.expression.instructions.push(instruction);
        self.expression.instructions.len() - 1
    }

    fn unary(&mut self, op: UnaryOp, x: usize) -> usize {
        self.push(Instruction::Unary(op, x))
    }

    fn binary(&mut self, op: BinaryOp, a: usize, b: usize) -> usize {
        self.push(Instruction::Binary(op, a, b))
    }

    fn node(&mut self, node: &Node, x: &[usize]) -> Result<usize> {
        Ok(match &node.op {
            Op::Unary(op) => self.unary(*op, x[0]),
            Op::Binary(op) => {
                let result = self.binary(*op, x[0], x[1]);
                match node.ty.dtype {
                    dtype @ (DType::I32 | DType::U8) => self.push(Instruction::Wrap(dtype, result)),
                    _ => result,
                }
            }
            Op::Select => self.push(Instruction::Select(x[0], x[1], x[2])),
            Op::Cast { dtype } => self.push(Instruction::Cast(*dtype, x[0])),
            Op::Clamp { min, max } => self.push(Instruction::Clamp(x[0], *min, *max)),
            Op::Reduce { kind, .. } => self.push(Instruction::Reduce(*kind, x[0])),
            Op::Rotary => self.push(Instruction::Turn(x[0], x[1])),
            Op::Softmax => self.softmax(x[0]),
            Op::LayerNorm { epsilon } | Op::GroupNorm { epsilon, .. } => {
                let centred = self.centred(x[0]);
                let normed = self.scaled_to_one(centred, *epsilon);
                self.affine(normed, &x[1..])
            }
            Op::RmsNorm { epsilon } => {
                let normed = self.scaled_to_one(x[0], *epsilon);
                self.affine(normed, &x[1..])
            }
            Op::Modulate => {
                let one = self.push(Instruction::Float(1.0));
                let factor = self.binary(BinaryOp::Add, one, x[1]);
                self.affine(x[0], &[factor, x[2]])
            }
            Op::GatedResidual => {
                let gated = self.binary(BinaryOp::Mul, x[1], x[2]);
                self.binary(BinaryOp::Add, x[0], gated)
            }
            Op::Iota { ty, axis } => self.positions(ty.dtype, *axis)?,
            op => return Err(Error::unsupported(op.name(), "it is not generated")),
        })
    }

    fn softmax(&mut self, x: usize) -> usize {
        let greatest = self.push(Instruction::Reduce(ReduceOp::Max, x));
        let below = self.binary(BinaryOp::Sub, x, greatest);
        let power = self.unary(UnaryOp::Exp, below);
        let sum = self.push(Instruction::Reduce(ReduceOp::Sum, power));
        self.binary(BinaryOp::Div, power, sum)
    }

    fn centred(&mut self, x: usize) -> usize {
        let mean = self.push(Instruction::Reduce(ReduceOp::Mean, x));
        self.binary(BinaryOp::Sub, x, mean)
    }

    /// `x / √(mean(x²) + ε)`
    fn scaled_to_one(&mut self, x: usize, epsilon: f32) -> usize {
        let square = self.binary(BinaryOp::Mul, x, x);
        let mean = self.push(Instruction::Reduce(ReduceOp::Mean, square));
        let epsilon = self.push(Instruction::Float(epsilon));
        let sum = self.binary(BinaryOp::Add, mean, epsilon);
        let factor = self.unary(UnaryOp::Rsqrt, sum);
        self.binary(BinaryOp::Mul, x, factor)
    }

    /// `x · a + b`, as far as they are there.
    fn affine(&mut self, mut x: usize, parameters: &[usize]) -> usize {
        for (&parameter, op) in parameters.iter().zip([BinaryOp::Mul, BinaryOp::Add]) {
            x = self.binary(op, x, parameter);
        }
        x
    }

    fn positions(&mut self, dtype: DType, axis: usize) -> Result<usize> {
        let own = self.domain.axis(axis);
        let own = own.ok_or_else(|| Error::unsupported("iota", "of grouped channels"))?;
        let position = self.push(Instruction::Position(own));
        Ok(self.push(if dtype.is_float() {
            Instruction::Cast(dtype, position)
        } else {
            Instruction::Wrap(dtype, position)
        }))
    }
}

/// Whether this operand is the table of a rotation.
fn is_pairs(node: &Node, place: usize) -> bool {
    node.op == Op::Rotary && place == 1
}

/// The table `[s, d/2, 2]` as `[s, 1, d]`.
fn pairs(table: &View) -> View {
    let [tokens, pairs, both] = [table.axes[0], table.axes[1], table.axes[2]];
    let mut view = table.clone();
    view.axes = vec![
        tokens,
        crate::Axis {
            size: 1,
            stride: 0,
            step: 0,
        },
        crate::Axis {
            size: pairs.size * 2,
            ..both
        },
    ];
    view
}
