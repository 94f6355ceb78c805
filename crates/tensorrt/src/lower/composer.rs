//! Puts layers together: each call adds one or a few and says of what type the result is.
//!
//! Here stand what every operation needs: ranks made equal, casts that the library has, numbers
//! as literals, the parameters and values of the graph as tensors.

use std::collections::{HashMap, HashSet};

use tintype_ir::{Dim, Graph, Node, Op, TensorType, Value};
use tintype_tensor::{DType, Tensor as HostTensor};

use super::layers::{Kind, Layer, Layers, PlacedWeight, Tensor, WeightSource};
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
    /// Whether weights of f8 come as numbers of bf16.
    pub(super) widens_f8_weights: bool,
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
            widens_f8_weights: false,
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
        self.makers.insert(output, self.layers.all.len());
        self.layers.all.push(Layer {
            name: format!("{} {}", self.name, self.operation),
            kind,
            inputs: inputs.to_vec(),
            output,
        });
        output
    }

    /// The value of a literal of one f32.
    pub(super) fn literal_number(&self, tensor: Tensor) -> Option<f32> {
        let mut literals = self.literals.iter();
        literals.find(|(_, known)| **known == tensor)?;
        let mut layers = self.layers.all.iter();
        let layer = layers.find(|layer| layer.output == tensor)?;
        let Kind::Constant(number) = layer.kind else {
            return None;
        };
        let WeightSource::Literal(values) = &self.layers.weights[number].source else {
            return None;
        };
        let is_one = values.dtype() == DType::F32 && values.element_count() == 1;
        is_one.then(|| values.to_f32_vec().ok()?.first().copied())?
    }

    /// The layer that makes a tensor; none for inputs and constants.
    pub(super) fn maker(&self, tensor: Tensor) -> Option<&Layer> {
        self.makers
            .get(&tensor)
            .map(|&index| &self.layers.all[index])
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
        let is_widened = self.widens_f8_weights && parameter.ty.dtype == DType::F8E4M3;
        let dtype = if is_widened {
            DType::BF16
        } else {
            parameter.ty.dtype
        };
        let mut tensor = self.constant(PlacedWeight {
            name: parameter.name.clone(),
            dtype,
            sizes: shape.to_vec(),
            source: WeightSource::Placeholder,
            is_size: false,
        });
        if is_widened {
            let ty = self.ty(tensor).with_dtype(DType::F8E4M3);
            tensor = self.scale_of_one(tensor, Kind::Quantize(None), &ty)?;
        }
        self.parameters[index] = Some(tensor);
        Ok(tensor)
    }

    fn constant(&mut self, weight: PlacedWeight) -> Tensor {
        let ty = TensorType::new(weight.dtype, weight.sizes.iter().copied());
        let number = self.layers.weights.len();
        let output = self.layers.new_tensor(ty);
        self.layers.all.push(Layer {
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
        Ok(self.literal(literal.map_err(|error| tensor_error(&error))?))
    }

    /// The same number in every place.
    pub(super) fn filled(&mut self, dtype: DType, sizes: &[usize], value: f32) -> Result<Tensor> {
        let count = sizes.iter().product();
        let literal = HostTensor::from_f32_as(dtype, sizes.to_vec(), vec![value; count]);
        Ok(self.literal(literal.map_err(|error| tensor_error(&error))?))
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

/// A literal that cannot be made: a size that overflows.
pub(super) fn tensor_error(error: &tintype_tensor::Error) -> Error {
    tintype_ir::Error::Overflow(error.to_string()).into()
}
