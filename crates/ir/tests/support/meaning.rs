//! What a graph computes, as an expression: to tell whether two graphs compute the
//! same without computing.

use std::collections::HashMap;

use tintype_ir::{Graph, StagedGraph, Value};

/// A number for each expression: equal expressions have equal numbers.
#[derive(Default)]
pub(crate) struct Expressions {
    numbers: HashMap<String, usize>,
}

impl Expressions {
    fn number(&mut self, expression: String) -> usize {
        let next = self.numbers.len();
        *self.numbers.entry(expression).or_insert(next)
    }

    /// The expression of each output, given those of inputs and parameters by name.
    pub(crate) fn outputs(
        &mut self,
        graph: &Graph,
        given: &HashMap<String, usize>,
    ) -> HashMap<String, usize> {
        let mut named = |kind: &str, name: &str| {
            let known = given.get(&format!("{kind} {name}")).copied();
            known.unwrap_or_else(|| self.number(format!("{kind} {name}")))
        };
        let inputs: Vec<_> = graph
            .inputs()
            .iter()
            .map(|i| named("input", &i.name))
            .collect();
        let parameters: Vec<_> = graph
            .parameters()
            .iter()
            .map(|p| named("parameter", &p.name))
            .collect();
        let mut nodes: Vec<usize> = Vec::new();
        let at = |value: Value, nodes: &[usize]| match value {
            Value::Input(index) => inputs[index],
            Value::Parameter(index) => parameters[index],
            Value::Node(index) => nodes[index],
        };
        for node in graph.nodes() {
            let operands: Vec<_> = node.operands.iter().map(|&v| at(v, &nodes)).collect();
            let number = self.number(format!("{:?} {} {operands:?}", node.op, node.ty));
            nodes.push(number);
        }
        let outputs = graph.outputs().iter();
        outputs
            .map(|output| (output.name.clone(), at(output.value, &nodes)))
            .collect()
    }

    /// The expressions of the outputs of three programs run one after another.
    pub(crate) fn staged_outputs(&mut self, staged: &StagedGraph) -> HashMap<String, usize> {
        let prefixed = |kind: &str, values: HashMap<String, usize>| {
            let entry = |(name, value)| (format!("{kind} {name}"), value);
            values.into_iter().map(entry).collect::<HashMap<_, _>>()
        };
        let weights = prefixed("parameter", self.outputs(&staged.weight, &HashMap::new()));
        let mut outputs = self.outputs(&staged.request, &weights);
        let mut given = weights;
        // Only what the step asks for by a name of the request is handed on.
        let handed: Vec<String> = staged.handed_to_step().map(str::to_owned).collect();
        for name in handed {
            if let Some(&value) = outputs.get(&name) {
                given.insert(format!("input {name}"), value);
            }
        }
        outputs.extend(self.outputs(&staged.step, &given));
        outputs.retain(|name, _| staged.source.outputs().iter().any(|o| o.name == *name));
        outputs
    }
}
