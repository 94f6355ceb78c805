//! Attention of codes of 8-bit floats: queries, keys, values and result are f8e4m3.
//!
//! The library knows it by the pattern of all operations together, scales and maxima included.
//! In memory of the device lie the factors of each tensor; the weights of values are rounded to
//! codes within. Hopper writes codes alone, and so does this.
//!
//! | of | factor |
//! |---|---|
//! | queries, keys, values | the scales of the call |
//! | weights, as they are rounded | [`WEIGHTS`]; as they are read one over it |
//! | the result | what the call names, read when it runs |
//!
//! ```ignore
//! narrow::check(&form, version, 90)?;
//! let graph = narrow::graph_of(&call);
//! ```

use tintype_tensor::DType;

use super::attention::{COMPOSITE, Form, heads_first, softmax};
use super::graph::{Function, GraphDescription, Operation, Reduction, Store, Tensor, TensorId};
use super::library::Version;
use crate::plan::AttentionCall;

/// Whether this library takes a form of codes on a GPU of this compute capability (90 for 9.0);
/// or why not.
pub(super) fn check(form: &Form, version: Version, capability: u32) -> Result<(), String> {
    if capability < 90 {
        let capability = f64::from(capability) / 10.0;
        return Err(format!(
            "attention of 8-bit floats on a GPU of compute capability {capability:.1}"
        ));
    }
    if version < COMPOSITE {
        return Err(format!("attention of 8-bit floats needs cuDNN {COMPOSITE}"));
    }
    if form.has_bias || form.is_causal {
        return Err("attention of 8-bit floats with a bias or a mask".to_owned());
    }
    for width in [form.width, form.value_width] {
        if width > GREATEST_WIDTH || !width.is_multiple_of(16) {
            return Err(format!("heads of width {width} in 8-bit floats"));
        }
    }
    Ok(())
}

/// The graph of a call that passed [`check`].
pub(super) fn graph_of(call: &AttentionCall) -> GraphDescription {
    let mut graph = GraphDescription::default();
    let [query, key, value] = &call.query_key_value;
    let query = graph.tensor(heads_first(query));
    let key = graph.tensor(heads_first(key).transposed());
    let [batch, heads, queries, _] = graph.of(query).dims[..] else {
        unreachable!("a form with a path has four axes")
    };
    let scores = [batch, heads, queries, graph.of(key).dims[3]];
    let scores = graph.tensor(Tensor::passing(&scores, DType::F32));
    product(&mut graph, query, key, scores);
    let scale = graph.tensor(Tensor::scalar(call.attributes.scale, 4));
    let mut last = scaled(&mut graph, scores, scale, DType::F32);
    for number in &call.scales[..2] {
        last = scaled_by(&mut graph, last, *number, DType::F32);
    }
    let weights = softmax(&mut graph, last, DType::F32);
    greatest(&mut graph, weights, 0);
    let weights = scaled_by(&mut graph, weights, WEIGHTS, DType::F8E4M3);

    let value = graph.tensor(heads_first(value));
    let output = heads_first(&call.output);
    let mut last = graph.tensor(Tensor::passing(&output.dims, DType::F32));
    product(&mut graph, weights, value, last);
    for number in [WEIGHTS.recip(), call.scales[2]] {
        last = scaled_by(&mut graph, last, number, DType::F32);
    }
    let factor = factor_of(call);
    let factor = graph.tensor(factor);
    let output = graph.tensor(output);
    graph.pointwise_to(Function::Multiply, &[last, factor], output, DType::F32);
    greatest(&mut graph, last, 1);
    graph
}

/// What the result is multiplied with.
fn factor_of(call: &AttentionCall) -> Tensor {
    let factor = call.output_factor.as_ref();
    let four = factor.and_then(|view| view.reshape(&[1; 4]));
    let known = || Tensor::one(Store::Number(1.0), 4);
    four.map_or_else(known, |view| Tensor {
        strides: vec![1; 4],
        ..Tensor::of_view(&view)
    })
}

fn product(graph: &mut GraphDescription, left: TensorId, right: TensorId, output: TensorId) {
    graph.operations.push(Operation::Product {
        left,
        right,
        output,
    });
}

fn scaled(graph: &mut GraphDescription, x: TensorId, factor: TensorId, dtype: DType) -> TensorId {
    graph.pointwise(Function::Multiply, &[x, factor], dtype, DType::F32)
}

/// Multiplied with a number of the device.
fn scaled_by(graph: &mut GraphDescription, x: TensorId, number: f32, dtype: DType) -> TensorId {
    let factor = graph.tensor(Tensor::one(Store::Number(number), 4));
    scaled(graph, x, factor, dtype)
}

/// The greatest magnitude, which the library writes and nobody reads.
fn greatest(graph: &mut GraphDescription, input: TensorId, spare: usize) {
    let output = graph.tensor(Tensor::one(Store::Spare(spare), 4));
    graph.operations.push(Operation::Reduce {
        reduction: Reduction::GreatestMagnitude,
        input,
        output,
    });
}

/// Weights are at most 1, so that none of them saturates, and the least that counts is no
/// subnormal number.
const WEIGHTS: f32 = 256.0;

/// Of heads, on Hopper and later.
const GREATEST_WIDTH: usize = 128;
