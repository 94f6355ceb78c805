//! From units to steps: every operand gets a view, every result a place.
//!
//! A concatenation's operands are written where they belong, as far as a unit writes them and
//! strides can say where; the others are copied. Views that strides cannot say are copied too.
//!
//! ```ignore
//! let lowered = Lowering::new(&graph, &shapes, units).run()?;
//! ```

mod scales;

use std::collections::HashMap;

use tintype_ir::{Binding, Graph, Node, Op, UnaryOp, Value};
use tintype_tensor::{DType, Shape};

use super::codes::Reads;
use super::express::Express;
use super::groups::{Kind, Shapes, Unit};
use super::patterns::pattern_of;
use super::step::{AttentionCall, Codes, Convolution, Product, Step, Work};
use crate::{Error, Expression, Instruction, Place, Result, Store, View};

/// Steps and buffers, before the buffers have addresses.
pub(super) struct Lowered {
    pub(super) steps: Vec<Step>,
    /// The bytes of each buffer.
    pub(super) buffers: Vec<usize>,
    pub(super) outputs: Vec<(String, View)>,
}

pub(super) struct Lowering<'a> {
    graph: &'a Graph,
    reads: &'a Reads<'a>,
    shapes: &'a Shapes,
    binding: &'a Binding,
    /// 1 by each scale that a product or an attention divides by.
    reciprocals: HashMap<Value, View>,
    /// Whether a unit computes the node.
    is_computed: Vec<bool>,
    /// Where a node's result must go.
    destinations: HashMap<usize, View>,
    views: HashMap<Value, View>,
    lowered: Lowered,
}

impl<'a> Lowering<'a> {
    pub(super) fn new(
        graph: &'a Graph,
        reads: &'a Reads<'a>,
        shapes: &'a Shapes,
        binding: &'a Binding,
    ) -> Self {
        Self {
            graph,
            reads,
            shapes,
            binding,
            reciprocals: HashMap::new(),
            is_computed: vec![false; graph.nodes().len()],
            destinations: HashMap::new(),
            views: HashMap::new(),
            lowered: Lowered {
                steps: Vec::new(),
                buffers: Vec::new(),
                outputs: Vec::new(),
            },
        }
    }

    pub(super) fn run(mut self, units: &[Unit]) -> Result<Lowered> {
        // A node inside of a unit may have a value that is never written.
        let mut is_written = vec![false; self.graph.nodes().len()];
        for unit in units {
            for &node in &unit.nodes {
                self.is_computed[node] = true;
                is_written[node] = self.leaves(unit, node);
            }
        }
        self.place_concatenations(&is_written)?;
        self.find_reciprocals()?;
        for unit in units {
            match unit.kind {
                Kind::Generated => self.group(unit, &is_written)?,
                Kind::Single => self.single(unit)?,
            }
        }
        for output in self.graph.outputs() {
            let view = self.view(output.value)?;
            let view = if view.is_contiguous() {
                view
            } else {
                self.copy(&view, &output.name)?
            };
            self.lowered.outputs.push((output.name.clone(), view));
        }
        Ok(self.lowered)
    }

    /// Whether a node of the unit is read by others.
    fn leaves(&self, unit: &Unit, node: usize) -> bool {
        let value = Value::Node(node);
        let mut nodes = (0..self.graph.nodes().len()).filter(|&reader| self.reads.needs(reader));
        nodes.any(|reader| {
            !unit.nodes.contains(&reader) && self.reads.operands(reader).contains(&value)
        }) || self
            .graph
            .outputs()
            .iter()
            .any(|output| output.value == value)
    }

    /// Decides where the operands of each concatenation go, the outermost first.
    fn place_concatenations(&mut self, is_written: &[bool]) -> Result<()> {
        for (index, node) in self.graph.nodes().iter().enumerate().rev() {
            let Op::Concat { axis } = node.op else {
                continue;
            };
            if !self.reads.needs(index) {
                continue;
            }
            let whole = match self.destinations.get(&index) {
                Some(view) => view.clone(),
                None => self.buffer(node.ty.dtype, self.shapes.of(Value::Node(index)))?,
            };
            let mut start = 0;
            for &operand in &node.operands {
                let end = start + self.shapes.of(operand)[axis];
                self.place(operand, whole.slice(axis, start, end), is_written);
                start = end;
            }
            self.destinations.insert(index, whole);
        }
        Ok(())
    }

    /// Has what computes a value write to `view`, if that is possible and it writes nowhere else.
    fn place(&mut self, value: Value, view: View, is_written: &[bool]) {
        let Value::Node(index) = value else { return };
        let node = &self.graph.nodes()[index];
        if let Op::Reshape { .. } = node.op {
            let source = node.operands[0];
            if let Some(view) = view.reshape(self.shapes.of(source)) {
                self.place(source, view, is_written);
            }
            return;
        }
        let is_concat = matches!(node.op, Op::Concat { .. });
        let may_be_product = matches!(node.op, Op::Linear | Op::MatMul) || self.is_of_layer(index);
        let takes_strides = self.is_computed[index]
            && is_written[index]
            && (!may_be_product || view.matrices().is_some())
            && !is_special(&node.op);
        if is_concat || takes_strides {
            self.destinations.entry(index).or_insert(view);
        }
    }

    /// The view of a value that has been computed.
    fn view(&mut self, value: Value) -> Result<View> {
        if let Some(view) = self.views.get(&value) {
            return Ok(view.clone());
        }
        let shape = self.shapes.of(value);
        let view = match value {
            Value::Input(index) => self.plain(Place::Input(index), value, shape),
            Value::Parameter(index) => self.plain(Place::Parameter(index), value, shape),
            Value::Node(index) => {
                let node = &self.graph.nodes()[index];
                match node.op {
                    Op::Constant(_) => self.plain(Place::Constant(index), value, shape),
                    Op::Concat { axis } => self.concatenation(index, node, axis)?,
                    _ => self.movement(node, shape)?,
                }
            }
        };
        self.views.insert(value, view.clone());
        Ok(view)
    }

    fn plain(&self, place: Place, value: Value, shape: &[usize]) -> View {
        View::contiguous(place, self.graph.type_of(value).dtype, shape)
    }

    /// A view of a view, by way of a copy where strides cannot say it.
    fn movement(&mut self, node: &Node, shape: &[usize]) -> Result<View> {
        let source = self.view(node.operands[0])?;
        if let Some(view) = self.moved(node, &source, shape)? {
            return Ok(view);
        }
        let label = label_of(node);
        let copy = self.copy(&source, &label)?;
        if let Some(&indices) = node.operands.get(1) {
            let view = self.view(indices)?;
            let plain = self.copy(&view, &label)?;
            self.views.insert(indices, plain);
        }
        let moved = self.moved(node, &copy, shape)?;
        moved
            .ok_or_else(|| Error::unsupported(node.op.name(), format!("to {}", Shape::from(shape))))
    }

    fn moved(&mut self, node: &Node, source: &View, shape: &[usize]) -> Result<Option<View>> {
        let size = |dim| self.binding.evaluate(dim);
        Ok(match &node.op {
            Op::Reshape { .. } => source.reshape(shape),
            Op::Broadcast { .. } => Some(source.broadcast(shape)),
            Op::Transpose { permutation } => Some(source.transpose(permutation)),
            Op::Slice { axis, start, end } => Some(source.slice(*axis, size(start)?, size(end)?)),
            Op::Gather { axis } => {
                let indices = self.view(node.operands[1])?;
                source.gather(*axis, &indices)
            }
            Op::GatherRows => {
                let indices = self.view(node.operands[1])?;
                source.gather_rows(&indices)
            }
            Op::UpsampleNearest { factor } => {
                let s = source.shape();
                let apart = source.reshape(&[s[0], s[1], s[2], 1, s[3], 1]);
                let repeated =
                    apart.map(|view| view.broadcast(&[s[0], s[1], s[2], *factor, s[3], *factor]));
                match repeated {
                    Some(view) => self.copy(&view, &label_of(node))?.reshape(shape),
                    None => None,
                }
            }
            op => return Err(Error::unsupported(op.name(), "it has no result here")),
        })
    }

    /// The whole of a concatenation, once every operand is there.
    fn concatenation(&mut self, index: usize, node: &Node, axis: usize) -> Result<View> {
        let whole = self.destinations[&index].clone();
        let mut start = 0;
        for &operand in &node.operands {
            let view = self.view(operand)?;
            let end = start + self.shapes.of(operand)[axis];
            let part = whole.slice(axis, start, end);
            if !view.is_same(&part) {
                self.copy_to(&view, part, &label_of(node));
            }
            start = end;
        }
        Ok(whole)
    }

    fn buffer(&mut self, dtype: DType, shape: &[usize]) -> Result<View> {
        self.lowered
            .buffers
            .push(Shape::from(shape).byte_len(dtype)?);
        let place = Place::Buffer(self.lowered.buffers.len() - 1);
        Ok(View::contiguous(place, dtype, shape))
    }

    fn copy(&mut self, view: &View, label: &str) -> Result<View> {
        let target = self.buffer(view.dtype, &view.shape())?;
        self.copy_to(view, target.clone(), label);
        Ok(target)
    }

    fn copy_to(&mut self, view: &View, target: View, label: &str) {
        let expression = Expression {
            domain: view.shape(),
            row_axes: 0,
            instructions: vec![Instruction::Load(0)],
            loads: vec![view.clone()],
            stores: vec![Store {
                value: 0,
                view: target,
                scale: None,
            }],
        };
        self.push(
            label.to_owned(),
            "copy".to_owned(),
            Work::Kernel(expression),
        );
    }

    fn push(&mut self, label: String, name: String, work: Work) {
        // Nothing is written where there are no elements.
        if work.writes().iter().all(|view| view.count() == 0) {
            return;
        }
        self.lowered.steps.push(Step { label, name, work });
    }

    /// Where the result of a node goes; from now on its view.
    fn destination(&mut self, index: usize) -> Result<View> {
        let value = Value::Node(index);
        let view = match self.destinations.get(&index) {
            Some(view) => view.clone(),
            None => self.buffer(self.graph.nodes()[index].ty.dtype, self.shapes.of(value))?,
        };
        self.views.insert(value, view.clone());
        Ok(view)
    }

    fn group(&mut self, unit: &Unit, is_written: &[bool]) -> Result<()> {
        let mut views = HashMap::new();
        for &index in &unit.nodes {
            let node = &self.graph.nodes()[index];
            for &operand in &node.operands {
                if !matches!(operand, Value::Node(inner) if unit.nodes.contains(&inner)) {
                    views.insert(operand, self.operand_of_group(node, operand)?);
                }
            }
        }
        let mut express = Express::new(self.graph, unit);
        for &index in &unit.nodes {
            express.add(index, &views)?;
        }
        let (mut expression, known) = express.finish();
        let domain = super::express::Domain::of(unit);
        for &index in unit.nodes.iter().filter(|&&index| is_written[index]) {
            let view = domain.view(&self.destination(index)?);
            let mut value = known[&Value::Node(index)];
            // The store rounds, so a rounding to the same dtype before it is none.
            while let Instruction::Cast(dtype, x) = expression.instructions[value]
                && dtype == view.dtype
                && dtype.is_float()
            {
                value = x;
            }
            expression.stores.push(Store {
                value,
                view,
                scale: None,
            });
        }
        let nodes = || unit.nodes.iter().map(|&index| &self.graph.nodes()[index]);
        let operations: Vec<&str> = nodes().map(|node| node.op.name()).collect();
        let label = nodes().next_back().map(label_of).unwrap_or_default();
        self.push(label, pattern_of(&operations), Work::Kernel(expression));
        Ok(())
    }

    fn operand_of_group(&mut self, node: &Node, operand: Value) -> Result<View> {
        let view = self.view(operand)?;
        let is_table = node.op == Op::Rotary && node.operands[1] == operand;
        let s = view.shape();
        if is_table && view.reshape(&[s[0], 1, s[1] * s[2]]).is_none() {
            return self.copy(&view, &label_of(node));
        }
        Ok(view)
    }

    fn single(&mut self, unit: &Unit) -> Result<()> {
        let first = *unit.nodes.first().expect("a unit has nodes");
        let last = *unit.nodes.last().expect("a unit has nodes");
        let node = &self.graph.nodes()[first];
        let codes = self.codes(first)?;
        let mut x = Vec::new();
        for &operand in &self.reads.operands(first)[..node.operands.len()] {
            let view = self.view(operand)?;
            let view = if is_taken(&node.op, &view) {
                view
            } else {
                self.copy(&view, &label_of(node))?
            };
            x.push(view);
        }
        let output = self.destination(last)?;
        let mut nodes = unit.nodes.iter().map(|&node| &self.graph.nodes()[node].op);
        let gelu = nodes.any(|op| *op == Op::Unary(UnaryOp::GeluTanh));
        let narrow = self.reads.attention(first);
        let is_rounded = codes.as_ref().map(|codes| codes.output.is_some());
        let name = name_of(&node.op, gelu, is_rounded.or(narrow.map(|_| true)));
        let mut work = work_of(node, x, output, gelu, codes);
        if let (Some(narrow), Work::Attention(call)) = (narrow, &mut work) {
            call.scales = narrow.scales;
            call.output_factor = Some(self.reciprocals[&narrow.output_scale].clone());
        }
        self.push(label_of(node), name, work);
        Ok(())
    }

    /// Whether a linear layer computes a node beside itself.
    fn is_of_layer(&self, node: usize) -> bool {
        let layer = self.reads.layer_of(node);
        layer.is_some_and(|layer| self.graph.nodes()[layer].op == Op::Linear)
    }
}

/// What listings call a product or another operation; of one on codes, whether its result is
/// rounded to codes.
fn name_of(op: &Op, gelu: bool, codes: Option<bool>) -> String {
    let prefix = if codes.is_some() { "fp8_" } else { "" };
    let activation = if gelu { "_gelu" } else { "" };
    let rounding = if codes == Some(true) { "_quantize" } else { "" };
    format!("{prefix}{}{activation}{rounding}", op.name())
}

fn work_of(node: &Node, mut x: Vec<View>, output: View, gelu: bool, codes: Option<Codes>) -> Work {
    match &node.op {
        Op::Linear | Op::MatMul => {
            let bias = (x.len() > 2).then(|| x.remove(2));
            let weight = x.remove(1);
            Work::Product(Product {
                input: x.remove(0),
                weight,
                bias,
                gelu,
                is_linear: node.op == Op::Linear,
                output,
                codes,
            })
        }
        Op::Attention(attributes) => {
            let bias = (x.len() > 3).then(|| x.remove(3));
            let [query, key, value] = [0, 1, 2].map(|place| x[place].clone());
            Work::Attention(AttentionCall {
                query_key_value: [query, key, value],
                scales: [1.0; 3],
                bias,
                attributes: attributes.clone(),
                output,
                output_factor: None,
            })
        }
        Op::Conv2d(attributes) => {
            let bias = (x.len() > 2).then(|| x.remove(2));
            let weight = x.remove(1);
            Work::Convolution(Convolution {
                input: x.remove(0),
                weight,
                bias,
                attributes: attributes.clone(),
                output,
            })
        }
        op => Work::Special {
            op: op.clone(),
            inputs: x,
            output,
        },
    }
}

/// Whether a library, or a kernel that is no generated one, can read a view as it is.
fn is_taken(op: &Op, view: &View) -> bool {
    let unit_stride = view
        .axes
        .last()
        .is_none_or(|axis| axis.stride == 1 || axis.size == 1);
    match op {
        Op::Linear => view.matrices().is_some(),
        Op::MatMul => {
            let rank = view.axes.len();
            let mut turned: Vec<usize> = (0..rank).collect();
            turned.swap(rank - 1, rank - 2);
            let gathered = |view: &View| {
                view.matrices().is_some_and(|found| {
                    let shape = view.shape();
                    found.rows == shape[rank - 2] || found.batch == 1
                })
            };
            gathered(view) || gathered(&view.transpose(&turned))
        }
        Op::Attention(_) => view.index.is_none() && unit_stride,
        _ => view.is_contiguous(),
    }
}

/// What writes its result row-major only.
fn is_special(op: &Op) -> bool {
    matches!(
        op,
        Op::Conv2d(_) | Op::ArgMax | Op::RelativeBuckets(_) | Op::RotaryTable { .. }
    )
}

fn label_of(node: &Node) -> String {
    node.label.as_deref().unwrap_or_default().to_owned()
}
