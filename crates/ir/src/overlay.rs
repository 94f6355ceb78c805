//! Overlays: fragments of IR attached to one parameter before fusion.

use std::collections::HashMap;
use std::sync::Arc;

use crate::passes::reached;
use crate::{Error, Graph, Node, Parameter, Result, TensorType, Value};

/// A fragment that computes a parameter's new value from its old one: a LoRA, a
/// scale, a replacement.
///
/// The fragment is a graph without inputs and with one output, of the type of the
/// parameter. Its parameter [`Overlay::BASE`], if it has one, is the value below:
/// the untouched parameter, or the result of the overlay attached before. Its
/// other parameters have names of their own and come from the caller.
///
/// Cloning is cheap, and so is comparing clones.
#[derive(Debug, Clone)]
pub struct Overlay {
    parameter: Arc<str>,
    fragment: Arc<Graph>,
    /// Which of the fragment's parameters its value depends on.
    read: Arc<[bool]>,
}

impl PartialEq for Overlay {
    fn eq(&self, other: &Self) -> bool {
        self.parameter == other.parameter
            && (Arc::ptr_eq(&self.fragment, &other.fragment) || self.fragment == other.fragment)
    }
}

impl Overlay {
    /// The fragment's name for the value below it.
    pub const BASE: &'static str = "base";

    /// An overlay of `fragment` on `parameter`.
    pub fn new(parameter: impl Into<String>, fragment: Graph) -> Result<Self> {
        let parameter = parameter.into();
        crate::verify(&fragment)?;
        if !fragment.inputs.is_empty() || fragment.outputs.len() != 1 {
            let (inputs, outputs) = (fragment.inputs.len(), fragment.outputs.len());
            let message = format!(
                "expected a fragment without inputs and with one output, found {inputs} and {outputs}"
            );
            return Err(Error::Overlay { parameter, message });
        }
        Ok(Self {
            parameter: parameter.into(),
            read: reached(&fragment).1.into(),
            fragment: Arc::new(fragment),
        })
    }

    /// Whether both are one overlay, at the cost of two comparisons: clones are, what is equal
    /// need not be.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.fragment, &other.fragment)
            && Arc::ptr_eq(&self.parameter, &other.parameter)
    }

    /// The name of the parameter that it changes.
    pub fn parameter(&self) -> &str {
        &self.parameter
    }

    /// The fragment.
    pub fn fragment(&self) -> &Graph {
        &self.fragment
    }

    /// The names of the parameters that the fragment itself brings.
    pub fn own_parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.fragment
            .parameters
            .iter()
            .filter(|parameter| parameter.name != Self::BASE)
    }

    /// The parameters that the fragment's value depends on, [`Overlay::BASE`] among them if it
    /// does.
    pub fn read_parameters(&self) -> impl Iterator<Item = &Parameter> {
        let parameters = self.fragment.parameters.iter().zip(&*self.read);
        parameters
            .filter(|(_, read)| **read)
            .map(|(parameter, _)| parameter)
    }

    /// An error unless it fits on a parameter of this type; none is one that `graph` lacks.
    pub fn expect_on(&self, graph: &str, parameter: Option<&TensorType>) -> Result<()> {
        let failed = |message: String| Error::Overlay {
            parameter: self.parameter.to_string(),
            message,
        };
        let Some(expected) = parameter else {
            return Err(failed(format!("graph `{graph}` has no such parameter")));
        };
        let found = self.fragment.type_of(self.fragment.outputs[0].value);
        if found != expected {
            return Err(failed(format!("expected {expected}, found {found}")));
        }
        match self.fragment.parameter(Self::BASE) {
            Some(base) if base.ty != *expected => Err(failed(format!(
                "expected a base of {expected}, found {}",
                base.ty
            ))),
            _ => Ok(()),
        }
    }

    /// `graph` with every use of a changed parameter replaced by its overlays, in order.
    ///
    /// An overlay on a parameter that the graph does not have, or of another type, is an error.
    pub fn attach(graph: &Graph, overlays: &[Self]) -> Result<Graph> {
        let mut result = Graph {
            nodes: Vec::new(),
            ..graph.clone()
        };
        let mut replaced: HashMap<Value, Value> = HashMap::new();
        let parameters = graph.parameters.iter().enumerate();
        let mut places: Places<'_> = parameters
            .map(|(index, parameter)| (parameter.name.as_str(), index))
            .collect();
        for overlay in overlays {
            let base = overlay.base_in(graph, &places)?;
            let below = replaced.get(&base).copied().unwrap_or(base);
            let value = overlay.inline(&mut result, &mut places, below)?;
            replaced.insert(base, value);
        }
        let offset = result.nodes.len();
        let moved = |value: Value| match value {
            Value::Node(index) => Value::Node(index + offset),
            other => replaced.get(&other).copied().unwrap_or(other),
        };
        for node in &graph.nodes {
            let operands = node
                .operands
                .iter()
                .map(|&operand| moved(operand))
                .collect();
            result.nodes.push(Node {
                operands,
                ..node.clone()
            });
        }
        for output in &mut result.outputs {
            output.value = moved(output.value);
        }
        Ok(result)
    }

    /// The parameter of `graph` that it lies on, if it is of its type.
    fn base_in(&self, graph: &Graph, places: &Places<'_>) -> Result<Value> {
        // What overlays have declared lies beyond the graph's own.
        let index = places.get(&*self.parameter).copied();
        let parameter = index.and_then(|index| graph.parameters.get(index));
        self.expect_on(&graph.name, parameter.map(|parameter| &parameter.ty))?;
        let index = index.expect("a parameter that was found");
        Ok(Value::Parameter(index))
    }

    /// Copies the fragment to the end of `graph`; gives its output's value there.
    fn inline<'a>(
        &'a self,
        graph: &mut Graph,
        places: &mut Places<'a>,
        base: Value,
    ) -> Result<Value> {
        let mut parameters = Vec::with_capacity(self.fragment.parameters.len());
        for parameter in &self.fragment.parameters {
            let is_base = parameter.name == Self::BASE;
            parameters.push(if is_base {
                base
            } else {
                self.declare(graph, places, parameter)?
            });
        }
        let offset = graph.nodes.len();
        let moved = |value: Value| match value {
            Value::Parameter(index) => parameters[index],
            Value::Node(index) => Value::Node(index + offset),
            Value::Input(_) => unreachable!("fragments have no inputs"),
        };
        for node in &self.fragment.nodes {
            let operands = node
                .operands
                .iter()
                .map(|&operand| moved(operand))
                .collect();
            graph.nodes.push(Node {
                operands,
                ..node.clone()
            });
        }
        Ok(moved(self.fragment.outputs[0].value))
    }

    /// The parameter of this name in `graph`, declared if it is new: overlays may share one.
    fn declare<'a>(
        &self,
        graph: &mut Graph,
        places: &mut Places<'a>,
        parameter: &'a Parameter,
    ) -> Result<Value> {
        let Some(&index) = places.get(parameter.name.as_str()) else {
            let index = graph.parameters.len();
            graph.parameters.push(parameter.clone());
            places.insert(&parameter.name, index);
            return Ok(Value::Parameter(index));
        };
        let declared = &graph.parameters[index].ty;
        if *declared != parameter.ty {
            let message = format!(
                "`{}`: expected {declared}, found {}",
                parameter.name, parameter.ty
            );
            return Err(Error::Overlay {
                parameter: self.parameter.to_string(),
                message,
            });
        }
        Ok(Value::Parameter(index))
    }
}

/// Where parameters stand in a graph, by name.
type Places<'a> = HashMap<&'a str, usize>;
