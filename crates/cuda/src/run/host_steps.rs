//! Steps on the host: operations by the CPU backend, generated kernels instruction by
//! instruction, as far as tests of this crate need them.

use tintype_ir::{BinaryOp, GraphBuilder, Op, Stage, TensorType, UnaryOp};
use tintype_tensor::{DType, Tensor};
use tintype_weights::Parameters;

use super::Reader;
use crate::{Error, Expression, Instruction, Result, View, Work};

pub(super) fn run(work: &Work, reader: &Reader<'_>) -> Result<()> {
    let (op, gelu) = match work {
        Work::Kernel(expression) => return kernel(expression, reader),
        Work::Product(call) if call.is_linear => (Op::Linear, call.gelu),
        Work::Product(call) => (Op::MatMul, call.gelu),
        Work::Attention(call) => (Op::Attention(call.attributes.clone()), false),
        Work::Convolution(call) => (Op::Conv2d(call.attributes.clone()), false),
        Work::Special { op, .. } => (op.clone(), false),
    };
    operation(op, gelu, &work.reads(), work.writes()[0], reader)
}

fn operation(
    op: Op,
    gelu: bool,
    inputs: &[&View],
    output: &View,
    reader: &Reader<'_>,
) -> Result<()> {
    let mut builder = GraphBuilder::new("operation");
    let (mut values, mut tensors) = (Vec::new(), Vec::new());
    for (number, view) in inputs.iter().enumerate() {
        let (name, ty) = (
            format!("x{number}"),
            TensorType::new(view.dtype, view.shape()),
        );
        values.push(builder.input(&name, Stage::Step, ty));
        tensors.push((name, reader.tensor(view)?));
    }
    let mut result = builder.op(op, &values);
    if gelu {
        result = builder.unary(UnaryOp::GeluTanh, result);
    }
    builder.output("y", result);
    let inputs = tensors.iter();
    let inputs: Vec<_> = inputs
        .map(|(name, tensor)| (name.as_str(), tensor.clone()))
        .collect();
    let none = Parameters::builder().build();
    let none = none.map_err(tintype_backend::Error::from)?;
    let found = tintype_cpu::run(&builder.finish()?, &none, &inputs)?;
    reader.write(output, &found.host("y")?);
    Ok(())
}

fn kernel(expression: &Expression, reader: &Reader<'_>) -> Result<()> {
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
            Instruction::Cast(_, x) => values[x].clone(),
            Instruction::Unary(UnaryOp::Exp, x) => each(&|at| values[x][at].exp()),
            Instruction::Unary(UnaryOp::Neg, x) => each(&|at| -values[x][at]),
            Instruction::Binary(BinaryOp::Add, a, b) => each(&|at| values[a][at] + values[b][at]),
            Instruction::Binary(BinaryOp::Mul, a, b) => each(&|at| values[a][at] * values[b][at]),
            ref other => return Err(Error::unsupported("a test", format!("{other:?}"))),
        });
    }
    for store in &expression.stores {
        let (dtype, shape) = (store.view.dtype, store.view.shape());
        let tensor = Tensor::from_f32_as(dtype, shape, values[store.value].clone())?;
        reader.write(&store.view, &tensor);
    }
    Ok(())
}
