//! Operations that move values, and what goes into and out of the network.

use tintype_ir::{Dim, TensorType};
use tintype_tensor::DType;

use super::composer::Composer;
use super::layers::{InputKind, Kind, Layers, LoweredInput, LoweredOutput, Tensor};
use super::ranges::Symbols;
use crate::Result;

impl Layers {
    pub(super) fn empty(name: &str, symbols: Symbols) -> Self {
        Self {
            name: name.to_owned(),
            symbols,
            types: Vec::new(),
            inputs: Vec::new(),
            input_tensors: Vec::new(),
            all: Vec::new(),
            outputs: Vec::new(),
            output_tensors: Vec::new(),
            weights: Vec::new(),
        }
    }

    fn add_input(&mut self, name: &str, ty: TensorType, kind: InputKind) -> Result<Tensor> {
        let tensor = self.new_tensor(ty.clone());
        let names: Vec<_> = self
            .inputs
            .iter()
            .map(|input| input.tensor.as_str())
            .collect();
        let engine_name = free(name, &names);
        self.inputs.push(LoweredInput {
            name: name.to_owned(),
            tensor: engine_name,
            shapes: self.symbols.shapes(&ty)?,
            ty,
            kind,
        });
        self.input_tensors.push(tensor);
        Ok(tensor)
    }
}

/// A name that is not taken.
fn free(name: &str, taken: &[&str]) -> String {
    let mut candidate = name.to_owned();
    let mut number = 2;
    while taken.contains(&candidate.as_str()) {
        candidate = format!("{name}.{number}");
        number += 1;
    }
    candidate
}

impl Composer<'_> {
    /// The inputs of the graph, and one for each symbol that none of them gives.
    pub(super) fn declare_inputs(&mut self) -> Result<()> {
        for input in self.graph.inputs() {
            if input.ty.dtype == DType::F4E2M1 {
                return self.refuse(format!("input `{}` of f4e2m1", input.name));
            }
            let ty = self.layers.symbols.ty(&input.ty)?;
            let tensor = self.layers.add_input(&input.name, ty, InputKind::Value)?;
            self.inputs.push(tensor);
        }
        let unbound: Vec<_> = self
            .layers
            .symbols
            .dynamic()
            .map(|(symbol, _)| symbol.clone())
            .filter(|symbol| self.uses(symbol) && !self.binds(symbol))
            .collect();
        for symbol in unbound {
            let ty = TensorType::new(DType::I32, [Dim::symbol(&symbol)]);
            let kind = InputKind::Symbol(symbol.to_string());
            self.layers
                .add_input(&format!("symbol.{symbol}"), ty, kind)?;
        }
        // Inside of the network no tensor is u8.
        for index in 0..self.inputs.len() {
            self.name_input(index);
            let tensor = self.inputs[index];
            if self.dtype(tensor) == DType::U8 {
                let ty = self.ty(tensor).clone();
                let wide = self.add(Kind::Cast, &[tensor], ty.with_dtype(DType::F32));
                self.inputs[index] = self.cast(wide, DType::I32)?;
            }
        }
        Ok(())
    }

    /// Whether a symbol stands in a type of the graph.
    fn uses(&self, symbol: &str) -> bool {
        let inputs = self.graph.inputs().iter().map(|input| &input.ty);
        let nodes = self.graph.nodes().iter().map(|node| &node.ty);
        let mut dims = inputs.chain(nodes).flat_map(|ty| &ty.dims);
        dims.any(|dim| dim.symbols().any(|used| &**used == symbol))
    }

    /// Whether a symbol stands alone as a size of an input.
    fn binds(&self, symbol: &str) -> bool {
        let mut dims = self.layers.inputs.iter().flat_map(|input| &input.ty.dims);
        dims.any(|dim| dim.as_symbol().is_some_and(|bound| &**bound == symbol))
    }

    /// The outputs of the graph, each a tensor that is nothing else.
    pub(super) fn declare_outputs(&mut self) -> Result<()> {
        for output in self.graph.outputs() {
            self.name_output(&output.name);
            let dtype = self.graph.type_of(output.value).dtype;
            let mut tensor = self.tensor(output.value)?;
            if dtype == DType::U8 {
                let wide = self.cast(tensor, DType::F32)?;
                let ty = self.ty(wide).with_dtype(DType::U8);
                tensor = self.add(Kind::Cast, &[wide], ty);
            }
            if self.is_constant_of_f8(tensor) {
                let wide = self.cast(tensor, DType::BF16)?;
                tensor = self.cast(wide, dtype)?;
            }
            if self.is_taken(tensor) {
                let ty = self.ty(tensor).clone();
                tensor = self.add_always(Kind::Identity, &[tensor], ty);
            }
            let inputs = self.layers.inputs.iter().map(|input| input.tensor.as_str());
            let outputs = self
                .layers
                .outputs
                .iter()
                .map(|output| output.tensor.as_str());
            let names: Vec<_> = inputs.chain(outputs).collect();
            let engine_name = free(&output.name, &names);
            self.layers.outputs.push(LoweredOutput {
                name: output.name.clone(),
                tensor: engine_name,
                ty: self.ty(tensor).clone(),
            });
            self.layers.output_tensors.push(tensor);
        }
        Ok(())
    }

    /// Whether a tensor cannot be an output: it is an input, a constant, or one already.
    fn is_taken(&self, tensor: Tensor) -> bool {
        let mut layers = self.layers.all.iter();
        let maker = layers.find(|layer| layer.output == tensor);
        maker.is_none_or(|layer| matches!(layer.kind, Kind::Constant(_)))
            || self.layers.output_tensors.contains(&tensor)
    }

    pub(super) fn move_reshape(&mut self, x: Tensor, dims: &[Dim]) -> Result<Tensor> {
        let dims = self.in_network(dims)?;
        if self.is_constant_of_f8(x) {
            return self.carried(&[x], |composer, x| composer.reshape(x[0], dims));
        }
        self.reshape(x, dims)
    }

    pub(super) fn move_transpose(&mut self, x: Tensor, permutation: &[usize]) -> Result<Tensor> {
        if self.is_constant_of_f8(x) {
            return self.carried(
                &[x],
                |composer, x| Ok(composer.transpose(x[0], permutation)),
            );
        }
        Ok(self.transpose(x, permutation))
    }

    /// The library reads 8-bit constants by a dequantize alone.
    fn is_constant_of_f8(&self, x: Tensor) -> bool {
        self.dtype(x) == DType::F8E4M3
            && self.maker(x).is_none()
            && !self.layers.input_tensors.contains(&x)
    }

    pub(super) fn move_broadcast(&mut self, x: Tensor, dims: &[Dim]) -> Result<Tensor> {
        let dims = self.in_network(dims)?;
        self.carried(&[x], |composer, x| composer.repeat(x[0], dims))
    }

    pub(super) fn move_slice(
        &mut self,
        x: Tensor,
        axis: usize,
        start: &Dim,
        end: &Dim,
    ) -> Result<Tensor> {
        let size = end.checked_sub(start);
        let size = size.ok_or_else(|| tintype_ir::Error::Overflow(end.to_string()))?;
        let (start, size) = (
            self.layers.symbols.dim(start)?,
            self.layers.symbols.dim(&size)?,
        );
        self.carried(&[x], |composer, x| {
            Ok(composer.slice(x[0], axis, start, size))
        })
    }

    pub(super) fn move_concat(&mut self, parts: &[Tensor], axis: usize) -> Result<Tensor> {
        self.carried(parts, |composer, parts| composer.concatenate(parts, axis))
    }

    /// Moves values in a dtype that the library's layer moves.
    pub(super) fn carried(
        &mut self,
        x: &[Tensor],
        move_values: impl FnOnce(&mut Self, &[Tensor]) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let dtype = self.dtype(x[0]);
        let moved = match dtype {
            DType::Bool => DType::I32,
            DType::F8E4M3 => DType::BF16,
            _ => return move_values(self, x),
        };
        let x: Result<Vec<_>> = x.iter().map(|&x| self.cast(x, moved)).collect();
        let result = move_values(self, &x?)?;
        self.cast(result, dtype)
    }
}
