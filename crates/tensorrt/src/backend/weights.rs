//! The part of a weight program that a refit needs, run on the device.

use std::collections::{BTreeSet, HashMap, HashSet};

use tintype_backend::{AttachedProgram, Result};
use tintype_device::{
    CudaTensor, Keeping, KeptKey, KeptParameters, KeptPlace, WeightProgram, WeightRunner,
};
use tintype_ir::{Evaluator, Graph, Value};
use tintype_weights::Parameters;

use super::NAME;
use super::instance::{NewWeight, NewWeights};

/// A weight program with what it reads.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) program: &'a AttachedProgram,
    pub(super) parameters: &'a Parameters,
    /// Computes what has no kernel.
    pub(super) evaluator: &'a dyn Evaluator,
    /// Parameters that wait for refits.
    pub(super) kept: &'a KeptParameters,
}

impl Inputs<'_> {
    /// Computes weights. They lie on the device, all of them, as long as `budget` bytes suffice;
    /// of what does not fit, parameters that are used as they are stay in their mapped file, and
    /// other weights are copied back to the host. Gives also the bytes that were copied between
    /// host and device.
    pub(super) fn compute(
        &self,
        names: &BTreeSet<String>,
        budget: usize,
        runner: &mut WeightRunner,
    ) -> Result<(NewWeights, usize)> {
        let there = self.on_device(names)?;
        let mut weights = self.left_in_files(names, &there, budget)?;
        let wanted: HashSet<&str> = names
            .iter()
            .map(String::as_str)
            .filter(|name| !weights.contains_key(*name))
            .collect();
        let stream = runner.stream().clone();
        let (mut on_device, mut moved) = (0, 0);
        let program = WeightProgram {
            graph: self.program.graph(),
            parameters: self.parameters,
            wanted: Some(&wanted),
            evaluator: self.evaluator,
            kept: Some(Keeping {
                store: self.kept,
                grows: weights.is_empty(),
            }),
            // Engines have memory of their own.
            in_place: None,
        };
        let mut deliver = |name: &str, tensor: CudaTensor| {
            let bytes = tensor.byte_len();
            let weight = if there.contains(name) {
                NewWeight::Device(tensor)
            } else if on_device + bytes <= budget {
                on_device += bytes;
                NewWeight::Device(tensor)
            } else {
                moved += bytes;
                NewWeight::Host(tensor.download(&stream)?)
            };
            weights.insert(name.to_owned(), weight);
            Ok(())
        };
        let run = runner.run(&program, &mut deliver);
        let run = run.and_then(|report| runner.stream().synchronize().map(|()| report));
        let report = run.map_err(|error| {
            self.kept.clear();
            error.for_backend(NAME)
        })?;
        moved += usize::try_from(report.uploaded + report.downloaded).unwrap_or(usize::MAX);
        Ok((weights, moved))
    }

    /// Weights that are parameters as they are, and wait on the device: they need no more memory.
    fn on_device(&self, names: &BTreeSet<String>) -> Result<HashSet<&str>> {
        let mut there = HashSet::new();
        let outputs = self.program.graph().outputs().iter();
        for output in outputs.filter(|output| names.contains(&output.name)) {
            let Value::Parameter(index) = output.value else {
                continue;
            };
            let parameter = &self.program.graph().parameters()[index];
            let key = KeptKey::new(self.parameters, &parameter.name, parameter.ty.dtype)?;
            if let Some(KeptPlace::Device(_)) = self.kept.find(&parameter.name, &key) {
                there.insert(output.name.as_str());
            }
        }
        Ok(there)
    }

    /// Weights that are parameters as they are stored, as many as do not fit on the device.
    fn left_in_files(
        &self,
        names: &BTreeSet<String>,
        there: &HashSet<&str>,
        budget: usize,
    ) -> Result<NewWeights> {
        let outputs = || {
            let outputs = self.program.graph().outputs().iter();
            let wanted = outputs.filter(|output| names.contains(&output.name));
            wanted.filter(|output| !there.contains(output.name.as_str()))
        };
        let total: usize = outputs()
            .map(|output| bytes(self.program.graph(), output.value))
            .sum();
        let mut excess = total.saturating_sub(budget);
        let mut left = HashMap::new();
        for output in outputs() {
            let Value::Parameter(index) = output.value else {
                continue;
            };
            if excess == 0 {
                break;
            }
            let parameter = &self.program.graph().parameters()[index];
            if self.parameters.info(&parameter.name)?.dtype == parameter.ty.dtype {
                let tensor = self.parameters.get(&parameter.name)?;
                left.insert(output.name.clone(), NewWeight::Host(tensor));
                excess = excess.saturating_sub(bytes(self.program.graph(), output.value));
            }
        }
        Ok(left)
    }
}

/// A weight's bytes; weights have static types.
fn bytes(program: &Graph, value: Value) -> usize {
    let ty = program.type_of(value);
    let shape = ty.static_shape();
    shape.map_or(0, |shape| shape.byte_len(ty.dtype).unwrap_or_default())
}

#[cfg(test)]
#[path = "weights_tests.rs"]
mod tests;
