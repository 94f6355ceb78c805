//! Rewrites that bring quantizing next to what computes the value, so that both are one step.
//!
//! Quantizing is a division by a scale and a rounding, of each element for itself; what moves
//! elements can as well move their codes. The values stay the same to the bit.
//!
//! ```ignore
//! let graph = quantized_by_parts(&attention_by_queries(&graph)?)?;
//! ```

use tintype_ir::passes::Rewriter;
use tintype_ir::{BinaryOp, Dim, Graph, Node, Op, Result, Value};
use tintype_tensor::DType;

/// Codes of a concatenation become the concatenation of codes, and those of an attention that was
/// reshaped are reshaped themselves.
pub(super) fn quantized_by_parts(graph: &Graph) -> Result<Graph> {
    let uses = graph.use_counts();
    Rewriter::rewrite(graph, |rewriter, index, node| {
        let Some(found) = graph.quantized(Value::Node(index)) else {
            return Ok(None);
        };
        let parts = Parts {
            graph,
            uses: &uses,
            scale: rewriter.map(found.scale),
            dtype: node.ty.dtype,
        };
        if graph.type_of(found.scale).rank() != 0 || !parts.are_in(found.value) {
            return Ok(None);
        }
        parts.codes(rewriter, found.value).map(Some)
    })
}

/// A value that is quantized once it is put together.
struct Parts<'a> {
    graph: &'a Graph,
    uses: &'a [usize],
    /// In the new graph.
    scale: Value,
    dtype: DType,
}

impl Parts<'_> {
    /// Whether codes of what a value is made of can be put together instead.
    fn are_in(&self, value: Value) -> bool {
        match self.only_here(value) {
            Some(node) => match node.op {
                Op::Concat { .. } => true,
                Op::Reshape { .. } => {
                    let source = node.operands[0];
                    let attention = self.only_here(source).map(|node| &node.op);
                    matches!(attention, Some(Op::Attention(_))) || self.are_in(source)
                }
                _ => false,
            },
            None => false,
        }
    }

    /// The node of a value that nothing else reads.
    fn only_here(&self, value: Value) -> Option<&Node> {
        let Value::Node(index) = value else {
            return None;
        };
        (self.uses[index] == 1).then(|| &self.graph.nodes()[index])
    }

    /// The codes of a value, in the new graph.
    fn codes(&self, rewriter: &mut Rewriter<'_>, value: Value) -> Result<Value> {
        let node = self.only_here(value).filter(|_| self.are_in(value));
        if let Some(node) = node {
            let parts = node.operands.iter();
            let parts: Result<Vec<Value>> = parts.map(|&part| self.codes(rewriter, part)).collect();
            return rewriter.op(node.op.clone(), &parts?);
        }
        let wide = rewriter.cast(rewriter.map(value), DType::F32)?;
        let quotient = rewriter.op(Op::Binary(BinaryOp::Div), &[wide, self.scale])?;
        rewriter.cast(quotient, self.dtype)
    }
}

/// An attention of codes of which several readers quantize rows, each with a scale of its own,
/// becomes an attention for each: rows do not depend on one another, and a library that writes
/// codes has one scale for all of them. Rows that nobody reads are not computed.
pub(super) fn attention_by_queries(graph: &Graph) -> Result<Graph> {
    let readers = Readers::of(graph);
    Rewriter::rewrite(graph, |rewriter, _, node| {
        let Op::Slice {
            axis: 1,
            start,
            end,
        } = &node.op
        else {
            return Ok(None);
        };
        let Some(attention) = readers.sliced_attention(node.operands[0]) else {
            return Ok(None);
        };
        let Some(query) = graph.dequantized(attention.operands[0]) else {
            return Ok(None);
        };
        let rows = Op::Slice {
            axis: 1,
            start: start.clone(),
            end: end.clone(),
        };
        let codes = rewriter.op(rows, &[rewriter.map(query.codes)])?;
        let wide = rewriter.cast(codes, DType::F32)?;
        let scale = rewriter.map(query.scale);
        let product = rewriter.op(Op::Binary(BinaryOp::Mul), &[wide, scale])?;
        let mut operands = vec![rewriter.cast(product, attention.ty.dtype)?];
        operands.extend(attention.operands[1..].iter().map(|&x| rewriter.map(x)));
        let rows = rewriter.op(attention.op.clone(), &operands)?;
        let dims = node.ty.dims.clone();
        rewriter.op(Op::Reshape { dims }, &[rows]).map(Some)
    })
}

/// Who reads the nodes of a graph.
pub(super) struct Readers<'a> {
    graph: &'a Graph,
    /// For each node, the nodes that read it; none of a node that is an output.
    nodes: Vec<Vec<usize>>,
}

impl<'a> Readers<'a> {
    pub(super) fn of(graph: &'a Graph) -> Self {
        let mut nodes = vec![Vec::new(); graph.nodes().len()];
        for (reader, node) in graph.nodes().iter().enumerate() {
            for &operand in &node.operands {
                if let Value::Node(index) = operand {
                    nodes[index].push(reader);
                }
            }
        }
        for output in graph.outputs() {
            if let Value::Node(index) = output.value {
                nodes[index].clear();
            }
        }
        Self { graph, nodes }
    }

    /// The nodes that read a node; none where the graph gives it away.
    pub(super) fn of_node(&self, node: usize) -> &[usize] {
        &self.nodes[node]
    }

    fn only(&self, node: usize) -> Option<usize> {
        match self.nodes[node][..] {
            [reader] => Some(reader),
            _ => None,
        }
    }

    /// The codes that a node becomes and their scale, if nothing else is done with it.
    pub(super) fn codes_of(&self, node: usize) -> Option<(usize, Value)> {
        let mut codes = node;
        // To f32, divided, rounded.
        for _ in 0..3 {
            codes = self.only(codes)?;
            if let Some(found) = self.graph.quantized(Value::Node(codes)) {
                let is_one = self.graph.type_of(found.scale).rank() == 0;
                return (found.value == Value::Node(node) && is_one)
                    .then_some((codes, found.scale));
            }
        }
        None
    }

    /// The attention of codes without mask that a value is, reshaped, if all that is read of it
    /// are one or two runs of rows, and those are quantized.
    fn sliced_attention(&self, value: Value) -> Option<&'a Node> {
        let Value::Node(reshape) = value else {
            return None;
        };
        let Op::Reshape { dims } = &self.graph.nodes()[reshape].op else {
            return None;
        };
        let Value::Node(index) = self.graph.nodes()[reshape].operands[0] else {
            return None;
        };
        let attention = &self.graph.nodes()[index];
        let Op::Attention(attributes) = &attention.op else {
            return None;
        };
        let is_narrow = |&operand: &Value| self.graph.dequantized(operand).is_some();
        let fits = !attributes.causal
            && attention.operands.len() == 3
            && attention.operands.iter().all(is_narrow)
            && dims[..2] == attention.ty.dims[..2]
            && self.only(index) == Some(reshape);
        (fits && self.are_runs(&self.nodes[reshape])).then_some(attention)
    }

    /// Whether nodes are quantized slices of rows that have none in common.
    fn are_runs(&self, slices: &[usize]) -> bool {
        let run = |&slice: &usize| -> Option<(&Dim, &Dim)> {
            match &self.graph.nodes()[slice].op {
                Op::Slice {
                    axis: 1,
                    start,
                    end,
                } => self.codes_of(slice).map(|_| (start, end)),
                _ => None,
            }
        };
        let runs: Option<Vec<_>> = slices.iter().map(run).collect();
        match runs.as_deref() {
            Some([_]) => true,
            Some([first, second]) => first.1 == second.0 || second.1 == first.0,
            _ => false,
        }
    }
}
