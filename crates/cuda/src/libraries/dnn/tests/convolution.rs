//! Graphs of convolutions against what calls mean; calls that are refused.

use tintype_ir::Conv2d;
use tintype_tensor::DType;

use super::{assert_near, memory};
use crate::libraries::dnn::convolution::candidates_of;
use crate::libraries::dnn::interpret::{Memory, elements, run};
use crate::plan::Convolution;
use crate::{Place, View};

/// `[b, c, h, w]` in the order `[b, h, w, c]`.
pub(super) fn channels_last(place: Place, dtype: DType, [b, c, h, w]: [usize; 4]) -> View {
    View::contiguous(place, dtype, &[b, h, w, c]).transpose(&[0, 3, 1, 2])
}

pub(super) fn convolution(is_last: bool, has_bias: bool, groups: usize) -> Convolution {
    let dtype = DType::F16;
    let view = |place, shape: [usize; 4]| {
        if is_last {
            channels_last(place, dtype, shape)
        } else {
            View::contiguous(place, dtype, &shape)
        }
    };
    Convolution {
        input: view(Place::Buffer(0), [2, 4, 5, 6]),
        weight: view(Place::Parameter(0), [6, 4 / groups, 3, 2]),
        bias: has_bias.then(|| View::contiguous(Place::Parameter(1), dtype, &[6])),
        attributes: Conv2d {
            stride: [2, 1],
            padding: [0, 1, 1, 2],
            groups,
        },
        output: view(Place::Buffer(1), [2, 6, 2, 8]),
    }
}

/// What the call means, from the views alone.
pub(super) fn convolved(call: &Convolution, memory: &Memory) -> Vec<f64> {
    let [x, w] = [&call.input, &call.weight].map(|view| elements(view, memory));
    let bias = call.bias.as_ref().map(|bias| elements(bias, memory));
    let [xs, ws, ys] = [&call.input, &call.weight, &call.output].map(View::shape);
    let [top, _, left, _] = call.attributes.padding;
    let mut output = Vec::new();
    for number in 0..ys.iter().product() {
        let (column, rest) = (number % ys[3], number / ys[3]);
        let (row, rest) = (rest % ys[2], rest / ys[2]);
        let (channel, batch) = (rest % ys[1], rest / ys[1]);
        let group = channel / (ws[0] / call.attributes.groups);
        let mut sum = bias.as_ref().map_or(0.0, |bias| bias[channel]);
        for c in 0..ws[1] {
            for (i, j) in (0..ws[2]).flat_map(|i| (0..ws[3]).map(move |j| (i, j))) {
                let y = (row * call.attributes.stride[0] + i).checked_sub(top);
                let z = (column * call.attributes.stride[1] + j).checked_sub(left);
                let (Some(y), Some(z)) = (y, z) else { continue };
                if y < xs[2] && z < xs[3] {
                    let from = ((batch * xs[1] + group * ws[1] + c) * xs[2] + y) * xs[3] + z;
                    sum += x[from] * w[((channel * ws[1] + c) * ws[2] + i) * ws[3] + j];
                }
            }
        }
        output.push(sum);
    }
    output
}

#[test]
fn every_candidate_of_a_convolution_computes_it() {
    for (is_last, has_bias, groups) in [
        (false, true, 1),
        (true, true, 1),
        (false, false, 2),
        (true, true, 2),
    ] {
        let call = convolution(is_last, has_bias, groups);
        let candidates = candidates_of(&call).unwrap();
        assert_eq!(candidates.len(), if has_bias { 2 } else { 1 });
        for candidate in candidates {
            let mut memory = memory(&[
                (Place::Buffer(0), call.input.count()),
                (Place::Parameter(0), call.weight.count()),
                (Place::Parameter(1), 6),
                (Place::Buffer(1), call.output.count()),
            ]);
            let expected = convolved(&call, &memory);
            for stage in &candidate.stages {
                run(stage, &mut memory);
            }
            let found = elements(&call.output, &memory);
            assert_near(&found, &expected, candidate.name);
        }
    }
}

#[test]
fn a_convolution_that_cudnn_cannot_read_is_refused_by_name() {
    let good = convolution(false, true, 1);
    let refusal = |change: &dyn Fn(&mut Convolution)| {
        let mut call = good.clone();
        change(&mut call);
        candidates_of(&call).unwrap_err()
    };
    let text = refusal(&|call| call.attributes.padding = [1; 4]);
    assert!(text.contains("sizes"), "{text}");
    let text = refusal(&|call| call.attributes.groups = 3);
    assert!(text.contains("sizes"), "{text}");
    let text = refusal(&|call| call.weight.dtype = DType::F32);
    assert!(text.contains("weight is f32"), "{text}");
    let text = refusal(&|call| call.bias.as_mut().unwrap().axes[0].stride = 2);
    assert!(text.contains("bias"), "{text}");
    let text = refusal(&|call| {
        for view in [&mut call.input, &mut call.weight, &mut call.output] {
            view.dtype = DType::I32;
        }
    });
    assert!(text.contains("i32"), "{text}");
}
