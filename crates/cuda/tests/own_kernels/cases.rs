//! Steps in all forms that kernels of our own have.

use tintype_cuda::{AttentionCall, Codes, Convolution, Place, Plan, Product, Step, View, Work};
use tintype_ir::{Attention, Binding, Conv2d, Op, RelativeBuckets, parse};
use tintype_tensor::DType;

pub(crate) fn view(place: usize, dtype: DType, shape: &[usize]) -> View {
    View::contiguous(Place::Buffer(place), dtype, shape)
}

fn step(name: &str, work: Work) -> Step {
    Step {
        label: String::new(),
        name: name.to_owned(),
        work,
    }
}

/// `input[rows, k] · weight[n, k]ᵀ`, with bias and GELU.
fn linear(name: &str, dtype: DType, [rows, k, n]: [usize; 3], is_whole: bool) -> Step {
    let product = Product {
        input: view(0, dtype, &[2, rows / 2, k]),
        weight: view(1, dtype, &[n, k]),
        bias: is_whole.then(|| view(2, dtype, &[n])),
        gelu: is_whole,
        is_linear: true,
        output: view(3, dtype, &[2, rows / 2, n]),
        codes: None,
    };
    step(name, Work::Product(product))
}

/// How a linear layer on codes is scaled.
struct Coded {
    /// Whether input and weight have a scale for each row.
    each_row: [bool; 2],
    /// Whether the result is codes, and GELU comes before.
    is_rounded: bool,
    /// Where rows of the result begin, in rows that are twice as long.
    start: usize,
}

/// A linear layer on codes.
fn coded_linear(name: &str, dtype: DType, [rows, k, n]: [usize; 3], coded: &Coded) -> Step {
    let scale = |place: usize, is_each: bool, count: usize| {
        let shape = [count];
        view(place, DType::F32, if is_each { &shape } else { &[] })
    };
    let of_output = || [scale(6, false, 1), scale(7, false, 1)];
    let output = if coded.is_rounded {
        DType::F8E4M3
    } else {
        dtype
    };
    let product = Product {
        input: view(0, DType::F8E4M3, &[2, rows / 2, k]),
        weight: view(1, DType::F8E4M3, &[n, k]),
        bias: Some(view(2, dtype, &[n])),
        gelu: coded.is_rounded,
        is_linear: true,
        output: view(3, output, &[2, rows / 2, 2 * n]).slice(2, coded.start, coded.start + n),
        codes: Some(Codes {
            scales: [
                scale(4, coded.each_row[0], rows),
                scale(5, coded.each_row[1], n),
            ],
            output: coded.is_rounded.then(of_output),
            dtype,
        }),
    };
    step(name, Work::Product(product))
}

fn coded(each_row: [bool; 2], is_rounded: bool, start: usize) -> Coded {
    Coded {
        each_row,
        is_rounded,
        start,
    }
}

/// A linear layer that writes a part of each row, from a part of each row.
fn strided_linear(dtype: DType) -> Step {
    let product = Product {
        input: view(0, dtype, &[150, 80]).slice(1, 8, 48),
        weight: view(1, dtype, &[136, 40]),
        bias: None,
        gelu: false,
        is_linear: true,
        output: view(3, dtype, &[150, 200]).slice(1, 9, 145),
        codes: None,
    };
    step("strided_linear", Work::Product(product))
}

/// A product of batches, the right one turned and repeated along the outer axis.
fn batched(dtype: DType) -> Step {
    let product = Product {
        input: view(0, dtype, &[2, 3, 20, 24]),
        weight: view(1, dtype, &[3, 24, 40]),
        bias: None,
        gelu: false,
        is_linear: false,
        output: view(3, dtype, &[2, 3, 20, 40]),
        codes: None,
    };
    step("batched", Work::Product(product))
}

fn same_right(dtype: DType) -> Step {
    let product = Product {
        input: view(0, dtype, &[3, 30, 24]),
        weight: view(1, dtype, &[40, 24]).transpose(&[1, 0]),
        bias: None,
        gelu: false,
        is_linear: false,
        output: view(3, dtype, &[3, 30, 40]),
        codes: None,
    };
    step("same_right", Work::Product(product))
}

struct Picture {
    channels: usize,
    size: [usize; 2],
    outputs: usize,
    taps: usize,
    attributes: Conv2d,
    is_channels_last: bool,
}

fn convolution(name: &str, dtype: DType, picture: &Picture) -> Step {
    let Picture {
        channels,
        size: [height, width],
        outputs,
        taps,
        ref attributes,
        is_channels_last,
    } = *picture;
    let [top, bottom, left, right] = attributes.padding;
    let [stride_y, stride_x] = attributes.stride;
    let out = [
        (height + top + bottom - taps) / stride_y + 1,
        (width + left + right - taps) / stride_x + 1,
    ];
    let at = |place, [b, c, h, w]: [usize; 4]| {
        if is_channels_last {
            view(place, dtype, &[b, h, w, c]).transpose(&[0, 3, 1, 2])
        } else {
            view(place, dtype, &[b, c, h, w])
        }
    };
    let call = Convolution {
        input: at(0, [2, channels, height, width]),
        weight: at(1, [outputs, channels / attributes.groups, taps, taps]),
        bias: Some(view(2, dtype, &[outputs])),
        attributes: attributes.clone(),
        output: at(3, [2, outputs, out[0], out[1]]),
    };
    step(name, Work::Convolution(call))
}

struct Heads {
    tokens: [usize; 2],
    count: usize,
    d: usize,
    e: usize,
    causal: bool,
    bias: Option<[usize; 2]>,
}

/// Queries, keys and values side by side in one buffer each token, as a joined product has them.
fn attention(name: &str, dtype: DType, heads: &Heads) -> Step {
    let Heads {
        tokens: [queries, keys],
        count: heads,
        d,
        e,
        causal,
        bias,
    } = *heads;
    let joined = view(1, dtype, &[2, keys, heads * (d + e)]);
    let call = AttentionCall {
        query_key_value: [
            view(0, dtype, &[2, queries, heads, d]),
            joined
                .slice(2, 0, heads * d)
                .reshape(&[2, keys, heads, d])
                .unwrap(),
            joined
                .slice(2, heads * d, heads * (d + e))
                .reshape(&[2, keys, heads, e])
                .unwrap(),
        ],
        scales: [1.0; 3],
        bias: bias.map(|[b, h]| view(2, DType::F32, &[b, h, queries, keys])),
        attributes: Attention {
            scale: 0.25,
            causal,
        },
        output: view(3, dtype, &[2, queries, heads, e]),
        output_factor: None,
    };
    step(name, Work::Attention(call))
}

/// An attention of codes, with a result of codes that is multiplied with a number in memory.
fn narrow_attention(name: &str, output: DType, heads: &Heads) -> Step {
    let mut step = attention(name, DType::F8E4M3, heads);
    let Work::Attention(call) = &mut step.work else {
        panic!()
    };
    call.scales = [0.5, 2.0, 16.0];
    call.output.dtype = output;
    if output == DType::F8E4M3 {
        call.output_factor = Some(view(4, DType::F32, &[1]));
    }
    step
}

/// Two heads of codes with one key each, whose result is not rounded.
pub(crate) fn one_key() -> Step {
    let heads = Heads {
        tokens: [1, 1],
        count: 2,
        d: 32,
        e: 128,
        causal: false,
        bias: None,
    };
    let mut step = attention("one_key", DType::F8E4M3, &heads);
    let Work::Attention(call) = &mut step.work else {
        panic!()
    };
    let codes = |place, width| view(place, DType::F8E4M3, &[1, 1, 2, width]);
    call.query_key_value = [codes(0, 32), codes(1, 32), codes(2, 128)];
    call.output = view(3, DType::F32, &[1, 1, 2, 128]);
    step
}

fn special(name: &str, op: Op, inputs: Vec<View>, output: View) -> Step {
    step(name, Work::Special { op, inputs, output })
}

fn buckets(bidirectional: bool) -> Step {
    let attributes = RelativeBuckets {
        buckets: 32,
        max_distance: 128,
        bidirectional,
        queries: 40.into(),
        keys: 300.into(),
    };
    let output = view(3, DType::I64, &[40, 300]);
    let name = if bidirectional {
        "buckets"
    } else {
        "buckets_one_way"
    };
    special(name, Op::RelativeBuckets(attributes), Vec::new(), output)
}

/// The steps of a graph with generated kernels.
fn generated(name: &str, text: &str) -> Step {
    let plan = Plan::new(&parse(text).unwrap(), &Binding::new()).unwrap();
    assert_eq!(plan.steps.len(), 1, "{plan}");
    let mut step = plan.steps[0].clone();
    name.clone_into(&mut step.name);
    step
}

/// Small ones, which also run on the host.
pub(crate) fn small() -> Vec<Step> {
    [
        products(),
        convolutions(),
        attentions(),
        specials(),
        long_rows(),
    ]
    .concat()
}

fn products() -> Vec<Step> {
    vec![
        linear("linear", DType::BF16, [130, 72, 140], true),
        linear("linear_f16", DType::F16, [18, 264, 136], false),
        linear("odd_linear", DType::BF16, [20, 37, 33], true),
        linear("plain_linear", DType::F32, [70, 33, 65], true),
        linear("f8_linear", DType::F8E4M3, [10, 32, 16], false),
        coded_linear(
            "fp8",
            DType::BF16,
            [130, 80, 144],
            &coded([false; 2], false, 16),
        ),
        coded_linear(
            "fp8_odd",
            DType::F16,
            [20, 37, 33],
            &coded([false, true], false, 3),
        ),
        coded_linear(
            "fp8_rows",
            DType::BF16,
            [66, 64, 48],
            &coded([true; 2], false, 0),
        ),
        coded_linear(
            "fp8_gelu",
            DType::BF16,
            [40, 64, 48],
            &coded([false; 2], true, 48),
        ),
        coded_linear(
            "fp8_f32",
            DType::F32,
            [34, 40, 70],
            &coded([true, false], false, 1),
        ),
        strided_linear(DType::BF16),
        strided_linear(DType::F32),
        batched(DType::F16),
        batched(DType::F32),
        same_right(DType::BF16),
    ]
}

fn convolutions() -> Vec<Step> {
    let attributes = |stride, padding, groups| Conv2d {
        stride,
        padding,
        groups,
    };
    let picture = |channels, outputs, attributes, is_channels_last| Picture {
        channels,
        size: [11, 9],
        outputs,
        taps: 3,
        attributes,
        is_channels_last,
    };
    let same = attributes([1, 1], [1; 4], 1);
    let groups = attributes([1, 1], [1; 4], 2);
    let strides = attributes([2, 1], [0, 1, 2, 1], 2);
    vec![
        convolution("conv", DType::BF16, &picture(6, 10, same.clone(), false)),
        convolution("conv_last", DType::F16, &picture(16, 24, same, true)),
        convolution("conv_groups", DType::BF16, &picture(16, 12, groups, true)),
        convolution("conv_stride", DType::F32, &picture(4, 6, strides, false)),
    ]
}

fn attentions() -> Vec<Step> {
    let of = |tokens, count, d, e, causal, bias| Heads {
        tokens,
        count,
        d,
        e,
        causal,
        bias,
    };
    let half = |name, heads| attention(name, DType::BF16, &heads);
    let single = |name, heads| attention(name, DType::F32, &heads);
    vec![
        half("attention_64", of([70, 130], 2, 64, 64, false, None)),
        attention(
            "attention_128",
            DType::F16,
            &of([90, 90], 1, 128, 128, true, None),
        ),
        half("attention_160", of([33, 65], 1, 160, 160, false, None)),
        half(
            "attention_bias",
            of([66, 70], 2, 40, 24, false, Some([1, 2])),
        ),
        half("attention_512", of([20, 70], 1, 512, 512, false, None)),
        half("attention_odd", of([35, 20], 2, 20, 12, true, None)),
        single("attention_f32", of([40, 70], 2, 50, 20, true, Some([2, 1]))),
        single("attention_wide", of([5, 40], 1, 300, 300, false, None)),
        narrow_attention(
            "attention_codes",
            DType::F8E4M3,
            &of([70, 130], 2, 48, 32, false, None),
        ),
        narrow_attention(
            "attention_codes_128",
            DType::BF16,
            &of([66, 70], 1, 128, 128, true, None),
        ),
        narrow_attention(
            "attention_codes_odd",
            DType::F8E4M3,
            &of([35, 20], 2, 24, 20, false, None),
        ),
    ]
}

fn specials() -> Vec<Step> {
    let rotary = Op::RotaryTable {
        theta: 10_000.0,
        dims: vec![16, 56, 56],
    };
    let table = view(3, DType::F32, &[50, 64, 2]);
    let values = vec![view(0, DType::F32, &[4, 700])];
    let ids = vec![view(0, DType::I64, &[3, 77])];
    let positions = |count| view(3, DType::I64, &[count]);
    vec![
        special(
            "rotary_table",
            rotary,
            vec![view(0, DType::F32, &[50, 3])],
            table,
        ),
        buckets(true),
        buckets(false),
        special("argmax", Op::ArgMax, values, positions(4)),
        special("argmax_ids", Op::ArgMax, ids, positions(3)),
    ]
}

fn long_rows() -> Vec<Step> {
    vec![
        generated(
            "long_group_norm",
            "graph g { input step %x: bf16[1, 32, 96, 64] input step %w: bf16[32] \
             input step %b: bf16[32] \
             %0: bf16[1, 32, 96, 64] = group_norm %x, %w, %b {groups = 2, epsilon = 1e-6} \
             %1: bf16[1, 32, 96, 64] = silu %0 output y = %1 }",
        ),
        generated(
            "long_softmax",
            "graph g { input step %x: f32[2, 70000] %0: f32[2, 70000] = softmax %x \
             output y = %0 }",
        ),
        generated(
            "long_mean",
            "graph g { input step %x: f32[2, 300, 256] \
             %0: f32[1, 1, 1] = reduce_mean %x {axes = [0, 1, 2]} output y = %0 }",
        ),
    ]
}

/// In the sizes of FLUX and its text encoders and VAE.
pub(crate) fn large() -> Vec<Step> {
    let heads = |tokens, heads, d, causal, bias| Heads {
        tokens: [tokens, tokens],
        count: heads,
        d,
        e: d,
        causal,
        bias,
    };
    let vae = |channels, outputs, size, stride| Picture {
        channels,
        size: [size, size],
        outputs,
        taps: 3,
        attributes: Conv2d {
            stride: [stride, stride],
            padding: [1; 4],
            groups: 1,
        },
        is_channels_last: channels % 8 == 0,
    };
    vec![
        linear("flux_linear", DType::BF16, [4608, 3072, 12288], true),
        linear("flux_linear_f32", DType::F32, [4608, 3072, 12288], true),
        coded_linear(
            "flux_fp8_gelu",
            DType::BF16,
            [4608, 3072, 12288],
            &coded([false; 2], true, 3072),
        ),
        coded_linear(
            "flux_fp8_rows",
            DType::BF16,
            [4608, 15360, 3072],
            &coded([true; 2], false, 0),
        ),
        attention(
            "flux_attention",
            DType::BF16,
            &heads(4608, 24, 128, false, None),
        ),
        narrow_attention(
            "flux_attention_codes",
            DType::F8E4M3,
            &heads(4608, 24, 128, false, None),
        ),
        attention(
            "t5_attention",
            DType::F16,
            &heads(512, 64, 64, false, Some([1, 64])),
        ),
        attention(
            "clip_attention",
            DType::BF16,
            &heads(77, 12, 64, true, None),
        ),
        attention(
            "vae_attention",
            DType::BF16,
            &heads(16384, 1, 512, false, None),
        ),
        attention(
            "vae_attention_f32",
            DType::F32,
            &heads(16384, 1, 512, false, None),
        ),
        convolution("vae_conv", DType::BF16, &vae(512, 512, 128, 1)),
        convolution("vae_conv_in", DType::F16, &vae(3, 128, 1024, 1)),
        convolution("vae_conv_f32", DType::F32, &vae(128, 128, 256, 2)),
        generated(
            "vae_group_norm",
            "graph g { input step %x: bf16[1, 128, 1024, 1024] input step %w: bf16[128] \
             input step %b: bf16[128] \
             %0: bf16[1, 128, 1024, 1024] = group_norm %x, %w, %b {groups = 32, epsilon = 1e-6} \
             %1: bf16[1, 128, 1024, 1024] = silu %0 output y = %1 }",
        ),
    ]
}
