//! The list of what must be set in an engine, kept by ourselves.
//!
//! The library's own answer to what is missing is not relied on: constants that nobody named were
//! stripped and not reported. So every constant has a name, this list has them all, and an engine
//! that wants something beside it is refused.

use std::collections::{BTreeMap, BTreeSet};

use tintype_ir::Graph;
use tintype_tensor::{DType, Tensor};

use super::Manifest;
use crate::{Error, Result};

/// Weights and literals of an engine, and which of them it has.
#[derive(Debug, Clone)]
pub(super) struct Required {
    weights: BTreeMap<String, (DType, usize)>,
    literals: Vec<(String, Tensor)>,
    /// Those that it has been given.
    given: BTreeSet<String>,
}

impl Required {
    /// What an engine that can be refitted with `offered` (name, dtype, number of elements)
    /// needs by its manifest.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a weight that the engine does not take or a constant of the engine
    /// that the manifest does not have, [`Error::Mismatch`] for another type.
    pub(super) fn new<'n>(
        manifest: &Manifest,
        offered: impl Iterator<Item = (&'n str, DType, usize)>,
    ) -> Result<Self> {
        let mut offered: BTreeMap<&str, (DType, usize)> = offered
            .map(|(name, dtype, count)| (name, (dtype, count)))
            .collect();
        let mut required = Self {
            weights: BTreeMap::new(),
            literals: Vec::new(),
            given: BTreeSet::new(),
        };
        for weight in &manifest.weights {
            let expected = (weight.dtype().map_err(unreadable)?, weight.count);
            let literal = weight.literal().map_err(unreadable)?;
            match (offered.remove(weight.name.as_str()), literal) {
                (Some(found), literal) => {
                    expect_type(&weight.name, found, expected)?;
                    match literal {
                        Some(literal) => required.literals.push((weight.name.clone(), literal)),
                        None => {
                            required.weights.insert(weight.name.clone(), expected);
                        }
                    }
                }
                // A literal may be in the kernels.
                (None, Some(_)) => {}
                (None, None) => return Err(unknown(&weight.name, offered.keys())),
            }
        }
        match offered.first_key_value() {
            Some((name, _)) => Err(unknown(name, manifest.weights.iter().map(|w| &w.name))),
            None => Ok(required),
        }
    }

    /// Whether each weight comes from a program, with its dtype and number of elements.
    pub(super) fn check(&self, weight_program: &Graph) -> Result<()> {
        for (name, &expected) in &self.weights {
            let mut outputs = weight_program.outputs().iter();
            let Some(output) = outputs.find(|output| output.name == *name) else {
                let known = weight_program.outputs().iter().map(|output| &output.name);
                return Err(unknown(name, known));
            };
            let ty = weight_program.type_of(output.value);
            let shape = ty.static_shape();
            let count = shape.map_or(0, |shape| shape.element_count());
            expect_type(name, expected, (ty.dtype, count))?;
        }
        Ok(())
    }

    /// Names of the weights, without literals.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.weights.keys().map(String::as_str)
    }

    /// Whether it needs a weight of this name.
    pub(super) fn needs(&self, name: &str) -> bool {
        self.weights.contains_key(name)
    }

    /// Whether it has a literal of this name.
    pub(super) fn is_literal(&self, name: &str) -> bool {
        self.literals.iter().any(|(literal, _)| literal == name)
    }

    /// What no weight gives.
    pub(super) fn literals(&self) -> &[(String, Tensor)] {
        &self.literals
    }

    /// Whether it has literals that were not set yet.
    pub(super) fn lacks_literals(&self) -> bool {
        let mut literals = self.literals.iter();
        literals.any(|(name, _)| !self.given.contains(name))
    }

    /// Takes note of what has been set.
    pub(super) fn give(&mut self, names: impl IntoIterator<Item = String>) {
        self.given.extend(names);
    }

    /// Everything that has never been set, were `names` set now.
    ///
    /// # Errors
    /// [`Error::Missing`] with the names.
    pub(super) fn expect_complete(&self, graph: &str, names: &BTreeSet<String>) -> Result<()> {
        let literals = self.literals.iter().map(|(name, _)| name.as_str());
        let missing: Vec<String> = self
            .names()
            .chain(literals)
            .filter(|name| !self.given.contains(*name) && !names.contains(*name))
            .map(str::to_owned)
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::Missing {
            action: format!("refitting `{graph}`"),
            names: missing,
        })
    }
}

fn expect_type(name: &str, expected: (DType, usize), found: (DType, usize)) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    let shown = |(dtype, count): (DType, usize)| format!("{count} elements of {dtype}");
    Err(Error::Mismatch {
        name: name.to_owned(),
        expected: shown(expected),
        found: shown(found),
    })
}

fn unknown<T: ToString>(name: &str, known: impl Iterator<Item = T>) -> Error {
    Error::Unknown {
        what: "weights",
        name: name.to_owned(),
        known: known.map(|name| name.to_string()).collect(),
    }
}

fn unreadable(reason: String) -> Error {
    Error::Read {
        action: "reading what stands beside a plan".to_owned(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, reason),
    }
}

#[cfg(test)]
#[path = "required_tests.rs"]
mod tests;
