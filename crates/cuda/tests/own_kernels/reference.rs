//! What steps should compute, in f64 and as simply as can be.

use tintype_cuda::{AttentionCall, Convolution, Expression, Instruction, Product, View, Work};
use tintype_ir::{BinaryOp, Op, ReduceOp, RelativeBuckets, UnaryOp};

use crate::host::{numbers, positions};
use crate::on_host::Memory;

/// The elements of the step's one output, in order.
pub(crate) fn compute(work: &Work, memory: &Memory) -> Vec<f64> {
    let read = |view: &View| -> Vec<f64> {
        let all = numbers(view.dtype, &memory[&view.place]);
        positions(view)
            .into_iter()
            .map(|place| all[place])
            .collect()
    };
    match work {
        Work::Product(call) => product(call, &read),
        Work::Attention(call) => attention(call, &read),
        Work::Convolution(call) => convolution(call, &read),
        Work::Kernel(expression) => kernel(expression, &read),
        Work::Special { op, inputs, output } => special(op, inputs, output, &read),
        other => panic!("no reference for a {}", other.kind()),
    }
}

type Read<'a> = &'a dyn Fn(&View) -> Vec<f64>;

fn gelu(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
    x / 2.0 * (1.0 + inner.tanh())
}

fn product(call: &Product, read: Read<'_>) -> Vec<f64> {
    let shape = call.output.shape();
    let (n, k) = (shape[shape.len() - 1], call.input.axes.last().unwrap().size);
    let outer = &shape[..shape.len() - 2];
    let weight = if call.is_linear {
        call.weight.transpose(&[1, 0])
    } else {
        call.weight.clone()
    };
    let weight = read(&weight.broadcast(&[outer, &[k, n]].concat()));
    let input = read(&call.input);
    let bias = call.bias.as_ref().map(read);
    let scales = call.codes.as_ref();
    let scales = scales.map(|codes| codes.scales.each_ref().map(read));
    let scale = |operand: usize, row: usize| {
        let scales = scales.as_ref().map(|scales| &scales[operand]);
        scales.map_or(1.0, |scales| scales[row.min(scales.len() - 1)])
    };
    let divisor = call.codes.as_ref().and_then(|codes| codes.output.as_ref());
    let divisor = divisor.map_or(1.0, |[scale, _]| read(scale)[0]);
    let rows_each = shape[shape.len() - 2];
    let rows = input.len() / k;
    let mut output = Vec::new();
    for row in 0..rows {
        for column in 0..n {
            let matrix = &weight[row / rows_each * k * n..][..k * n];
            let terms = (0..k).map(|at| input[row * k + at] * matrix[at * n + column]);
            let sum = terms.sum::<f64>() * scale(0, row) * scale(1, column);
            let sum = sum + bias.as_ref().map_or(0.0, |bias| bias[column]);
            output.push(if call.gelu { gelu(sum) } else { sum } / divisor);
        }
    }
    output
}

fn attention(call: &AttentionCall, read: Read<'_>) -> Vec<f64> {
    let [q, k, v] = &call.query_key_value;
    let [batches, queries, heads, d] = q.shape()[..] else {
        panic!()
    };
    let (keys, e) = (k.shape()[1], v.shape()[3]);
    let full = [batches, heads, queries, keys];
    let bias = call.bias.as_ref().map(|view| read(&view.broadcast(&full)));
    let [q_scale, k_scale, v_scale] = call.scales.map(f64::from);
    let scale = f64::from(call.attributes.scale) * q_scale * k_scale;
    let factor = call
        .output_factor
        .as_ref()
        .map_or(1.0, |view| read(view)[0])
        * v_scale;
    let [q, k, v] = [read(q), read(k), read(v)];
    let mut output = vec![0.0; batches * queries * heads * e];
    for at in 0..batches * heads * queries {
        let (batch, head, query) = (at / (heads * queries), at / queries % heads, at % queries);
        let row = |token: usize, tokens: usize| (batch * tokens + token) * heads + head;
        let seen = if call.attributes.causal {
            keys.min(query + 1)
        } else {
            keys
        };
        let scores: Vec<f64> = (0..seen)
            .map(|key| {
                let dot =
                    (0..d).map(|i| q[row(query, queries) * d + i] * k[row(key, keys) * d + i]);
                let bias = bias.as_ref().map_or(0.0, |bias| bias[at * keys + key]);
                dot.sum::<f64>() * scale + bias
            })
            .collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
        let total: f64 = weights.iter().sum();
        for column in 0..e {
            let terms = weights.iter().enumerate();
            let sum: f64 = terms
                .map(|(key, weight)| weight * v[row(key, keys) * e + column])
                .sum();
            output[row(query, queries) * e + column] = sum / total * factor;
        }
    }
    output
}

fn convolution(call: &Convolution, read: Read<'_>) -> Vec<f64> {
    let [_, channels, height, width] = call.input.shape()[..] else {
        panic!()
    };
    let [outputs, inner, tap_height, tap_width] = call.weight.shape()[..] else {
        panic!()
    };
    let [_, _, out_height, out_width] = call.output.shape()[..] else {
        panic!()
    };
    let [stride_y, stride_x] = call.attributes.stride;
    let [top, _, left, _] = call.attributes.padding;
    let (input, weight) = (read(&call.input), read(&call.weight));
    let bias = call.bias.as_ref().map(read);
    let each_group = outputs / call.attributes.groups;
    let element = |at: usize| {
        let (x, y) = (at % out_width, at / out_width % out_height);
        let (o, b) = (
            at / (out_width * out_height) % outputs,
            at / (out_width * out_height * outputs),
        );
        let mut sum = bias.as_ref().map_or(0.0, |bias| bias[o]);
        for tap in 0..inner * tap_height * tap_width {
            let (tap_x, tap_y) = (tap % tap_width, tap / tap_width % tap_height);
            let c = o / each_group * inner + tap / (tap_width * tap_height);
            let (y, x) = (y * stride_y + tap_y, x * stride_x + tap_x);
            if (top..top + height).contains(&y) && (left..left + width).contains(&x) {
                let pixel = ((b * channels + c) * height + y - top) * width + x - left;
                sum += input[pixel] * weight[o * inner * tap_height * tap_width + tap];
            }
        }
        sum
    };
    (0..call.output.count()).map(element).collect()
}

fn special(op: &Op, inputs: &[View], output: &View, read: Read<'_>) -> Vec<f64> {
    match op {
        Op::ArgMax => {
            let width = inputs[0].axes.last().unwrap().size;
            let values = read(&inputs[0]);
            let first = |row: &[f64]| {
                (1..row.len()).fold(0, |best, at| if row[at] > row[best] { at } else { best })
            };
            values.chunks(width).map(|row| first(row) as f64).collect()
        }
        Op::RotaryTable { theta, dims } => {
            let ids = read(&inputs[0]);
            let mut table = Vec::new();
            for ids in ids.chunks(dims.len()) {
                for (&dim, id) in dims.iter().zip(ids) {
                    for i in 0..dim / 2 {
                        let power = -2.0 * i as f64 / dim as f64;
                        let angle = id * f64::from(*theta).powf(power);
                        table.extend([angle.cos(), angle.sin()]);
                    }
                }
            }
            table
        }
        Op::RelativeBuckets(attributes) => {
            let keys = output.axes[1].size;
            (0..output.count())
                .map(|at| bucket(attributes, (at / keys) as i64, (at % keys) as i64))
                .collect()
        }
        op => panic!("no reference for {}", op.name()),
    }
}

/// As in T5's own code.
fn bucket(attributes: &RelativeBuckets, query: i64, key: i64) -> f64 {
    let (mut buckets, mut offset, mut distance) = (attributes.buckets, 0, key - query);
    if attributes.bidirectional {
        buckets /= 2;
        if distance > 0 {
            offset = buckets;
        }
        distance = distance.abs();
    } else {
        distance = -distance.min(0);
    }
    let exact = buckets / 2;
    if (distance as usize) < exact {
        return (offset + distance as usize) as f64;
    }
    let ratio = (distance as f32 / exact as f32).ln()
        / (attributes.max_distance as f64 / exact as f64).ln() as f32;
    let far = exact + (ratio * (buckets - exact) as f32) as usize;
    (offset + far.min(buckets - 1)) as f64
}

/// The operations of the long rows among the cases.
fn kernel(expression: &Expression, read: Read<'_>) -> Vec<f64> {
    let count = expression.count();
    let row = expression.row_length();
    let mut values: Vec<Vec<f64>> = Vec::new();
    for instruction in &expression.instructions {
        let each = |f: &dyn Fn(usize) -> f64| (0..count).map(f).collect::<Vec<f64>>();
        let result = match *instruction {
            Instruction::Load(load) => read(&expression.loads[load]),
            Instruction::Float(value) => vec![f64::from(value); count],
            Instruction::Unary(UnaryOp::Exp, x) => each(&|at| values[x][at].exp()),
            Instruction::Unary(UnaryOp::Rsqrt, x) => each(&|at| 1.0 / values[x][at].sqrt()),
            Instruction::Unary(UnaryOp::Silu, x) => {
                each(&|at| values[x][at] / (1.0 + (-values[x][at]).exp()))
            }
            Instruction::Binary(op, a, b) => each(&|at| {
                let (a, b) = (values[a][at], values[b][at]);
                match op {
                    BinaryOp::Add => a + b,
                    BinaryOp::Sub => a - b,
                    BinaryOp::Mul => a * b,
                    BinaryOp::Div => a / b,
                    op => panic!("{op:?}"),
                }
            }),
            Instruction::Reduce(op, x) => {
                let reduced = |row: &[f64]| match op {
                    ReduceOp::Max => row.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                    ReduceOp::Mean => row.iter().sum::<f64>() / row.len() as f64,
                    _ => row.iter().sum(),
                };
                let rows = values[x].chunks(row);
                rows.flat_map(|values| vec![reduced(values); row]).collect()
            }
            instruction => panic!("{instruction:?}"),
        };
        values.push(result);
    }
    let store = &expression.stores[0];
    values.swap_remove(store.value)
}
