//! Which operations have a kernel, by their types alone.

use tintype_ir::{BinaryOp, Graph, Node, Op, ReduceOp, TensorType, UnaryOp};
use tintype_tensor::DType;

use crate::kernels::Reduction;
use crate::kernels::movements::{
    broadcast_movement, place_movement, slice_movement, transpose_movement,
};
use crate::kernels::operations::binary_strides;
use crate::kernels::products::has_product;
use crate::kernels::strides::Movement;
use crate::{BinaryKernel, ReduceKernel, UnaryKernel, WeightKernels};

/// Whether a kernel computes `node` of a graph whose types have no symbols.
pub(crate) fn has_kernel(graph: &Graph, node: &Node) -> bool {
    let operands: Vec<&TensorType> = node
        .operands
        .iter()
        .map(|&operand| graph.type_of(operand))
        .collect();
    let shapes: Vec<Vec<usize>> = operands.iter().map(|ty| sizes(ty)).collect();
    let result = sizes(&node.ty);
    // Kernels cut work into blocks, and nothing has no place to cut.
    if shapes
        .iter()
        .chain([&result])
        .any(|shape| shape.contains(&0))
    {
        return false;
    }
    let computes = |ty: &TensorType| WeightKernels::computes(ty.dtype);
    let all_compute = operands.iter().all(|ty| computes(ty)) && computes(&node.ty);
    let moves = |movement: Option<Movement>| movement.and_then(|m| m.mover()).is_some();
    let dtype = node.ty.dtype;
    match (&node.op, shapes.as_slice()) {
        (Op::Reshape { .. }, _) => true,
        (Op::Cast { .. } | Op::Clamp { .. }, _) => all_compute,
        (Op::Unary(op), _) => all_compute && unary_kernel(*op).is_some(),
        (Op::Binary(op), [a, b]) => {
            all_compute && binary_kernel(*op).is_some() && binary_strides(a, b, &result).is_some()
        }
        (Op::Reduce { kind, axes }, [shape]) => {
            all_compute && reduce_kernel(*kind).is_some() && Reduction::new(shape, axes).is_some()
        }
        (Op::MatMul, [a, b]) => is_product(node, a, b),
        (Op::Transpose { permutation }, [shape]) => {
            moves(transpose_movement(shape, permutation, dtype))
        }
        (Op::Broadcast { .. }, [shape]) => moves(broadcast_movement(shape, &result, dtype)),
        (Op::Slice { axis, start, .. }, [shape]) => {
            let start = start
                .as_constant()
                .and_then(|start| usize::try_from(start).ok());
            let movement = |start| slice_movement(shape, &result, *axis, start, dtype);
            moves(start.and_then(movement))
        }
        (Op::Concat { axis }, parts) => parts
            .iter()
            .all(|part| moves(place_movement(part, &result, *axis, 0, dtype))),
        _ => false,
    }
}

/// Whether a node is a product of two f32 matrices.
fn is_product(node: &Node, a: &[usize], b: &[usize]) -> bool {
    let (&[rows, inner], &[_, columns]) = (a, b) else {
        return false;
    };
    node.ty.dtype == DType::F32 && has_product(rows, columns, inner)
}

/// The sizes of a type without symbols.
pub(crate) fn sizes(ty: &TensorType) -> Vec<usize> {
    let shape = ty.static_shape();
    shape.expect("weight programs have no symbols").to_vec()
}

pub(crate) fn unary_kernel(op: UnaryOp) -> Option<UnaryKernel> {
    match op {
        UnaryOp::Neg => Some(UnaryKernel::Neg),
        UnaryOp::Abs => Some(UnaryKernel::Abs),
        UnaryOp::Sqrt => Some(UnaryKernel::Sqrt),
        UnaryOp::Rsqrt => Some(UnaryKernel::Rsqrt),
        UnaryOp::Reciprocal => Some(UnaryKernel::Reciprocal),
        _ => None,
    }
}

pub(crate) fn binary_kernel(op: BinaryOp) -> Option<BinaryKernel> {
    match op {
        BinaryOp::Add => Some(BinaryKernel::Add),
        BinaryOp::Sub => Some(BinaryKernel::Sub),
        BinaryOp::Mul => Some(BinaryKernel::Mul),
        BinaryOp::Div => Some(BinaryKernel::Div),
        BinaryOp::Max => Some(BinaryKernel::Max),
        BinaryOp::Min => Some(BinaryKernel::Min),
        _ => None,
    }
}

pub(crate) fn reduce_kernel(op: ReduceOp) -> Option<ReduceKernel> {
    match op {
        ReduceOp::Sum => Some(ReduceKernel::Sum),
        ReduceOp::Mean => Some(ReduceKernel::Mean),
        ReduceOp::Max => Some(ReduceKernel::Max),
        _ => None,
    }
}
