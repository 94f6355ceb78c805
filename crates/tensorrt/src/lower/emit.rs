//! Layers to a network of the library.
//!
//! After each layer the library's dtype and sizes are held against those that lowering said, so
//! that a layer which means something else than thought is found where it stands.

use std::collections::HashMap;

use tintype_ir::{Dim, TensorType};

use super::Lowered;
use super::layers::{Kind, Layer, Layers, PlacedWeight, Tensor, WeightSource};
use super::sizes::Sizes;
use crate::network::{Activation, Network, Value};
use crate::{Error, Result};

impl Layers {
    /// Adds the layers to an empty network.
    ///
    /// # Errors
    /// What the library says, and [`Error::Lowering`] where its types are not the expected ones.
    pub fn add_to(&self, network: &Network<'_>) -> Result<Lowered> {
        let mut emitter = Emitter {
            layers: self,
            network,
            values: vec![None; self.types.len()],
            sizes: Sizes::new(network),
            names: HashMap::new(),
        };
        emitter.inputs()?;
        for layer in &self.all {
            emitter.layer(layer)?;
        }
        emitter.outputs()?;
        let sizes = emitter.sizes.weights;
        Ok(Lowered {
            name: self.name.clone(),
            inputs: self.inputs.clone(),
            outputs: self.outputs.clone(),
            weights: self.weights.iter().cloned().chain(sizes).collect(),
            listing: self.describe(),
        })
    }
}

struct Emitter<'l, 'n> {
    layers: &'l Layers,
    network: &'n Network<'n>,
    values: Vec<Option<Value<'n>>>,
    sizes: Sizes<'n>,
    /// How often each name of a layer was given.
    names: HashMap<&'l str, usize>,
}

impl<'l, 'n> Emitter<'l, 'n> {
    fn inputs(&mut self) -> Result<()> {
        for (input, &tensor) in self.layers.inputs.iter().zip(&self.layers.input_tensors) {
            let sizes = sizes(&input.ty.dims);
            let value = self.network.input(&input.tensor, input.ty.dtype, &sizes)?;
            self.sizes.learn(value, &input.ty.dims);
            self.values[tensor.0] = Some(value);
        }
        Ok(())
    }

    fn outputs(&self) -> Result<()> {
        for (output, &tensor) in self.layers.outputs.iter().zip(&self.layers.output_tensors) {
            self.network
                .mark_output(&output.tensor, self.value(tensor))?;
        }
        Ok(())
    }

    fn layer(&mut self, layer: &'l Layer) -> Result<()> {
        let name = self.name(layer);
        let result = self.add(layer, &name).and_then(|value| {
            self.check(layer, value)?;
            Ok(value)
        });
        // The library names tensors by number; the operation's name helps more.
        let value = result.map_err(|error| match error {
            Error::Call { .. } => Error::Lowering {
                name: layer.name.clone(),
                operation: layer.kind.name(),
                reason: format!("{error}; layer {}", self.layers.line(layer)),
            },
            other => other,
        })?;
        // Only the layer that was added last can be named, and an attention is several.
        if !matches!(layer.kind, Kind::Attention(_) | Kind::Constant(_)) {
            self.network.name_last_layer(&name)?;
        }
        self.values[layer.output.0] = Some(value);
        Ok(())
    }

    /// The layer's name, with a number if others have it too.
    fn name(&mut self, layer: &'l Layer) -> String {
        let number = self.names.entry(&layer.name).or_default();
        *number += 1;
        match number {
            1 => layer.name.clone(),
            number => format!("{}.{number}", layer.name),
        }
    }

    fn add(&mut self, layer: &Layer, name: &str) -> Result<Value<'n>> {
        let network = self.network;
        let x: Vec<Value<'n>> = layer
            .inputs
            .iter()
            .map(|&input| self.value(input))
            .collect();
        let ty = self.layers.ty(layer.output);
        match &layer.kind {
            Kind::Constant(number) => self.constant(&self.layers.weights[*number]),
            Kind::Unary(operation) => network.unary(*operation, x[0]),
            Kind::Activation(activation) => network.activation(*activation, x[0], 0.0, 0.0),
            Kind::Clip(min, max) => network.activation(Activation::Clip, x[0], *min, *max),
            Kind::ElementWise(operation) => network.elementwise(*operation, x[0], x[1]),
            Kind::Select => network.select(x[0], x[1], x[2]),
            Kind::Cast => network.cast(x[0], ty.dtype),
            Kind::Identity => network.identity(x[0]),
            Kind::Reshape => self.reshape(x[0], &self.layers.ty(layer.inputs[0]).dims, &ty.dims),
            Kind::Transpose(permutation) => network.transpose(x[0], permutation),
            Kind::Slice(starts) => self.slice(x[0], starts, &ty.dims, &vec![1; ty.rank()]),
            Kind::Repeat => self.repeat(x[0], &self.layers.ty(layer.inputs[0]).dims, &ty.dims),
            Kind::Concatenate(axis) => network.concatenate(&x, *axis),
            Kind::Gather { axis, elementwise } => network.gather(x[0], x[1], *axis, *elementwise),
            Kind::Count => self.count(ty),
            Kind::Reduce(operation, axes) => network.reduce(*operation, x[0], *axes),
            Kind::MatrixMultiply(turned) => network.matrix_multiply([x[0], x[1]], *turned),
            Kind::Softmax(axis) => network.softmax(x[0], *axis),
            Kind::Normalization(options) => network.normalization([x[0], x[1], x[2]], options),
            Kind::Convolution(options) => {
                network.convolution(x[0], x[1], x.get(2).copied(), options)
            }
            Kind::Resize(scales) => network.resize_nearest(x[0], scales),
            Kind::RotaryEmbedding => network.rotary_embedding(x[0], x[1], x[2]),
            Kind::Attention(options) => {
                let (qkv, rest) = ([x[0], x[1], x[2]], &x[3..]);
                let (scale, rest) = match rest.split_last() {
                    Some((&scale, rest)) if options.quantized => (Some(scale), rest),
                    _ => (None, rest),
                };
                network.attention(name, qkv, [rest.first().copied(), scale], *options)
            }
            Kind::Quantize(axis) => network.quantize(x[0], x[1], ty.dtype, *axis),
            Kind::Dequantize(axis) => network.dequantize(x[0], x[1], ty.dtype, *axis),
        }
    }

    fn value(&self, tensor: Tensor) -> Value<'n> {
        self.values[tensor.0].expect("a layer's operands come before it")
    }

    fn constant(&self, weight: &PlacedWeight) -> Result<Value<'n>> {
        match &weight.source {
            WeightSource::Placeholder => {
                self.network
                    .placeholder(&weight.name, weight.dtype, &weight.sizes)
            }
            WeightSource::Literal(values) => {
                self.network.literal(&weight.name, values, &weight.sizes)
            }
        }
    }

    /// Sizes that are kept stand for themselves, one other may follow from the rest; only with
    /// more of them a size tensor is needed.
    fn reshape(&mut self, x: Value<'n>, from: &[Dim], to: &[Dim]) -> Result<Value<'n>> {
        let mut unknown = 0;
        let sizes: Vec<i64> = to
            .iter()
            .enumerate()
            .map(|(axis, dim)| match dim.as_constant() {
                Some(size) => size,
                None if from.get(axis) == Some(dim) => 0,
                None => {
                    unknown += 1;
                    -1
                }
            })
            .collect();
        let is_empty = to.iter().any(|dim| dim.as_constant() == Some(0));
        if unknown <= 1 && !is_empty {
            return self.network.reshape(x, &sizes);
        }
        let list = self.sizes.list(to)?;
        self.network.reshape_to(x, list)
    }

    fn slice(
        &mut self,
        x: Value<'n>,
        starts: &[Dim],
        dims: &[Dim],
        strides: &[i64],
    ) -> Result<Value<'n>> {
        let is_known = |dims: &[Dim]| dims.iter().all(|dim| dim.as_constant().is_some());
        let known = |dims: &[Dim]| -> Vec<i64> {
            dims.iter()
                .map(|dim| dim.as_constant().unwrap_or(0))
                .collect()
        };
        let (start, size) = (known(starts), known(dims));
        let starts = if is_known(starts) {
            None
        } else {
            Some(self.sizes.list(starts)?)
        };
        let dims = if is_known(dims) {
            None
        } else {
            Some(self.sizes.list(dims)?)
        };
        self.network
            .slice(x, [&start, &size, strides], starts, dims)
    }

    /// A slice that does not step along axes of size 1.
    fn repeat(&mut self, x: Value<'n>, from: &[Dim], to: &[Dim]) -> Result<Value<'n>> {
        let starts = vec![Dim::from(0); to.len()];
        let strides: Vec<i64> = from
            .iter()
            .zip(to)
            .map(|(from, to)| i64::from(from == to))
            .collect();
        self.slice(x, &starts, to, &strides)
    }

    fn count(&mut self, ty: &TensorType) -> Result<Value<'n>> {
        let list = match ty.dims[0].as_constant() {
            Some(_) => None,
            None => Some(self.sizes.list(&ty.dims)?),
        };
        self.network
            .count_up(ty.dtype, ty.dims[0].as_constant().unwrap_or(1), list)
    }

    /// Holds what the library says against the type that was expected.
    fn check(&self, layer: &Layer, value: Value<'n>) -> Result<()> {
        let expected = self.layers.ty(layer.output);
        let (found, dtype) = (self.network.sizes(value)?, self.network.dtype(value)?);
        let same_size = |(dim, &size): (&Dim, &i64)| {
            dim.as_constant()
                .is_none_or(|known| size == known || size < 0)
        };
        let fits = found.len() == expected.rank()
            && expected.dims.iter().zip(&found).all(same_size)
            && dtype == expected.dtype;
        if fits {
            return Ok(());
        }
        Err(Error::Lowering {
            name: layer.name.clone(),
            operation: layer.kind.name(),
            reason: format!("expected {expected}, the library says {dtype}{found:?}"),
        })
    }
}

/// Sizes as the library takes those of inputs.
fn sizes(dims: &[Dim]) -> Vec<i64> {
    dims.iter()
        .map(|dim| dim.as_constant().unwrap_or(-1))
        .collect()
}
