//! What fusions look at a graph with.
//!
//! A match starts at a *root* and walks towards operands. Nodes that the fused
//! operation will replace are *inner*: they are written down as they are passed, and
//! a match holds only if nobody else reads them. Casts between floats on the way are
//! passed too, since a fused operation computes in f32 and rounds once: leaving them
//! out can only remove roundings.
//!
//! At the edge, where a match meets its operands, only casts that lose nothing are
//! looked through: rounding an operand is the graph's own decision.

use std::sync::Arc;

use tintype_tensor::DType;

use crate::{BinaryOp, Graph, Node, Op, Stage, TensorType, UnaryOp, Value};

/// A graph with the uses and stages of its values, and the inner nodes of the match at hand.
pub(super) struct Matcher<'g> {
    pub(super) graph: &'g Graph,
    users: Vec<Vec<usize>>,
    stages: Vec<Stage>,
    inner: Vec<usize>,
}

/// One factor of a product.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Factor {
    /// `v`
    Value(Value),
    /// `1/v`
    Inverse(Value),
    /// `1/√v`
    InverseSqrt(Value),
}

/// A product taken apart: a number and the factors that are no numbers.
#[derive(Debug, Clone)]
pub(super) struct Product {
    pub(super) scale: f32,
    pub(super) factors: Vec<Factor>,
}

impl Product {
    /// The two plain factors of a product without a number.
    pub(super) fn pair(&self) -> Option<[Value; 2]> {
        match self.factors.as_slice() {
            [Factor::Value(a), Factor::Value(b)] => Some([*a, *b]),
            _ => None,
        }
    }

    /// The factor that is `1/√v`, taken out.
    pub(super) fn take_inverse_sqrt(&mut self) -> Option<Value> {
        let is_one = |factor: &Factor| matches!(factor, Factor::InverseSqrt(_));
        let position = self.factors.iter().position(is_one)?;
        match self.factors.remove(position) {
            Factor::InverseSqrt(value) => Some(value),
            _ => None,
        }
    }

    /// Takes one factor `value` out.
    pub(super) fn take_value(&mut self, value: Value) -> Option<()> {
        let wanted = Factor::Value(value);
        let position = self.factors.iter().position(|factor| *factor == wanted)?;
        self.factors.remove(position);
        Some(())
    }
}

/// A reader outside of the graph: an output.
const OUTPUT: usize = usize::MAX;

impl<'g> Matcher<'g> {
    pub(super) fn new(graph: &'g Graph) -> Self {
        let mut users = vec![Vec::new(); graph.nodes.len()];
        let mut read = |value: Value, user: usize| {
            if let Value::Node(index) = value {
                users[index].push(user);
            }
        };
        for (index, node) in graph.nodes.iter().enumerate() {
            node.operands
                .iter()
                .for_each(|&operand| read(operand, index));
        }
        graph
            .outputs
            .iter()
            .for_each(|output| read(output.value, OUTPUT));
        Self {
            graph,
            users,
            stages: graph.stages(),
            inner: Vec::new(),
        }
    }

    /// Begins a match.
    pub(super) fn begin(&mut self) {
        self.inner.clear();
    }

    /// Whether only inner nodes and the root read the inner nodes.
    pub(super) fn is_closed(&self, root: usize) -> bool {
        let inside = |user: &usize| *user == root || self.inner.contains(user);
        self.inner
            .iter()
            .all(|&index| index == root || self.users[index].iter().all(inside))
    }

    /// Tries one way; if it fails, what it took for inner is forgotten.
    pub(super) fn attempt<T>(&mut self, way: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let before = self.inner.len();
        let found = way(self);
        if found.is_none() {
            self.inner.truncate(before);
        }
        found
    }

    /// The label of the first inner node that has one.
    pub(super) fn inner_label(&self) -> Option<Arc<str>> {
        let mut labels = self.inner.iter().map(|&index| &self.node(index).label);
        labels.find_map(Clone::clone)
    }

    pub(super) fn node(&self, index: usize) -> &'g Node {
        &self.graph.nodes[index]
    }

    pub(super) fn type_of(&self, value: Value) -> &'g TensorType {
        self.graph.type_of(value)
    }

    pub(super) fn stage_of(&self, value: Value) -> Stage {
        self.graph.stage_of(value, &self.stages)
    }

    /// The node behind a value and casts between floats, all of them inner from now on.
    pub(super) fn inner(&mut self, value: Value) -> Option<&'g Node> {
        let mut value = value;
        loop {
            let Value::Node(index) = value else {
                return None;
            };
            self.inner.push(index);
            let node = self.node(index);
            match self.float_cast(node) {
                Some(source) => value = source,
                None => return Some(node),
            }
        }
    }

    /// The operand of a cast between floats.
    fn float_cast(&self, node: &Node) -> Option<Value> {
        let [source] = node.operands.as_slice() else {
            return None;
        };
        let from = self.type_of(*source).dtype;
        let is_cast = matches!(node.op, Op::Cast { dtype } if dtype.is_float() && from.is_float());
        is_cast.then_some(*source)
    }

    /// The value behind casts that lose nothing.
    pub(super) fn peel(&self, value: Value) -> Value {
        peel(self.graph, value)
    }

    /// The number that fills a constant, seen through casts and changes of shape.
    pub(super) fn scalar(&self, value: Value) -> Option<f32> {
        let node = self.graph.node_of(value)?;
        match &node.op {
            Op::Constant(constant) => constant.as_splat(),
            Op::Cast { dtype } if dtype.is_float() => {
                self.scalar(node.operands[0]).map(|v| dtype.round(v))
            }
            Op::Broadcast { .. } | Op::Reshape { .. } => self.scalar(node.operands[0]),
            _ => None,
        }
    }

    /// Whether `value` is the number `expected`, or that rounded to the value's dtype or
    /// to a dtype that it was cast from.
    pub(super) fn is_number(&self, value: Value, expected: f32) -> bool {
        let rounded = |dtype: DType| dtype.round(expected);
        self.scalar(value).is_some_and(|found| {
            near(found, expected) || found == rounded(DType::BF16) || found == rounded(DType::F16)
        })
    }

    /// The other operand of a commutative operation that has one for which `holds`.
    pub(super) fn split_scalar(&self, node: &Node) -> Option<(f32, Value)> {
        let [a, b] = node.operands.as_slice() else {
            return None;
        };
        match (self.scalar(*a), self.scalar(*b)) {
            (None, Some(number)) => Some((number, *a)),
            (Some(number), None) => Some((number, *b)),
            _ => None,
        }
    }

    /// The operands of an inner addition.
    pub(super) fn addends(&mut self, value: Value) -> Option<[Value; 2]> {
        match self.inner(value)? {
            Node {
                op: Op::Binary(BinaryOp::Add),
                operands,
                ..
            } => Some([operands[0], operands[1]]),
            _ => None,
        }
    }

    /// `1 + v`: gives `v`.
    pub(super) fn one_plus(&mut self, value: Value) -> Option<Value> {
        let [a, b] = self.addends(value)?;
        match (self.scalar(a), self.scalar(b)) {
            (Some(1.0), None) => Some(b),
            (None, Some(1.0)) => Some(a),
            _ => None,
        }
    }

    /// The operand of an inner unary operation.
    pub(super) fn unary(&mut self, op: UnaryOp, value: Value) -> Option<Value> {
        let node = self.inner(value)?;
        (node.op == Op::Unary(op)).then(|| node.operands[0])
    }

    /// The product that the root computes; none if it is no multiplication.
    pub(super) fn root_product(&mut self, root: usize) -> Option<Product> {
        let node = self.node(root);
        matches!(node.op, Op::Binary(BinaryOp::Mul | BinaryOp::Div)).then(|| {
            let mut product = Product {
                scale: 1.0,
                factors: Vec::new(),
            };
            self.take_apart(node, false, &mut product);
            product
        })
    }

    /// A value as a product, taken apart through nodes that have a single use.
    pub(super) fn product(&mut self, value: Value) -> Product {
        let mut product = Product {
            scale: 1.0,
            factors: Vec::new(),
        };
        self.multiply(value, false, &mut product);
        product
    }

    fn multiply(&mut self, value: Value, inverse: bool, product: &mut Product) {
        if let Some(number) = self.scalar(value) {
            product.scale *= if inverse { 1.0 / number } else { number };
            return;
        }
        let before = self.inner.len();
        if let Some(node) = self.single_use(value)
            && self.take_apart(node, inverse, product)
        {
            return;
        }
        self.inner.truncate(before);
        let value = self.peel(value);
        product.factors.push(if inverse {
            Factor::Inverse(value)
        } else {
            Factor::Value(value)
        });
    }

    /// Multiplies the operands of a node in; false if it is no product.
    fn take_apart(&mut self, node: &Node, inverse: bool, product: &mut Product) -> bool {
        match (&node.op, node.operands.as_slice()) {
            (Op::Binary(BinaryOp::Mul), &[a, b]) => {
                self.multiply(a, inverse, product);
                self.multiply(b, inverse, product);
            }
            (Op::Binary(BinaryOp::Div), &[a, b]) => {
                self.multiply(a, inverse, product);
                self.multiply(b, !inverse, product);
            }
            (Op::Binary(BinaryOp::Pow), &[a, b]) if !inverse => match self.scalar(b) {
                Some(power) if power == 2.0 || power == 3.0 => {
                    let factor = Factor::Value(self.peel(a));
                    let times = power as usize;
                    product.factors.extend(std::iter::repeat_n(factor, times));
                }
                Some(-0.5) => product.factors.push(Factor::InverseSqrt(a)),
                _ => return false,
            },
            (Op::Unary(UnaryOp::Reciprocal), &[a]) => self.multiply(a, !inverse, product),
            (Op::Unary(UnaryOp::Sqrt), &[a]) if inverse => {
                product.factors.push(Factor::InverseSqrt(a));
            }
            (Op::Unary(UnaryOp::Rsqrt), &[a]) if !inverse => {
                product.factors.push(Factor::InverseSqrt(a));
            }
            _ => return false,
        }
        true
    }

    /// The node behind a value and casts, if each is read once; they are inner then.
    fn single_use(&mut self, value: Value) -> Option<&'g Node> {
        let mut value = value;
        loop {
            let Value::Node(index) = value else {
                return None;
            };
            if self.users[index].len() != 1 {
                return None;
            }
            self.inner.push(index);
            let node = self.node(index);
            match self.float_cast(node) {
                Some(source) => value = source,
                None => return Some(node),
            }
        }
    }
}

/// The value behind casts from bf16 or f16 to f32.
pub(super) fn peel(graph: &Graph, value: Value) -> Value {
    let Some(node) = graph.node_of(value) else {
        return value;
    };
    match (&node.op, node.operands.as_slice()) {
        (Op::Cast { dtype: DType::F32 }, &[source])
            if matches!(graph.type_of(source).dtype, DType::BF16 | DType::F16) =>
        {
            source
        }
        _ => value,
    }
}

/// Whether two numbers of a formula are the same, written with about seven digits.
pub(super) fn near(found: f32, expected: f32) -> bool {
    (found - expected).abs() <= expected.abs() * 1e-6
}
