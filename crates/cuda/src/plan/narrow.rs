//! Attentions that read and write codes of 8-bit floats.
//!
//! An attention is one if query, key and value are codes times a number each and its result is
//! quantized by whoever reads it, with one scale that is a parameter or an input. The library or
//! kernel then reads and writes codes: what widens them, and what rounds the result to 16 bits
//! and then to codes, is not computed.
//!
//! Where the result stays in 16 bits the attention is like any other and what computes query, key
//! and value also rounds them through codes: cuDNN has no such form on Hopper, and in 16 bits it
//! is faster than a kernel of our own in 8.
//!
//! ```ignore
//! for (node, attention, rounding) in attentions(&graph) { /* it reads attention.codes */ }
//! ```

use tintype_ir::{Graph, Op, Value};
use tintype_tensor::DType;

use super::quantize::Readers;

/// What an attention of codes reads and writes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct NarrowAttention {
    /// Of query, key and value.
    pub(super) codes: [Value; 3],
    /// What these are multiplied with.
    pub(super) scales: [f32; 3],
    /// What the result is divided by.
    pub(super) output_scale: Value,
}

/// The attentions of codes of a graph, each with the nodes that round its result to codes.
pub(super) fn attentions(graph: &Graph) -> Vec<(usize, NarrowAttention, Vec<usize>)> {
    let readers = Readers::of(graph);
    let mut found = Vec::new();
    for index in 0..graph.nodes().len() {
        let Some((attention, codes)) = attention_of(graph, &readers, index) else {
            continue;
        };
        let mut rounding = Vec::new();
        let mut node = index;
        while node != codes {
            node = readers.of_node(node)[0];
            rounding.push(node);
        }
        found.push((index, attention, rounding));
    }
    found
}

fn number(graph: &Graph, value: Value) -> Option<f32> {
    match &graph.node_of(value)?.op {
        Op::Constant(constant) => constant.as_splat(),
        _ => None,
    }
}

/// The attention of codes that a node is, and the node of the codes that its result becomes.
fn attention_of(
    graph: &Graph,
    readers: &Readers<'_>,
    index: usize,
) -> Option<(NarrowAttention, usize)> {
    let node = &graph.nodes()[index];
    let Op::Attention(attributes) = &node.op else {
        return None;
    };
    let &[query, key, value] = &node.operands[..] else {
        return None;
    };
    if attributes.causal {
        return None;
    }
    let narrow = |value: Value| {
        let found = graph.dequantized(value)?;
        let is_e4m3 = graph.type_of(found.codes).dtype == DType::F8E4M3;
        let is_one = graph.type_of(found.scale).rank() == 0;
        let scale = number(graph, found.scale).filter(|scale| *scale > 0.0 && scale.is_finite());
        scale
            .filter(|_| is_e4m3 && is_one)
            .map(|scale| (found.codes, scale))
    };
    let [query, key, value] = [narrow(query)?, narrow(key)?, narrow(value)?];
    let (codes, output_scale) = readers.codes_of(index)?;
    let is_there_first = matches!(output_scale, Value::Parameter(_) | Value::Input(_));
    let is_e4m3 = graph.type_of(Value::Node(codes)).dtype == DType::F8E4M3;
    let attention = NarrowAttention {
        codes: [query.0, key.0, value.0],
        scales: [query.1, key.1, value.1],
        output_scale,
    };
    (is_there_first && is_e4m3).then_some((attention, codes))
}
