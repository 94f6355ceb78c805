//! Convolutions as graphs of cuDNN.
//!
//! | candidate | graphs | rounds |
//! |---|---|---|
//! | `fused` | convolution and bias in one, in f32 between them | once |
//! | `two passes` | the convolution, then the bias added in place | twice |
//! | `plain` | a convolution that has no bias | once |
//!
//! Layouts are strides: views that are channels-last give a channels-last convolution. cuDNN
//! fuses those of 16 bits only; row-major ones mostly take two passes.

use tintype_tensor::DType;

use super::graph::{Function, GraphDescription, Operation, Tensor};
use crate::View;
use crate::plan::Convolution;

/// Graphs that one after another compute a convolution.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Candidate {
    pub(super) name: &'static str,
    pub(super) stages: Vec<GraphDescription>,
}

/// The ways to compute a convolution, the better first.
///
/// # Errors
/// Why cuDNN cannot be given it: dtypes, sizes, places that only the device knows.
pub(super) fn candidates_of(call: &Convolution) -> Result<Vec<Candidate>, String> {
    check(call)?;
    let plain = |name| Candidate {
        name,
        stages: vec![without_bias(call)],
    };
    let Some(bias) = &call.bias else {
        return Ok(vec![plain("plain")]);
    };
    let mut two_passes = plain("two passes");
    two_passes.stages.push(bias_alone(bias, &call.output));
    let fused = Candidate {
        name: "fused",
        stages: vec![with_bias(call, bias)],
    };
    Ok(vec![fused, two_passes])
}

fn check(call: &Convolution) -> Result<(), String> {
    let dtype = call.input.dtype;
    if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
        return Err(format!("a convolution of {dtype}"));
    }
    let named = [
        ("input", &call.input),
        ("weight", &call.weight),
        ("output", &call.output),
    ];
    for (name, view) in named {
        if view.axes.len() != 4 || view.count() == 0 {
            return Err(format!("{name} {view} is not [b, c, h, w]"));
        }
        check_elements(name, view, dtype)?;
    }
    if call
        .output
        .axes
        .iter()
        .any(|axis| axis.size > 1 && axis.stride == 0)
    {
        return Err(format!("output {} repeats", call.output));
    }
    check_sizes(call)?;
    let Some(bias) = &call.bias else {
        return Ok(());
    };
    if bias.shape() != [call.output.axes[1].size] || bias.axes[0].stride != 1 {
        return Err(format!("bias {bias} is not one for each channel"));
    }
    check_elements("bias", bias, dtype)
}

fn check_elements(name: &str, view: &View, dtype: DType) -> Result<(), String> {
    if view.dtype != dtype {
        return Err(format!("{name} is {}, input is {dtype}", view.dtype));
    }
    if view.index.is_some() {
        return Err(format!("{name} {view} begins where only the device knows"));
    }
    Ok(())
}

/// That the library and the plan mean the same sizes.
fn check_sizes(call: &Convolution) -> Result<(), String> {
    let attributes = &call.attributes;
    let [x, w, y] = [&call.input, &call.weight, &call.output].map(View::shape);
    let [top, bottom, left, right] = attributes.padding;
    let positions = |axis: usize, padding: usize, stride: usize| {
        let padded = x[axis] + padding;
        let taps = w[axis];
        (taps <= padded && stride > 0).then(|| (padded - taps) / stride + 1)
    };
    let fits = attributes.groups > 0
        && x[1] == w[1] * attributes.groups
        && w[0].is_multiple_of(attributes.groups)
        && y[..2] == [x[0], w[0]]
        && positions(2, top + bottom, attributes.stride[0]) == Some(y[2])
        && positions(3, left + right, attributes.stride[1]) == Some(y[3]);
    if fits {
        return Ok(());
    }
    Err(format!(
        "sizes that do not fit: {x:?} with {w:?} {attributes:?} to {y:?}"
    ))
}

/// Adds the convolution to an output that is given.
fn convolution(graph: &mut GraphDescription, call: &Convolution, output: Tensor) {
    let [top, bottom, left, right] = call.attributes.padding.map(|zeros| zeros as i64);
    let input = graph.tensor(Tensor::of_view(&call.input));
    let weight = graph.tensor(Tensor::of_view(&call.weight));
    let output = graph.tensor(output);
    graph.operations.push(Operation::Convolution {
        input,
        weight,
        output,
        stride: call.attributes.stride.map(|step| step as i64),
        before: [top, left],
        after: [bottom, right],
    });
}

fn without_bias(call: &Convolution) -> GraphDescription {
    let mut graph = GraphDescription::default();
    convolution(&mut graph, call, Tensor::of_view(&call.output));
    graph
}

fn with_bias(call: &Convolution, bias: &View) -> GraphDescription {
    let mut graph = GraphDescription::default();
    let output = Tensor::of_view(&call.output);
    // The sum passes on in f32, in the order of the output.
    let sum = Tensor {
        strides: output.strides.clone(),
        ..Tensor::passing(&output.dims, DType::F32)
    };
    convolution(&mut graph, call, sum);
    let sum = super::graph::TensorId(graph.tensors.len() - 1);
    let bias = graph.tensor(for_channels(bias, &output));
    let output = graph.tensor(output);
    graph.pointwise_to(Function::Add, &[sum, bias], output, DType::F32);
    graph
}

/// Adds the bias to what is in the output already. Each element is read before it is written.
fn bias_alone(bias: &View, output: &View) -> GraphDescription {
    let mut graph = GraphDescription::default();
    let tensor = Tensor::of_view(output);
    let bias = for_channels(bias, &tensor);
    let before = graph.tensor(tensor);
    let bias = graph.tensor(bias);
    let after = graph.tensor(Tensor::of_view(output));
    graph.pointwise_to(Function::Add, &[before, bias], after, DType::F32);
    graph
}

/// `[1, c, 1, 1]` of `[c]`, in the order of the output's axes: though all but one have size 1, the
/// library tells layouts by strides.
fn for_channels(bias: &View, output: &Tensor) -> Tensor {
    let tensor = Tensor::of_view(bias);
    let channels = tensor.dims[0];
    Tensor {
        dims: vec![1, channels, 1, 1],
        strides: if output.strides[1] == 1 {
            vec![channels, 1, channels, channels]
        } else {
            vec![channels, 1, 1, 1]
        },
        ..tensor
    }
}
