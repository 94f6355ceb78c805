//! Where a module's graph comes from.

use std::collections::BTreeMap;

use tintype_ir::Graph;
use tintype_tensor::DType;
use tintype_weights::Parameters;

/// What a definition says when it cannot make a graph.
pub type DefineError = Box<dyn std::error::Error + Send + Sync>;

/// Makes the graph of a module: a [`Graph`] that is always the same, or a function of what is
/// given.
///
/// It is asked again when what it is given changes, and only then. Two graphs are one structure
/// if their hashes are equal.
pub trait Define: Send + Sync {
    /// The graph.
    ///
    /// # Errors
    /// Whatever the definition cannot do with what is given.
    fn graph(&self, given: &Given) -> Result<Graph, DefineError>;

    /// Whether the graph is the same whatever is given.
    fn is_fixed(&self) -> bool {
        false
    }
}

/// What a graph may depend on.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Given {
    /// The dtypes of the inputs of the call, by name.
    pub dtypes: BTreeMap<String, DType>,
    /// Whole numbers that the structure depends on, by name.
    pub arguments: BTreeMap<String, i64>,
    /// The parameters. Their names, dtypes and shapes may be looked at, their values not: a
    /// change of values alone does not ask again.
    pub parameters: Parameters,
}

impl Given {
    /// The dtype of an input.
    ///
    /// # Errors
    /// An input that was not given.
    pub fn dtype(&self, input: &str) -> Result<DType, DefineError> {
        let missing = || format!("input `{input}` was not given");
        Ok(*self.dtypes.get(input).ok_or_else(missing)?)
    }

    /// An argument.
    ///
    /// # Errors
    /// An argument that was not set.
    pub fn argument(&self, name: &str) -> Result<i64, DefineError> {
        let missing = || format!("argument `{name}` was not set");
        Ok(*self.arguments.get(name).ok_or_else(missing)?)
    }
}

impl Define for Graph {
    fn graph(&self, _: &Given) -> Result<Graph, DefineError> {
        Ok(self.clone())
    }

    fn is_fixed(&self) -> bool {
        true
    }
}

impl<F> Define for F
where
    F: Fn(&Given) -> Result<Graph, DefineError> + Send + Sync,
{
    fn graph(&self, given: &Given) -> Result<Graph, DefineError> {
        self(given)
    }
}
