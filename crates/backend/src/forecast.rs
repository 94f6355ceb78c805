//! What compiling would do, without doing it.

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
        let outputs = graph.weight.outputs().iter();
        let weights = outputs.map(|output| graph.weight.type_of(output.value));
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
                weights: sum(&mut { weights })?,
                inputs: sum(&mut { inputs })?,
                ..MemoryForecast::default()
            },
        })
    }
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
    /// All that is known.
    pub fn total(&self) -> usize {
        self.weights + self.workspace.unwrap_or(0) + self.inputs + self.kept
    }
}
