//! A whole graph at once, and one operation for constant folding.

use std::sync::Arc;

use tintype_backend::{Error, Result, Tensors};
use tintype_ir::{Binding, Evaluator, Graph, Op, TensorType, Value as Reference, infer, verify};
use tintype_tensor::Tensor;
use tintype_weights::Parameters;

use crate::buffer::Pool;
use crate::evaluate::{Call, Kernel, evaluate};
use crate::executable::{input_values, parameter_value};
use crate::program::Program;
use crate::value::Value;

/// Executes a graph without splitting it: all inputs in, all outputs out.
///
/// # Errors
/// A graph that does not verify, a parameter or an input that is missing or of another
/// type, a value that an operation cannot use.
pub fn run(graph: &Graph, parameters: &Parameters, inputs: &[(&str, Tensor)]) -> Result<Tensors> {
    verify(graph)?;
    let pool = Arc::new(Pool::default());
    let mut binding = Binding::new();
    let values = input_values(graph, graph.inputs().iter(), inputs, &mut binding, &pool)?;
    let leaf = |reference: Reference| match reference {
        Reference::Input(index) => Ok(values[&graph.inputs()[index].name].clone()),
        other => parameter_value(graph, parameters, other),
    };
    let outputs = Program::new(graph.clone()).run(&binding, &leaf, None, &pool)?;
    outputs
        .into_iter()
        .map(|(name, value)| Ok((name, value.to_tensor()?)))
        .collect()
}

/// Evaluates single operations, as constant folding asks for.
#[derive(Debug, Clone, Copy, Default)]
pub struct CpuEvaluator;

impl Evaluator for CpuEvaluator {
    fn evaluate(
        &self,
        op: &Op,
        operands: &[Tensor],
        ty: &TensorType,
    ) -> tintype_ir::Result<Tensor> {
        let failed = |error: Error| tintype_ir::Error::Evaluate {
            op: op.name().to_owned(),
            message: error.to_string(),
        };
        let shape = ty
            .static_shape()
            .ok_or_else(|| tintype_ir::Error::Evaluate {
                op: op.name().to_owned(),
                message: format!("expected a type without symbols, found {ty}"),
            })?;
        let types: Vec<TensorType> = operands
            .iter()
            .map(|operand| TensorType::new(operand.dtype(), operand.shape().iter().copied()))
            .collect();
        let inferred = infer(op, &types)?;
        if inferred != *ty {
            return Err(tintype_ir::Error::Evaluate {
                op: op.name().to_owned(),
                message: format!("expected a result of {inferred}, found {ty}"),
            });
        }
        let operands: Result<Vec<Value>> = operands.iter().cloned().map(Value::stored).collect();
        let operands = operands.map_err(failed)?;
        let (binding, pool) = (Binding::new(), Arc::new(Pool::default()));
        let (kernel, dtype) = (Kernel::Plain, ty.dtype);
        let call = Call {
            op,
            kernel,
            operands: &operands,
            dtype,
            shape,
            binding: &binding,
            pool: &pool,
        };
        evaluate(&call)
            .and_then(|value| value.to_tensor())
            .map_err(failed)
    }
}
