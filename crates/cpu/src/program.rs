//! A graph prepared for execution: operations that run as one kernel are joined,
//! and every value is freed after its last use.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use tintype_backend::{Error, Result};
use tintype_ir::{Binding, Graph, Node, Op, UnaryOp, Value as Reference};
use tintype_tensor::DType;

use crate::buffer::Pool;
use crate::evaluate::{Call, Kernel, evaluate};
use crate::kernels::Activation;
use crate::value::Value;

/// A program in execution order.
#[derive(Debug)]
pub(crate) struct Program {
    graph: Graph,
    steps: Vec<Step>,
    /// For each node: whether its result is kept as weights are.
    stored: Vec<bool>,
}

/// One kernel call.
#[derive(Debug)]
struct Step {
    /// The node whose result it makes.
    node: usize,
    kernel: Kernel,
    operands: Vec<Reference>,
    /// Nodes whose results nobody reads later.
    frees: Vec<usize>,
}

impl Program {
    /// Plans the execution of a graph.
    pub(crate) fn new(graph: Graph) -> Self {
        let steps = joined_steps(&graph);
        let stored = vec![false; graph.nodes().len()];
        let mut program = Self {
            graph,
            steps,
            stored,
        };
        program.find_last_uses();
        program
    }

    /// The same with outputs as weights are kept, in their own dtype, from the moment
    /// they are computed: a weight program ends with all of them.
    pub(crate) fn storing_outputs(mut self) -> Self {
        for output in self.graph.outputs() {
            if let Reference::Node(index) = output.value {
                self.stored[index] = true;
            }
        }
        self
    }

    /// The graph.
    pub(crate) fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Computes the outputs, or those that are `wanted`. `leaf` gives inputs and
    /// parameters; it is asked again at every use.
    pub(crate) fn run(
        &self,
        binding: &Binding,
        leaf: &dyn Fn(Reference) -> Result<Value>,
        wanted: Option<&HashSet<&str>>,
        pool: &Arc<Pool>,
    ) -> Result<Vec<(String, Value)>> {
        let is_wanted = |name: &str| wanted.is_none_or(|wanted| wanted.contains(name));
        let needed = self.needed(&is_wanted);
        let mut values: Vec<Option<Value>> = vec![None; self.graph.nodes().len()];
        let read = |values: &[Option<Value>], reference: Reference| match reference {
            Reference::Node(index) => Ok(values[index].clone().expect("computed before its use")),
            leaf_reference => leaf(leaf_reference),
        };
        for step in &self.steps {
            if !needed[step.node] {
                continue;
            }
            let operands: Result<Vec<Value>> = step
                .operands
                .iter()
                .map(|&operand| read(&values, operand))
                .collect();
            let value = self.call(step, &operands?, binding, pool)?;
            values[step.node] = Some(if self.stored[step.node] {
                value.into_weight()?
            } else {
                value
            });
            for &freed in &step.frees {
                values[freed] = None;
            }
        }
        let outputs = self
            .graph
            .outputs()
            .iter()
            .filter(|output| is_wanted(&output.name));
        outputs
            .map(|output| Ok((output.name.clone(), read(&values, output.value)?)))
            .collect()
    }

    fn call(
        &self,
        step: &Step,
        operands: &[Value],
        binding: &Binding,
        pool: &Arc<Pool>,
    ) -> Result<Value> {
        let node = &self.graph.nodes()[step.node];
        let shape = node.ty.shape(binding)?;
        // Values lie in memory as f32 or i64, whatever their dtype.
        shape.byte_len(DType::I64)?;
        let call = Call {
            op: &node.op,
            kernel: step.kernel,
            operands,
            dtype: node.ty.dtype,
            shape,
            binding,
            pool,
        };
        let start = tracing::enabled!(tracing::Level::TRACE).then(Instant::now);
        let result = evaluate(&call);
        if let Some(start) = start {
            let label = node.label.as_deref().unwrap_or("");
            tracing::trace!(
                "{} {} {:?} {label}",
                node.op.name(),
                node.ty,
                start.elapsed()
            );
        }
        result.map_err(|error| match error {
            Error::Value { op, message } => {
                let label = node.label.as_deref();
                Error::Value {
                    op: label.map_or(op.clone(), |label| format!("{op} of `{label}`")),
                    message,
                }
            }
            other => other,
        })
    }

    /// The nodes that wanted outputs depend on.
    fn needed(&self, is_wanted: &dyn Fn(&str) -> bool) -> Vec<bool> {
        let mut needed = vec![false; self.graph.nodes().len()];
        let mut mark = |reference: Reference| {
            if let Reference::Node(index) = reference {
                needed[index] = true;
            }
        };
        for output in self
            .graph
            .outputs()
            .iter()
            .filter(|output| is_wanted(&output.name))
        {
            mark(output.value);
        }
        for step in self.steps.iter().rev() {
            if needed[step.node] {
                for &operand in &step.operands {
                    if let Reference::Node(index) = operand {
                        needed[index] = true;
                    }
                }
            }
        }
        needed
    }

    fn find_last_uses(&mut self) {
        let mut seen = vec![false; self.graph.nodes().len()];
        for output in self.graph.outputs() {
            if let Reference::Node(index) = output.value {
                seen[index] = true;
            }
        }
        for step in self.steps.iter_mut().rev() {
            for &operand in &step.operands {
                if let Reference::Node(index) = operand
                    && !std::mem::replace(&mut seen[index], true)
                {
                    step.frees.push(index);
                }
            }
        }
    }
}

/// A step for each node, except for those that their only reader takes over.
fn joined_steps(graph: &Graph) -> Vec<Step> {
    let uses = graph.use_counts();
    let mut taken = vec![false; graph.nodes().len()];
    let mut steps: Vec<Step> = graph
        .nodes()
        .iter()
        .enumerate()
        .map(|(index, node)| {
            let first = node.operands.first().copied();
            let before = match first {
                Some(Reference::Node(before)) if uses[before] == 1 => Some(before),
                _ => None,
            };
            let joined = before.and_then(|before| {
                let (kernel, operands) = join(node, &graph.nodes()[before])?;
                taken[before] = true;
                Some((kernel, operands))
            });
            let (kernel, operands) =
                joined.unwrap_or_else(|| (Kernel::Plain, node.operands.clone()));
            Step {
                node: index,
                kernel,
                operands,
                frees: Vec::new(),
            }
        })
        .collect();
    steps.retain(|step| !taken[step.node]);
    steps
}

/// The kernel that computes `node` and the node before it in one pass, if there is one.
/// It drops the rounding between the two.
fn join(node: &Node, before: &Node) -> Option<(Kernel, Vec<Reference>)> {
    match (&before.op, &node.op) {
        (Op::Linear, Op::Unary(op)) => {
            let kernel = Kernel::LinearActivation(activation(*op)?);
            Some((kernel, before.operands.clone()))
        }
        (Op::LayerNorm { epsilon }, Op::Modulate) if before.operands.len() == 1 => {
            let operands = [&before.operands[..], &node.operands[1..]].concat();
            Some((Kernel::LayerNormModulate { epsilon: *epsilon }, operands))
        }
        (Op::GroupNorm { groups, epsilon }, Op::Unary(UnaryOp::Silu)) => {
            let kernel = Kernel::GroupNormSilu {
                groups: *groups,
                epsilon: *epsilon,
            };
            Some((kernel, before.operands.clone()))
        }
        _ => None,
    }
}

fn activation(op: UnaryOp) -> Option<Activation> {
    match op {
        UnaryOp::Silu => Some(Activation::Silu),
        UnaryOp::GeluErf => Some(Activation::GeluErf),
        UnaryOp::GeluTanh => Some(Activation::GeluTanh),
        UnaryOp::GeluQuick => Some(Activation::GeluQuick),
        _ => None,
    }
}
