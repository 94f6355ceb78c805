//! Steps on the host: operations as in graphs, generated kernels instruction by instruction, as far
//! as tests of this crate need them.

use tintype_ir::{BinaryOp, Op, ReduceOp, UnaryOp};
use tintype_tensor::{DType, Tensor};

use super::Reader;
use super::reference::evaluate;
use crate::{Codes, Error, Expression, Instruction, Product, Result, View, Work};

/// What a step writes, from what lies there now.
pub(super) fn compute(work: &Work, reader: &Reader<'_>) -> Result<Vec<(View, Tensor)>> {
    let (op, gelu) = match work {
        Work::Kernel(expression) => return kernel(expression, reader),
        Work::Product(Product {
            codes: Some(codes), ..
        }) => return coded(work, codes, reader),
        Work::Product(call) if call.is_linear => (Op::Linear, call.gelu),
        Work::Product(call) => (Op::MatMul, call.gelu),
        Work::Attention(call) => (Op::Attention(call.attributes.clone()), false),
        Work::Convolution(call) => (Op::Conv2d(call.attributes.clone()), false),
        Work::Special { op, .. } => (op.clone(), false),
    };
    operation(&op, gelu, &work.reads(), work.writes()[0], reader)
}

fn operation(
    op: &Op,
    gelu: bool,
    inputs: &[&View],
    output: &View,
    reader: &Reader<'_>,
) -> Result<Vec<(View, Tensor)>> {
    let tensors = inputs.iter().map(|view| reader.tensor(view));
    let tensors: Vec<Tensor> = tensors.collect::<Result<_>>()?;
    let mut found = evaluate(op, &tensors);
    if gelu {
        let values = found.to_f32_vec()?.into_iter();
        let values = values.map(|x| unary(UnaryOp::GeluTanh, x).expect("it is known"));
        found = Tensor::from_f32(found.shape().clone(), values.collect())?;
    }
    Ok(vec![(output.clone(), found.to_dtype(output.dtype)?)])
}

/// A linear layer on codes.
fn coded(work: &Work, codes: &Codes, reader: &Reader<'_>) -> Result<Vec<(View, Tensor)>> {
    let Work::Product(call) = work else {
        unreachable!("a product")
    };
    let numbers = |view: &View| -> Result<Vec<f32>> { Ok(reader.tensor(view)?.to_f32_vec()?) };
    let (input, weight) = (numbers(&call.input)?, numbers(&call.weight)?);
    let [of_input, of_weight] = [numbers(&codes.scales[0])?, numbers(&codes.scales[1])?];
    let bias = call.bias.as_ref().map(numbers).transpose()?;
    let output = codes.output.as_ref().map(|[scale, _]| numbers(scale));
    let output = output.transpose()?.map_or(1.0, |scale| scale[0]);
    let scale = |scales: &[f32], row: usize| scales[row.min(scales.len() - 1)];
    let (n, k) = (call.weight.axes[0].size, call.weight.axes[1].size);
    let mut values = Vec::new();
    for (row, input) in input.chunks(k).enumerate() {
        for (column, weight) in weight.chunks(k).enumerate() {
            let terms = input.iter().zip(weight);
            let sum: f64 = terms.map(|(a, b)| f64::from(a * b)).sum();
            let scaled = sum as f32 * scale(&of_input, row) * scale(&of_weight, column);
            let sum = scaled + bias.as_ref().map_or(0.0, |bias| bias[column]);
            let value = if call.gelu {
                unary(UnaryOp::GeluTanh, sum).expect("it is known")
            } else {
                sum
            };
            values.push(value / output);
        }
    }
    assert_eq!(values.len(), input.len() / k * n);
    let found = Tensor::from_f32_as(call.output.dtype, call.output.shape(), values)?;
    Ok(vec![(call.output.clone(), found)])
}

fn kernel(expression: &Expression, reader: &Reader<'_>) -> Result<Vec<(View, Tensor)>> {
    let loads = expression.loads.iter();
    let loads: Vec<Vec<f32>> = loads
        .map(|view| Ok(reader.tensor(view)?.to_dtype(DType::F32)?.to_f32_vec()?))
        .collect::<Result<_>>()?;
    let count = expression.count();
    let mut values: Vec<Vec<f32>> = Vec::new();
    for instruction in &expression.instructions {
        let each = |f: &dyn Fn(usize) -> f32| (0..count).map(f).collect::<Vec<f32>>();
        values.push(match *instruction {
            Instruction::Load(load) => loads[load].clone(),
            Instruction::Float(value) => vec![value; count],
            Instruction::Cast(dtype @ DType::F8E4M3, x) => each(&|at| dtype.round(values[x][at])),
            Instruction::Cast(_, x) => values[x].clone(),
            Instruction::Integer(value) => vec![value as f32; count],
            Instruction::Unary(op, x) => {
                let results: Option<Vec<f32>> = values[x].iter().map(|x| unary(op, *x)).collect();
                results.ok_or_else(|| Error::unsupported("a test", format!("{op:?}")))?
            }
            Instruction::Binary(BinaryOp::Add, a, b) => each(&|at| values[a][at] + values[b][at]),
            Instruction::Binary(BinaryOp::Sub, a, b) => each(&|at| values[a][at] - values[b][at]),
            Instruction::Binary(BinaryOp::Mul, a, b) => each(&|at| values[a][at] * values[b][at]),
            Instruction::Binary(BinaryOp::Div, a, b) => each(&|at| values[a][at] / values[b][at]),
            Instruction::Reduce(op, x) => {
                let row = expression.row_length().max(1);
                let rows = values[x].chunks(row);
                rows.flat_map(|row| vec![reduce(op, row); row.len()])
                    .collect()
            }
            Instruction::Turn(x, table) => each(&|at| {
                let (even, odd) = (at & !1, at | 1);
                let (cosine, sine) = (values[table][even], values[table][odd]);
                let x = &values[x];
                if at == even {
                    x[even] * cosine - x[odd] * sine
                } else {
                    x[odd] * cosine + x[even] * sine
                }
            }),
            ref other => return Err(Error::unsupported("a test", format!("{other:?}"))),
        });
    }
    let stores = expression.stores.iter().map(|store| {
        let (dtype, shape) = (store.view.dtype, store.view.shape());
        let tensor = Tensor::from_f32_as(dtype, shape, values[store.value].clone())?;
        Ok((store.view.clone(), tensor))
    });
    stores.collect()
}

pub(super) fn unary(op: UnaryOp, x: f32) -> Option<f32> {
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    Some(match op {
        UnaryOp::Exp => x.exp(),
        UnaryOp::Neg => -x,
        UnaryOp::Abs => x.abs(),
        UnaryOp::Reciprocal => 1.0 / x,
        UnaryOp::Rsqrt => 1.0 / x.sqrt(),
        UnaryOp::Silu => x * sigmoid(x),
        UnaryOp::GeluQuick => x * sigmoid(1.702 * x),
        UnaryOp::GeluTanh => {
            let inner = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            x / 2.0 * (1.0 + inner.tanh())
        }
        _ => return None,
    })
}

fn reduce(op: ReduceOp, row: &[f32]) -> f32 {
    let sum: f64 = row.iter().copied().map(f64::from).sum();
    match op {
        ReduceOp::Sum => sum as f32,
        ReduceOp::Mean => (sum / row.len() as f64) as f32,
        _ => row.iter().copied().fold(f32::NEG_INFINITY, f32::max),
    }
}
