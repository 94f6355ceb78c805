//! The part of a weight program that a refit needs: what it reads, how large it is, in which
//! groups it fits.

use std::collections::{BTreeSet, HashSet};

use tintype_backend::Result;
use tintype_ir::{Evaluator, Graph, Value};
use tintype_weights::Parameters;

use crate::run::machine::WeightJob;

/// A weight program with what it reads.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) program: &'a Graph,
    pub(super) parameters: &'a Parameters,
    /// Computes what has no kernel.
    pub(super) evaluator: &'a dyn Evaluator,
}

impl<'a> Inputs<'a> {
    /// Looks at every parameter that `names` need, without reading it.
    ///
    /// # Errors
    /// One that is missing, of another shape, or holds no floats where floats are needed.
    pub(super) fn check(&self, names: &BTreeSet<String>) -> Result<()> {
        let mut is_reached = vec![false; self.program.nodes().len()];
        let mut parameters = BTreeSet::new();
        let mut reach = |value: Value, is_reached: &mut Vec<bool>| match value {
            Value::Parameter(index) => _ = parameters.insert(index),
            Value::Node(index) => is_reached[index] = true,
            Value::Input(_) => {}
        };
        for output in self.program.outputs() {
            if names.contains(&output.name) {
                reach(output.value, &mut is_reached);
            }
        }
        for (index, node) in self.program.nodes().iter().enumerate().rev() {
            if is_reached[index] {
                for &operand in &node.operands {
                    reach(operand, &mut is_reached);
                }
            }
        }
        let found = parameters.into_iter();
        found
            .map(|index| &self.program.parameters()[index])
            .try_for_each(|needed| {
                let shape = needed.ty.static_shape();
                let shape = shape.expect("parameters have static types");
                let stored = self.parameters.check(&needed.name, needed.ty.dtype, &shape);
                Ok(stored.map(|_| ())?)
            })
    }

    /// The names of all weights.
    pub(super) fn names(&self) -> BTreeSet<String> {
        let outputs = self.program.outputs().iter();
        outputs.map(|output| output.name.clone()).collect()
    }

    /// The bytes of some weights.
    pub(super) fn bytes(&self, names: &BTreeSet<String>) -> usize {
        let sizes = self.sizes().filter(|(name, _)| names.contains(*name));
        sizes.map(|(_, bytes)| bytes).sum()
    }

    /// The same in groups of at most so many bytes, in the order of the program; a larger weight
    /// is a group of its own.
    pub(super) fn groups(&self, names: &BTreeSet<String>, most: usize) -> Vec<BTreeSet<String>> {
        let mut groups: Vec<(BTreeSet<String>, usize)> = Vec::new();
        for (name, bytes) in self.sizes().filter(|(name, _)| names.contains(*name)) {
            match groups.last_mut() {
                Some((group, held)) if *held + bytes <= most => {
                    group.insert(name.to_owned());
                    *held += bytes;
                }
                _ => groups.push((BTreeSet::from([name.to_owned()]), bytes)),
            }
        }
        groups.into_iter().map(|(group, _)| group).collect()
    }

    /// What a machine computes for some of these weights.
    pub(super) fn job(&self, wanted: &'a HashSet<&'a str>) -> WeightJob<'a> {
        WeightJob {
            program: self.program,
            parameters: self.parameters,
            evaluator: self.evaluator,
            wanted,
        }
    }

    fn sizes(&self) -> impl Iterator<Item = (&'a str, usize)> {
        let program = self.program;
        program.outputs().iter().map(|output| {
            let ty = program.type_of(output.value);
            // Weights have static types.
            let shape = ty.static_shape();
            let bytes = shape.map_or(0, |shape| shape.byte_len(ty.dtype).unwrap_or_default());
            (output.name.as_str(), bytes)
        })
    }
}
