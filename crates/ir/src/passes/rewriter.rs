//! Rebuilds a graph node by node while it maps the values of the source.
//!
//! A pass never changes a graph in place. It walks the source in order and for
//! each node either copies it, puts other nodes in its place, or maps its result
//! to a value that exists already. Inputs, parameters, symbols and output names
//! stay as they are; the label of the node at hand goes to what replaces it.
//!
//! ```
//! use tintype_ir::passes::Rewriter;
//! let text = "graph g { input step %x: f32[2] %0: f32[2] = neg %x %1: f32[2] = neg %0 output y = %1 }";
//! let graph = tintype_ir::parse(text)?;
//! // −(−x) is x.
//! let rewritten = Rewriter::rewrite(&graph, |rewriter, index, _| {
//!     Ok((index == 1).then(|| rewriter.map(tintype_ir::Value::Input(0))))
//! })?;
//! assert!(rewritten.to_string().contains("output y = %x"));
//! # Ok::<(), tintype_ir::Error>(())
//! ```

use std::sync::Arc;

use tintype_tensor::DType;

use crate::{Constant, Graph, Node, Op, Result, TensorType, Value, infer};

/// A new graph in the making, with a value for each node of the source seen so far.
#[derive(Debug)]
pub struct Rewriter<'a> {
    source: &'a Graph,
    graph: Graph,
    mapped: Vec<Value>,
    label: Option<Arc<str>>,
}

impl<'a> Rewriter<'a> {
    /// Begins a graph with the inputs, parameters, symbols and name of `source`.
    pub fn new(source: &'a Graph) -> Self {
        let graph = Graph {
            name: source.name.clone(),
            symbols: source.symbols.clone(),
            parameters: source.parameters.clone(),
            inputs: source.inputs.clone(),
            ..Graph::default()
        };
        Self {
            source,
            graph,
            mapped: Vec::with_capacity(source.nodes.len()),
            label: None,
        }
    }

    /// Walks every node: where `replace` gives a value, it stands for the node's
    /// result from then on; where it gives none, the node is copied.
    pub fn rewrite(
        source: &'a Graph,
        mut replace: impl FnMut(&mut Self, usize, &Node) -> Result<Option<Value>>,
    ) -> Result<Graph> {
        let mut rewriter = Self::new(source);
        for (index, node) in source.nodes.iter().enumerate() {
            rewriter.label.clone_from(&node.label);
            match replace(&mut rewriter, index, node)? {
                Some(value) => rewriter.mapped.push(value),
                None => rewriter.copy(),
            }
        }
        Ok(rewriter.finish())
    }

    /// Copies the next node of the source.
    pub fn copy(&mut self) {
        let node = &self.source.nodes[self.mapped.len()];
        let operands = node.operands.iter().map(|&value| self.map(value)).collect();
        let copy = self.push(Node {
            operands,
            ..node.clone()
        });
        self.mapped.push(copy);
    }

    /// The value of the new graph that stands for one of the source.
    ///
    /// # Panics
    /// For the result of a node that has not been reached yet.
    pub fn map(&self, value: Value) -> Value {
        match value {
            Value::Node(index) => self.mapped[index],
            other => other,
        }
    }

    /// Adds an operation on values of the new graph, with the label at hand.
    pub fn op(&mut self, op: Op, operands: &[Value]) -> Result<Value> {
        let types: Vec<TensorType> = operands.iter().map(|&v| self.type_of(v).clone()).collect();
        let ty = infer(&op, &types)?;
        Ok(self.push(Node {
            op,
            operands: operands.to_vec(),
            ty,
            label: self.label.clone(),
        }))
    }

    /// [`Op::Cast`]; nothing where the dtype is the same.
    pub fn cast(&mut self, value: Value, dtype: DType) -> Result<Value> {
        if self.type_of(value).dtype == dtype {
            return Ok(value);
        }
        self.op(Op::Cast { dtype }, &[value])
    }

    /// A float without axes, so that it broadcasts.
    pub fn scalar(&mut self, dtype: DType, value: f32) -> Result<Value> {
        let constant = Constant::floats(dtype, [], vec![value])?;
        self.op(Op::Constant(constant), &[])
    }

    /// The type of a value of the new graph.
    pub fn type_of(&self, value: Value) -> &TensorType {
        self.graph.type_of(value)
    }

    /// The node of the new graph that makes a value.
    pub fn node_of(&self, value: Value) -> Option<&Node> {
        self.graph.node_of(value)
    }

    /// Nodes added from now on carry this label, until the next node of the source.
    pub fn set_label(&mut self, label: Option<Arc<str>>) {
        self.label = label;
    }

    fn push(&mut self, node: Node) -> Value {
        self.graph.nodes.push(node);
        Value::Node(self.graph.nodes.len() - 1)
    }

    fn finish(mut self) -> Graph {
        let mut outputs = self.source.outputs.clone();
        for output in &mut outputs {
            output.value = self.map(output.value);
        }
        self.graph.outputs = outputs;
        self.graph
    }
}
