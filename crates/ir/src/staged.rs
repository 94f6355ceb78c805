//! The split of a graph by stage into three programs that hand values on.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::passes::{canonical, dead_code};
use crate::{
    Dequantized, Error, Graph, Input, Node, Op, Output, Overlay, Parameter, Result, Stage, Value,
    verify,
};

/// The three programs of one graph. They share one binding of its symbols.
///
/// - `weight`: parameters in, *weights* out. Its outputs are the values that the
///   other two read, named by the operation that consumes them
///   (`transformer_blocks.0.attn.to_q.weight`).
/// - `request`: the graph's request inputs and weights in; out go the graph's
///   outputs of that stage and what the step reads (`request.0`, …).
/// - `step`: the step inputs, weights and values of the request in.
///
/// Weights stand in `request` and `step` as parameters. A parameter that is used
/// as it is passes through the weight program as an output without a node. A
/// constant is no weight: each program has its own. Nor is a weight that is dequantized
/// (see [`Graph::dequantized`]): its codes and its scale are, and each program that reads
/// it multiplies them (`….to_q.weight`, `….to_q.weight_scale`).
#[derive(Debug, Clone, PartialEq)]
pub struct StagedGraph {
    /// The graph that was split.
    pub source: Graph,
    /// Computes weights from parameters.
    pub weight: Graph,
    /// Runs once per request.
    pub request: Graph,
    /// Runs in the hot loop; without outputs for graphs that have no step inputs.
    pub step: Graph,
}

impl StagedGraph {
    /// Splits a verified graph.
    pub fn split(graph: &Graph) -> Result<Self> {
        verify(graph)?;
        Ok(Splitter::new(graph).split())
    }

    /// The split of the same graph in its [`canonical`](crate::passes::canonical) form: what is
    /// counted in a name no longer depends on the numbers of values or on what no output needs.
    /// Whatever keeps results of a program under its hash compiles this one.
    pub fn canonical(&self) -> Result<Self> {
        Self::split(&canonical(&self.source))
    }

    /// The weight program with overlays in front of the parameters they change.
    ///
    /// `request` and `step` stay as they are: an overlay keeps its parameter's type.
    pub fn weight_with(&self, overlays: &[Overlay]) -> Result<Graph> {
        Overlay::attach(&self.weight, overlays)
    }

    /// Names and types of the inputs that the caller gives at `stage`.
    pub fn inputs_of(&self, stage: Stage) -> impl Iterator<Item = &Input> {
        self.source
            .inputs()
            .iter()
            .filter(move |input| input.stage == stage)
    }

    /// Names of the values that the request program hands to the step program.
    pub fn handed_to_step(&self) -> impl Iterator<Item = &str> {
        self.step
            .inputs()
            .iter()
            .filter(|input| input.stage == Stage::Request)
            .map(|input| input.name.as_str())
    }

    /// Names of the weights that the request program reads and the step program does not: nothing
    /// needs them while steps run.
    pub fn request_weights(&self) -> impl Iterator<Item = &str> {
        let parameters = self.request.parameters().iter();
        let names = parameters.map(|parameter| parameter.name.as_str());
        names.filter(|name| self.step.parameter(name).is_none())
    }

    /// The weights that change when the parameters in `changed` do: outputs of `program`,
    /// a weight program of this graph.
    pub fn reached_weights<'p>(program: &'p Graph, changed: &HashSet<&str>) -> Vec<&'p str> {
        let mut reached = vec![false; program.nodes().len()];
        let parameters = program.parameters().iter();
        let is_changed: Vec<bool> = parameters
            .map(|parameter| changed.contains(parameter.name.as_str()))
            .collect();
        let is_reached = |value: Value, reached: &[bool]| match value {
            Value::Parameter(index) => is_changed[index],
            Value::Node(index) => reached[index],
            Value::Input(_) => false,
        };
        for (index, node) in program.nodes().iter().enumerate() {
            reached[index] = node
                .operands
                .iter()
                .any(|&operand| is_reached(operand, &reached));
        }
        let outputs = program.outputs().iter();
        outputs
            .filter(|output| is_reached(output.value, &reached))
            .map(|output| output.name.as_str())
            .collect()
    }
}

struct Splitter<'a> {
    graph: &'a Graph,
    stages: Vec<Stage>,
    /// For each weight value that a later stage reads: its name.
    weight_names: BTreeMap<Value, String>,
    /// For each request value that the step reads: its name.
    request_names: BTreeMap<Value, String>,
}

impl<'a> Splitter<'a> {
    fn new(graph: &'a Graph) -> Self {
        let stages = graph.stages();
        let mut splitter = Self {
            graph,
            stages,
            weight_names: BTreeMap::new(),
            request_names: BTreeMap::new(),
        };
        splitter.name_handed_values();
        splitter
    }

    fn split(self) -> StagedGraph {
        let weight = dead_code(&self.program(Stage::Weight));
        let request = self.program(Stage::Request);
        let step = self.program(Stage::Step);
        StagedGraph {
            source: self.graph.clone(),
            weight,
            request,
            step,
        }
    }

    fn stage(&self, value: Value) -> Stage {
        self.graph.stage_of(value, &self.stages)
    }

    fn is_constant(&self, value: Value) -> bool {
        let node = self.graph.node_of(value);
        node.is_some_and(|node| matches!(node.op, Op::Constant(_)))
    }

    /// Whether the weight program hands this value on.
    fn is_weight(&self, value: Value) -> bool {
        self.stage(value) == Stage::Weight && !self.is_constant(value)
    }

    /// Every value that crosses from one stage to a later one gets a name. Those of
    /// weights come from the first operation that consumes them: its label, or its
    /// kind and number among the labelless, and the role of the operand.
    fn name_handed_values(&mut self) {
        let mut taken = HashSet::new();
        let mut taken_in_step = self.names_of_callers();
        let mut ordinals: HashMap<&str, usize> = HashMap::new();
        for (index, node) in self.graph.nodes.iter().enumerate() {
            if self.stages[index] == Stage::Weight {
                continue;
            }
            let ordinal = ordinals.entry(node.op.name()).or_default();
            let consumer = match &node.label {
                Some(label) => label.to_string(),
                None => format!("{}.{ordinal}", node.op.name()),
            };
            *ordinal += 1;
            for (position, &operand) in node.operands.iter().enumerate() {
                let stage = self.stage(operand);
                let name = format!("{consumer}.{}", node.op.role(position));
                match self.unpacked(operand) {
                    Some(Dequantized { codes, scale }) => {
                        self.name_weight(codes, &name, &mut taken);
                        self.name_weight(scale, &format!("{name}_scale"), &mut taken);
                    }
                    None => self.name_weight(operand, &name, &mut taken),
                }
                // An input of the request that the step reads keeps its own name.
                let crosses = stage == Stage::Request && self.stages[index] == Stage::Step;
                if crosses {
                    self.name_request_value(operand, &mut taken_in_step);
                }
            }
        }
        self.name_weight_outputs(&mut taken);
    }

    fn name_weight(&mut self, value: Value, name: &str, taken: &mut HashSet<String>) {
        if self.is_weight(value) && !self.weight_names.contains_key(&value) {
            let name = unique(name, taken);
            self.weight_names.insert(value, name);
        }
    }

    /// Codes and scale of a weight that its readers dequantize: handed on as it is, it
    /// would take the memory that quantizing it has saved.
    fn unpacked(&self, value: Value) -> Option<Dequantized> {
        self.is_weight(value)
            .then(|| self.graph.dequantized(value))
            .flatten()
    }

    /// Names that the caller knows, which no handed value may have.
    fn names_of_callers(&self) -> HashSet<String> {
        let inputs = self.graph.inputs.iter().map(|input| input.name.clone());
        let outputs = self.graph.outputs.iter().map(|output| output.name.clone());
        inputs.chain(outputs).collect()
    }

    fn name_request_value(&mut self, value: Value, taken: &mut HashSet<String>) {
        let is_node = matches!(value, Value::Node(_));
        if is_node && !self.request_names.contains_key(&value) {
            let name = format!("request.{}", self.request_names.len());
            self.request_names.insert(value, unique(&name, taken));
        }
    }

    /// A graph output that is a weight value leaves through the request program.
    fn name_weight_outputs(&mut self, taken: &mut HashSet<String>) {
        for output in &self.graph.outputs {
            if self.is_weight(output.value) && !self.weight_names.contains_key(&output.value) {
                let name = unique(&format!("output.{}", output.name), taken);
                self.weight_names.insert(output.value, name);
            }
        }
    }

    fn program(&self, stage: Stage) -> Graph {
        let mut part = Part::new(self, stage);
        match stage {
            Stage::Weight => {
                for (&value, name) in &self.weight_names {
                    part.output(name, value);
                }
            }
            Stage::Request | Stage::Step => {
                for output in &self.graph.outputs {
                    if self.stage(output.value).max(Stage::Request) == stage {
                        part.output(&output.name, output.value);
                    }
                }
                if stage == Stage::Request {
                    for (&value, name) in &self.request_names {
                        part.output(name, value);
                    }
                }
            }
        }
        part.program
    }
}

fn unique(name: &str, taken: &mut HashSet<String>) -> String {
    let mut candidate = name.to_owned();
    let mut number = 2;
    while !taken.insert(candidate.clone()) {
        candidate = format!("{name}.{number}");
        number += 1;
    }
    candidate
}

/// One program while it is copied out of the whole graph.
struct Part<'s, 'a> {
    splitter: &'s Splitter<'a>,
    stage: Stage,
    program: Graph,
    copied: HashMap<Value, Value>,
}

impl<'s, 'a> Part<'s, 'a> {
    /// All nodes of the stage, in order; what they read from earlier stages becomes
    /// a parameter (weights) or an input.
    fn new(splitter: &'s Splitter<'a>, stage: Stage) -> Self {
        let program = Graph {
            name: format!("{}.{stage}", splitter.graph.name),
            symbols: if stage == Stage::Weight {
                BTreeMap::new()
            } else {
                splitter.graph.symbols.clone()
            },
            ..Graph::default()
        };
        let mut part = Self {
            splitter,
            stage,
            program,
            copied: HashMap::new(),
        };
        part.declare_inputs();
        for (index, node) in splitter.graph.nodes.iter().enumerate() {
            if splitter.stages[index] == stage {
                let operands = node
                    .operands
                    .iter()
                    .map(|&operand| part.value(operand))
                    .collect();
                part.program.nodes.push(Node {
                    operands,
                    ..node.clone()
                });
                let copy = Value::Node(part.program.nodes.len() - 1);
                part.copied.insert(Value::Node(index), copy);
            }
        }
        part
    }

    /// Inputs of the stage itself stand in every program in the order of the source,
    /// used or not, so that they bind symbols.
    fn declare_inputs(&mut self) {
        for (index, input) in self.splitter.graph.inputs.iter().enumerate() {
            if input.stage == self.stage {
                self.program.inputs.push(input.clone());
                self.copied.insert(
                    Value::Input(index),
                    Value::Input(self.program.inputs.len() - 1),
                );
            }
        }
    }

    fn output(&mut self, name: &str, value: Value) {
        let value = self.value(value);
        self.program.outputs.push(Output {
            name: name.to_owned(),
            value,
        });
    }

    fn value(&mut self, value: Value) -> Value {
        if let Some(&copy) = self.copied.get(&value) {
            return copy;
        }
        let graph = self.splitter.graph;
        if self.splitter.is_constant(value) {
            return self.copy_node(value);
        }
        let is_named = self.splitter.weight_names.contains_key(&value);
        if self.stage != Stage::Weight
            && !is_named
            && let Some(unpacked) = self.splitter.unpacked(value)
        {
            return self.unpack(value, unpacked);
        }
        let ty = graph.type_of(value).clone();
        let copy = if self.splitter.stage(value) == Stage::Weight {
            // In the weight program only parameters are not copied yet.
            let name = match value {
                Value::Parameter(index) if self.stage == Stage::Weight => {
                    graph.parameters[index].name.clone()
                }
                _ => self.splitter.weight_names[&value].clone(),
            };
            self.program.parameters.push(Parameter { name, ty });
            Value::Parameter(self.program.parameters.len() - 1)
        } else {
            let name = match value {
                Value::Input(index) => graph.inputs[index].name.clone(),
                _ => self.splitter.request_names[&value].clone(),
            };
            self.program.inputs.push(Input {
                name,
                stage: Stage::Request,
                ty,
            });
            Value::Input(self.program.inputs.len() - 1)
        };
        self.copied.insert(value, copy);
        copy
    }

    /// The few nodes between codes and scale and the value that they make.
    fn unpack(&mut self, value: Value, unpacked: Dequantized) -> Value {
        let Dequantized { codes, scale } = unpacked;
        if value == codes || value == scale {
            return self.value(value);
        }
        if let Some(&copy) = self.copied.get(&value) {
            return copy;
        }
        let node = self.splitter.graph.node_of(value);
        let operands = &node.expect("dequantizing is made of nodes").operands;
        for &operand in operands {
            self.unpack(operand, unpacked);
        }
        self.copy_node(value)
    }

    /// Copies a node of another stage whose operands are here.
    fn copy_node(&mut self, value: Value) -> Value {
        let node = self.splitter.graph.node_of(value);
        let node = node.expect("the caller has a node");
        let operands = node.operands.iter().map(|&operand| self.value(operand));
        let operands = operands.collect();
        self.program.nodes.push(Node {
            operands,
            ..node.clone()
        });
        let copy = Value::Node(self.program.nodes.len() - 1);
        self.copied.insert(value, copy);
        copy
    }
}

/// Look-ups for backends, which are given programs and inputs by name.
impl StagedGraph {
    /// The program of a stage.
    pub fn program(&self, stage: Stage) -> &Graph {
        match stage {
            Stage::Weight => &self.weight,
            Stage::Request => &self.request,
            Stage::Step => &self.step,
        }
    }

    /// The input of this name at `stage`, or an error that lists those there are.
    pub fn expect_input(&self, stage: Stage, name: &str) -> Result<&Input> {
        self.inputs_of(stage)
            .find(|input| input.name == name)
            .ok_or_else(|| {
                let names: Vec<_> = self
                    .inputs_of(stage)
                    .map(|input| input.name.as_str())
                    .collect();
                Error::Input {
                    input: name.to_owned(),
                    expected: format!("one of the {stage} inputs {}", names.join(", ")),
                    found: "no such input".to_owned(),
                }
            })
    }
}
