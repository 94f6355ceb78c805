//! Random graphs: any list of choices makes one that verifies.

use proptest::prelude::*;
use tintype_ir::{
    Attention, BinaryOp, Dim, Graph, GraphBuilder, Op, ReduceOp, Stage, TensorType, UnaryOp, Value,
};
use tintype_tensor::DType;

/// One choice: what to add, and which values it reads.
pub(crate) type Choice = (u8, u8, u8);

/// Up to `length` choices.
pub(crate) fn choices(length: usize) -> impl Strategy<Value = Vec<Choice>> {
    prop::collection::vec(any::<Choice>(), 1..length)
}

/// The graph that the choices make. Values are `[batch, 4]` in f32 or bf16.
pub(crate) fn graph(choices: &[Choice]) -> Graph {
    let mut b = GraphBuilder::new("random");
    let batch = b.symbol("batch", 1..=8);
    let mut values = Vec::new();
    for (name, stage, dtype) in [
        ("r", Stage::Request, DType::F32),
        ("s", Stage::Step, DType::F32),
        ("t", Stage::Step, DType::BF16),
    ] {
        let ty = TensorType::new(dtype, [batch.clone(), Dim::from(4)]);
        values.push(b.input(name, stage, ty));
    }
    for &choice in choices {
        let value = add(&mut b, &values, choice, &batch);
        values.push(value);
    }
    let last = *values.last().expect("there are inputs");
    b.output("last", last);
    b.output("middle", values[values.len() / 2]);
    b.finish().expect("every choice fits")
}

fn add(b: &mut GraphBuilder, values: &[Value], choice: Choice, batch: &Dim) -> Value {
    let (kind, first, second) = choice;
    let x = values[usize::from(first) % values.len()];
    let dtype = b.type_of(x).dtype;
    let y = values[usize::from(second) % values.len()];
    let y = b.cast(y, dtype);
    let weight_name = format!("w{}_{dtype}", second % 3);
    match kind % 16 {
        0 => b.unary(UnaryOp::ALL[usize::from(second) % UnaryOp::ALL.len()], x),
        1 => b.binary(BinaryOp::ALL[usize::from(second) % 7], x, y),
        2 => b.mul(x, y),
        3 => b.add(x, y),
        4 => {
            let number = b.scalar(dtype, [0.5, 1.0, 1.702, 0.044715][usize::from(second) % 4]);
            b.mul(number, x)
        }
        5 => {
            let other = if dtype == DType::F32 {
                DType::BF16
            } else {
                DType::F32
            };
            b.cast(x, other)
        }
        6 => {
            let flat = b.reshape(x, [batch.clone() * 4]);
            b.reshape(flat, [batch.clone(), Dim::from(4)])
        }
        7 => {
            let turned = b.transpose(x, &[1, 0]);
            b.transpose(turned, &[1, 0])
        }
        8 => {
            let (left, right) = (b.slice(x, 1, 0, 2), b.slice(y, 1, 2, 4));
            b.concat(1, &[left, right])
        }
        9 => b.labelled("module", |b| {
            b.linear_named(&weight_name, x, 4, 4, second % 2 == 0)
        }),
        10 => b.rms_norm_named(&format!("n_{dtype}"), x, 4, 1e-6),
        11 => b.layer_norm(x, 1e-6),
        12 => b.modulate(x, y, y),
        13 => {
            let mean = b.reduce(ReduceOp::Mean, x, &[1]);
            b.gated_residual(x, mean, y)
        }
        14 => b.op(Op::Softmax, &[x]),
        _ => {
            let attributes = Attention {
                scale: 0.5,
                causal: second % 2 == 0,
            };
            let heads = [(x, "q"), (y, "k"), (x, "v")].map(|(v, name)| {
                let v = b.linear_named(&format!("{name}_{dtype}"), v, 4, 4, first % 2 == 0);
                b.reshape(v, [Dim::from(1), batch.clone(), Dim::from(2), Dim::from(2)])
            });
            let result = b.attention(attributes, heads, None);
            b.reshape(result, [batch.clone(), Dim::from(4)])
        }
    }
}
