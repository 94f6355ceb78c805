//! The types of a call's inputs.

use std::collections::BTreeMap;

use tintype_backend::Tensors;
use tintype_ir::{Binding, Graph};
use tintype_tensor::{DType, Shape};

use crate::{Error, Result};

/// Names, dtypes and shapes of inputs, of the request and of the step together.
///
/// ```
/// use tintype_refit::Signature;
/// use tintype_tensor::{DType, Shape};
/// let signature = Signature::new().with("x", DType::F32, Shape::from([4, 64]));
/// assert_eq!(signature.to_string(), "x: f32[4, 64]");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Signature(BTreeMap<String, (DType, Shape)>);

impl Signature {
    /// Of no inputs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Of these inputs.
    pub fn of(inputs: &Tensors) -> Self {
        Self::new().and(inputs)
    }

    /// The same with these inputs, too.
    #[must_use]
    pub fn and(mut self, inputs: &Tensors) -> Self {
        for (name, tensor) in inputs.iter() {
            let ty = (tensor.dtype(), tensor.shape().clone());
            self.0.insert(name.to_owned(), ty);
        }
        self
    }

    /// The same with one input more.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, dtype: DType, shape: Shape) -> Self {
        self.0.insert(name.into(), (dtype, shape));
        self
    }

    /// All inputs in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, DType, &Shape)> {
        let types = self.0.iter();
        types.map(|(name, (dtype, shape))| (name.as_str(), *dtype, shape))
    }

    /// The dtypes by name.
    pub fn dtypes(&self) -> BTreeMap<String, DType> {
        let dtypes = self
            .0
            .iter()
            .map(|(name, (dtype, _))| (name.clone(), *dtype));
        dtypes.collect()
    }

    /// Values of all symbols of a graph.
    ///
    /// # Errors
    /// An input that the graph does not have, or of another dtype or rank; sizes that
    /// contradict each other or the graph; a symbol that no input binds.
    pub(crate) fn bind(&self, graph: &Graph) -> Result<Binding> {
        let mut binding = Binding::new();
        // Sizes that follow from several symbols are checked once all are bound.
        for _ in 0..2 {
            for (name, (dtype, shape)) in &self.0 {
                binding.bind_input(graph, name, *dtype, shape)?;
            }
        }
        let unbound = graph
            .symbols()
            .keys()
            .find(|symbol| binding.get(symbol).is_none());
        match unbound {
            None => Ok(binding),
            Some(symbol) => Err(Error::Unbound {
                graph: graph.name().to_owned(),
                symbol: symbol.to_string(),
            }),
        }
    }
}

impl std::fmt::Display for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, (name, (dtype, shape))) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{name}: {dtype}{shape}")?;
        }
        Ok(())
    }
}
