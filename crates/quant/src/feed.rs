//! What a model is given while it is measured.
//!
//! A [`Feed`] knows a model's graph and runs any graph with the same inputs and outputs, and
//! more outputs, on what the model meets in use: a pipeline with prompts, or [`Examples`], which
//! are tensors. It decides on which backend.

use tintype_backend::{Backend, Changes, CompileOptions, Tensors, programs_for};
use tintype_ir::Graph;
use tintype_weights::Parameters;

use crate::Result;

/// When outputs were computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Moment {
    /// Of which example, from 0.
    pub example: usize,
    /// At which step, from 0; `None` for what is computed once per request.
    pub step: Option<usize>,
}

/// Told of the outputs of each moment.
pub type Seen<'a> = dyn FnMut(Moment, &Tensors) -> Result<()> + 'a;

/// Runs rewritten graphs of a model on what it meets in use.
pub trait Feed {
    /// The model's graph as it was built, before any pass.
    fn graph(&self) -> Result<Graph>;

    /// Runs `graph` on every example and tells `seen` of the outputs of each request and each
    /// step. `extra` are parameters that the graph reads beside those of the model.
    fn feed(&mut self, graph: &Graph, extra: &Parameters, seen: &mut Seen<'_>) -> Result<()>;
}

/// A model with examples of its inputs.
pub struct Examples<'a> {
    /// What runs it.
    pub backend: &'a dyn Backend,
    /// Its graph.
    pub graph: Graph,
    /// Its parameters.
    pub parameters: Parameters,
    /// Its inputs: those of the request, then those of each step.
    pub examples: Vec<(Tensors, Vec<Tensors>)>,
}

impl Feed for Examples<'_> {
    fn graph(&self) -> Result<Graph> {
        Ok(self.graph.clone())
    }

    fn feed(&mut self, graph: &Graph, extra: &Parameters, seen: &mut Seen<'_>) -> Result<()> {
        let staged = programs_for(self.backend, graph)?;
        let executable = self.backend.compile(&staged, &CompileOptions::default())?;
        let parameters = Parameters::builder()
            .parameters(&self.parameters)
            .parameters(extra)
            .build()?;
        executable.refit(&Changes::all(&parameters))?;
        let mut session = executable.session()?;
        for (example, (request, steps)) in self.examples.iter().enumerate() {
            let state = session.prepare(request)?;
            let moment = Moment {
                example,
                step: None,
            };
            seen(moment, state.outputs())?;
            for (index, inputs) in steps.iter().enumerate() {
                let outputs = session.step(state.as_ref(), inputs)?;
                let step = Some(index);
                seen(Moment { example, step }, &outputs)?;
            }
        }
        Ok(())
    }
}
