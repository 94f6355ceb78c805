//! The library itself on a GPU, against what calls mean: run where there are both, with
//! `cargo test -p tintype-cuda --lib dnn -- --ignored --nocapture --test-threads 1`.
//!
//! Each call runs once by itself and twice from a CUDA graph, from other values in the output.

use std::collections::HashMap;

use tintype_device::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use tintype_device::{Device, DeviceBuffer, Staging, Stream};
use tintype_ir::{Attention, Conv2d};
use tintype_tensor::{DType, Tensor, relative_error};

use super::attention::attention;
use super::convolution::{channels_last, convolved};
use super::numbers;
use crate::libraries::dnn::interpret::{Memory, elements};
use crate::libraries::dnn::{Dnn, DnnOptions};
use crate::plan::{AttentionCall, Convolution};
use crate::run::{Addresses, Prepared};
use crate::{Place, View};

struct Bench {
    dnn: Dnn,
    stream: Stream,
    staging: Staging,
}

impl Bench {
    fn new() -> Self {
        let device = Device::open(0).unwrap();
        let options = DnnOptions {
            folder: None,
            ..DnnOptions::default()
        };
        let dnn = Dnn::with(&device, options).unwrap();
        let stream = device.new_stream().unwrap();
        let staging = Staging::new(&stream).unwrap();
        println!("{device:?}, cuDNN {}", dnn.version());
        Self {
            dnn,
            stream,
            staging,
        }
    }

    /// Numbers for the places of views, of their dtypes.
    fn memory(views: &[&View]) -> Memory {
        let rounded = |(place, count): (Place, usize)| {
            let (dtype, values) = (dtype_of(place, views), numbers(count, count as u64 + 7));
            let values = values.iter().map(|&value| dtype.round(value as f32).into());
            (place, values.collect())
        };
        reach(views).into_iter().map(rounded).collect()
    }

    fn upload(&mut self, memory: &Memory, views: &[&View]) -> HashMap<Place, DeviceBuffer> {
        let mut upload = |place: Place, values: &Vec<f64>| {
            let dtype = dtype_of(place, views);
            let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
            let tensor = Tensor::from_f32_as(dtype, [values.len()], values).unwrap();
            let bytes = tensor.bytes();
            let buffer = DeviceBuffer::allocate(&self.stream, bytes.len()).unwrap();
            self.staging.upload(bytes, &buffer, 0).unwrap();
            buffer
        };
        let places = memory.iter();
        places
            .map(|(&place, values)| (place, upload(place, values)))
            .collect()
    }

    /// Runs a step and gives its relative error; of a graph, the greater of two runs.
    fn errors(
        &mut self,
        prepared: &dyn Prepared,
        memory: &Memory,
        views: &[&View],
        expected: &[f64],
    ) -> [f64; 2] {
        let buffers = self.upload(memory, views);
        let output = *views.last().unwrap();
        let scratch = DeviceBuffer::allocate(&self.stream, prepared.scratch_bytes()).unwrap();
        let of = |place: Place| buffers[&place].address();
        let addresses = Addresses {
            of: &of,
            scratch: scratch.address(),
        };
        let expected: Vec<f32> = expected.iter().map(|&value| value as f32).collect();
        let stream = self.stream.clone();
        let target = &buffers[&output.place];
        let error = || {
            let bytes = target.to_host(0..target.len(), &stream).unwrap();
            let count = bytes.len() * 8 / output.dtype.bits();
            let tensor = Tensor::from_bytes(output.dtype, [count], bytes).unwrap();
            let values = tensor.to_f32_vec().unwrap();
            let values = values.into_iter().map(f64::from).collect();
            let found = elements(output, &HashMap::from([(output.place, values)]));
            let found: Vec<f32> = found.iter().map(|&value| value as f32).collect();
            relative_error(&found, &expected)
        };
        // SAFETY: each place has a buffer as large as its views reach; all live to the end.
        unsafe { prepared.enqueue(&stream, &addresses) }.unwrap();
        let alone = error();
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.as_cudarc().begin_capture(mode).unwrap();
        // SAFETY: as above.
        let captured = unsafe { prepared.enqueue(&stream, &addresses) };
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.as_cudarc().end_capture(flags).unwrap().unwrap();
        captured.unwrap();
        let again = || {
            target.fill(0..target.len(), 0x7f, &stream).unwrap();
            graph.launch().unwrap();
            error()
        };
        [alone, again().max(again())]
    }

    /// The time of a run in milliseconds, from memory that holds anything.
    fn milliseconds(&self, prepared: &dyn Prepared, views: &[&View]) -> f32 {
        let buffer = |(place, count): (Place, usize)| {
            let bytes = count * dtype_of(place, views).bits() / 8;
            let buffer = DeviceBuffer::allocate(&self.stream, bytes).unwrap();
            buffer.fill(0..bytes, 0x3c, &self.stream).unwrap();
            (place, buffer)
        };
        let buffers: HashMap<_, _> = reach(views).into_iter().map(buffer).collect();
        let scratch = DeviceBuffer::allocate(&self.stream, prepared.scratch_bytes()).unwrap();
        let of = |place: Place| buffers[&place].address();
        let addresses = Addresses {
            of: &of,
            scratch: scratch.address(),
        };
        // SAFETY: each place has a buffer as large as its views reach; all live to the end.
        let run = || unsafe { prepared.enqueue(&self.stream, &addresses) }.unwrap();
        (0..3).for_each(|_| run());
        let start = self.stream.record_timed().unwrap();
        (0..10).for_each(|_| run());
        let end = self.stream.record_timed().unwrap();
        end.milliseconds_since(&start).unwrap() / 10.0
    }
}

/// The dtype of what lies at a place.
fn dtype_of(place: Place, views: &[&View]) -> DType {
    let mut there = views.iter().filter(|view| view.place == place);
    there.next().expect("a view of the place").dtype
}

/// How many elements of each place views reach.
fn reach(views: &[&View]) -> HashMap<Place, usize> {
    let mut counts: HashMap<Place, usize> = HashMap::new();
    for view in views {
        let axes = view.axes.iter().map(|axis| (axis.size - 1) * axis.stride);
        let end = view.offset + axes.sum::<usize>() + 1;
        let count = counts.entry(view.place).or_default();
        *count = end.max(*count);
    }
    counts
}

/// Attention of queries, keys and values from one product, written into a wider buffer.
fn joined(
    dtype: DType,
    [b, s, h, d]: [usize; 4],
    has_bias: bool,
    attributes: Attention,
) -> AttentionCall {
    let product = View::contiguous(Place::Buffer(0), dtype, &[b, s, 3 * h * d]);
    let part = |number: usize| {
        let part = product.slice(2, number * h * d, (number + 1) * h * d);
        part.reshape(&[b, s, h, d]).unwrap()
    };
    let wide = View::contiguous(Place::Buffer(1), dtype, &[b, s, 2 * h * d]);
    AttentionCall {
        query_key_value: [part(0), part(1), part(2)],
        scales: [1.0; 3],
        bias: has_bias.then(|| View::contiguous(Place::Buffer(2), dtype, &[1, h, s, s])),
        attributes,
        output: wide
            .slice(2, h * d, 2 * h * d)
            .reshape(&[b, s, h, d])
            .unwrap(),
        output_factor: None,
    }
}

fn views(call: &AttentionCall) -> Vec<&View> {
    crate::libraries::dnn::views_of_attention(call)
}

#[test]
#[ignore = "needs an NVIDIA GPU and cuDNN"]
fn attention_is_computed_on_a_gpu() {
    let mut bench = Bench::new();
    let plain = |scale| Attention {
        scale,
        causal: false,
    };
    let causal = Attention {
        scale: 0.125,
        causal: true,
    };
    for (dtype, limit) in [(DType::BF16, 1e-2), (DType::F16, 2e-3)] {
        for (name, shape, has_bias, attributes) in [
            ("flux", [2, 160, 3, 128], false, plain(0.088388346)),
            ("t5", [1, 96, 4, 64], true, plain(1.0)),
            ("t5 of odd length", [2, 72, 2, 64], true, plain(1.0)),
            ("clip", [1, 77, 2, 64], false, causal.clone()),
        ] {
            let call = joined(dtype, shape, has_bias, attributes);
            let prepared = match bench.dnn.attention(name, &call) {
                Ok(prepared) => prepared,
                Err(error) => panic!("{name}: {error}"),
            };
            let memory = Bench::memory(&views(&call));
            let expected = attention(&call, &memory);
            let errors = bench.errors(&prepared, &memory, &views(&call), &expected);
            println!("{name} {dtype}: {} {errors:?}", prepared.path());
            assert!(
                errors.iter().all(|error| *error < limit),
                "{name}: {errors:?}"
            );
        }
    }
}

/// The same call of codes, with a result of codes that is multiplied with a number in memory.
fn of_codes(mut call: AttentionCall, scales: [f32; 3]) -> AttentionCall {
    let views = call.query_key_value.iter_mut().chain([&mut call.output]);
    views.for_each(|view| view.dtype = DType::F8E4M3);
    call.scales = scales;
    call.output_factor = Some(View::contiguous(Place::Buffer(4), DType::F32, &[1]));
    call
}

#[test]
#[ignore = "needs an NVIDIA GPU and cuDNN"]
fn attention_of_codes_is_computed_on_a_gpu() {
    let mut bench = Bench::new();
    for (name, shape) in [
        ("flux", [2, 160, 3, 128]),
        ("of odd length", [1, 77, 2, 128]),
        ("narrow heads", [1, 192, 4, 64]),
    ] {
        let plain = Attention {
            scale: 0.088388346,
            causal: false,
        };
        let call = joined(DType::F8E4M3, shape, false, plain);
        let call = of_codes(call, [4.0, 2.0, 64.0]);
        let prepared = match bench.dnn.attention(name, &call) {
            Ok(prepared) => prepared,
            Err(error) => panic!("{name}: {error}"),
        };
        let views = views(&call);
        let memory = Bench::memory(&views);
        let expected = attention(&call, &memory);
        let errors = bench.errors(&prepared, &memory, &views, &expected);
        println!("codes, {name}: {} {errors:?}", prepared.path());
        // Rounding to codes costs 2.6 % of the result, and the weights as much once more, which
        // adds up over keys.
        assert!(
            errors.iter().all(|error| *error < 5e-2),
            "{name}: {errors:?}"
        );
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU and cuDNN"]
fn attention_at_the_models_sizes_takes_so_long() {
    let bench = Bench::new();
    let plain = |scale| Attention {
        scale,
        causal: false,
    };
    for (name, shape, has_bias, attributes) in [
        ("flux", [1, 4608, 24, 128], false, plain(0.088388346)),
        ("flux of two", [2, 4608, 24, 128], false, plain(0.088388346)),
        ("t5", [1, 512, 64, 64], true, plain(1.0)),
    ] {
        let call = joined(DType::BF16, shape, has_bias, attributes);
        let codes = of_codes(call.clone(), [1.0; 3]);
        for (call, dtype) in [(call, "bf16"), (codes, "codes")] {
            let prepared = match bench.dnn.attention(name, &call) {
                Ok(prepared) => prepared,
                Err(error) => {
                    println!("{name} {dtype}: {error}");
                    assert!(dtype == "codes" && has_bias, "{name} must run");
                    continue;
                }
            };
            let time = bench.milliseconds(&prepared, &views(&call));
            let [b, s, h, d] = shape.map(|size| size as f32);
            let speed = 4.0 * b * h * s * s * d / time / 1e9;
            println!(
                "{name} {dtype}: {} {time:.3} ms, {speed:.0} TFLOP/s, scratch {}",
                prepared.path(),
                prepared.scratch_bytes()
            );
        }
    }
}

fn same(
    is_last: bool,
    dtype: DType,
    [b, c, h, w]: [usize; 4],
    out: usize,
    taps: usize,
) -> Convolution {
    let view = |place, shape: [usize; 4]| {
        if is_last {
            channels_last(place, dtype, shape)
        } else {
            View::contiguous(place, dtype, &shape)
        }
    };
    Convolution {
        input: view(Place::Buffer(0), [b, c, h, w]),
        weight: view(Place::Parameter(0), [out, c, taps, taps]),
        bias: Some(View::contiguous(Place::Parameter(1), dtype, &[out])),
        attributes: Conv2d {
            stride: [1, 1],
            padding: [taps / 2; 4],
            groups: 1,
        },
        output: view(Place::Buffer(1), [b, out, h, w]),
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU and cuDNN"]
fn convolutions_are_computed_on_a_gpu() {
    let mut bench = Bench::new();
    let mut failures = Vec::new();
    for (dtype, limit) in [(DType::F32, 1e-5), (DType::BF16, 1e-2), (DType::F16, 2e-3)] {
        for is_last in [false, true] {
            for (shape, out, taps) in [
                ([1, 16, 16, 16], 64, 3),
                ([2, 64, 20, 24], 32, 3),
                ([1, 64, 20, 24], 32, 1),
                ([1, 32, 24, 24], 3, 3),
            ] {
                let call = same(is_last, dtype, shape, out, taps);
                let order = if is_last { "nhwc" } else { "nchw" };
                let name = format!("{shape:?} to {out}, {taps} taps, {dtype} {order}");
                let prepared = match bench.dnn.convolution(&name, &call) {
                    Ok(prepared) => prepared,
                    Err(error) => {
                        println!("{name}: {error}");
                        failures.push(name);
                        continue;
                    }
                };
                let views = crate::libraries::dnn::views_of_convolution(&call);
                let memory = Bench::memory(&views);
                let expected = convolved(&call, &memory);
                let errors = bench.errors(&prepared, &memory, &views, &expected);
                println!("{name}: {} {errors:?}", prepared.path());
                let is_near = errors.iter().all(|error| *error < limit);
                if !is_near {
                    failures.push(format!("{name}: {errors:?}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
#[ignore = "needs an NVIDIA GPU and cuDNN"]
fn convolutions_at_the_vaes_sizes_take_so_long() {
    let bench = Bench::new();
    for (is_last, order) in [(false, "nchw"), (true, "nhwc")] {
        for (shape, out) in [
            ([1, 512, 128, 128], 512),
            ([1, 512, 512, 512], 256),
            ([1, 256, 1024, 1024], 128),
            ([1, 128, 1024, 1024], 3),
        ] {
            let call = same(is_last, DType::BF16, shape, out, 3);
            let prepared = match bench.dnn.convolution(order, &call) {
                Ok(prepared) => prepared,
                Err(error) => {
                    println!("{error}");
                    continue;
                }
            };
            let views = crate::libraries::dnn::views_of_convolution(&call);
            let time = bench.milliseconds(&prepared, &views);
            let operations = 18.0 * call.input.count() as f32 * out as f32;
            println!(
                "{shape:?} to {out} {order}: {} {time:.3} ms, {:.0} TFLOP/s, scratch {}",
                prepared.path(),
                operations / time / 1e9,
                prepared.scratch_bytes()
            );
        }
    }
}
