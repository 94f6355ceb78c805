//! The projections of one attention as one linear.
//!
//! Linears that read the same value and lead to the query, key and value of one
//! attention become one linear followed by slices. Its weight is the concatenation of
//! theirs along axis 0: an ordinary operation that lands in the weight program, so
//! that a change to one of them is a change to that weight and nothing else.
//!
//! Weights that are quantized are joined before that, so that the fused weight has one
//! scale, the greatest of theirs, or where rows have their own the rows of all. Linears
//! stay apart of which only some are quantized, or whose scales are parameters of their own.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tintype_tensor::DType;

use super::{Pass, Rewriter, dead_code};
use crate::{BinaryOp, Dequantized, Dim, Graph, Node, Op, Quantized, Result, Stage, Value};

/// [`fuse_qkv`] as a pass.
#[derive(Debug, Clone, Copy)]
pub struct FuseQkv;

impl Pass for FuseQkv {
    fn name(&self) -> &'static str {
        "fuse_qkv"
    }

    fn run(&self, graph: &Graph) -> Result<Graph> {
        fuse_qkv(graph)
    }
}

/// The graph with the projections of each attention fused.
///
/// The label of a fused linear joins those of its parts: `attn.to_q`, `attn.to_k` and
/// `attn.to_v` give `attn.to_q_to_k_to_v`.
pub fn fuse_qkv(graph: &Graph) -> Result<Graph> {
    let graph = &weights_first(&dead_code(graph));
    let groups = groups(graph);
    let mut results: HashMap<usize, Value> = HashMap::new();
    let fused = Rewriter::rewrite(graph, |rewriter, index, _| {
        if let Some(group) = groups
            .iter()
            .find(|group| group.iter().min() == Some(&index))
        {
            for (&member, value) in group.iter().zip(emit(rewriter, graph, group)?) {
                results.insert(member, value);
            }
        }
        Ok(results.get(&index).copied())
    })?;
    Ok(dead_code(&fused))
}

/// The same graph with the nodes of the weight stage before all others, so that every
/// weight is at hand where the first projection stands.
fn weights_first(graph: &Graph) -> Graph {
    let stages = graph.stages();
    let mut order: Vec<usize> = (0..graph.nodes.len()).collect();
    order.sort_by_key(|&index| stages[index] != Stage::Weight);
    let mut places = vec![0; order.len()];
    for (place, &index) in order.iter().enumerate() {
        places[index] = place;
    }
    let moved = |value: Value| match value {
        Value::Node(index) => Value::Node(places[index]),
        other => other,
    };
    let mut result = graph.clone();
    result.nodes = order
        .iter()
        .map(|&index| graph.nodes[index].clone())
        .collect();
    let operands = result.nodes.iter_mut().flat_map(|node| &mut node.operands);
    operands.for_each(|value| *value = moved(*value));
    for output in &mut result.outputs {
        output.value = moved(output.value);
    }
    result
}

/// Groups of linears to fuse, each in the order query, key, value; no linear is in two.
fn groups(graph: &Graph) -> Vec<Vec<usize>> {
    let stages = graph.stages();
    let mut taken = vec![false; graph.nodes.len()];
    let mut groups = Vec::new();
    for node in &graph.nodes {
        if !matches!(node.op, Op::Attention(_)) {
            continue;
        }
        let mut linears: Vec<usize> = Vec::new();
        for &operand in &node.operands[..3] {
            sources(graph, operand, &mut linears);
        }
        linears.retain(|&index| !taken[index] && has_weights(graph, &stages, index));
        while let Some(&first) = linears.first() {
            let (group, rest) = linears
                .into_iter()
                .partition(|&other| fits(graph, &graph.nodes[first], &graph.nodes[other]));
            linears = rest;
            let group: Vec<usize> = group;
            if group.len() > 1 {
                for &index in &group {
                    taken[index] = true;
                }
                groups.push(group);
            }
        }
    }
    groups
}

/// The linears that a value comes from through what stands between a projection and
/// its attention.
fn sources(graph: &Graph, value: Value, linears: &mut Vec<usize>) {
    let mut waiting = vec![value];
    while let Some(value) = waiting.pop() {
        let Value::Node(index) = value else {
            continue;
        };
        let node = &graph.nodes[index];
        match &node.op {
            Op::Linear if !linears.contains(&index) => linears.push(index),
            Op::Slice { axis, .. } if is_part_of_linear(graph, node, *axis) => {}
            Op::Reshape { .. }
            | Op::Transpose { .. }
            | Op::Cast { .. }
            | Op::Slice { .. }
            | Op::RmsNorm { .. }
            | Op::Rotary => waiting.push(node.operands[0]),
            // What attention reads may be quantized: divided by a number and multiplied by it.
            Op::Binary(BinaryOp::Div | BinaryOp::Mul) if is_number(graph, node.operands[1]) => {
                waiting.push(node.operands[0]);
            }
            Op::Concat { .. } => waiting.extend(node.operands.iter().rev()),
            _ => {}
        }
    }
}

fn is_number(graph: &Graph, value: Value) -> bool {
    let node = graph.node_of(value);
    node.is_some_and(
        |node| matches!(&node.op, Op::Constant(constant) if constant.as_splat().is_some()),
    )
}

/// Whether a slice takes some of the features of a linear: then that is fused already, or made
/// as one, and joining it with more would move what others read.
fn is_part_of_linear(graph: &Graph, slice: &Node, axis: usize) -> bool {
    let is_linear = match slice.operands[0] {
        Value::Node(index) => matches!(graph.nodes[index].op, Op::Linear),
        _ => false,
    };
    is_linear && axis + 1 == slice.ty.rank()
}

fn has_weights(graph: &Graph, stages: &[Stage], index: usize) -> bool {
    let operands = &graph.nodes[index].operands;
    stages[index] != Stage::Weight
        && operands[1..]
            .iter()
            .all(|&weight| graph.stage_of(weight, stages) == Stage::Weight)
}

fn fits(graph: &Graph, a: &Node, b: &Node) -> bool {
    a.operands[0] == b.operands[0]
        && a.ty.dtype == b.ty.dtype
        && a.operands.len() == b.operands.len()
        && packing(graph, a.operands[1]) == packing(graph, b.operands[1])
}

/// How a weight is quantized.
#[derive(Debug, PartialEq)]
struct Packing {
    dtype: DType,
    has_row_scales: bool,
    /// Whether the codes are computed here: then the parameters that its scale reads beside the
    /// weight itself. Parts with scales of their own stay apart, as the joint scale is none of
    /// theirs; rows keep theirs.
    computed_by: Option<BTreeSet<usize>>,
}

/// How a weight is quantized; `None` where it is not.
fn packing(graph: &Graph, weight: Value) -> Option<Packing> {
    let Dequantized { codes, scale } = graph.dequantized(weight)?;
    let has_row_scales = graph.type_of(scale).rank() > 0;
    let computed_by = quantizing(graph, weight).map(|quantized| {
        if has_row_scales {
            return BTreeSet::new();
        }
        let own = parameters_of(graph, quantized.value);
        let all = parameters_of(graph, scale);
        all.difference(&own).copied().collect()
    });
    Some(Packing {
        dtype: graph.type_of(codes).dtype,
        has_row_scales,
        computed_by,
    })
}

/// The parameters that a value is computed from.
fn parameters_of(graph: &Graph, value: Value) -> BTreeSet<usize> {
    let (mut waiting, mut parameters) = (vec![value], BTreeSet::new());
    while let Some(value) = waiting.pop() {
        match value {
            Value::Parameter(index) => {
                parameters.insert(index);
            }
            Value::Node(index) => waiting.extend(&graph.nodes[index].operands),
            Value::Input(_) => {}
        }
    }
    parameters
}

/// What a weight was quantized from, and by the scale that it is multiplied with again.
fn quantizing(graph: &Graph, weight: Value) -> Option<Quantized> {
    let Dequantized { codes, scale } = graph.dequantized(weight)?;
    let quantized = graph.quantized(codes)?;
    (quantized.scale == scale).then_some(quantized)
}

/// Adds the fused linear; gives the part of its result for each linear of the group.
fn emit(rewriter: &mut Rewriter, graph: &Graph, group: &[usize]) -> Result<Vec<Value>> {
    let nodes: Vec<&Node> = group.iter().map(|&index| &graph.nodes[index]).collect();
    rewriter.set_label(joined_label(&nodes));
    let mut operands = vec![rewriter.map(nodes[0].operands[0])];
    for position in 1..nodes[0].operands.len() {
        let parts: Vec<Value> = nodes.iter().map(|node| node.operands[position]).collect();
        operands.push(joined(rewriter, graph, &parts)?);
    }
    let whole = rewriter.op(Op::Linear, &operands)?;
    let axis = nodes[0].ty.rank() - 1;
    let mut start = Dim::from(0);
    let mut parts = Vec::with_capacity(nodes.len());
    for node in nodes {
        let overflow = || crate::Error::Overflow("the width of fused projections".to_owned());
        let end = start
            .checked_add(&node.ty.dims[axis])
            .ok_or_else(overflow)?;
        let slice = Op::Slice {
            axis,
            start,
            end: end.clone(),
        };
        rewriter.set_label(node.label.clone());
        parts.push(rewriter.op(slice, &[whole])?);
        start = end;
    }
    Ok(parts)
}

/// The rows of all `parts`, values of `graph`: quantized together if each of them is.
fn joined(rewriter: &mut Rewriter, graph: &Graph, parts: &[Value]) -> Result<Value> {
    let quantized: Option<Vec<Quantized>> =
        parts.iter().map(|&part| quantizing(graph, part)).collect();
    let Some(quantized) = quantized else {
        return concatenated(rewriter, parts.iter().copied());
    };
    let whole = concatenated(rewriter, quantized.iter().map(|part| part.value))?;
    let whole = rewriter.cast(whole, DType::F32)?;
    let scales = quantized.iter().map(|part| part.scale);
    let scale = if graph.type_of(quantized[0].scale).rank() > 0 {
        concatenated(rewriter, scales)?
    } else {
        let mut scales: Vec<Value> = scales.map(|scale| rewriter.map(scale)).collect();
        scales.dedup();
        let rest = scales.split_off(1);
        rest.into_iter().try_fold(scales[0], |greatest, scale| {
            rewriter.op(Op::Binary(BinaryOp::Max), &[greatest, scale])
        })?
    };
    let codes = graph.dequantized(parts[0]).expect("quantized").codes;
    let quotient = rewriter.op(Op::Binary(BinaryOp::Div), &[whole, scale])?;
    let codes = rewriter.cast(quotient, graph.type_of(codes).dtype)?;
    let wide = rewriter.cast(codes, DType::F32)?;
    let product = rewriter.op(Op::Binary(BinaryOp::Mul), &[wide, scale])?;
    rewriter.cast(product, graph.type_of(parts[0]).dtype)
}

fn concatenated(rewriter: &mut Rewriter, parts: impl Iterator<Item = Value>) -> Result<Value> {
    let parts: Vec<Value> = parts.map(|part| rewriter.map(part)).collect();
    rewriter.op(Op::Concat { axis: 0 }, &parts)
}

/// The module that all labels lie in, and their last names joined.
fn joined_label(nodes: &[&Node]) -> Option<Arc<str>> {
    let labels: Option<Vec<&str>> = nodes.iter().map(|node| node.label.as_deref()).collect();
    let labels = labels?;
    let module = labels[0].rsplit_once('.').map(|(module, _)| module);
    let prefix = module.map_or(String::new(), |module| format!("{module}."));
    let names: Vec<&str> = labels
        .iter()
        .map(|label| label.strip_prefix(&prefix).unwrap_or(label))
        .collect();
    Some(Arc::from(format!("{prefix}{}", names.join("_"))))
}
