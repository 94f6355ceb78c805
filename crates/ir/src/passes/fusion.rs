//! What all fusions share: finding a match at each node and putting one operation in
//! its place.
//!
//! The operation stands in the dtype of the root if all operands are of it, seen
//! through casts that lose nothing. Otherwise it stands in f32, with casts around it.
//! Either way there is one rounding at the end, as the pattern had at least.

use tintype_tensor::DType;

use super::matcher::{Matcher, peel};
use super::{Rewriter, dead_code};
use crate::{Graph, Op, Result, Stage, Value};

/// An operand of a fused operation: a value of the source and what is done to it first.
#[derive(Debug, Clone)]
pub(super) struct Operand {
    pub(super) value: Value,
    pub(super) before: Vec<Op>,
}

impl From<Value> for Operand {
    fn from(value: Value) -> Self {
        Self {
            value,
            before: Vec::new(),
        }
    }
}

impl Operand {
    pub(super) fn with(value: Value, before: impl IntoIterator<Item = Op>) -> Self {
        Self {
            value,
            before: before.into_iter().collect(),
        }
    }
}

/// One operation that does what a match did.
#[derive(Debug, Clone)]
pub(super) struct Fused {
    pub(super) op: Op,
    pub(super) operands: Vec<Operand>,
    pub(super) after: Vec<Op>,
}

impl Fused {
    pub(super) fn new(op: Op, operands: impl IntoIterator<Item = Value>) -> Self {
        Self {
            op,
            operands: operands.into_iter().map(Operand::from).collect(),
            after: Vec::new(),
        }
    }
}

/// Replaces every match that `find` gives, and drops what it leaves without a use.
///
/// The label of the root stays; a root without one takes that of an inner node.
/// Roots of the weight stage are left alone. A find whose operation does not fit its
/// operands, or has another type than the root, is none.
pub(super) fn fuse(
    graph: &Graph,
    find: impl Fn(&mut Matcher, usize) -> Option<Fused>,
) -> Result<Graph> {
    // Dead nodes would count as uses.
    let graph = &dead_code(graph);
    let mut matcher = Matcher::new(graph);
    let fused = Rewriter::rewrite(graph, |rewriter, index, node| {
        if matcher.stage_of(Value::Node(index)) == Stage::Weight || !node.ty.dtype.is_float() {
            return Ok(None);
        }
        matcher.begin();
        let found = find(&mut matcher, index).filter(|_| matcher.is_closed(index));
        let Some(fused) = found else {
            return Ok(None);
        };
        rewriter.set_label(node.label.clone().or_else(|| matcher.inner_label()));
        let value = emit(rewriter, graph, &fused, node.ty.dtype);
        Ok(value.filter(|&value| *rewriter.type_of(value) == node.ty))
    })?;
    Ok(dead_code(&fused))
}

/// Adds the fused operation; none if it does not fit.
fn emit(rewriter: &mut Rewriter, graph: &Graph, fused: &Fused, dtype: DType) -> Option<Value> {
    let peeled = |position: usize, value: Value| match edge(&fused.op, position) {
        Edge::Fixed => value,
        Edge::Shared | Edge::Free => peel(graph, value),
    };
    let is_shared = |position: usize| edge(&fused.op, position) == Edge::Shared;
    let direct = fused
        .operands
        .iter()
        .enumerate()
        .all(|(position, operand)| {
            !is_shared(position) || graph.type_of(peeled(position, operand.value)).dtype == dtype
        });
    let mut operands = Vec::with_capacity(fused.operands.len());
    for (position, operand) in fused.operands.iter().enumerate() {
        let mut value = if is_shared(position) && !direct {
            let value = rewriter.map(operand.value);
            rewriter.cast(value, DType::F32).ok()?
        } else {
            rewriter.map(peeled(position, operand.value))
        };
        for op in &operand.before {
            value = rewriter.op(op.clone(), &[value]).ok()?;
        }
        operands.push(value);
    }
    let mut value = rewriter.op(fused.op.clone(), &operands).ok()?;
    for op in &fused.after {
        value = rewriter.op(op.clone(), &[value]).ok()?;
    }
    rewriter.cast(value, dtype).ok()
}

/// What the dtype of an operand has to do with that of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edge {
    /// The same.
    Shared,
    /// Any float.
    Free,
    /// Given by the operation.
    Fixed,
}

/// How the operand of an operation at a position relates to the result.
pub(super) fn edge(op: &Op, position: usize) -> Edge {
    match (op, position) {
        (Op::Rotary, 1) => Edge::Fixed,
        (Op::Attention(_), 3) => Edge::Free,
        _ => Edge::Shared,
    }
}

/// A fusion as a [`Pass`](super::Pass): its type, its name, the function that finds it.
macro_rules! fusion_pass {
    ($(#[$documentation:meta])* $type:ident, $name:literal, $find:path) => {
        $(#[$documentation])*
        #[derive(Debug, Clone, Copy)]
        pub struct $type;

        impl $crate::passes::Pass for $type {
            fn name(&self) -> &'static str {
                $name
            }

            fn run(&self, graph: &$crate::Graph) -> $crate::Result<$crate::Graph> {
                $crate::passes::fusion::fuse(graph, $find)
            }
        }
    };
}
pub(super) use fusion_pass;
