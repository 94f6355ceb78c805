//! Puts layers together: each call adds one or a few and says of what type the result is.
//!
//! Here stand what every operation needs: ranks made equal, casts that the library has, numbers
//! as literals, the parameters and values of the graph as tensors.

use std::collections::{HashMap, HashSet};

use tintype_ir::{Dim, Graph, Node, Op, TensorType, Value, broadcast_dims};
use tintype_tensor::{DType, Tensor as HostTensor};

use super::layers::{Kind, Layer, Layers, PlacedWeight, Tensor, WeightSource};
use crate::network::{Activation, ElementWise, Reduction, Unary};
use crate::{Error, Result};

pub(super) struct Composer<'g> {
    pub(super) graph: &'g Graph,
    pub(super) layers: Layers,
    /// The tensor of each input of the graph, once inside the network.
    pub(super) inputs: Vec<Tensor>,
    /// The tensor of each node so far.
    pub(super) nodes: Vec<Tensor>,
    /// The constant of each parameter that was read.
    parameters: Vec<Option<Tensor>>,
    /// The literals by name.
    literals: HashMap<String, Tensor>,
    /// Names of weights that are taken.
    weight_names: HashSet<String>,
    /// How many linear layers read each value, and the copies for them of which some are used.
    readers: HashMap<Value, usize>,
    pub(super) copies: HashMap<Value, (Tensor, usize)>,
    /// What each layer computes, and its result.
    known: HashMap<String, Tensor>,
    /// The layer that makes each tensor.
    makers: HashMap<Tensor, usize>,
    /// The node being lowered, for names and errors.
    name: String,
    operation: &'static str,
}

impl<'g> Composer<'g> {
    pub(super) fn new(graph: &'g Graph, layers: Layers) -> Self {
        let names = graph
            .parameters()
            .iter()
            .map(|parameter| parameter.name.clone());
        Self {
            graph,
            layers,
            inputs: Vec::new(),
            nodes: Vec::new(),
            parameters: vec![None; graph.parameters().len()],
            literals: HashMap::new(),
            weight_names: names.collect(),
            readers: linear_readers(graph),
            copies: HashMap::new(),
            known: HashMap::new(),
            makers: HashMap::new(),
            name: String::new(),
            operation: "",
        }
    }

    /// How many linear layers read a value.
    pub(super) fn linear_readers(&self, value: Value) -> usize {
        self.readers.get(&value).copied().unwrap_or_default()
    }

    /// Says which node comes next.
    pub(super) fn begin(&mut self, index: usize, node: &Node) {
        self.operation = node.op.name();
        self.name = match &node.label {
            Some(label) => label.to_string(),
            None => format!("%{index}"),
        };
    }

    /// Says that layers belong to an input.
    pub(super) fn name_input(&mut self, index: usize) {
        self.operation = "input";
        self.name.clone_from(&self.graph.inputs()[index].name);
    }

    /// Says that layers belong to an output.
    pub(super) fn name_output(&mut self, name: &str) {
        self.operation = "output";
        name.clone_into(&mut self.name);
    }

    /// The operation cannot be lowered.
    pub(super) fn refuse<T>(&self, reason: impl Into<String>) -> Result<T> {
        Err(Error::Lowering {
            name: self.name.clone(),
            operation: self.operation,
            reason: reason.into(),
        })
    }

    pub(super) fn ty(&self, tensor: Tensor) -> &TensorType {
        self.layers.ty(tensor)
    }

    pub(super) fn dims(&self, tensor: Tensor) -> Vec<Dim> {
        self.ty(tensor).dims.clone()
    }

    pub(super) fn dtype(&self, tensor: Tensor) -> DType {
        self.ty(tensor).dtype
    }

    pub(super) fn rank(&self, tensor: Tensor) -> usize {
        self.ty(tensor).rank()
    }

    /// A dimension of the graph as it is in the network.
    pub(super) fn in_network(&self, dims: &[Dim]) -> Result<Vec<Dim>> {
        self.layers.symbols.dims(dims)
    }

    /// Adds a layer, or finds the one that computes the same.
    pub(super) fn add(&mut self, kind: Kind, inputs: &[Tensor], ty: TensorType) -> Tensor {
        let meaning = format!("{kind:?} {inputs:?} {ty}");
        if let Some(&known) = self.known.get(&meaning) {
            return known;
        }
        let output = self.add_always(kind, inputs, ty);
        self.known.insert(meaning, output);
        output
    }

    /// Adds a layer, even if another computes the same.
    pub(super) fn add_always(&mut self, kind: Kind, inputs: &[Tensor], ty: TensorType) -> Tensor {
        let output = self.layers.new_tensor(ty);
        self.makers.insert(output, self.layers.layers.len());
        self.layers.layers.push(Layer {
            name: format!("{} {}", self.name, self.operation),
            kind,
            inputs: inputs.to_vec(),
            output,
        });
        output
    }

    /// The layer that makes a tensor; none for inputs and constants.
    pub(super) fn maker(&self, tensor: Tensor) -> Option<&Layer> {
        self.makers
            .get(&tensor)
            .map(|&index| &self.layers.layers[index])
    }

    /// The tensor of a value of the graph. A parameter gets its constant here.
    pub(super) fn tensor(&mut self, value: Value) -> Result<Tensor> {
        match value {
            Value::Input(index) => Ok(self.inputs[index]),
            Value::Node(index) => Ok(self.nodes[index]),
            Value::Parameter(index) => {
                let dims = self.graph.parameters()[index].ty.dims.clone();
                self.value_as(Value::Parameter(index), dims)
            }
        }
    }

    /// The tensor of a value under other dimensions. A parameter that was not read before gets
    /// its constant with these, so that nothing stands between it and the layer that reads it.
    pub(super) fn value_as(&mut self, value: Value, dims: Vec<Dim>) -> Result<Tensor> {
        let Value::Parameter(index) = value else {
            let tensor = self.tensor(value)?;
            return self.reshape(tensor, dims);
        };
        if let Some(tensor) = self.parameters[index] {
            return self.reshape(tensor, dims);
        }
        let parameter = &self.graph.parameters()[index];
        if matches!(parameter.ty.dtype, DType::U8 | DType::F4E2M1) {
            return self.refuse(format!("a weight of {}", parameter.ty));
        }
        let Some(shape) = parameter.ty.with_dims(dims).static_shape() else {
            return self.refuse(format!("a weight of {}", parameter.ty));
        };
        let tensor = self.constant(PlacedWeight {
            name: parameter.name.clone(),
            dtype: parameter.ty.dtype,
            sizes: shape.to_vec(),
            source: WeightSource::Placeholder,
            is_size: false,
        });
        self.parameters[index] = Some(tensor);
        Ok(tensor)
    }

    fn constant(&mut self, weight: PlacedWeight) -> Tensor {
        let ty = TensorType::new(weight.dtype, weight.sizes.iter().copied());
        let number = self.layers.weights.len();
        let output = self.layers.new_tensor(ty);
        self.layers.layers.push(Layer {
            name: weight.name.clone(),
            kind: Kind::Constant(number),
            inputs: Vec::new(),
            output,
        });
        self.layers.weights.push(weight);
        output
    }

    /// A constant with values of its own. Its name says what it is, so that the same one in
    /// another place, or in a graph with other value numbers, has the same name.
    pub(super) fn literal(&mut self, values: HostTensor) -> Tensor {
        let (dtype, sizes) = (values.dtype(), values.shape().to_vec());
        let digest = blake3::hash(values.bytes()).to_hex();
        let name = format!("literal.{dtype}{sizes:?}.{}", &digest[..16]).replace(' ', "");
        if let Some(&known) = self.literals.get(&name) {
            return known;
        }
        let mut unique = name.clone();
        while !self.weight_names.insert(unique.clone()) {
            unique.push('\'');
        }
        let tensor = self.constant(PlacedWeight {
            name: unique,
            dtype,
            sizes,
            source: WeightSource::Literal(values),
            is_size: false,
        });
        self.literals.insert(name, tensor);
        tensor
    }

    /// One number, of the given rank.
    pub(super) fn number(&mut self, dtype: DType, rank: usize, value: f32) -> Result<Tensor> {
        let literal = HostTensor::from_f32_as(dtype, vec![1; rank], vec![value]);
        Ok(self.literal(literal.map_err(tensor_error)?))
    }

    /// The same number in every place.
    pub(super) fn filled(&mut self, dtype: DType, sizes: &[usize], value: f32) -> Result<Tensor> {
        let count = sizes.iter().product();
        let literal = HostTensor::from_f32_as(dtype, sizes.to_vec(), vec![value; count]);
        Ok(self.literal(literal.map_err(tensor_error)?))
    }
}

/// Layers in few words.
impl Composer<'_> {
    /// The same elements under other dimensions.
    pub(super) fn reshape(&mut self, x: Tensor, dims: Vec<Dim>) -> Result<Tensor> {
        if self.ty(x).dims == dims {
            return Ok(x);
        }
        if dims.len() > MAX_RANK {
            return self.refuse(format!("{} axes, the library has {MAX_RANK}", dims.len()));
        }
        let ty = self.ty(x).with_dims(dims);
        Ok(self.add(Kind::Reshape, &[x], ty))
    }

    /// Leading axes of size 1, up to a rank.
    pub(super) fn to_rank(&mut self, x: Tensor, rank: usize) -> Result<Tensor> {
        let dims = self.dims(x);
        let missing = rank.saturating_sub(dims.len());
        let ones = std::iter::repeat_n(Dim::from(1), missing);
        self.reshape(x, ones.chain(dims).collect())
    }

    /// The axes in another order; a transpose of a transpose is one, or none.
    pub(super) fn transpose(&mut self, x: Tensor, permutation: &[usize]) -> Tensor {
        if let Some(layer) = self.maker(x)
            && let Kind::Transpose(before) = &layer.kind
        {
            let both: Vec<usize> = permutation.iter().map(|&axis| before[axis]).collect();
            return self.transpose(layer.inputs[0], &both);
        }
        if permutation
            .iter()
            .enumerate()
            .all(|(axis, &from)| axis == from)
        {
            return x;
        }
        let ty = self.ty(x);
        let dims = permutation
            .iter()
            .map(|&axis| ty.dims[axis].clone())
            .collect();
        let ty = ty.with_dims(dims);
        self.add(Kind::Transpose(permutation.to_vec()), &[x], ty)
    }

    /// The values before they were rounded, where that was the last thing done to them; in f32.
    pub(super) fn unrounded(&mut self, x: Tensor) -> Result<Tensor> {
        if let Some(layer) = self.maker(x)
            && layer.kind == Kind::Cast
            && self.dtype(layer.inputs[0]) == DType::F32
        {
            return Ok(layer.inputs[0]);
        }
        self.cast(x, DType::F32)
    }

    /// Sizes 1 and missing outer axes repeated.
    pub(super) fn repeat(&mut self, x: Tensor, dims: Vec<Dim>) -> Result<Tensor> {
        let x = self.to_rank(x, dims.len())?;
        if self.ty(x).dims == dims {
            return Ok(x);
        }
        let ty = self.ty(x).with_dims(dims);
        Ok(self.add(Kind::Repeat, &[x], ty))
    }

    /// Positions `start..start + size` of one axis.
    pub(super) fn slice(&mut self, x: Tensor, axis: usize, start: Dim, size: Dim) -> Tensor {
        let mut ty = self.ty(x).clone();
        if ty.dims[axis] == size {
            return x;
        }
        let mut starts = vec![Dim::from(0); ty.rank()];
        starts[axis] = start;
        ty.dims[axis] = size;
        self.add(Kind::Slice(starts), &[x], ty)
    }

    pub(super) fn concatenate(&mut self, parts: &[Tensor], axis: usize) -> Result<Tensor> {
        if let [part] = parts {
            return Ok(*part);
        }
        let mut ty = self.ty(parts[0]).clone();
        for &part in &parts[1..] {
            let sum = ty.dims[axis].checked_add(&self.ty(part).dims[axis]);
            ty.dims[axis] = sum.ok_or_else(|| tintype_ir::Error::Overflow(ty.to_string()))?;
        }
        Ok(self.add(Kind::Concatenate(axis), parts, ty))
    }

    /// Two operands of one dtype with their ranks made equal.
    pub(super) fn elementwise(
        &mut self,
        operation: ElementWise,
        a: Tensor,
        b: Tensor,
    ) -> Result<Tensor> {
        let rank = self.rank(a).max(self.rank(b));
        let (a, b) = (self.to_rank(a, rank)?, self.to_rank(b, rank)?);
        let Some(dims) = broadcast_dims(&self.ty(a).dims, &self.ty(b).dims) else {
            return self.refuse(format!("{} and {} do not fit", self.ty(a), self.ty(b)));
        };
        let dtype = match operation {
            ElementWise::Equal | ElementWise::Less => DType::Bool,
            _ => self.dtype(a),
        };
        Ok(self.add(
            Kind::ElementWise(operation),
            &[a, b],
            TensorType { dtype, dims },
        ))
    }

    /// An operand and a number.
    pub(super) fn with_number(
        &mut self,
        operation: ElementWise,
        x: Tensor,
        number: f32,
    ) -> Result<Tensor> {
        let number = self.number(self.dtype(x), self.rank(x), number)?;
        self.elementwise(operation, x, number)
    }

    pub(super) fn unary(&mut self, operation: Unary, x: Tensor) -> Tensor {
        let ty = self.ty(x).clone();
        self.add(Kind::Unary(operation), &[x], ty)
    }

    pub(super) fn activation(&mut self, activation: Activation, x: Tensor) -> Tensor {
        let ty = self.ty(x).clone();
        self.add(Kind::Activation(activation), &[x], ty)
    }

    pub(super) fn select(&mut self, condition: Tensor, a: Tensor, b: Tensor) -> Result<Tensor> {
        let rank = [condition, a, b].map(|operand| self.rank(operand));
        let rank = rank.into_iter().fold(0, usize::max);
        let operands = [
            self.to_rank(condition, rank)?,
            self.to_rank(a, rank)?,
            self.to_rank(b, rank)?,
        ];
        let [condition, a, b] = operands.map(|operand| self.dims(operand));
        let dims = broadcast_dims(&a, &b).and_then(|dims| broadcast_dims(&dims, &condition));
        let Some(dims) = dims else {
            return self.refuse("condition and operands do not fit");
        };
        let ty = self.ty(operands[1]).with_dims(dims);
        Ok(self.add(Kind::Select, &operands, ty))
    }

    /// A reduction; the axes stay with size 1.
    pub(super) fn reduce(&mut self, kind: Reduction, x: Tensor, axes: &[usize]) -> Tensor {
        let mut ty = self.ty(x).clone();
        let mut bits = 0;
        for &axis in axes {
            ty.dims[axis] = Dim::from(1);
            bits |= 1 << axis;
        }
        self.add(Kind::Reduce(kind, bits), &[x], ty)
    }

    /// The product over the last two axes; ranks are made equal.
    pub(super) fn multiply(&mut self, a: Tensor, b: Tensor, turned: [bool; 2]) -> Result<Tensor> {
        let rank = self.rank(a).max(self.rank(b));
        let (a, b) = (self.to_rank(a, rank)?, self.to_rank(b, rank)?);
        let (of_a, of_b) = (self.dims(a), self.dims(b));
        let Some(mut dims) = broadcast_dims(&of_a[..rank - 2], &of_b[..rank - 2]) else {
            return self.refuse(format!("{} and {} do not multiply", self.ty(a), self.ty(b)));
        };
        dims.push(of_a[rank - 2 + usize::from(turned[0])].clone());
        dims.push(of_b[rank - 1 - usize::from(turned[1])].clone());
        let ty = self.ty(a).with_dims(dims);
        Ok(self.add(Kind::MatrixMultiply(turned), &[a, b], ty))
    }

    /// Softmax over the last axis; the library wants two.
    pub(super) fn softmax(&mut self, x: Tensor) -> Result<Tensor> {
        let dims = self.dims(x);
        let rows = if dims.len() == 1 {
            self.to_rank(x, 2)?
        } else {
            x
        };
        let ty = self.ty(rows).clone();
        let result = self.add(Kind::Softmax(ty.rank() - 1), &[rows], ty);
        self.reshape(result, dims)
    }
}

fn linear_readers(graph: &Graph) -> HashMap<Value, usize> {
    let mut readers = HashMap::new();
    for node in graph.nodes() {
        if node.op == Op::Linear {
            *readers.entry(node.operands[0]).or_default() += 1;
        }
    }
    readers
}

/// The library's limit.
const MAX_RANK: usize = 8;

/// A literal that cannot be made: a size that overflows.
pub(super) fn tensor_error(error: tintype_tensor::Error) -> Error {
    tintype_ir::Error::Overflow(error.to_string()).into()
}
