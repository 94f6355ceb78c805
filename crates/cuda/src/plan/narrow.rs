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
//! let narrow = Narrow::of(&graph);
//! if let Some(attention) = narrow.attention(node) { /* read attention.codes */ }
//! ```

use std::collections::{HashMap, HashSet};

use tintype_ir::{Graph, Op, UnaryOp, Value};
use tintype_tensor::DType;

use super::codes::Readers;
use super::step::{Step, Work};
use crate::{Expression, Instruction, Store, View};

/// What an attention of codes reads and writes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NarrowAttention {
    /// Of query, key and value.
    pub(super) codes: [Value; 3],
    /// What these are multiplied with.
    pub(super) scales: [f32; 3],
    /// What the result is divided by.
    pub(super) output_scale: Value,
}

/// The attentions of codes of a graph.
#[derive(Debug, Default)]
pub(super) struct Narrow {
    attentions: HashMap<usize, NarrowAttention>,
    /// For nodes that round a result to codes: whose result.
    rounds: HashMap<usize, usize>,
    /// Nodes that widen codes for these attentions alone.
    absorbed: HashSet<usize>,
}

impl Narrow {
    /// Finds them.
    pub(super) fn of(graph: &Graph) -> Self {
        let readers = Readers::of(graph);
        let mut found = Self::default();
        for index in 0..graph.nodes().len() {
            let Some((attention, codes)) = attention_of(graph, &readers, index) else {
                continue;
            };
            found.attentions.insert(index, attention);
            let mut node = index;
            while node != codes {
                node = readers.of_node(node)[0];
                found.rounds.insert(node, index);
            }
        }
        found.absorb(graph, &readers);
        found
    }

    /// What a node reads and writes, if it is such an attention.
    pub(super) fn attention(&self, node: usize) -> Option<&NarrowAttention> {
        self.attentions.get(&node)
    }

    /// The attention whose result a node rounds to codes, in up to three steps.
    pub(super) fn attention_before(&self, node: usize) -> Option<usize> {
        self.rounds.get(&node).copied()
    }

    /// Whether a node need not be computed, as all that reads it reads codes instead.
    pub(super) fn is_absorbed(&self, node: usize) -> bool {
        self.absorbed.contains(&node)
    }

    fn absorb(&mut self, graph: &Graph, readers: &Readers<'_>) {
        let mut between: HashSet<usize> = HashSet::new();
        for (&index, attention) in &self.attentions {
            for (&operand, &codes) in graph.nodes()[index].operands.iter().zip(&attention.codes) {
                between.extend(nodes_between(graph, codes, operand));
            }
        }
        let mut between: Vec<usize> = between.into_iter().collect();
        between.sort_unstable_by(|a, b| b.cmp(a));
        for node in between {
            let all = readers.of_node(node);
            let is_done = |reader: &usize| {
                self.attentions.contains_key(reader) || self.absorbed.contains(reader)
            };
            if !all.is_empty() && all.iter().all(is_done) {
                self.absorbed.insert(node);
            }
        }
    }
}

/// The nodes from codes to what they are widened to.
fn nodes_between(graph: &Graph, codes: Value, wide: Value) -> Vec<usize> {
    let mut nodes = Vec::new();
    let mut value = wide;
    while let (Value::Node(index), true) = (value, value != codes) {
        nodes.push(index);
        // The scale of the product is a constant, on whichever side it stands.
        let operands = graph.nodes()[index].operands.iter();
        let mut inner = operands.filter(|&&operand| number(graph, operand).is_none());
        match inner.next() {
            Some(&next) => value = next,
            None => break,
        }
    }
    nodes
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

/// Steps that write one over each scale to where its factor lies: libraries multiply where the
/// graph divides. Dozens of numbers are one kernel.
pub(super) fn reciprocals(pairs: &[(View, View)]) -> Vec<Step> {
    let kernel = |pairs: &[(View, View)]| {
        let numbers = 0..pairs.len();
        let expression = Expression {
            domain: vec![1],
            row_axes: 0,
            instructions: numbers
                .flat_map(|load| {
                    let reciprocal = Instruction::Unary(UnaryOp::Reciprocal, 2 * load);
                    [Instruction::Load(load), reciprocal]
                })
                .collect(),
            loads: pairs
                .iter()
                .map(|(scale, _)| scale.broadcast(&[1]))
                .collect(),
            stores: pairs
                .iter()
                .enumerate()
                .map(|(load, (_, factor))| Store {
                    value: 2 * load + 1,
                    view: factor.clone(),
                    scale: None,
                })
                .collect(),
        };
        Step {
            label: String::new(),
            name: "reciprocals".to_owned(),
            work: Work::Kernel(expression),
        }
    };
    pairs.chunks(MOST_FACTORS).map(kernel).collect()
}

/// Each takes two arguments of a kernel, which may have 4 KiB of them.
const MOST_FACTORS: usize = 128;
