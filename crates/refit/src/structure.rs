//! The graphs that a module's definition made lately.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use tintype_ir::{Graph, GraphHash, Overlay, Parameter, StagedGraph, TensorType};
use tintype_tensor::{DType, Shape};
use tintype_weights::Parameters;

use crate::{Define, Error, Given, Result, Weights};

/// A graph with its hash.
#[derive(Debug)]
pub(crate) struct Structure {
    pub(crate) graph: Graph,
    pub(crate) hash: GraphHash,
    /// Its weight program before fusion, made when a change is first checked against it.
    weight: OnceLock<Graph>,
}

/// Structures by what they were made of; few, the latest last.
#[derive(Default)]
pub(crate) struct Structures(Vec<(Key, Arc<Structure>)>);

/// The dtypes and the arguments that a structure was made of.
pub(crate) type Made = (BTreeMap<String, DType>, BTreeMap<String, i64>);

/// What a definition was given; equal keys give equal graphs.
#[derive(PartialEq)]
pub(crate) struct Key {
    definition: u64,
    /// Nothing of this for a definition that is fixed.
    given: Option<GivenKey>,
}

#[derive(PartialEq)]
struct GivenKey {
    dtypes: BTreeMap<String, DType>,
    arguments: BTreeMap<String, i64>,
    parameters: Arc<Types>,
}

/// Names, dtypes and shapes of parameters: computed once, when a definition may look at them.
#[derive(Debug, Clone, Default)]
pub(crate) struct ParameterTypes(Arc<OnceLock<Arc<Types>>>);

type Types = Vec<(String, Option<DType>, Shape)>;

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

impl Structure {
    /// What a definition makes of what is given.
    ///
    /// # Errors
    /// [`Error::Define`]; what the verifier says of the graph.
    pub(crate) fn make(definition: &Definition, given: &Given) -> Result<Self> {
        let graph = definition.define.graph(given);
        let graph = graph.map_err(|source| Error::Define { source })?;
        tintype_ir::verify(&graph)?;
        Ok(Self::new(graph))
    }

    /// Of a graph that is verified.
    pub(crate) fn new(graph: Graph) -> Self {
        Self {
            hash: graph.hash(),
            graph,
            weight: OnceLock::new(),
        }
    }

    /// Every parameter that its weights are computed from is there, of its type, and every
    /// overlay fits; no tensor is read.
    pub(crate) fn expect(&self, weights: &Weights) -> Result<()> {
        weights.expect_own_names()?;
        let program = self.weight()?;
        let parameters = program.parameters().iter();
        let types: HashMap<&str, &TensorType> = parameters
            .map(|parameter| (parameter.name.as_str(), &parameter.ty))
            .collect();
        let mut own = types.clone();
        for overlay in weights.overlays.iter() {
            let parameter = types.get(overlay.parameter()).copied();
            overlay.expect_on(program.name(), parameter)?;
            for parameter in overlay.own_parameters() {
                let known = own.entry(&parameter.name).or_insert(&parameter.ty);
                expect_type(overlay, parameter, known)?;
            }
        }
        // From the top down: below an overlay that does not read its base nothing is needed.
        let mut hidden: HashSet<&str> = HashSet::new();
        for overlay in weights.overlays.iter().rev() {
            if hidden.contains(overlay.parameter()) {
                continue;
            }
            let mut reads_base = false;
            for parameter in overlay.read_parameters() {
                if parameter.name == Overlay::BASE {
                    reads_base = true;
                } else {
                    weights.expect(&parameter.name, &parameter.ty)?;
                }
            }
            if !reads_base {
                hidden.insert(overlay.parameter());
            }
        }
        let needed = types.iter().filter(|(name, _)| !hidden.contains(*name));
        needed
            .into_iter()
            .try_for_each(|(name, ty)| weights.expect(name, ty))
    }

    fn weight(&self) -> Result<&Graph> {
        if let Some(weight) = self.weight.get() {
            return Ok(weight);
        }
        let weight = StagedGraph::split(&self.graph)?.weight;
        Ok(self.weight.get_or_init(|| weight))
    }
}

/// Overlays may share a parameter, of one type.
fn expect_type(overlay: &Overlay, parameter: &Parameter, known: &TensorType) -> Result<()> {
    if parameter.ty == *known {
        return Ok(());
    }
    let (name, found) = (&parameter.name, &parameter.ty);
    Err(Error::Ir(tintype_ir::Error::Overlay {
        parameter: overlay.parameter().to_owned(),
        message: format!("`{name}`: expected {known}, found {found}"),
    }))
}

impl Structures {
    /// The structure that was made of this.
    pub(crate) fn get(&mut self, key: &Key) -> Option<Arc<Structure>> {
        let index = self.0.iter().position(|(known, _)| known == key)?;
        let found = self.0.remove(index);
        let structure = Arc::clone(&found.1);
        self.0.push(found);
        Some(structure)
    }

    /// What a definition made lately of parameters of these types: the structures, each with the
    /// dtypes and arguments that it was made of unless the definition is fixed.
    pub(crate) fn made(
        &self,
        definition: &Definition,
        parameters: &Parameters,
        types: &ParameterTypes,
    ) -> Vec<(Option<Made>, Arc<Structure>)> {
        let types = types.of(parameters);
        let mut found: Vec<(Option<Made>, Arc<Structure>)> = Vec::new();
        for (key, structure) in &self.0 {
            let given = key.given.as_ref();
            if key.definition != definition.number
                || given.is_some_and(|given| given.parameters != types)
            {
                continue;
            }
            let made = given.map(|given| (given.dtypes.clone(), given.arguments.clone()));
            // Two threads may have made the same.
            if !found.iter().any(|(known, _)| *known == made) {
                found.push((made, Arc::clone(structure)));
            }
        }
        found
    }

    /// Keeps a structure; the one that was asked for longest ago may go.
    pub(crate) fn insert(&mut self, key: Key, structure: &Arc<Structure>) {
        if self.0.len() == MOST_STRUCTURES {
            self.0.remove(0);
        }
        self.0.push((key, Arc::clone(structure)));
    }
}

impl Key {
    /// Of what is given, whose parameters have these types.
    pub(crate) fn new(definition: &Definition, given: &Given, types: &ParameterTypes) -> Self {
        let is_fixed = definition.define.is_fixed();
        Self {
            definition: definition.number,
            given: (!is_fixed).then(|| GivenKey {
                dtypes: given.dtypes.clone(),
                arguments: given.arguments.clone(),
                parameters: types.of(&given.parameters),
            }),
        }
    }
}

impl ParameterTypes {
    fn of(&self, parameters: &Parameters) -> Arc<Types> {
        let types = || {
            let types = parameters.names().map(|name| {
                let shape = parameters.shape(name).expect("a name of its own").clone();
                let dtype = parameters.info(name).ok().map(|info| info.dtype);
                (name.to_owned(), dtype, shape)
            });
            Arc::new(types.collect())
        };
        Arc::clone(self.0.get_or_init(types))
    }
}

/// Graphs take memory, if little; they are made again in milliseconds.
const MOST_STRUCTURES: usize = 8;
