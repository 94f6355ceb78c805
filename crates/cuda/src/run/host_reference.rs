//! Graphs in f32, node by node, as far as tests of this crate need them.

use std::collections::HashMap;

use tintype_ir::{BinaryOp, Graph, Op, ReduceOp, Value};
use tintype_tensor::{Shape, Tensor};

use super::steps::unary;

/// The outputs of a graph.
pub(crate) fn run(
    graph: &Graph,
    parameter: &dyn Fn(&str) -> Tensor,
    input: &dyn Fn(&str) -> Tensor,
) -> HashMap<String, Tensor> {
    let mut results: Vec<Tensor> = Vec::new();
    let value = |value: Value, results: &[Tensor]| match value {
        Value::Input(index) => input(&graph.inputs()[index].name),
        Value::Parameter(index) => parameter(&graph.parameters()[index].name),
        Value::Node(index) => results[index].clone(),
    };
    for node in graph.nodes() {
        let operands = node.operands.iter();
        let operands: Vec<Tensor> = operands.map(|&operand| value(operand, &results)).collect();
        results.push(evaluate(&node.op, &operands));
    }
    let outputs = graph.outputs().iter();
    outputs
        .map(|output| (output.name.clone(), value(output.value, &results)))
        .collect()
}

/// One operation.
pub(super) fn evaluate(op: &Op, x: &[Tensor]) -> Tensor {
    let numbers = |index: usize| x[index].to_f32_vec().unwrap();
    match op {
        Op::Linear => {
            let sums = product(&x[0], &x[1], true);
            let Some(bias) = x.get(2) else { return sums };
            let bias = bias.to_f32_vec().unwrap();
            let values = sums.to_f32_vec().unwrap().into_iter().enumerate();
            let values = values.map(|(at, sum)| sum + bias[at % bias.len()]);
            Tensor::from_f32(sums.shape().clone(), values.collect()).unwrap()
        }
        Op::MatMul => product(&x[0], &x[1], false),
        Op::Unary(op) => {
            let values = numbers(0).into_iter().map(|x| unary(*op, x).unwrap());
            Tensor::from_f32(x[0].shape().clone(), values.collect()).unwrap()
        }
        Op::Cast { dtype } => x[0].to_dtype(*dtype).unwrap(),
        Op::Binary(op @ (BinaryOp::Mul | BinaryOp::Div)) => {
            let right = numbers(1);
            let right = |at: usize| right[at.min(right.len() - 1)];
            let values = numbers(0).into_iter().enumerate();
            let values = values.map(|(at, left)| match op {
                BinaryOp::Mul => left * right(at),
                _ => left / right(at),
            });
            Tensor::from_f32(x[0].shape().clone(), values.collect()).unwrap()
        }
        Op::Reduce {
            kind: ReduceOp::Max,
            axes,
        } => {
            assert_eq!(axes.len(), x[0].shape().len(), "of all elements");
            let greatest = numbers(0).into_iter().fold(f32::NEG_INFINITY, f32::max);
            Tensor::from_f32(vec![1; axes.len()], vec![greatest]).unwrap()
        }
        Op::Binary(BinaryOp::Add) => {
            let sums = numbers(0).into_iter().zip(numbers(1)).map(|(a, b)| a + b);
            Tensor::from_f32(x[0].shape().clone(), sums.collect()).unwrap()
        }
        Op::Gather { axis: 0 } => {
            let row: usize = x[0].shape()[1..].iter().product();
            let chosen = x[1].to_i64_vec().unwrap()[0] as usize;
            let values = numbers(0)[chosen * row..][..row].to_vec();
            Tensor::from_f32(Shape::from(&x[0].shape()[1..]), values).unwrap()
        }
        other => unreachable!("{} is in no test", other.name()),
    }
}

/// `x · wᵀ` or `x · w` of a matrix `w`.
fn product(x: &Tensor, w: &Tensor, is_linear: bool) -> Tensor {
    let (inner, columns) = match (&w.shape()[..], is_linear) {
        (&[columns, inner], true) | (&[inner, columns], false) => (inner, columns),
        (other, _) => unreachable!("a weight of {other:?}"),
    };
    let weights = w.to_f32_vec().unwrap();
    let weight = |row: usize, column: usize| {
        if is_linear {
            weights[column * inner + row]
        } else {
            weights[row * columns + column]
        }
    };
    let mut values = Vec::new();
    for row in x.to_f32_vec().unwrap().chunks(inner) {
        for column in 0..columns {
            let terms = row.iter().enumerate();
            values.push(terms.map(|(at, x)| x * weight(at, column)).sum());
        }
    }
    let mut shape = x.shape().to_vec();
    *shape.last_mut().unwrap() = columns;
    Tensor::from_f32(shape, values).unwrap()
}
