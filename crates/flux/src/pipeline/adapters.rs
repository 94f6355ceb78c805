//! LoRAs on a pipeline: loaded under names, mixed with scales, taken off again.
//!
//! Weights are always computed from the untouched parameters, so taking a LoRA
//! off gives back the same bits.

use std::collections::HashSet;
use std::path::Path;

use tintype_ir::passes::dead_code;
use tintype_ir::{Graph, Overlay};
use tintype_lora::{Adapter, LoraFile, overlays};
use tintype_weights::Parameters;

use super::FluxPipeline;
use super::model::ModelKind;
use crate::model_index::Component;
use crate::{Error, Result};

/// The LoRAs of a pipeline.
#[derive(Debug, Clone)]
pub(super) struct Adapters {
    /// In the order loaded, each with the scale that the caller gave it.
    list: Vec<Adapter>,
    /// The common factor of the request that ran last.
    common: f32,
}

impl Default for Adapters {
    fn default() -> Self {
        Self {
            list: Vec::new(),
            common: 1.0,
        }
    }
}

/// What became of a LoRA file that was loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdapterReport {
    /// The number of updates that apply to each model, by its folder's name.
    pub applied: Vec<(&'static str, usize)>,
    /// Tensors in the file that have no meaning here.
    pub unknown_keys: Vec<String>,
    /// Tensors for parameters that the models do not have.
    pub unmatched_keys: Vec<String>,
}

/// The models that a LoRA may change.
const KINDS: [ModelKind; 3] = [ModelKind::Transformer, ModelKind::Clip, ModelKind::T5];

impl Adapters {
    /// An error that lists the names there are, unless `name` is one of them.
    fn expect_loaded(&self, argument: &str, name: &str) -> Result<()> {
        let loaded: Vec<&str> = self.list.iter().map(Adapter::name).collect();
        if loaded.contains(&name) {
            return Ok(());
        }
        let expected = format!("one of {}", loaded.join(", "));
        Err(Error::argument(argument, expected, name))
    }

    /// The overlays on the model of a component, and the parameters they bring.
    pub(super) fn overlays(
        &self,
        component: Component,
        graph: &Graph,
    ) -> Result<(Vec<Overlay>, Parameters)> {
        let Some(component) = lora_component(component) else {
            return Ok((Vec::new(), Parameters::default()));
        };
        let scaled: Vec<Adapter> = self
            .list
            .iter()
            .map(|one| one.clone().with_scale(one.scale() * self.common))
            .collect();
        let bound = overlays(component, graph, &scaled)?;
        // A parameter that no output needs, as the last text projection of a transformer
        // without single blocks, is not in the weight program; nor is what lies on it.
        let needed = dead_code(graph);
        let is_needed = |overlay: &Overlay| needed.parameter(overlay.parameter()).is_some();
        let overlays = bound.overlays.into_iter().filter(is_needed).collect();
        Ok((overlays, bound.parameters))
    }
}

fn lora_component(component: Component) -> Option<tintype_lora::Component> {
    match component {
        Component::Transformer => Some(tintype_lora::Component::Transformer),
        Component::TextEncoder => Some(tintype_lora::Component::TextEncoder),
        Component::TextEncoder2 => Some(tintype_lora::Component::TextEncoder2),
        _ => None,
    }
}

impl FluxPipeline {
    /// Loads a LoRA file under a name, with scale 1. Models that are loaded are refitted.
    ///
    /// Where nothing lies at `path`, it may be the name of one of the LoRAs that come with
    /// the model, [`ModelDefaults::loras`](crate::ModelDefaults::loras).
    /// The report names tensors that were not understood. After an error nothing has changed.
    pub fn load_lora(&mut self, path: impl AsRef<Path>, name: &str) -> Result<AdapterReport> {
        if self.adapters.list.iter().any(|one| one.name() == name) {
            return Err(Error::argument("name", "a name that no LoRA has yet", name));
        }
        let file = self.lora_file(path.as_ref())?;
        let mut adapters = self.adapters.clone();
        adapters.list.push(Adapter::new(name, file, 1.0));
        let report = self.report(adapters.list.last().expect("pushed just now"))?;
        self.change_adapters(adapters)?;
        Ok(report)
    }

    /// What lies at `path`, or else the model's own LoRA of this name.
    fn lora_file(&self, path: &Path) -> Result<LoraFile> {
        let loras = &self.defaults.loras;
        if path.exists() || loras.is_empty() {
            return Ok(LoraFile::open(path)?);
        }
        let own = path.to_str().and_then(|name| loras.get(name));
        let Some(own) = own else {
            let names = self.defaults.lora_names();
            let expected = format!("a file, or one of the model's own: {names}");
            return Err(Error::argument("lora", expected, path.display()));
        };
        Ok(LoraFile::from_file(self.source.safetensors(own)?)?)
    }

    /// Gives LoRAs these scales; those that are not named get scale 0.
    pub fn set_adapters(&mut self, scales: &[(&str, f32)]) -> Result<()> {
        let mut adapters = self.adapters.clone();
        for (name, scale) in scales {
            adapters.expect_loaded("adapter", name)?;
            if !scale.is_finite() {
                return Err(Error::argument("scale", "a finite number", scale));
            }
        }
        for adapter in &mut adapters.list {
            let scale = scales
                .iter()
                .rev()
                .find(|(name, _)| *name == adapter.name());
            *adapter = adapter
                .clone()
                .with_scale(scale.map_or(0.0, |(_, scale)| *scale));
        }
        self.change_adapters(adapters)
    }

    /// Takes a LoRA off; the weights are those before it, bit for bit.
    pub fn unload_lora(&mut self, name: &str) -> Result<()> {
        let mut adapters = self.adapters.clone();
        adapters.expect_loaded("name", name)?;
        adapters.list.retain(|one| one.name() != name);
        self.change_adapters(adapters)
    }

    /// The common factor that a request gives all LoRAs.
    pub(super) fn apply_lora_scale(&mut self, scale: f32) -> Result<()> {
        if scale.to_bits() == self.adapters.common.to_bits() || self.adapters.list.is_empty() {
            return Ok(());
        }
        self.change_adapters(Adapters {
            common: scale,
            ..self.adapters.clone()
        })
    }

    /// Binds one file to every model, to see what applies.
    fn report(&self, adapter: &Adapter) -> Result<AdapterReport> {
        let mut report = AdapterReport::default();
        for kind in KINDS {
            let component =
                lora_component(kind.component()).expect("a model that a LoRA may change");
            let bound = overlays(component, &self.graph(kind)?, std::slice::from_ref(adapter))?;
            for one in bound.report.adapters {
                report.applied.push((kind.component().name(), one.applied));
                report.unknown_keys = one.unknown_keys;
                report.unmatched_keys.extend(one.unmatched_keys);
            }
        }
        Ok(report)
    }

    /// Refits the loaded models from `self.adapters` to `adapters`. Everything is
    /// checked first; if a refit fails, those done before it are taken back.
    fn change_adapters(&mut self, adapters: Adapters) -> Result<()> {
        let mut changes = Vec::new();
        for kind in KINDS {
            let graph = self.graph(kind)?;
            let (new, new_own) = adapters.overlays(kind.component(), &graph)?;
            let (old, old_own) = self.adapters.overlays(kind.component(), &graph)?;
            let reached: HashSet<String> = new
                .iter()
                .chain(&old)
                .map(|overlay| overlay.parameter().to_owned())
                .collect();
            changes.push((kind, reached, (new, new_own), (old, old_own)));
        }
        for index in 0..changes.len() {
            let (kind, reached, (overlays, own), _) = &changes[index];
            let Some(model) = self.models.slot(*kind) else {
                continue;
            };
            if reached.is_empty() {
                continue;
            }
            if let Err(error) = model.refit(overlays, own, Some(reached.clone())) {
                for (kind, reached, _, (overlays, own)) in &changes[..index] {
                    let slot = self.models.slot(*kind);
                    let restored = slot
                        .as_ref()
                        .map(|model| model.refit(overlays, own, Some(reached.clone())));
                    if matches!(restored, Some(Err(_))) {
                        // Loaded again, from what the adapters were, when it is needed.
                        *slot = None;
                    }
                }
                return Err(error);
            }
        }
        self.adapters = adapters;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tintype_models::{FluxTransformerConfig, FluxTransformerOptions};

    use super::*;

    #[test]
    fn overlays_lie_on_what_outputs_need() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/fixtures");
        let config = fixtures.join("pipelines/dev/transformer/config.json");
        let text = std::fs::read_to_string(config).unwrap();
        let mut config = FluxTransformerConfig::from_json("config.json", &text).unwrap();
        // Without single blocks nothing reads the text stream of the last double block.
        config.num_single_layers = 0;
        let graph = config.graph(&FluxTransformerOptions::default()).unwrap();
        let file = LoraFile::open(fixtures.join("loras/peft_all.safetensors")).unwrap();
        let adapters = Adapters {
            list: vec![Adapter::new("all", file, 1.0)],
            ..Adapters::default()
        };
        let (overlays, _) = adapters.overlays(Component::Transformer, &graph).unwrap();
        let lies_on = |name: &str| overlays.iter().any(|overlay| overlay.parameter() == name);
        assert!(lies_on("transformer_blocks.0.attn.to_add_out.weight"));
        assert!(!lies_on("transformer_blocks.1.attn.to_add_out.weight"));
    }
}
