//! How weights of 8-bit floats come into an engine.
//!
//! From version 1.7 on, TensorRT-RTX takes codes as they are. Before, plans with codes that can be
//! refitted cannot be written (found with 1.6.1 on an H100). There each code is handed over as a
//! bf16 number, which holds it without loss, and the network makes codes of these again: the same
//! results, with twice the memory unless the library does it once and for all when it is refitted.
//! That this works was not tried on a GPU.
//!
//! ```
//! use tintype_tensorrt::backend::{BuildOptions, F8Weights};
//! use tintype_tensorrt::plan::PlanCache;
//!
//! let build = BuildOptions::new(PlanCache::of_user()).with_f8_weights(F8Weights::Widened);
//! ```

use tintype_ir::{Graph, GraphBuilder, Op, StagedGraph, Value};
use tintype_tensor::DType;

use crate::{Result, Tensorrt};

/// How weights of 8-bit floats come into an engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum F8Weights {
    /// As codes where the library can be refitted with them, else widened.
    #[default]
    Auto,
    /// As codes.
    Codes,
    /// As bf16 numbers, of which the network makes codes.
    Widened,
}

impl F8Weights {
    /// Whether they are widened for this library.
    pub(super) fn are_widened(self, tensorrt: &Tensorrt) -> bool {
        match self {
            // Both came with the same version.
            Self::Auto => !tensorrt.takes_placeholders(),
            Self::Codes => false,
            Self::Widened => true,
        }
    }
}

/// The programs with a weight program that hands its codes over as bf16 numbers.
pub(super) fn widened(mut staged: StagedGraph) -> Result<StagedGraph> {
    let weights = &staged.weight;
    let is_f8 = |value: Value| weights.type_of(value).dtype == DType::F8E4M3;
    if weights.outputs().iter().any(|output| is_f8(output.value)) {
        staged.weight = with_wide_outputs(weights)?;
    }
    Ok(staged)
}

fn with_wide_outputs(weights: &Graph) -> Result<Graph> {
    let mut b = GraphBuilder::new(weights.name());
    for parameter in weights.parameters() {
        b.parameter(&parameter.name, parameter.ty.clone());
    }
    let mut nodes: Vec<Value> = Vec::with_capacity(weights.nodes().len());
    let moved = |value: Value, nodes: &[Value]| match value {
        Value::Node(index) => nodes[index],
        other => other,
    };
    for node in weights.nodes() {
        let operands = node.operands.iter().map(|&value| moved(value, &nodes));
        let operands: Vec<Value> = operands.collect();
        b.set_label(node.label.as_deref());
        nodes.push(b.op(node.op.clone(), &operands));
    }
    b.set_label(None);
    for output in weights.outputs() {
        let mut value = moved(output.value, &nodes);
        if b.type_of(value).dtype == DType::F8E4M3 {
            let dtype = DType::BF16;
            value = b.op(Op::Cast { dtype }, &[value]);
        }
        b.output(&output.name, value);
    }
    Ok(b.finish()?)
}

#[cfg(test)]
mod tests {
    use tintype_ir::parse;

    use super::*;
    use crate::lower::{Layers, LowerOptions};

    /// A weight of codes, with a scale of its own.
    const MODEL: &str = "graph g { param @w: f32[8, 4] param @s: f32[] input step %x: bf16[2, 4] \
        %0: f32[8, 4] = div @w, @s %1: f8e4m3[8, 4] = cast %0 %2: f32[8, 4] = cast %1 \
        %3: f32[8, 4] = mul %2, @s %4: bf16[8, 4] = cast %3 %5: bf16[2, 8] = linear %x, %4 \
        output y = %5 }";

    #[test]
    fn what_is_handed_over_is_what_the_network_wants() {
        let staged = StagedGraph::split(&parse(MODEL).unwrap()).unwrap();
        let codes = staged.step.parameters().iter();
        let codes: Vec<_> = codes.filter(|p| p.ty.dtype == DType::F8E4M3).collect();
        assert_eq!(codes.len(), 1);
        let name = &codes[0].name;
        for is_widened in [false, true] {
            let options = LowerOptions {
                widen_f8_weights: is_widened,
                ..LowerOptions::default()
            };
            let layers = Layers::of(&staged.step, &options).unwrap();
            let placed = layers.weights().iter().find(|weight| weight.name == *name);
            let staged = if is_widened {
                widened(staged.clone()).unwrap()
            } else {
                staged.clone()
            };
            let outputs = staged.weight.outputs().iter();
            let mut outputs = outputs.filter(|output| output.name == *name);
            let handed = staged.weight.type_of(outputs.next().unwrap().value);
            assert_eq!(placed.unwrap().dtype, handed.dtype);
            let expected = if is_widened {
                DType::BF16
            } else {
                DType::F8E4M3
            };
            assert_eq!(handed.dtype, expected);
            // All else stays what it was.
            assert_eq!(staged.weight.outputs().len(), 2);
        }
    }
}
