//! Whether the models of a request fit on a device, before the first of them is loaded.
//!
//! All of them stay there, or one at a time where the pipeline has low memory. What is loaded
//! already has its memory. Where a backend runs in memory of the host, nothing is asked.
//!
//! ```text
//! the models of this request (text_encoder, transformer, vae_decoder) need 33700000000 bytes on cuda,
//! 24900000000 are free; one after the other (`--low-memory`) they need 24100000000
//! ```

use tintype_backend::{Backend, programs_for};
use tintype_ir::{Binding, Graph};

use super::FluxPipeline;
use super::check::Run;
use super::drawing::Drawing;
use super::modules::{Asked, ModelKind};
use super::tiles::TileGrid;
use crate::{Error, Result, Sizes};

impl Drawing<'_> {
    /// Refuses a request whose models do not fit.
    ///
    /// # Errors
    /// [`Error::Memory`]; what a forecast may give.
    pub(super) fn expect_room(&self) -> Result<()> {
        let (pipeline, run) = (self.pipeline, &self.run);
        let backend = pipeline.chosen_backend()?;
        let kinds = kinds(run);
        let missing = |kind: &&ModelKind| pipeline.modules.loaded(**kind).is_none();
        if backend.free_memory(0)?.is_none() || kinds.iter().filter(missing).count() == 0 {
            return Ok(());
        }
        let sizes = Sizes::of_request(&run.request, &pipeline.defaults);
        let asked = (sizes, run.schedule.steps());
        let needs = kinds
            .iter()
            .map(|&kind| pipeline.need(&**backend, kind, &asked));
        let needs: Vec<usize> = needs.collect::<Result<_>>()?;
        let missing = || kinds.iter().zip(&needs).filter(|(kind, _)| missing(kind));
        let in_turn = needs.iter().copied().max().unwrap_or(0);
        let needed = if pipeline.low_memory {
            missing().map(|(_, &need)| need).max().unwrap_or(0)
        } else {
            missing().map(|(_, need)| need).sum()
        };
        let free = backend.free_memory(needed)?.unwrap_or(usize::MAX);
        if needed <= free {
            return Ok(());
        }
        let names: Vec<&str> = missing().map(|(kind, _)| kind.name()).collect();
        Err(Error::Memory {
            models: names.join(", "),
            backend: backend.name(),
            needed,
            free,
            in_turn: (!pipeline.low_memory).then_some(in_turn),
        })
    }
}

impl FluxPipeline {
    /// The bytes that a model takes for these sizes. Parameters that are kept for refits are not
    /// counted: they make room.
    fn need(&self, backend: &dyn Backend, kind: ModelKind, asked: &Asked) -> Result<usize> {
        self.modules.need(kind, asked, || {
            let (sizes, steps) = asked;
            let graph = self.architecture().graph(kind, self.dtype, sizes)?;
            let graph = self.rewritten(kind, graph)?;
            let staged = programs_for(backend, &graph)?;
            let tile = TileGrid::side(self.configs.vae_sample_size);
            let tile = if sizes.tiles { tile } else { usize::MAX };
            let (options, sizes) = (&self.options[kind as usize], largest(&graph, *steps, tile));
            let memory = backend.forecast(&staged, options, &sizes)?.memory;
            Ok(memory.total() - memory.kept)
        })
    }
}

/// The models that a request needs, in the order of use.
fn kinds(run: &Run) -> Vec<ModelKind> {
    let request = &run.request;
    let is_needed = |kind: &ModelKind| match kind {
        ModelKind::Clip | ModelKind::T5 => run.has_text(),
        ModelKind::Encoder => request.image.is_some() && request.tensors.latents.is_none(),
        ModelKind::Transformer => true,
        ModelKind::Decoder => !request.latents_only,
    };
    ModelKind::ALL.into_iter().filter(is_needed).collect()
}

/// The largest sizes of a graph that was made for a request: so many steps, and of a picture no more
/// than is decoded at once.
fn largest(graph: &Graph, steps: usize, tile: usize) -> Binding {
    let mut sizes = Binding::new();
    for (symbol, range) in graph.symbols() {
        let most = match &**symbol {
            "steps" => steps,
            "latent_height" | "latent_width" => tile,
            _ => usize::MAX,
        };
        sizes.set(symbol, most.clamp(*range.start(), *range.end()));
    }
    sizes
}
