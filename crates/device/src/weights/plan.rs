//! In which order a weight program runs, and where each operation does. Pure.

use std::collections::HashSet;

use tintype_ir::{BinaryOp, Graph, Op, Value};
use tintype_tensor::DType;

use super::place::has_kernel;
use crate::{Error, Result};

/// The order of a weight program: output after output, each with what it alone still needs.
///
/// `cast(cast(base) + a · (b · scale))`, which is how a low-rank update reads, is one step: a merge.
///
/// ```
/// let program = tintype_ir::parse(r#"
/// graph "weights" {
///   param @w: bf16[8, 4]
///   param @b: f32[8, 2]
///   param @a: f32[2, 4]
///   %0: f32[8, 4] = cast @w
///   %1: f32[8, 4] = matmul @b, @a
///   %2: f32[8, 4] = add %0, %1
///   %3: bf16[8, 4] = cast %2
///   output w = %3
/// }
/// "#)?;
/// let plan = tintype_device::WeightPlan::new(&program, None)?;
/// assert_eq!((plan.kernels(), plan.merges()), (1, 1));
/// assert_eq!(plan.on_host().count(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct WeightPlan {
    pub(super) steps: Vec<Step>,
}

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Step {
    pub(super) work: Work,
    /// What nobody reads later.
    pub(super) frees: Vec<Value>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Work {
    /// The values of a constant.
    Constant(usize),
    /// A node by its kernel.
    Device(usize),
    /// A node by the evaluator.
    Host(usize),
    /// A node and those before it.
    Merge(usize, Merge),
    /// The output of this index is complete.
    Deliver(usize),
}

/// `base + factors[0] · (scale · factors[1])`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Merge {
    pub(super) base: Value,
    pub(super) factors: [Value; 2],
    /// A parameter of one number, which a kernel is told.
    pub(super) scale: Option<Value>,
}

impl WeightPlan {
    /// Plans the wanted outputs of a weight program, or all.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a graph with inputs or symbols, which is no weight program.
    pub fn new(program: &Graph, wanted: Option<&HashSet<&str>>) -> Result<Self> {
        check_static(program)?;
        let mut planner = Planner {
            uses: program.use_counts(),
            program,
            done: vec![false; program.nodes().len()],
            steps: Vec::new(),
        };
        for (index, output) in program.outputs().iter().enumerate() {
            if wanted.is_none_or(|wanted| wanted.contains(output.name.as_str())) {
                planner.compute(output.value);
                planner.push(Work::Deliver(index));
            }
        }
        let mut plan = Self {
            steps: planner.steps,
        };
        plan.find_last_uses(program);
        Ok(plan)
    }

    /// How many operations run as kernels, merges and views included.
    pub fn kernels(&self) -> usize {
        self.count(|work| matches!(work, Work::Device(_) | Work::Merge(..)))
    }

    /// How many of them are merges.
    pub fn merges(&self) -> usize {
        self.count(|work| matches!(work, Work::Merge(..)))
    }

    /// The nodes that the evaluator computes, constants aside.
    pub fn on_host(&self) -> impl Iterator<Item = usize> {
        self.steps.iter().filter_map(|step| match step.work {
            Work::Host(node) => Some(node),
            _ => None,
        })
    }

    fn count(&self, is_counted: impl Fn(&Work) -> bool) -> usize {
        let works = self.steps.iter().map(|step| &step.work);
        works.filter(|work| is_counted(work)).count()
    }

    fn find_last_uses(&mut self, program: &Graph) {
        let mut seen = HashSet::new();
        for step in self.steps.iter_mut().rev() {
            let read = step.work.reads(program);
            step.frees = read
                .into_iter()
                .filter(|&value| seen.insert(value))
                .collect();
        }
    }
}

impl Work {
    /// What it reads.
    fn reads(&self, program: &Graph) -> Vec<Value> {
        match *self {
            Self::Constant(_) => Vec::new(),
            Self::Device(node) | Self::Host(node) => program.nodes()[node].operands.clone(),
            Self::Merge(_, merge) => {
                let [up, down] = merge.factors;
                [merge.base, up, down]
                    .into_iter()
                    .chain(merge.scale)
                    .collect()
            }
            Self::Deliver(output) => vec![program.outputs()[output].value],
        }
    }
}

struct Planner<'p> {
    program: &'p Graph,
    uses: Vec<usize>,
    done: Vec<bool>,
    steps: Vec<Step>,
}

impl Planner<'_> {
    fn push(&mut self, work: Work) {
        let frees = Vec::new();
        self.steps.push(Step { work, frees });
    }

    /// Appends what `value` still needs, operands first. The stack is one of our own: a chain
    /// of overlays may be as long as a file likes.
    fn compute(&mut self, value: Value) {
        let mut stack = vec![(value, false)];
        while let Some((value, is_ready)) = stack.pop() {
            let Value::Node(node) = value else { continue };
            if self.done[node] {
                continue;
            }
            let work = self.work(node);
            if is_ready {
                self.done[node] = true;
                self.push(work);
                continue;
            }
            stack.push((value, true));
            let reads = work.reads(self.program);
            stack.extend(reads.into_iter().rev().map(|read| (read, false)));
        }
    }

    fn work(&self, node: usize) -> Work {
        let found = &self.program.nodes()[node];
        if matches!(found.op, Op::Constant(_)) {
            return Work::Constant(node);
        }
        if let Some(merge) = self.merge(node) {
            return merge;
        }
        if has_kernel(self.program, found) {
            Work::Device(node)
        } else {
            Work::Host(node)
        }
    }

    /// The merge that ends at `node`, if one does.
    fn merge(&self, node: usize) -> Option<Work> {
        let program = self.program;
        let root = &program.nodes()[node];
        let sum = match root.op {
            Op::Cast { .. } => self.only_used(root.operands[0])?,
            _ => node,
        };
        let sum = &program.nodes()[sum];
        let (Op::Binary(BinaryOp::Add), &[left, right]) = (&sum.op, sum.operands.as_slice()) else {
            return None;
        };
        if sum.ty.dtype != DType::F32 {
            return None;
        }
        let merge_of = |product: Value, below: Value| {
            let product = &program.nodes()[self.only_used(product)?];
            let &[first, second] = product.operands.as_slice() else {
                return None;
            };
            let is_product = matches!(product.op, Op::MatMul) && product.ty.dims == root.ty.dims;
            let base = self.base(below, root.ty.dtype)?;
            let is_base = *program.type_of(base) == root.ty;
            let fits = is_product && is_base && has_kernel(program, product);
            let (down, scale) = self.unscaled(second);
            let merge = Merge {
                base,
                factors: [first, down],
                scale,
            };
            (fits && has_kernel(program, sum) && has_kernel(program, root))
                .then_some(Work::Merge(node, merge))
        };
        merge_of(right, left).or_else(|| merge_of(left, right))
    }

    /// What a factor is without the parameter of one number that it alone is multiplied with.
    fn unscaled(&self, factor: Value) -> (Value, Option<Value>) {
        let program = self.program;
        let found = || {
            let product = &program.nodes()[self.only_used(factor)?];
            let (Op::Binary(BinaryOp::Mul), &[left, right]) =
                (&product.op, product.operands.as_slice())
            else {
                return None;
            };
            let is_scale = |value: Value| {
                let ty = program.type_of(value);
                let count = ty.static_shape().map(|shape| shape.element_count());
                matches!(value, Value::Parameter(_)) && ty.dtype == DType::F32 && count == Some(1)
            };
            let of = |value: Value, scale: Value| {
                let fits = is_scale(scale) && *program.type_of(value) == product.ty;
                fits.then_some((value, Some(scale)))
            };
            of(left, right).or_else(|| of(right, left))
        };
        found().unwrap_or((factor, None))
    }

    /// The value that `below` widens, in the dtype of the result.
    fn base(&self, below: Value, dtype: DType) -> Option<Value> {
        if dtype == DType::F32 {
            return Some(below);
        }
        let cast = self.program.node_of(below)?;
        matches!(cast.op, Op::Cast { .. }).then(|| cast.operands[0])
    }

    /// The node of a value that is read once.
    fn only_used(&self, value: Value) -> Option<usize> {
        match value {
            Value::Node(node) if self.uses[node] == 1 => Some(node),
            _ => None,
        }
    }
}

fn check_static(program: &Graph) -> Result<()> {
    let unsupported = |what: String| {
        let name = program.name();
        Err(Error::Unsupported(format!(
            "`{name}` as a weight program: {what}"
        )))
    };
    if let Some(input) = program.inputs().first() {
        return unsupported(format!("it has an input `{}`", input.name));
    }
    let nodes = program.nodes().iter().map(|node| &node.ty);
    let parameters = program.parameters().iter().map(|parameter| &parameter.ty);
    let fits = |ty: &&tintype_ir::TensorType| {
        let shape = ty.static_shape();
        shape.is_none_or(|shape| shape.byte_len(ty.dtype).is_err())
    };
    match nodes.chain(parameters).find(fits) {
        Some(ty) => unsupported(format!("a value of {ty}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str, wanted: Option<&HashSet<&str>>) -> (Graph, WeightPlan) {
        let graph = tintype_ir::parse(text).unwrap();
        tintype_ir::verify(&graph).unwrap();
        let plan = WeightPlan::new(&graph, wanted).unwrap();
        (graph, plan)
    }

    const TWO_OUTPUTS: &str = r#"
graph "weights" {
  param @a: f32[4]
  param @b: f32[4]
  %0: f32[4] = mul @a, @a
  %1: f32[4] = exp @b
  %2: f32[4] = add %0, %1
  %3: f32[4] = neg @b
  output sum = %2
  output neg = %3
  output same = @a
}
"#;

    #[test]
    fn outputs_come_one_after_the_other_and_values_go_early() {
        let (_, plan) = plan(TWO_OUTPUTS, None);
        let works: Vec<&Work> = plan.steps.iter().map(|step| &step.work).collect();
        let expected = [
            Work::Device(0),
            Work::Host(1),
            Work::Device(2),
            Work::Deliver(0),
            Work::Device(3),
            Work::Deliver(1),
            Work::Deliver(2),
        ];
        assert_eq!(works, expected.iter().collect::<Vec<_>>());
        assert_eq!(plan.steps[2].frees, [Value::Node(0), Value::Node(1)]);
        assert_eq!(plan.steps[3].frees, [Value::Node(2)]);
        assert_eq!(plan.steps[4].frees, [Value::Parameter(1)]);
        assert_eq!(plan.steps[6].frees, [Value::Parameter(0)]);
        assert_eq!(plan.on_host().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn only_what_is_wanted_is_computed() {
        let (_, plan) = plan(TWO_OUTPUTS, Some(&HashSet::from(["neg"])));
        let works: Vec<&Work> = plan.steps.iter().map(|step| &step.work).collect();
        assert_eq!(works, [&Work::Device(3), &Work::Deliver(1)]);
    }

    #[test]
    fn a_product_that_is_read_twice_is_no_merge() {
        let text = r#"
graph "weights" {
  param @w: f32[8, 4]
  param @b: f32[8, 2]
  param @a: f32[2, 4]
  %0: f32[8, 4] = matmul @b, @a
  %1: f32[8, 4] = add %0, @w
  %2: f32[8, 4] = mul %0, %1
  output w = %2
}
"#;
        let (_, plan) = plan(text, None);
        assert_eq!((plan.merges(), plan.kernels()), (0, 3));
    }

    #[test]
    fn a_merge_takes_either_order_and_keeps_a_shared_base() {
        let text = r#"
graph "weights" {
  param @w: f16[8, 4]
  param @b: f32[8, 2]
  param @a: f32[2, 4]
  %0: f32[8, 4] = cast @w
  %1: f32[8, 4] = matmul @b, @a
  %2: f32[8, 4] = add %1, %0
  %3: f16[8, 4] = cast %2
  output w = %3
  output base = %0
}
"#;
        let (_, plan) = plan(text, None);
        let merge = Merge {
            base: Value::Parameter(0),
            factors: [Value::Parameter(1), Value::Parameter(2)],
            scale: None,
        };
        assert_eq!(plan.steps[0].work, Work::Merge(3, merge));
        assert_eq!(plan.merges(), 1);
        // The cast of the base is still there for the other output.
        assert_eq!(plan.steps[2].work, Work::Device(0));
    }

    #[test]
    fn a_scale_of_one_number_is_part_of_a_merge() {
        let text = |scale: &str, product: &str, more: &str| {
            format!(
                r#"
graph "weights" {{
  param @w: f32[8, 4]
  param @b: f32[8, 2]
  param @a: f32[2, 4]
  param @s: f32[{scale}]
  %0: f32[2, 4] = {product}
  %1: f32[8, 4] = matmul @b, %0
  %2: f32[8, 4] = add @w, %1
  output w = %2
{more}}}
"#
            )
        };
        let found = |text: &str| {
            let (_, plan) = plan(text, None);
            assert_eq!(plan.merges(), 1);
            let merge = plan.steps.iter().find_map(|step| match step.work {
                Work::Merge(_, merge) => Some(merge),
                _ => None,
            });
            (plan.kernels(), merge.unwrap().scale.is_some())
        };
        assert_eq!(found(&text("", "mul @a, @s", "")), (1, true));
        assert_eq!(found(&text("1", "mul @s, @a", "")), (1, true));
        // One for each column, and a product that somebody else wants too.
        assert_eq!(found(&text("4", "mul @a, @s", "")), (2, false));
        let more = "  output scaled = %0\n";
        assert_eq!(found(&text("", "mul @a, @s", more)), (2, false));
    }

    #[test]
    fn a_graph_with_inputs_or_symbols_is_refused() {
        let text = r#"
graph "request" {
  dim n = 1..=4
  input request %x: f32[n]
  %0: f32[n] = neg %x
  output y = %0
}
"#;
        let graph = tintype_ir::parse(text).unwrap();
        let message = WeightPlan::new(&graph, None).unwrap_err().to_string();
        assert!(message.contains("input `x`"), "{message}");
    }

    #[test]
    fn empty_and_four_bit_values_stay_on_the_host() {
        let text = r#"
graph "weights" {
  param @a: f32[0, 4]
  param @b: f4e2m1[2, 2]
  %0: f32[4, 0] = transpose @a {permutation = [1, 0]}
  %1: f32[2, 2] = cast @b
  output a = %0
  output b = %1
}
"#;
        let (_, plan) = plan(text, None);
        assert_eq!(plan.on_host().count(), 2);
    }
}
