//! Builds graphs by calls that read like a model's forward function.
//!
//! Each call checks its operands; the first error is kept and given by
//! [`GraphBuilder::finish`], so that model code stays free of `?` on every line.
//!
//! ```
//! use tintype_ir::{GraphBuilder, Stage, TensorType};
//! use tintype_tensor::DType;
//!
//! let mut b = GraphBuilder::new("mlp");
//! b.symbol("tokens", 1..=64);
//! let x = b.input("x", Stage::Step, TensorType::new(DType::F32, ["tokens".into(), tintype_ir::Dim::from(8)]));
//! let h = b.linear_named("up", x, 32, 8, true);
//! let h = b.unary(tintype_ir::UnaryOp::GeluTanh, h);
//! b.output("y", h);
//! let graph = b.finish()?;
//! assert!(graph.to_string().contains("%1: f32[tokens, 32] = gelu_tanh %0"));
//! # Ok::<(), tintype_ir::Error>(())
//! ```

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use tintype_tensor::DType;

use crate::{
    Attention, BinaryOp, Constant, Conv2d, Dim, Error, Graph, Input, Node, Op, Output, Parameter,
    ReduceOp, Result, Stage, Symbol, TensorType, UnaryOp, Value, infer, verify,
};

/// Builds one graph.
#[derive(Debug)]
pub struct GraphBuilder {
    graph: Graph,
    parameter_indices: HashMap<String, usize>,
    label: Option<Arc<str>>,
    error: Option<Error>,
}

impl GraphBuilder {
    /// A builder of an empty graph.
    pub fn new(name: &str) -> Self {
        let graph = Graph {
            name: name.to_owned(),
            ..Graph::default()
        };
        Self {
            graph,
            parameter_indices: HashMap::new(),
            label: None,
            error: None,
        }
    }

    /// Declares a symbol with the range of its values.
    pub fn symbol(&mut self, name: &str, range: RangeInclusive<usize>) -> Dim {
        self.graph.symbols.insert(Symbol::from(name), range);
        Dim::symbol(name)
    }

    /// Declares an input.
    pub fn input(&mut self, name: &str, stage: Stage, ty: TensorType) -> Value {
        self.graph.inputs.push(Input {
            name: name.to_owned(),
            stage,
            ty,
        });
        Value::Input(self.graph.inputs.len() - 1)
    }

    /// A parameter; asking for one name twice gives the same value.
    pub fn parameter(&mut self, name: &str, ty: TensorType) -> Value {
        if let Some(&index) = self.parameter_indices.get(name) {
            if self.graph.parameters[index].ty != ty {
                self.keep_error(Error::Type {
                    op: format!("parameter `{name}`"),
                    message: format!("expected {}, found {ty}", self.graph.parameters[index].ty),
                });
            }
            return Value::Parameter(index);
        }
        let index = self.graph.parameters.len();
        self.graph.parameters.push(Parameter {
            name: name.to_owned(),
            ty,
        });
        self.parameter_indices.insert(name.to_owned(), index);
        Value::Parameter(index)
    }

    /// Adds an operation.
    pub fn op(&mut self, op: Op, operands: &[Value]) -> Value {
        let types: Vec<_> = operands
            .iter()
            .map(|&value| self.type_of(value).clone())
            .collect();
        let ty = infer(&op, &types).unwrap_or_else(|error| {
            self.keep_error(match (&self.label, error) {
                (Some(label), Error::Type { op, message }) => Error::Type {
                    op: format!("{op} of `{label}`"),
                    message,
                },
                (_, error) => error,
            });
            types
                .first()
                .cloned()
                .unwrap_or_else(|| TensorType::new(DType::F32, [Dim::from(1)]))
        });
        let label = self.label.clone();
        self.graph.nodes.push(Node {
            op,
            operands: operands.to_vec(),
            ty,
            label,
        });
        Value::Node(self.graph.nodes.len() - 1)
    }

    /// The type of a value made so far.
    pub fn type_of(&self, value: Value) -> &TensorType {
        self.graph.type_of(value)
    }

    /// Nodes added from now on belong to the module `label`; gives the label before.
    pub fn set_label(&mut self, label: Option<&str>) -> Option<Arc<str>> {
        std::mem::replace(&mut self.label, label.map(Arc::from))
    }

    /// Runs `body` with nodes labelled `label`.
    pub fn labelled<T>(&mut self, label: &str, body: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.set_label(Some(label));
        let result = body(self);
        self.label = before;
        result
    }

    /// Names a result.
    pub fn output(&mut self, name: &str, value: Value) {
        self.graph.outputs.push(Output {
            name: name.to_owned(),
            value,
        });
    }

    /// The verified graph, or the first error.
    pub fn finish(self) -> Result<Graph> {
        if let Some(error) = self.error {
            return Err(error);
        }
        verify(&self.graph)?;
        Ok(self.graph)
    }

    fn keep_error(&mut self, error: Error) {
        self.error.get_or_insert(error);
    }
}

/// One method an operation.
impl GraphBuilder {
    /// A float constant without axes, so that it broadcasts.
    ///
    /// # Panics
    /// Where `dtype` is no float.
    pub fn scalar(&mut self, dtype: DType, value: f32) -> Value {
        let constant = Constant::floats(dtype, [], vec![value]).expect("one value without axes");
        self.op(Op::Constant(constant), &[])
    }

    /// [`Op::Unary`].
    pub fn unary(&mut self, op: UnaryOp, x: Value) -> Value {
        self.op(Op::Unary(op), &[x])
    }

    /// [`Op::Binary`].
    pub fn binary(&mut self, op: BinaryOp, a: Value, b: Value) -> Value {
        self.op(Op::Binary(op), &[a, b])
    }

    /// `a + b`.
    pub fn add(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOp::Add, a, b)
    }

    /// `a · b`.
    pub fn mul(&mut self, a: Value, b: Value) -> Value {
        self.binary(BinaryOp::Mul, a, b)
    }

    /// [`Op::Cast`]; nothing where the dtype is the same.
    pub fn cast(&mut self, x: Value, dtype: DType) -> Value {
        if self.type_of(x).dtype == dtype {
            x
        } else {
            self.op(Op::Cast { dtype }, &[x])
        }
    }

    /// [`Op::Reshape`].
    pub fn reshape<D: Into<Dim>>(&mut self, x: Value, dims: impl IntoIterator<Item = D>) -> Value {
        let dims = dims.into_iter().map(Into::into).collect();
        self.op(Op::Reshape { dims }, &[x])
    }

    /// [`Op::Broadcast`].
    pub fn broadcast<D: Into<Dim>>(
        &mut self,
        x: Value,
        dims: impl IntoIterator<Item = D>,
    ) -> Value {
        let dims = dims.into_iter().map(Into::into).collect();
        self.op(Op::Broadcast { dims }, &[x])
    }

    /// [`Op::Transpose`].
    pub fn transpose(&mut self, x: Value, permutation: &[usize]) -> Value {
        self.op(
            Op::Transpose {
                permutation: permutation.to_vec(),
            },
            &[x],
        )
    }

    /// [`Op::Slice`].
    pub fn slice(
        &mut self,
        x: Value,
        axis: usize,
        start: impl Into<Dim>,
        end: impl Into<Dim>,
    ) -> Value {
        self.op(
            Op::Slice {
                axis,
                start: start.into(),
                end: end.into(),
            },
            &[x],
        )
    }

    /// [`Op::Concat`].
    pub fn concat(&mut self, axis: usize, operands: &[Value]) -> Value {
        self.op(Op::Concat { axis }, operands)
    }

    /// [`Op::Gather`].
    pub fn gather(&mut self, table: Value, indices: Value, axis: usize) -> Value {
        self.op(Op::Gather { axis }, &[table, indices])
    }

    /// [`Op::Reduce`].
    pub fn reduce(&mut self, kind: ReduceOp, x: Value, axes: &[usize]) -> Value {
        self.op(
            Op::Reduce {
                kind,
                axes: axes.to_vec(),
            },
            &[x],
        )
    }

    /// [`Op::MatMul`].
    pub fn matmul(&mut self, a: Value, b: Value) -> Value {
        self.op(Op::MatMul, &[a, b])
    }

    /// [`Op::Linear`].
    pub fn linear(&mut self, x: Value, weight: Value, bias: Option<Value>) -> Value {
        let operands: Vec<_> = [x, weight].into_iter().chain(bias).collect();
        self.op(Op::Linear, &operands)
    }

    /// [`Op::Linear`] with parameters `{module}.weight` and `{module}.bias`, of the dtype of `x`.
    pub fn linear_named(
        &mut self,
        module: &str,
        x: Value,
        out_features: usize,
        in_features: usize,
        bias: bool,
    ) -> Value {
        let dtype = self.type_of(x).dtype;
        let weight = self.parameter(
            &format!("{module}.weight"),
            TensorType::new(dtype, [out_features, in_features]),
        );
        let bias = bias.then(|| {
            self.parameter(
                &format!("{module}.bias"),
                TensorType::new(dtype, [out_features]),
            )
        });
        self.labelled(module, |b| b.linear(x, weight, bias))
    }

    /// [`Op::LayerNorm`] without weight and bias.
    pub fn layer_norm(&mut self, x: Value, epsilon: f32) -> Value {
        self.op(Op::LayerNorm { epsilon }, &[x])
    }

    /// [`Op::LayerNorm`] with parameters `{module}.weight` and `{module}.bias`.
    pub fn layer_norm_named(&mut self, module: &str, x: Value, size: usize, epsilon: f32) -> Value {
        let ty = TensorType::new(self.type_of(x).dtype, [size]);
        let weight = self.parameter(&format!("{module}.weight"), ty.clone());
        let bias = self.parameter(&format!("{module}.bias"), ty);
        self.labelled(module, |b| {
            b.op(Op::LayerNorm { epsilon }, &[x, weight, bias])
        })
    }

    /// [`Op::RmsNorm`] with the parameter `{module}.weight`.
    pub fn rms_norm_named(&mut self, module: &str, x: Value, size: usize, epsilon: f32) -> Value {
        let ty = TensorType::new(self.type_of(x).dtype, [size]);
        let weight = self.parameter(&format!("{module}.weight"), ty);
        self.labelled(module, |b| b.op(Op::RmsNorm { epsilon }, &[x, weight]))
    }

    /// [`Op::GroupNorm`] with parameters `{module}.weight` and `{module}.bias`.
    pub fn group_norm_named(
        &mut self,
        module: &str,
        x: Value,
        channels: usize,
        groups: usize,
        epsilon: f32,
    ) -> Value {
        let ty = TensorType::new(self.type_of(x).dtype, [channels]);
        let weight = self.parameter(&format!("{module}.weight"), ty.clone());
        let bias = self.parameter(&format!("{module}.bias"), ty);
        self.labelled(module, |b| {
            b.op(Op::GroupNorm { groups, epsilon }, &[x, weight, bias])
        })
    }

    /// [`Op::Modulate`].
    pub fn modulate(&mut self, x: Value, scale: Value, shift: Value) -> Value {
        self.op(Op::Modulate, &[x, scale, shift])
    }

    /// [`Op::GatedResidual`].
    pub fn gated_residual(&mut self, residual: Value, gate: Value, x: Value) -> Value {
        self.op(Op::GatedResidual, &[residual, gate, x])
    }

    /// [`Op::Rotary`].
    pub fn rotary(&mut self, x: Value, table: Value) -> Value {
        self.op(Op::Rotary, &[x, table])
    }

    /// [`Op::Attention`].
    pub fn attention(
        &mut self,
        attributes: Attention,
        qkv: [Value; 3],
        bias: Option<Value>,
    ) -> Value {
        let operands: Vec<_> = qkv.into_iter().chain(bias).collect();
        self.op(Op::Attention(attributes), &operands)
    }

    /// [`Op::Conv2d`] with parameters `{module}.weight` (`[out, in, kernel, kernel]`) and `{module}.bias`.
    pub fn conv2d_named(
        &mut self,
        module: &str,
        x: Value,
        channels: (usize, usize),
        kernel: usize,
        attributes: Conv2d,
    ) -> Value {
        let dtype = self.type_of(x).dtype;
        let (out_channels, in_channels) = channels;
        let dims = [
            out_channels,
            in_channels / attributes.groups.max(1),
            kernel,
            kernel,
        ];
        let weight = self.parameter(&format!("{module}.weight"), TensorType::new(dtype, dims));
        let bias = self.parameter(
            &format!("{module}.bias"),
            TensorType::new(dtype, [out_channels]),
        );
        self.labelled(module, |b| b.op(Op::Conv2d(attributes), &[x, weight, bias]))
    }
}
