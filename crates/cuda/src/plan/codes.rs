//! Linear layers on codes of 8 bits: which layers of a program they are, and what follows them.
//!
//! In a graph, a quantized layer reads values that were codes times a scale (see
//! [`tintype_ir::Dequantized`]). A product can read the codes themselves, multiply sums with both
//! scales, add the bias, apply GELU, and divide by the scale of its reader and round to codes:
//!
//! ```text
//! codes ── cast ── mul scale ── cast ──┐
//! codes ── cast ── mul scale ── cast ── linear ── gelu ── cast ── div scale ── cast ── codes
//! └────────────────────────────── one product ──────────────────────────────┘
//! ```
//!
//! Attentions of codes are found by `narrow`, and what they read and compute is told here as well.
//!
//! Values that nothing reads any more are not computed; [`Reads`] tells what nodes read then. What
//! is no such layer is left as the graph has it.
//!
//! ```ignore
//! let reads = Reads::of(&graph, &shapes);
//! for &value in reads.operands(node) {}
//! ```

use std::collections::HashMap;

use tintype_ir::{Graph, Op, UnaryOp, Value};
use tintype_tensor::DType;

use super::groups::Shapes;
use super::narrow::{self, NarrowAttention};

/// What each node reads.
pub(super) struct Reads<'a> {
    graph: &'a Graph,
    operands: Vec<Vec<Value>>,
    is_needed: Vec<bool>,
    uses: Vec<usize>,
    /// For each node, the one that reads it, if there is one alone.
    readers: Vec<Option<usize>>,
    layers: HashMap<usize, CodedLayer>,
    attentions: HashMap<usize, NarrowAttention>,
    /// For each node that a linear layer or an attention computes beside itself, that one.
    layer_of: HashMap<usize, usize>,
}

/// A linear layer on codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CodedLayer {
    /// Of the input's and the weight's codes: f32, one, or one for each row.
    pub(super) scales: [Value; 2],
    /// What the result is divided by where it becomes codes.
    pub(super) output: Option<Value>,
    /// The dtype of the values that the layer reads and gives in the graph.
    pub(super) dtype: DType,
}

impl<'a> Reads<'a> {
    /// Finds the layers of a graph whose values have these shapes.
    pub(super) fn of(graph: &'a Graph, shapes: &Shapes) -> Self {
        let nodes = graph.nodes();
        let mut reads = Self {
            graph,
            operands: nodes.iter().map(|node| node.operands.clone()).collect(),
            is_needed: vec![false; nodes.len()],
            uses: vec![0; nodes.len()],
            readers: vec![None; nodes.len()],
            layers: HashMap::new(),
            attentions: HashMap::new(),
            layer_of: HashMap::new(),
        };
        for index in 0..nodes.len() {
            reads.find_layer(index, shapes);
        }
        reads.find_attentions();
        reads.count();
        for (index, node) in nodes.iter().enumerate() {
            if reads.is_needed[index] && node.op == Op::Linear {
                reads.follow(index, shapes);
            }
        }
        reads
    }

    /// What a node reads: of a layer on codes input, weight, perhaps bias, and both scales; of an
    /// attention on codes query, key and value.
    pub(super) fn operands(&self, node: usize) -> &[Value] {
        &self.operands[node]
    }

    /// Whether anything needs a node.
    pub(super) fn needs(&self, node: usize) -> bool {
        self.is_needed[node]
    }

    /// The layer on codes that a node is.
    pub(super) fn layer(&self, node: usize) -> Option<CodedLayer> {
        self.layers.get(&node).copied()
    }

    /// The attention on codes that a node is.
    pub(super) fn attention(&self, node: usize) -> Option<NarrowAttention> {
        self.attentions.get(&node).copied()
    }

    /// The linear layer or attention that computes a node beside itself.
    pub(super) fn layer_of(&self, node: usize) -> Option<usize> {
        self.layer_of.get(&node).copied()
    }

    /// The scales by which layers and attentions divide their results, each once, in order.
    pub(super) fn output_scales(&self) -> Vec<Value> {
        let mut scales = Vec::new();
        for scale in (0..self.operands.len()).filter_map(|node| {
            let layer = self.layers.get(&node).and_then(|layer| layer.output);
            layer.or_else(|| Some(self.attentions.get(&node)?.output_scale))
        }) {
            if !scales.contains(&scale) {
                scales.push(scale);
            }
        }
        scales
    }

    fn find_layer(&mut self, index: usize, shapes: &Shapes) {
        let node = &self.graph.nodes()[index];
        if node.op != Op::Linear {
            return;
        }
        let found = [0, 1].map(|place| self.graph.dequantized(node.operands[place]));
        let [Some(input), Some(weight)] = found else {
            return;
        };
        let are_codes = [input, weight].into_iter().all(|found| {
            self.graph.type_of(found.codes).dtype == DType::F8E4M3
                && is_of_rows(shapes.of(found.scale), shapes.of(found.codes))
        });
        if !are_codes {
            return;
        }
        let operands = &mut self.operands[index];
        (operands[0], operands[1]) = (input.codes, weight.codes);
        operands.extend([input.scale, weight.scale]);
        let layer = CodedLayer {
            scales: [input.scale, weight.scale],
            output: None,
            dtype: node.ty.dtype,
        };
        self.layers.insert(index, layer);
    }

    fn find_attentions(&mut self) {
        for (node, attention, rounding) in narrow::attentions(self.graph) {
            self.operands[node] = attention.codes.to_vec();
            let rounding = rounding.into_iter().map(|part| (part, node));
            self.layer_of.extend(rounding);
            self.attentions.insert(node, attention);
        }
    }

    /// Which nodes outputs need, and how often each is read.
    fn count(&mut self) {
        let outputs = self.graph.outputs().iter();
        let mut open: Vec<usize> = Vec::new();
        for output in outputs {
            if let Value::Node(node) = output.value {
                self.uses[node] += 1;
                open.push(node);
            }
        }
        while let Some(node) = open.pop() {
            if std::mem::replace(&mut self.is_needed[node], true) {
                continue;
            }
            for &operand in &self.operands[node] {
                if let Value::Node(source) = operand {
                    self.uses[source] += 1;
                    self.readers[source] = Some(node);
                    open.push(source);
                }
            }
        }
    }

    /// The node that alone reads another, and nothing else does.
    fn reader(&self, node: usize) -> Option<usize> {
        self.readers[node].filter(|_| self.uses[node] == 1)
    }

    /// Finds what a linear layer computes beside itself.
    fn follow(&mut self, layer: usize, shapes: &Shapes) {
        let mut last = layer;
        let is_gelu = |node: &usize| self.graph.nodes()[*node].op == Op::Unary(UnaryOp::GeluTanh);
        if let Some(gelu) = self.reader(layer).filter(is_gelu) {
            self.layer_of.insert(gelu, layer);
            last = gelu;
        }
        if !self.layers.contains_key(&layer) {
            return;
        }
        if let Some((nodes, scale)) = self.rounding(last, shapes) {
            self.layer_of
                .extend(nodes.into_iter().map(|node| (node, layer)));
            let found = self.layers.get_mut(&layer);
            found.expect("a layer on codes").output = Some(scale);
        }
    }

    /// The nodes that make codes of a node's result, if nothing else reads it and there is one
    /// scale, which is there from the beginning; and that scale.
    fn rounding(&self, node: usize, shapes: &Shapes) -> Option<(Vec<usize>, Value)> {
        let mut nodes = Vec::new();
        let mut last = node;
        if self.graph.nodes()[node].ty.dtype != DType::F32 {
            last = self.reader(last)?;
            nodes.push(last);
        }
        let quotient = self.reader(last)?;
        let codes = self.reader(quotient)?;
        let found = self.graph.quantized(Value::Node(codes))?;
        let is_there = match found.scale {
            Value::Node(scale) => matches!(self.graph.nodes()[scale].op, Op::Constant(_)),
            _ => true,
        };
        let is_one = shapes.of(found.scale).iter().all(|&size| size == 1);
        let is_codes = self.graph.nodes()[codes].ty.dtype == DType::F8E4M3;
        nodes.extend([quotient, codes]);
        (found.value == Value::Node(node) && is_there && is_one && is_codes)
            .then_some((nodes, found.scale))
    }
}

/// Whether there is one scale, or one for each row.
fn is_of_rows(scale: &[usize], codes: &[usize]) -> bool {
    let is_one = scale.iter().all(|&size| size == 1);
    let rows = codes.len() - 1;
    let is_each = scale.len() == codes.len() && scale[..rows] == codes[..rows] && scale[rows] == 1;
    is_one || is_each
}
