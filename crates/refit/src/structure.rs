//! The graphs that a module's definition made lately.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tintype_ir::{Graph, GraphHash};
use tintype_tensor::{DType, Shape};
use tintype_weights::Parameters;

use crate::{Define, Error, Given, Result};

/// A graph with its hash.
#[derive(Debug)]
pub(crate) struct Structure {
    pub(crate) graph: Graph,
    pub(crate) hash: GraphHash,
}

/// Structures by what they were made of; few, the latest last.
#[derive(Default)]
pub(crate) struct Structures(Vec<(Key, Arc<Structure>)>);

/// What a definition was given; equal keys give equal graphs.
#[derive(PartialEq)]
struct Key {
    definition: u64,
    /// Nothing of this for a definition that is fixed.
    given: Option<GivenKey>,
}

#[derive(PartialEq)]
struct GivenKey {
    dtypes: BTreeMap<String, DType>,
    arguments: BTreeMap<String, i64>,
    parameters: ParameterTypes,
}

/// Names, dtypes and shapes; computed when something else than values may have changed.
#[derive(PartialEq, Clone)]
struct ParameterTypes(Arc<Vec<(String, Option<DType>, Shape)>>);

/// A definition with a number that tells it from others.
#[derive(Clone)]
pub(crate) struct Definition {
    pub(crate) number: u64,
    pub(crate) define: Arc<dyn Define>,
}

impl Definition {
    /// A definition of a new number.
    pub(crate) fn new(define: Arc<dyn Define>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            define,
        }
    }
}

impl Structures {
    /// The structure that a definition makes of what is given.
    ///
    /// # Errors
    /// [`Error::Define`]; what the verifier says of the graph.
    pub(crate) fn get(&mut self, definition: &Definition, given: &Given) -> Result<Arc<Structure>> {
        let key = Key {
            definition: definition.number,
            given: (!definition.define.is_fixed()).then(|| GivenKey {
                dtypes: given.dtypes.clone(),
                arguments: given.arguments.clone(),
                parameters: ParameterTypes::of(&given.parameters),
            }),
        };
        if let Some(index) = self.0.iter().position(|(known, _)| *known == key) {
            let found = self.0.remove(index);
            let structure = Arc::clone(&found.1);
            self.0.push(found);
            return Ok(structure);
        }
        let graph = definition.define.graph(given);
        let graph = graph.map_err(|source| Error::Define { source })?;
        tintype_ir::verify(&graph)?;
        let hash = graph.hash();
        let structure = Arc::new(Structure { graph, hash });
        if self.0.len() == MOST_STRUCTURES {
            self.0.remove(0);
        }
        self.0.push((key, Arc::clone(&structure)));
        Ok(structure)
    }
}

impl ParameterTypes {
    fn of(parameters: &Parameters) -> Self {
        let types = parameters.names().map(|name| {
            let shape = parameters.shape(name).expect("a name of its own").clone();
            let dtype = parameters.info(name).ok().map(|info| info.dtype);
            (name.to_owned(), dtype, shape)
        });
        Self(Arc::new(types.collect()))
    }
}

/// Graphs take memory, if little; they are made again in milliseconds.
const MOST_STRUCTURES: usize = 8;
