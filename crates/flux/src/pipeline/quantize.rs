//! The transformer quantized, and prompts as what calibration feeds it with.

use tintype_backend::Tensors;
use tintype_ir::Graph;
use tintype_quant::{
    Error as QuantError, Feed, ModelIdentity, Moment, Recipe, Result as QuantResult, Scales, Seen,
};
use tintype_tensor::DType;
use tintype_weights::Parameters;

use super::modules::ModelKind;
use super::{FluxPipeline, Rewrite};
use crate::{Error, Observer, Request, Result, Sizes, StepEnd};

impl FluxPipeline {
    /// Computes the transformer's layers as `recipe` says from the next request on, with these
    /// scales. LoRAs are merged in f32 and quantized after that.
    ///
    /// # Errors
    /// [`Error::Quant`] for a recipe that names nothing, or a scale that is missing.
    pub fn quantize(&mut self, recipe: &Recipe, scales: &Scales) -> Result<()> {
        let (recipe, scales) = (recipe.clone(), scales.clone());
        let parameters = scales.parameters()?;
        let change =
            move |graph: &Graph| Ok(tintype_quant::quantize(graph, &recipe, &scales)?.graph);
        let rewrite = Rewrite::new(change, parameters);
        // What is wrong is told here, not at the first request.
        let graph = self.transformer_graph()?;
        rewrite.apply(&graph)?;
        self.rewrite_transformer(Some(rewrite));
        Ok(())
    }

    /// The transformer's graph for all sizes as its configuration says, whatever it is rewritten
    /// to.
    pub fn transformer_graph(&self) -> Result<Graph> {
        let architecture = self.architecture();
        architecture.graph(ModelKind::Transformer, self.dtype, &Sizes::default())
    }

    /// Which transformer this is: reads some values of each of its parameters.
    pub fn transformer_identity(&self) -> Result<ModelIdentity> {
        let (kind, sizes) = (ModelKind::Transformer, Sizes::default());
        // A table that was measured on one backend is one for all.
        let mut architecture = self.architecture();
        architecture.euler_step = false;
        let graph = architecture.graph(kind, DType::BF16, &sizes)?;
        Ok(ModelIdentity::of(
            &graph,
            &self.live_parameters(&self.read_live(), kind)?,
        )?)
    }

    /// The transformer's own parameters under the names of its graph. Nothing is read.
    pub fn transformer_parameters(&self) -> Result<Parameters> {
        self.live_parameters(&self.read_live(), ModelKind::Transformer)
    }

    /// An error if T5 cannot read all of a prompt with this many tokens.
    pub fn expect_whole(&self, prompt: &str, max_sequence_length: usize) -> Result<()> {
        let encoding = self.tokenizers.t5.encode(prompt, max_sequence_length)?;
        match encoding.truncated {
            None => Ok(()),
            Some(cut) => {
                let expected = format!("a text of at most {max_sequence_length} tokens");
                Err(Error::argument("prompt", expected, format!("more: {cut}")))
            }
        }
    }
}

/// A pipeline with requests, as calibration and comparisons need it. Pictures are not decoded.
pub struct PromptFeed<'a> {
    pipeline: &'a mut FluxPipeline,
    requests: Vec<Request>,
}

impl<'a> PromptFeed<'a> {
    /// Feeds the pipeline's transformer with these requests, each of which is an example.
    pub fn new(pipeline: &'a mut FluxPipeline, requests: impl Into<Vec<Request>>) -> Self {
        let mut requests = requests.into();
        for request in &mut requests {
            request.latents_only = true;
        }
        Self { pipeline, requests }
    }

    fn run(&mut self, seen: &mut Seen<'_>) -> QuantResult<()> {
        for (example, request) in self.requests.iter().enumerate() {
            let mut watcher = Watcher {
                example,
                seen,
                failure: None,
            };
            let result = self.pipeline.generate_with(request, &mut watcher);
            if let Some(failure) = watcher.failure {
                return Err(failure);
            }
            result.map_err(|error| QuantError::Feed(Box::new(error)))?;
        }
        Ok(())
    }
}

impl Feed for PromptFeed<'_> {
    fn graph(&self) -> QuantResult<Graph> {
        let graph = self.pipeline.transformer_graph();
        graph.map_err(|error| QuantError::Feed(Box::new(error)))
    }

    fn feed(&mut self, graph: &Graph, extra: &Parameters, seen: &mut Seen<'_>) -> QuantResult<()> {
        let graph = graph.clone();
        let rewrite = Rewrite::new(move |_| Ok(graph.clone()), extra.clone());
        let before = self.pipeline.rewrite.take();
        self.pipeline.rewrite_transformer(Some(rewrite));
        let result = self.run(seen);
        self.pipeline.rewrite_transformer(before);
        result
    }
}

/// Hands outputs on, and stops the request at the first error.
struct Watcher<'a, 's> {
    example: usize,
    seen: &'a mut Seen<'s>,
    failure: Option<QuantError>,
}

impl Observer for Watcher<'_, '_> {
    fn step(&mut self, step: &mut StepEnd) {
        step.interrupt = self.failure.is_some();
    }

    fn outputs(&mut self, step: Option<usize>, outputs: &Tensors) {
        if self.failure.is_none() {
            let example = self.example;
            self.failure = (self.seen)(Moment { example, step }, outputs).err();
        }
    }
}
