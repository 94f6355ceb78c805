//! Rewrites before planning that let more be written in place.
//!
//! | rule | from | to |
//! |---|---|---|
//! | `rotary_by_parts` | the rotation of a concatenation along tokens | the concatenation of rotations, each with its rows of the table |
//! | `slices_of_joined` | a concatenation of equal slices of several products | one slice of the concatenated products |
//! | `attention_by_queries` | slices of an attention of codes, each quantized | an attention for each |
//! | `quantized_by_parts` | the codes of a concatenation | the concatenation of codes |
//!
//! Products can write into a concatenation, and norms with rotations too, so neither copies; and
//! what computes a part can make its codes.
//! The values stay the same to the bit.
//!
//! ```ignore
//! let graph = prepare(&graph)?;
//! ```

use std::collections::HashMap;

use tintype_ir::passes::{Rewriter, dead_code, simplify};
use tintype_ir::{Dim, Graph, Node, Op, Result, Value};

use super::quantize::{attention_by_queries, quantized_by_parts};

/// The graph after every rule.
pub(super) fn prepare(graph: &Graph) -> Result<Graph> {
    let graph = simplify(&dead_code(graph))?;
    let graph = rotary_by_parts(&graph)?;
    let graph = slices_of_joined(&graph)?;
    let graph = attention_by_queries(&dead_code(&graph))?;
    let graph = quantized_by_parts(&dead_code(&graph))?;
    Ok(dead_code(&graph))
}

fn rotary_by_parts(graph: &Graph) -> Result<Graph> {
    let uses = graph.use_counts();
    Rewriter::rewrite(graph, |rewriter, _, node| {
        let (Op::Rotary, Some(&Value::Node(source))) = (&node.op, node.operands.first()) else {
            return Ok(None);
        };
        let joined = &graph.nodes()[source];
        if joined.op != (Op::Concat { axis: 1 }) || uses[source] != 1 {
            return Ok(None);
        }
        let table = rewriter.map(node.operands[1]);
        let mut start = Dim::from(0);
        let mut parts = Vec::new();
        for &operand in &joined.operands {
            let Some(end) = start.checked_add(&graph.type_of(operand).dims[1]) else {
                return Ok(None);
            };
            let rows = Op::Slice {
                axis: 0,
                start,
                end: end.clone(),
            };
            let rows = rewriter.op(rows, &[table])?;
            parts.push(rewriter.op(Op::Rotary, &[rewriter.map(operand), rows])?);
            start = end;
        }
        rewriter.op(Op::Concat { axis: 1 }, &parts).map(Some)
    })
}

/// A slice of the last axis of a product `[b, s, n]`, perhaps in heads.
struct Part<'a> {
    product: Value,
    slice: &'a Op,
    heads: Option<&'a [Dim]>,
}

fn slices_of_joined(graph: &Graph) -> Result<Graph> {
    let mut joined: HashMap<Vec<Value>, Value> = HashMap::new();
    Rewriter::rewrite(graph, |rewriter, _, node| {
        let Some(parts) = equal_parts(graph, node) else {
            return Ok(None);
        };
        let products: Vec<Value> = parts.iter().map(|part| part.product).collect();
        let whole = if let Some(&whole) = joined.get(&products) {
            whole
        } else {
            let parts = products.iter();
            let mapped: Vec<Value> = parts.map(|&value| rewriter.map(value)).collect();
            rewriter.op(Op::Concat { axis: 1 }, &mapped)?
        };
        joined.insert(products, whole);
        let slice = rewriter.op(parts[0].slice.clone(), &[whole])?;
        if parts[0].heads.is_none() {
            return Ok(Some(slice));
        }
        let dims = node.ty.dims.clone();
        rewriter.op(Op::Reshape { dims }, &[slice]).map(Some)
    })
}

/// The operands of a concatenation along tokens, if all are the same slice of products.
fn equal_parts<'a>(graph: &'a Graph, node: &Node) -> Option<Vec<Part<'a>>> {
    if node.op != (Op::Concat { axis: 1 }) || node.operands.len() < 2 {
        return None;
    }
    let parts: Option<Vec<Part>> = node
        .operands
        .iter()
        .map(|&value| part(graph, value))
        .collect();
    let parts = parts?;
    let first = &parts[0];
    let inner = |part: &Part<'a>| part.heads.map(|dims| &dims[2..]);
    let same = |part: &Part<'a>| part.slice == first.slice && inner(part) == inner(first);
    let distinct = |(place, part): (usize, &Part)| {
        parts[..place]
            .iter()
            .all(|other| other.product != part.product)
    };
    let fits = parts.iter().all(same) && parts.iter().enumerate().all(distinct);
    fits.then_some(parts)
}

fn part(graph: &Graph, value: Value) -> Option<Part<'_>> {
    let node = graph.node_of(value)?;
    let (node, heads) = match &node.op {
        Op::Reshape { dims } => (graph.node_of(node.operands[0])?, Some(dims.as_slice())),
        _ => (node, None),
    };
    let Op::Slice { axis: 2, .. } = node.op else {
        return None;
    };
    let product = node.operands[0];
    let is_product = matches!(graph.node_of(product)?.op, Op::Linear | Op::MatMul);
    let outer = &graph.type_of(product).dims[..2];
    let keeps_tokens = heads.is_none_or(|dims| dims.len() > 2 && dims[..2] == *outer);
    (is_product && keeps_tokens).then_some(Part {
        product,
        slice: &node.op,
        heads,
    })
}
