//! A pipeline's transformer in FP8, recorded on the CPU with scales that are measured there.

use std::sync::Arc;

use tintype_backend::Backend;
use tintype_cpu::CpuBackend;
use tintype_flux::{FluxPipeline, ModelKind, PromptFeed, Request, Sizes};
use tintype_quant::{Method, Recipe, calibrate};
use tintype_tensor::DType;

use super::super::Result;
use super::recorder::{Recorded, Recorder};

/// The dtype that rows of it are of. What is not quantized is bf16.
pub(super) const DTYPE: DType = DType::F8E4M3;

/// Runs a request in FP8 on the CPU, with the graph as `like` wants it; gives the transformer
/// alone, since other models are as they are in bf16.
pub(super) fn record(
    open: &dyn Fn() -> Result<FluxPipeline>,
    steps: usize,
    like: &Arc<dyn Backend>,
) -> Result<Recorded> {
    let mut request = Request::new("a red circle").seed(3).steps(steps);
    let mut measured = open()?.backend(CpuBackend::new()).dtype(DType::BF16);
    let recipe = Recipe::flux().with_attentions(["**"]);
    let recipe = recipe.fitted_to(&measured.transformer_graph()?);
    let mut feed = PromptFeed::new(&mut measured, [request.clone()]);
    let scales = calibrate(&mut feed, &recipe, Method::Max)?.scales()?;
    let recorder = Arc::new(Recorder::new(Arc::clone(like)));
    let backend: Arc<dyn Backend> = recorder.clone();
    let pipeline = open()?.shared_backend(backend).dtype(DType::BF16);
    let sizes = Sizes::of_request(&request, pipeline.defaults());
    let mut pipeline = pipeline.sizes(sizes);
    pipeline.quantize(&recipe, &scales)?;
    let transformer = pipeline.graph(ModelKind::Transformer)?;
    request.latents_only = true;
    pipeline.generate(&request)?;
    let recorded = recorder.recorded().into_iter();
    let mut found = recorded.filter(|model| model.graph.source.name() == transformer.name());
    Ok(found.next().ok_or("the transformer was not run")?)
}
