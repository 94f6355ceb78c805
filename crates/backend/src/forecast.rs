//! What compiling would do, without doing it.

use std::collections::{HashMap, HashSet};

use tintype_ir::{Binding, Graph, Stage, StagedGraph, Value};

use crate::Result;

/// What a backend would do with a graph.
///
/// ```
/// use tintype_backend::Forecast;
/// use tintype_ir::{Binding, StagedGraph, parse};
///
/// let graph = parse(
///     "graph g { dim n = 1..=8 param @w: bf16[96, 32] input step %x: bf16[n, 32] \
///      %0: bf16[n, 96] = linear %x, @w output y = %0 }",
/// )?;
/// let mut sizes = Binding::new();
/// sizes.set("n", 8);
/// let forecast = Forecast::of_graph(&StagedGraph::split(&graph)?, &sizes)?;
/// assert_eq!(forecast.memory.weights, 96 * 32 * 2);
/// assert_eq!(forecast.memory.inputs, 8 * 32 * 2);
/// # Ok::<(), tintype_backend::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Forecast {
    /// The programs, request before step, that have something to run. A backend that runs the
    /// weight program elsewhere than the CPU puts that first.
    pub programs: Vec<ProgramForecast>,
    /// Memory of the place where the graph runs.
    pub memory: MemoryForecast,
}

/// What becomes of one program.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProgramForecast {
    /// Which program.
    pub stage: Stage,
    /// Its operations.
    pub operations: usize,
    /// Whether its compiled form is there already; `None` if nothing is compiled ahead.
    pub is_compiled: Option<bool>,
    /// What does not run as the backend likes it, each with where it runs instead.
    pub fallbacks: Vec<String>,
}

/// Bytes that a graph takes with one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct MemoryForecast {
    /// All weights, once.
    pub weights: usize,
    /// Of the weights: those that the request program alone reads. They are not there in the
    /// steps where [`CompileOptions::frees_request_weights`](crate::CompileOptions) says so.
    pub request_weights: usize,
    /// Beside the weights, while they are computed one after another: what they are computed
    /// from, at most.
    pub loading: usize,
    /// Values between operations; `None` where only the compiled form tells.
    pub workspace: Option<usize>,
    /// Inputs.
    pub inputs: usize,
    /// Parameters kept beside the weights.
    pub kept: usize,
}

impl Forecast {
    /// What follows from the graph alone.
    ///
    /// # Errors
    /// A symbol without a size.
    pub fn of_graph(graph: &StagedGraph, sizes: &Binding) -> Result<Self> {
        let programs = [(Stage::Request, &graph.request), (Stage::Step, &graph.step)];
        let programs = programs
            .into_iter()
            .filter(|(_, program)| !program.outputs().is_empty());
        let type_of = |output: &tintype_ir::Output| graph.weight.type_of(output.value);
        let outputs = || graph.weight.outputs().iter();
        let of_request: HashSet<&str> = graph.request_weights().collect();
        let of_request = outputs().filter(|output| of_request.contains(output.name.as_str()));
        let inputs = graph.source.inputs().iter().map(|input| &input.ty);
        let sum = |types: &mut dyn Iterator<Item = &tintype_ir::TensorType>| {
            types
                .map(|ty| Ok(ty.shape(sizes)?.byte_len(ty.dtype)?))
                .sum::<Result<usize>>()
        };
        Ok(Self {
            programs: programs
                .map(|(stage, program)| ProgramForecast::new(stage, program))
                .collect(),
            memory: MemoryForecast {
                weights: sum(&mut outputs().map(type_of))?,
                request_weights: sum(&mut of_request.map(type_of))?,
                loading: loading(&graph.weight, sizes)?,
                inputs: sum(&mut { inputs })?,
                ..MemoryForecast::default()
            },
        })
    }
}

/// The most bytes that a weight program's parameters and values between operations take at once,
/// where each output is computed with what it still needs before the next one. Outputs are not
/// counted.
fn loading(program: &Graph, sizes: &Binding) -> Result<usize> {
    let outputs: HashSet<Value> = program.outputs().iter().map(|one| one.value).collect();
    let order = output_after_output(program);
    let operands = |node: usize| program.nodes()[node].operands.iter().copied();
    let mut last_use: HashMap<Value, usize> = HashMap::new();
    for (place, &node) in order.iter().enumerate() {
        last_use.insert(Value::Node(node), place);
        last_use.extend(operands(node).map(|operand| (operand, place)));
    }
    let (mut live, mut most) = (HashMap::new(), 0);
    for (place, &node) in order.iter().enumerate() {
        for value in operands(node).chain([Value::Node(node)]) {
            if !outputs.contains(&value) {
                let ty = program.type_of(value);
                live.insert(value, ty.shape(sizes)?.byte_len(ty.dtype)?);
            }
        }
        most = most.max(live.values().sum());
        live.retain(|value, _| last_use[value] > place);
    }
    Ok(most)
}

/// The nodes that outputs need, those of the first output first.
fn output_after_output(program: &Graph) -> Vec<usize> {
    let mut is_placed = vec![false; program.nodes().len()];
    let mut order = Vec::new();
    for output in program.outputs() {
        let (mut open, begin) = (vec![output.value], order.len());
        while let Some(value) = open.pop() {
            if let Value::Node(node) = value
                && !std::mem::replace(&mut is_placed[node], true)
            {
                order.push(node);
                open.extend(&program.nodes()[node].operands);
            }
        }
        // Operands stand before what reads them in every graph.
        order[begin..].sort_unstable();
    }
    order
}

/// Bytes of the values between operations that live at once, at most: each from the node that
/// makes it to the last that uses it, in the order of the program. Inputs and what weight
/// programs give are not counted, outputs are.
///
/// ```
/// use tintype_ir::{Binding, parse};
/// let text = "graph g { dim n = 1..=8 input step %x: f32[n] %0: f32[n] = exp %x \
///             %1: f32[n] = neg %0 %2: f32[n] = abs %1 output y = %2 }";
/// let mut sizes = Binding::new();
/// sizes.set("n", 8);
/// // An operation's operand and its result.
/// assert_eq!(tintype_backend::values_at_once(&parse(text)?, &sizes)?, 2 * 8 * 4);
/// # Ok::<(), tintype_backend::Error>(())
/// ```
///
/// # Errors
/// A symbol without a size.
pub fn values_at_once(program: &Graph, sizes: &Binding) -> Result<usize> {
    let nodes = program.nodes();
    let mut last_use: Vec<usize> = (0..nodes.len()).collect();
    for (index, node) in nodes.iter().enumerate() {
        for operand in &node.operands {
            if let Value::Node(made) = *operand {
                last_use[made] = index;
            }
        }
    }
    for output in program.outputs() {
        if let Value::Node(made) = output.value {
            last_use[made] = nodes.len();
        }
    }
    let mut ending: Vec<Vec<usize>> = vec![Vec::new(); nodes.len() + 1];
    let (mut live, mut most) = (0, 0);
    for (index, node) in nodes.iter().enumerate() {
        let bytes = node.ty.shape(sizes)?.byte_len(node.ty.dtype)?;
        live += bytes;
        most = most.max(live);
        ending[last_use[index]].push(bytes);
        live -= ending[index].iter().sum::<usize>();
    }
    Ok(most)
}

impl ProgramForecast {
    /// A program that runs as it is.
    pub fn new(stage: Stage, program: &Graph) -> Self {
        Self {
            stage,
            operations: program.nodes().len(),
            is_compiled: None,
            fallbacks: Vec::new(),
        }
    }
}

impl MemoryForecast {
    /// All that is known, once weights are there.
    pub fn total(&self) -> usize {
        self.weights + self.workspace.unwrap_or(0) + self.inputs + self.kept
    }

    /// The same in the steps, where weights of the request have gone.
    pub fn in_steps(&self) -> usize {
        self.total() - self.request_weights
    }

    /// The most at any time, from the first weight on.
    pub fn peak(&self) -> usize {
        self.total().max(self.weights + self.loading)
    }
}

#[cfg(test)]
mod tests {
    use tintype_ir::parse;

    use super::*;

    #[test]
    fn weights_of_the_request_and_what_they_come_from_are_told() {
        // `a` becomes a weight of the request by two operations, `b` one of both programs; `c`
        // is a weight of the step as it is.
        let text = "graph g { param @a: f32[8, 8] param @b: bf16[8, 8] param @c: f32[8, 8] \
                    input request %r: f32[2, 8] input step %x: f32[2, 8] \
                    %0: f32[8, 8] = exp @a %1: bf16[8, 8] = cast %0 %2: f32[8, 8] = cast %1 \
                    %3: f32[2, 8] = linear %r, %2 %4: f32[8, 8] = cast @b \
                    %5: f32[2, 8] = linear %3, %4 %6: f32[2, 8] = linear %x, %4 \
                    %7: f32[2, 8] = linear %6, @c %8: f32[2, 8] = add %5, %7 output y = %8 }";
        let staged = StagedGraph::split(&parse(text).expect("a graph")).expect("three programs");
        let memory = Forecast::of_graph(&staged, &Binding::new())
            .expect("no symbols")
            .memory;
        assert_eq!(memory.weights, 3 * 256);
        assert_eq!(memory.request_weights, 256);
        // The parameter and what the first operation gives; then that and its half.
        assert_eq!(memory.loading, 2 * 256);
        assert_eq!(memory.in_steps(), 2 * 256 + memory.inputs);
        assert_eq!(memory.peak(), 5 * 256);
    }
}
