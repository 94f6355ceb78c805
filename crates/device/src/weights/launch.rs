//! One operation of a weight program by its kernel.

use std::sync::Arc;

use tintype_ir::{Node, Op, Value};
use tintype_tensor::{Shape, Tensor};

use super::place::{binary_kernel, reduce_kernel, sizes, unary_kernel};
use super::plan::Merge;
use super::reading::factor_on_device;
use super::values::{Context, OnDevice, Values};
use crate::{Error, Result, UnaryKernel};

/// Computes a node that [`has_kernel`](super::place::has_kernel).
pub(super) fn launch(
    index: usize,
    values: &mut Values,
    context: &mut Context<'_>,
) -> Result<OnDevice> {
    let node = &context.graph.nodes()[index];
    let operands: Result<Vec<OnDevice>> = node
        .operands
        .iter()
        .map(|&operand| values.device(operand, context))
        .collect();
    let operands = operands?;
    if is_view(node, &operands) {
        return Ok(OnDevice {
            dtype: node.ty.dtype,
            shape: Shape::from(sizes(&node.ty)),
            buffer: Arc::clone(&operands[0].buffer),
        });
    }
    let result = result(index, node, context)?;
    match operands.as_slice() {
        [first] if !matches!(node.op, Op::Concat { .. }) => {
            launch_one(node, first, &result, context)?;
        }
        all => launch_many(node, all, &result, context)?,
    }
    Ok(result)
}

/// `base + up · (scale · down)`.
pub(super) fn merge(
    index: usize,
    merge: &Merge,
    values: &mut Values,
    context: &mut Context<'_>,
) -> Result<OnDevice> {
    let node = &context.graph.nodes()[index];
    let base = values.device(merge.base, context)?;
    let factors = factors(merge, values, context)?;
    let scale = match merge.scale {
        Some(scale) => number(&values.host(scale, context)?)?,
        None => 1.0,
    };
    let result = result(index, node, context)?;
    context.kernels.merge(
        context.staging.stream(),
        base.operand()?,
        ([factors[0].operand()?, factors[1].operand()?], scale),
        result.operand()?,
    )?;
    Ok(result)
}

/// Both factors as they are stored, or both in f32.
fn factors(merge: &Merge, values: &mut Values, context: &mut Context<'_>) -> Result<[OnDevice; 2]> {
    let is_stored = |value: Value| matches!(value, Value::Parameter(_)) && !values.has(value);
    if merge.factors.iter().all(|&value| is_stored(value)) {
        let [up, down] = merge.factors;
        let stored = [
            factor_on_device(up, context)?,
            factor_on_device(down, context)?,
        ];
        if stored[0].dtype == stored[1].dtype {
            return Ok(stored);
        }
    }
    let [up, down] = merge.factors;
    Ok([values.device(up, context)?, values.device(down, context)?])
}

fn number(scale: &Tensor) -> Result<f32> {
    let mut value = [0.0];
    scale.read_f32(0, &mut value)?;
    Ok(value[0])
}

/// Memory for the result of a node.
fn result(index: usize, node: &Node, context: &Context<'_>) -> Result<OnDevice> {
    let into = context.targets.get(&Value::Node(index)).cloned();
    let shape = Shape::from(sizes(&node.ty));
    OnDevice::in_memory(into, node.ty.dtype, shape, context)
}

/// Whether the result is the bytes of the operand.
fn is_view(node: &Node, operands: &[OnDevice]) -> bool {
    match node.op {
        Op::Reshape { .. } => true,
        Op::Cast { dtype } => operands[0].dtype == dtype,
        _ => false,
    }
}

fn launch_one(
    node: &Node,
    operand: &OnDevice,
    result: &OnDevice,
    context: &Context<'_>,
) -> Result<()> {
    let (kernels, stream) = (context.kernels, context.staging.stream());
    let (input, output) = (operand.operand()?, result.operand()?);
    match &node.op {
        Op::Cast { .. } => kernels.cast(stream, input, output),
        Op::Unary(op) => {
            let op = unary_kernel(*op).ok_or_else(|| no_kernel(node))?;
            kernels.unary(stream, op, input, output)
        }
        Op::Clamp { min, max } => {
            // Limits are values of the dtype, as every operand is.
            let (min, max) = (node.ty.dtype.round(*min), node.ty.dtype.round(*max));
            kernels.unary(stream, UnaryKernel::Clamp { min, max }, input, output)
        }
        Op::Reduce { kind, axes } => {
            let op = reduce_kernel(*kind).ok_or_else(|| no_kernel(node))?;
            kernels.reduce(stream, op, axes, input, output)
        }
        Op::Transpose { permutation } => kernels.transpose(stream, permutation, input, output),
        Op::Broadcast { .. } => kernels.broadcast(stream, input, output),
        Op::Slice { axis, start, .. } => {
            let start = start.as_constant();
            let start = start.and_then(|start| usize::try_from(start).ok());
            let start = start.ok_or_else(|| no_kernel(node))?;
            kernels.slice(stream, (*axis, start), input, output)
        }
        _ => Err(no_kernel(node)),
    }
}

fn launch_many(
    node: &Node,
    operands: &[OnDevice],
    result: &OnDevice,
    context: &Context<'_>,
) -> Result<()> {
    let (kernels, stream) = (context.kernels, context.staging.stream());
    let output = result.operand()?;
    match (&node.op, operands) {
        (Op::Binary(op), [a, b]) => {
            let op = binary_kernel(*op).ok_or_else(|| no_kernel(node))?;
            kernels.binary(stream, op, [a.operand()?, b.operand()?], output)
        }
        (Op::MatMul, [a, b]) => kernels.product(stream, [a.operand()?, b.operand()?], output),
        (Op::Concat { axis }, parts) => {
            let mut start = 0;
            for part in parts {
                kernels.place(stream, (*axis, start), part.operand()?, output)?;
                start += part.shape[*axis];
            }
            Ok(())
        }
        _ => Err(no_kernel(node)),
    }
}

fn no_kernel(node: &Node) -> Error {
    Error::Unsupported(format!("`{}` of {}", node.op.name(), node.ty))
}
