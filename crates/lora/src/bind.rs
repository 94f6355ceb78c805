//! Adapters bound to a model's graph.
//!
//! Names are looked up, shapes and values checked, before anything is built: a
//! set of adapters is bound as a whole or not at all.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let graph = tintype_ir::Graph::default();
//! use tintype_ir::Overlay;
//! use tintype_lora::{Adapter, Component, LoraFile, overlays};
//! let adapter = Adapter::new("style", LoraFile::open("style.safetensors")?, 0.8);
//! let bound = overlays(Component::Transformer, &graph, &[adapter])?;
//! let changed = Overlay::attach(&graph, &bound.overlays)?;
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;

use tintype_ir::{Graph, Overlay};
use tintype_tensor::Tensor;
use tintype_weights::Parameters;

use crate::fragment::scale_factor;
use crate::mix::{Scaled, scale_of};
use crate::{
    Adapter, BoundAdapter, Component, Error, LoraModel, LoraTarget, Mixer, Report, Result,
};

/// Overlays for one model, with the parameters that they bring.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LoraOverlays {
    /// One for each parameter that changes, in the graph's order.
    pub overlays: Vec<Overlay>,
    /// The overlays' own parameters, `lora.<adapter>.<parameter>.…`; to be read
    /// as f32. They lie in the adapters' files but for the scales.
    pub parameters: Parameters,
    /// What was applied, and what was not.
    pub report: Report,
    adapters: Vec<Adapter>,
    bound: Vec<Arc<BoundAdapter>>,
}

impl LoraOverlays {
    /// The adapters with their present scales.
    pub fn adapters(&self) -> &[Adapter] {
        &self.adapters
    }

    /// Changes the common scale of an adapter. No overlay changes, only scalars
    /// among the parameters; gives their names.
    pub fn set_scale(&mut self, adapter: &str, scale: f32) -> Result<Vec<String>> {
        self.replace(adapter, |adapter| adapter.clone().with_scale(scale))
    }

    /// Changes the scales of single updates of an adapter; its common scale stays.
    pub fn set_scales(
        &mut self,
        adapter: &str,
        scales: impl Fn(&LoraTarget) -> f32 + Send + Sync + 'static,
    ) -> Result<Vec<String>> {
        self.replace(adapter, |adapter| adapter.clone().with_scales(scales))
    }

    fn replace(
        &mut self,
        name: &str,
        change: impl FnOnce(&Adapter) -> Adapter,
    ) -> Result<Vec<String>> {
        let position = self.adapters.iter().position(|one| one.name() == name);
        let Some(index) = position else {
            let names: Vec<_> = self.adapters.iter().map(Adapter::name).collect();
            return Err(Error::adapter(name, "one that is loaded", names.join(", ")));
        };
        let adapter = change(&self.adapters[index]);
        let bound = &self.bound[index];
        let mut values = Vec::new();
        for update in bound.updates.values().flatten() {
            let update = bound.bound(update);
            let scale = scale_of(bound, update.target, &|target| adapter.scale_of(target))?;
            if let Some(scale) = scale.filter(|_| scale_factor(update.target).is_some()) {
                values.push((update.scale_name(), scale));
            }
        }
        // On a copy, so that a refused write leaves everything as it was.
        let mut parameters = self.parameters.clone();
        for (name, scale) in &values {
            parameters.set(name, Tensor::scalar(*scale))?;
        }
        self.parameters = parameters;
        self.adapters[index] = adapter;
        Ok(values.into_iter().map(|(name, _)| name).collect())
    }
}

/// Binds `adapters` to the parameters of `graph`, the model of `component`.
///
/// Several adapters add up; each parameter gets one overlay and one rounding.
/// Updates of parameters that the graph lacks are reported, not refused; those
/// of another shape are an error, as are values that are not finite.
pub fn overlays(component: Component, graph: &Graph, adapters: &[Adapter]) -> Result<LoraOverlays> {
    let model = LoraModel::new(component, graph);
    let bind = |adapter: &Adapter| {
        let bound = BoundAdapter::new(&model, adapter.name(), adapter.file())?;
        Ok(Arc::new(bound))
    };
    let bound = adapters.iter().map(bind).collect::<Result<Vec<_>>>()?;
    let scales: Vec<_> = adapters
        .iter()
        .map(|adapter| |target: &LoraTarget| adapter.scale_of(target))
        .collect();
    let scaled: Vec<Scaled<'_>> = bound
        .iter()
        .zip(&scales)
        .map(|(bound, scale)| (&**bound, scale as &dyn Fn(&LoraTarget) -> f32))
        .collect();
    let mixed = Mixer::default().mix_all(&model, &scaled, false)?;
    let reports = bound.iter().map(|bound| bound.report().clone());
    Ok(LoraOverlays {
        overlays: mixed.overlays.to_vec(),
        parameters: mixed.parameters,
        report: Report {
            component,
            adapters: reports.collect(),
        },
        adapters: adapters.to_vec(),
        bound,
    })
}
