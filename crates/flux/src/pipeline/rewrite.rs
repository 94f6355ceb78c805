//! A transformer whose graph is changed before it is compiled: quantized, with more outputs.
//!
//! The pipeline neither knows nor asks what the change is. Inputs stay, and so does `sample`.

use std::fmt;
use std::sync::{Arc, Mutex};

use tintype_ir::Graph;
use tintype_weights::Parameters;

use super::FluxPipeline;
use super::modules::ModelKind;
use crate::Result;

/// A change of the transformer's graph.
///
/// ```
/// use tintype_flux::Rewrite;
/// use tintype_weights::Parameters;
///
/// let nothing = Rewrite::new(|graph| Ok(graph.clone()), Parameters::default());
/// ```
#[derive(Clone)]
pub struct Rewrite {
    change: Arc<Change>,
    parameters: Parameters,
}

type Change = dyn Fn(&Graph) -> Result<Graph> + Send + Sync;

impl Rewrite {
    /// Replaces the graph by what `change` makes of it, which may read `parameters` beside those
    /// of the model. It is called whenever the graph is asked for, so it must be pure.
    pub fn new(
        change: impl Fn(&Graph) -> Result<Graph> + Send + Sync + 'static,
        parameters: Parameters,
    ) -> Self {
        Self {
            change: Arc::new(change),
            parameters,
        }
    }

    /// The changed graph.
    pub(super) fn apply(&self, graph: &Graph) -> Result<Graph> {
        (self.change)(graph)
    }
}

impl fmt::Debug for Rewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parameters = self.parameters.len();
        write!(f, "Rewrite with {parameters} parameters")
    }
}

impl FluxPipeline {
    /// Changes the transformer's graph from the next request on; `None` leaves it as it is.
    /// Outputs that it gets beside `sample` go to [`Observer::outputs`](crate::Observer::outputs).
    pub fn rewrite_transformer(&mut self, rewrite: Option<Rewrite>) {
        self.modules.forget(ModelKind::Transformer);
        // LoRAs are bound to parameters of a dtype, which a change may widen.
        self.changing = Mutex::default();
        self.live_mut().mixes.take();
        self.rewrite = rewrite;
    }

    /// The graph of a model as it is to be compiled.
    pub(super) fn rewritten(&self, kind: ModelKind, graph: Graph) -> Result<Graph> {
        match (&self.rewrite, kind) {
            (Some(rewrite), ModelKind::Transformer) => rewrite.apply(&graph),
            _ => Ok(graph),
        }
    }

    /// The parameters of a model with those of its change.
    pub(super) fn with_rewritten(
        &self,
        kind: ModelKind,
        parameters: Parameters,
    ) -> Result<Parameters> {
        match (&self.rewrite, kind) {
            (Some(rewrite), ModelKind::Transformer) => {
                // Parameters that were edited have them already.
                let own = &rewrite.parameters;
                let missing = |name: &str| (!parameters.contains(name)).then(|| name.to_owned());
                let own = own.renamed(missing)?;
                let builder = Parameters::builder().parameters(&parameters);
                Ok(builder.parameters(&own).build()?)
            }
            _ => Ok(parameters),
        }
    }
}
