//! The verifier: what holds of every graph that a backend is given.
//!
//! | rule | holds |
//! |---|---|
//! | `names` | inputs, parameters and outputs have unique, non-empty names |
//! | `symbols` | every symbol in a type is declared, with a plain name and a range that is not empty |
//! | `bound` | every symbol in a type occurs alone as a dimension of some input |
//! | `parameters-static` | the types of parameters hold no symbols |
//! | `sizes` | no constant dimension is negative, and no static size overflows |
//! | `order` | operands exist and come before their use |
//! | `types` | each node's type is what inference gives for its operands |
//! | `input-stage` | no input has the stage `weight` |
//! | `outputs` | outputs exist, and there is at least one |
//!
//! After `Ok`, no lowering fails for a reason found in the graph alone. Every
//! rule has a test that breaks it.

use std::collections::{BTreeSet, HashSet};

use crate::{Dim, Error, Graph, Result, Stage, TensorType, Value, infer};

/// Checks every rule; the first broken one is the error.
pub fn verify(graph: &Graph) -> Result<()> {
    let verifier = Verifier { graph };
    verifier.names()?;
    verifier.symbols()?;
    verifier.inputs_and_parameters()?;
    verifier.nodes()?;
    verifier.outputs()
}

struct Verifier<'a> {
    graph: &'a Graph,
}

impl Verifier<'_> {
    fn broken<T>(
        &self,
        rule: &'static str,
        place: impl Into<String>,
        message: impl Into<String>,
    ) -> Result<T> {
        Err(Error::Verify {
            graph: self.graph.name.clone(),
            rule,
            place: place.into(),
            message: message.into(),
        })
    }

    fn names(&self) -> Result<()> {
        let inputs = self.graph.inputs.iter().map(|input| input.name.as_str());
        let parameters = self
            .graph
            .parameters
            .iter()
            .map(|parameter| parameter.name.as_str());
        let outputs = self.graph.outputs.iter().map(|output| output.name.as_str());
        self.unique("input", inputs)?;
        self.unique("parameter", parameters)?;
        self.unique("output", outputs)
    }

    fn unique<'n>(&self, kind: &str, names: impl Iterator<Item = &'n str>) -> Result<()> {
        let mut seen = HashSet::new();
        for name in names {
            if name.is_empty() {
                return self.broken("names", kind, "the name is empty");
            }
            if !seen.insert(name) {
                return self.broken("names", format!("{kind} `{name}`"), "the name is taken");
            }
        }
        Ok(())
    }

    fn symbols(&self) -> Result<()> {
        for (symbol, range) in &self.graph.symbols {
            if !Dim::is_symbol_name(symbol) {
                let message = "expected a letter or `_`, then letters, digits and `_`";
                return self.broken("symbols", format!("dim {symbol:?}"), message);
            }
            if i64::try_from(*range.end()).is_err() {
                return self.broken("symbols", format!("dim {symbol}"), "the range is too large");
            }
            if range.is_empty() {
                return self.broken("symbols", format!("dim {symbol}"), "the range is empty");
            }
        }
        Ok(())
    }

    fn inputs_and_parameters(&self) -> Result<()> {
        let bound: BTreeSet<&str> = self
            .graph
            .inputs
            .iter()
            .flat_map(|input| &input.ty.dims)
            .filter_map(|dim| dim.as_symbol().map(AsRef::as_ref))
            .collect();
        for input in &self.graph.inputs {
            let place = format!("input `{}`", input.name);
            if input.stage == Stage::Weight {
                return self.broken(
                    "input-stage",
                    place,
                    "expected request or step, found weight",
                );
            }
            self.ty(&place, &input.ty, &bound)?;
        }
        for parameter in &self.graph.parameters {
            let place = format!("parameter `{}`", parameter.name);
            if !parameter.ty.is_static() {
                return self.broken(
                    "parameters-static",
                    place,
                    format!("found {}", parameter.ty),
                );
            }
            self.ty(&place, &parameter.ty, &bound)?;
        }
        for (index, node) in self.graph.nodes.iter().enumerate() {
            self.ty(&format!("%{index}"), &node.ty, &bound)?;
        }
        Ok(())
    }

    fn ty(&self, place: &str, ty: &TensorType, bound: &BTreeSet<&str>) -> Result<()> {
        for symbol in ty.dims.iter().flat_map(Dim::symbols) {
            if !self.graph.symbols.contains_key(symbol) {
                return self.broken("symbols", place, format!("`{symbol}` is not declared"));
            }
            if !bound.contains(symbol.as_ref()) {
                return self.broken(
                    "bound",
                    place,
                    format!("no input has `{symbol}` as a dimension"),
                );
            }
        }
        if ty
            .dims
            .iter()
            .any(|dim| dim.as_constant().is_some_and(|size| size < 0))
        {
            return self.broken("sizes", place, format!("found {ty}"));
        }
        let bytes = ty.static_shape().map(|shape| shape.byte_len(ty.dtype));
        if matches!(bytes, Some(Err(_))) {
            return self.broken("sizes", place, format!("{ty} is too large"));
        }
        Ok(())
    }

    fn nodes(&self) -> Result<()> {
        for (index, node) in self.graph.nodes.iter().enumerate() {
            let place = match &node.label {
                Some(label) => format!("%{index} ({}, `{label}`)", node.op.name()),
                None => format!("%{index} ({})", node.op.name()),
            };
            for &operand in &node.operands {
                if !self.exists(operand, index) {
                    return self.broken(
                        "order",
                        place,
                        format!("{operand:?} does not come before"),
                    );
                }
            }
            let types: Vec<_> = node
                .operands
                .iter()
                .map(|&v| self.graph.type_of(v).clone())
                .collect();
            match infer(&node.op, &types) {
                Ok(ty) if ty == node.ty => {}
                Ok(ty) => {
                    return self.broken(
                        "types",
                        place,
                        format!("expected {ty}, found {}", node.ty),
                    );
                }
                Err(error) => return self.broken("types", place, error.to_string()),
            }
        }
        Ok(())
    }

    fn outputs(&self) -> Result<()> {
        if self.graph.outputs.is_empty() {
            return self.broken("outputs", "the graph", "there is no output");
        }
        for output in &self.graph.outputs {
            if !self.exists(output.value, self.graph.nodes.len()) {
                let place = format!("output `{}`", output.name);
                return self.broken(
                    "outputs",
                    place,
                    format!("{:?} does not exist", output.value),
                );
            }
        }
        Ok(())
    }

    fn exists(&self, value: Value, before: usize) -> bool {
        match value {
            Value::Input(index) => index < self.graph.inputs.len(),
            Value::Parameter(index) => index < self.graph.parameters.len(),
            Value::Node(index) => index < before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rules that no text can break: the parser refuses such graphs.
    fn broken(change: impl FnOnce(&mut Graph)) -> &'static str {
        let text = "graph g { dim b = 1..=4 param @w: f32[2] input step %x: f32[b, 2] \
                    %0: f32[b, 2] = add %x, @w %1: f32[b, 2] = neg %0 output y = %1 }";
        let mut graph = crate::parse(text).unwrap();
        change(&mut graph);
        match verify(&graph) {
            Err(Error::Verify { rule, .. }) => rule,
            other => panic!("expected a broken rule, found {other:?}"),
        }
    }

    #[test]
    fn order() {
        assert_eq!(broken(|g| g.nodes[0].operands[0] = Value::Node(0)), "order");
        assert_eq!(broken(|g| g.nodes[0].operands[0] = Value::Node(1)), "order");
        assert_eq!(
            broken(|g| g.nodes[0].operands[0] = Value::Input(1)),
            "order"
        );
        assert_eq!(
            broken(|g| g.nodes[0].operands[1] = Value::Parameter(7)),
            "order"
        );
    }

    #[test]
    fn outputs() {
        assert_eq!(broken(|g| g.outputs[0].value = Value::Node(2)), "outputs");
        assert_eq!(broken(|g| g.outputs.clear()), "outputs");
    }

    #[test]
    fn names() {
        assert_eq!(
            broken(|g| g.parameters.push(g.parameters[0].clone())),
            "names"
        );
        assert_eq!(broken(|g| g.inputs.push(g.inputs[0].clone())), "names");
    }

    #[test]
    fn symbols() {
        let declare = |name: &str, end: usize| {
            let symbol = crate::Symbol::from(name);
            broken(|g| {
                g.symbols.insert(symbol, 1..=end);
            })
        };
        assert_eq!(declare("two words", 4), "symbols");
        assert_eq!(declare("nan", 4), "symbols");
        assert_eq!(declare("huge", usize::MAX), "symbols");
    }
}
