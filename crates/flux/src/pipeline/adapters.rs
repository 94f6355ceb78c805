//! LoRAs on a pipeline: loaded under names, mixed with scales, taken off again.
//!
//! Weights are always computed from the untouched parameters, so taking a LoRA off gives back
//! the same bits. A file is parsed and looked up in the models once, when it is loaded; later
//! changes of scales touch scales alone.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLockWriteGuard};
use std::time::Instant;

use tintype_lora::{AdapterScale, BoundAdapter, Component, LoraFile, LoraModel, Mixed, Mixer};

use super::FluxPipeline;
use super::change::ChangeReport;
use super::live::Live;
use super::modules::ModelKind;
use crate::{Error, Result};

/// The LoRAs of a pipeline.
#[derive(Debug, Clone)]
pub(super) struct Adapters {
    /// In the order loaded.
    list: Vec<Loaded>,
    /// The common factor of the request that ran last.
    common: f32,
}

/// A LoRA in use.
#[derive(Debug, Clone)]
struct Loaded {
    /// Tells it from others that had its name.
    number: u64,
    name: String,
    file: LoraFile,
    scale: AdapterScale,
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
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct AdapterReport {
    /// The number of updates that apply to each model, by its folder's name.
    pub applied: Vec<(&'static str, usize)>,
    /// Tensors in the file that have no meaning here.
    pub unknown_keys: Vec<String>,
    /// Tensors for parameters that the models do not have.
    pub unmatched_keys: Vec<String>,
    /// What it cost to bring it to the models that are loaded.
    pub change: ChangeReport,
}

/// The models that a LoRA may change.
const KINDS: [ModelKind; 3] = [ModelKind::Transformer, ModelKind::Clip, ModelKind::T5];

/// What lies on each of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Mixes([Mixed; 3]);

/// LoRAs bound to models, so that none is looked up twice.
#[derive(Default)]
pub(super) struct Binder {
    models: [OnceLock<LoraModel>; 3],
    /// By the numbers of LoRAs, for each model.
    bound: HashMap<u64, [Arc<BoundAdapter>; 3]>,
    mixers: [Mixer; 3],
}

impl Mixes {
    /// What lies on a model; nothing for one that no LoRA may change.
    pub(super) fn of(&self, kind: ModelKind) -> Option<&Mixed> {
        let index = KINDS.iter().position(|one| *one == kind)?;
        Some(&self.0[index])
    }
}

impl Binder {
    /// What lies on the models with these LoRAs. Changes nothing but what is remembered.
    pub(super) fn mix(&mut self, pipeline: &FluxPipeline, adapters: &Adapters) -> Result<Mixes> {
        if adapters.list.is_empty() {
            // Their files may go.
            self.bound.clear();
            self.mixers = Default::default();
            return Ok(Mixes::default());
        }
        let mut mixes = Mixes::default();
        for (index, kind) in KINDS.into_iter().enumerate() {
            let mut scaled = Vec::with_capacity(adapters.list.len());
            for adapter in &adapters.list {
                let bound = self.bound(pipeline, adapter)?;
                let scale = adapter.scale.clone().times(adapters.common);
                scaled.push((Arc::clone(&bound[index]), scale));
            }
            let model = self.model(pipeline, index, kind)?.clone();
            mixes.0[index] = self.mixers[index].mix(&model, &scaled)?;
        }
        Ok(mixes)
    }

    /// Forgets LoRAs that are not among these.
    fn keep_only(&mut self, adapters: &Adapters) {
        let is_kept = |number: u64| adapters.list.iter().any(|one| one.number == number);
        self.bound.retain(|&number, _| is_kept(number));
        for (index, mixer) in self.mixers.iter_mut().enumerate() {
            let kept = self.bound.values().map(|bound| Arc::clone(&bound[index]));
            mixer.keep_only(&kept.collect::<Vec<_>>());
        }
    }

    fn bound(
        &mut self,
        pipeline: &FluxPipeline,
        adapter: &Loaded,
    ) -> Result<[Arc<BoundAdapter>; 3]> {
        if let Some(bound) = self.bound.get(&adapter.number) {
            return Ok(bound.clone());
        }
        let mut bound = Vec::with_capacity(KINDS.len());
        for (index, kind) in KINDS.into_iter().enumerate() {
            let model = self.model(pipeline, index, kind)?;
            let one = BoundAdapter::new(model, &adapter.name, &adapter.file)?;
            bound.push(Arc::new(one));
        }
        let bound: [Arc<BoundAdapter>; 3] = bound.try_into().expect("one for each kind");
        self.bound.insert(adapter.number, bound.clone());
        Ok(bound)
    }

    fn model(&self, pipeline: &FluxPipeline, index: usize, kind: ModelKind) -> Result<&LoraModel> {
        if let Some(model) = self.models[index].get() {
            return Ok(model);
        }
        let model = LoraModel::of_outputs(lora_component(kind), &pipeline.full_graph(kind)?);
        Ok(self.models[index].get_or_init(|| model))
    }
}

fn lora_component(kind: ModelKind) -> Component {
    match kind {
        ModelKind::Clip => Component::TextEncoder,
        ModelKind::T5 => Component::TextEncoder2,
        _ => Component::Transformer,
    }
}

impl Adapters {
    /// Whether a request with this common factor needs no change.
    pub(super) fn has_common(&self, common: f32) -> bool {
        self.list.is_empty() || self.common.to_bits() == common.to_bits()
    }

    pub(super) fn set_common(&mut self, common: f32) {
        self.common = common;
    }

    /// An error that lists the names there are, unless `name` is one of them.
    fn expect_loaded(&self, argument: &str, name: &str) -> Result<()> {
        let loaded: Vec<&str> = self.list.iter().map(|one| one.name.as_str()).collect();
        if loaded.contains(&name) {
            return Ok(());
        }
        let expected = match loaded.as_slice() {
            [] => "a LoRA that is loaded, of which there are none".to_owned(),
            loaded => format!("one of {}", loaded.join(", ")),
        };
        Err(Error::argument(argument, expected, name))
    }

    fn expect_free(&self, name: &str) -> Result<()> {
        if self.list.iter().any(|one| one.name == name) {
            return Err(Error::argument("name", "a name that no LoRA has yet", name));
        }
        Ok(())
    }

    /// Gives LoRAs these scales, those that are not named 0.
    fn set_scales(&mut self, scales: &[(&str, AdapterScale)]) -> Result<()> {
        for (name, scale) in scales {
            self.expect_loaded("adapter", name)?;
            expect_finite(scale)?;
        }
        for adapter in &mut self.list {
            let named = scales.iter().rev().find(|(name, _)| *name == adapter.name);
            adapter.scale =
                named.map_or_else(|| AdapterScale::new(0.0), |(_, scale)| scale.clone());
        }
        Ok(())
    }
}

fn expect_finite(scale: &AdapterScale) -> Result<()> {
    if scale.is_finite() {
        return Ok(());
    }
    Err(Error::argument("scale", "finite numbers", scale))
}

impl FluxPipeline {
    /// Loads a LoRA file under a name, with scale 1. Models that are loaded are refitted, text
    /// encoders too; pictures under way are waited for, and keep their weights.
    ///
    /// Where nothing lies at `path`, it may be the name of one of the LoRAs that come with
    /// the model, [`ModelDefaults::loras`](crate::ModelDefaults::loras).
    ///
    /// # Errors
    /// [`Error::Argument`] for a name that is taken; [`Error::Refused`] for a file that cannot
    /// be read or does not fit, for values that are not finite, and for what a refit says.
    /// After an error nothing has changed. The report names tensors that were not understood.
    pub fn load_lora(&self, path: impl AsRef<Path>, name: &str) -> Result<AdapterReport> {
        self.load_lora_with(path, name, 1.0)
    }

    /// The same with a scale, which may differ by model and block.
    ///
    /// # Errors
    /// As [`FluxPipeline::load_lora`], and [`Error::Argument`] for a scale that is not finite.
    pub fn load_lora_with(
        &self,
        path: impl AsRef<Path>,
        name: &str,
        scale: impl Into<AdapterScale>,
    ) -> Result<AdapterReport> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let scale = scale.into();
        expect_finite(&scale)?;
        // Told before the file is read, and looked at again when nobody else can take it.
        self.read_live().adapters.expect_free(name)?;
        let file = self.lora_file(path.as_ref()).map_err(Error::refused)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let add = |adapters: &mut Adapters| {
            adapters.expect_free(name)?;
            adapters.list.push(Loaded {
                number,
                name: name.to_owned(),
                file,
                scale,
            });
            Ok(())
        };
        let (change, live) = self.change_adapters(add)?;
        drop(live);
        Ok(self.adapter_report(number, change))
    }

    /// Gives LoRAs these scales; those that are not named get 0. A scale is a number, or an
    /// [`AdapterScale`] that differs by model and block. An update of scale 0 leaves no trace:
    /// its weights are those without it, bit for bit.
    ///
    /// ```no_run
    /// # fn f(pipeline: tintype_flux::FluxPipeline) -> Result<(), tintype_flux::Error> {
    /// use tintype_flux::{AdapterScale, Blocks};
    /// pipeline.set_adapters(&[("style", 0.8), ("detail", 0.3)])?;
    /// let calm = AdapterScale::new(0.8).blocks(Blocks::Double, 0..10, 0.25);
    /// let report = pipeline.set_adapters(&[("style", calm)])?;
    /// println!("{report}");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Argument`] for a name that is not loaded or a scale that is not finite;
    /// [`Error::Refused`] for what a refit says. After an error nothing has changed.
    pub fn set_adapters<S>(&self, scales: &[(&str, S)]) -> Result<ChangeReport>
    where
        S: Into<AdapterScale> + Clone,
    {
        let scales = scales.iter();
        let scales: Vec<(&str, AdapterScale)> = scales
            .map(|(name, scale)| (*name, scale.clone().into()))
            .collect();
        let changed = self.change_adapters(|adapters| adapters.set_scales(&scales))?;
        Ok(changed.0)
    }

    /// Takes a LoRA off; the weights are those before it, bit for bit.
    ///
    /// # Errors
    /// [`Error::Argument`] for a name that is not loaded; [`Error::Refused`] for what a refit
    /// says, and then it is still on.
    pub fn unload_lora(&self, name: &str) -> Result<ChangeReport> {
        let changed = self.change_adapters(|adapters| {
            adapters.expect_loaded("name", name)?;
            adapters.list.retain(|one| one.name != name);
            Ok(())
        })?;
        Ok(changed.0)
    }

    /// The LoRAs that are loaded, in order, with the scales they were given.
    pub fn adapters(&self) -> Vec<(String, AdapterScale)> {
        let live = self.read_live();
        let adapters = live.adapters.list.iter();
        adapters
            .map(|one| (one.name.clone(), one.scale.clone()))
            .collect()
    }

    /// Refits the models that are loaded for LoRAs that `change` changed. Everything is checked
    /// before pictures are waited for.
    pub(super) fn change_adapters(
        &self,
        change: impl FnOnce(&mut Adapters) -> Result<()>,
    ) -> Result<(ChangeReport, RwLockWriteGuard<'_, Live>)> {
        let start = Instant::now();
        let mut binder = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut live = self.read_live().clone();
        change(&mut live.adapters)?;
        let mixes = binder.mix(self, &live.adapters).map_err(Error::refused)?;
        live.mixes = OnceLock::from(mixes);
        let (report, live) = self.commit(start, live)?;
        binder.keep_only(&live.adapters);
        Ok((report, live))
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

    /// What applied of a LoRA that was bound just now.
    fn adapter_report(&self, number: u64, change: ChangeReport) -> AdapterReport {
        let binder = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut report = AdapterReport {
            change,
            ..AdapterReport::default()
        };
        // Another thread may have taken it off again.
        let Some(bound) = binder.bound.get(&number) else {
            return report;
        };
        for (kind, bound) in KINDS.into_iter().zip(bound) {
            let one = bound.report();
            report.applied.push((kind.name(), one.applied));
            report.unknown_keys.clone_from(&one.unknown_keys);
            report
                .unmatched_keys
                .extend(one.unmatched_keys.iter().cloned());
        }
        report
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
        let model = LoraModel::of_outputs(Component::Transformer, &graph);
        let bound = Arc::new(BoundAdapter::new(&model, "all", &file).unwrap());
        let mixed = Mixer::default().mix(&model, &[(bound, AdapterScale::default())]);
        let mixed = mixed.unwrap();
        let lies_on = |name: &str| {
            mixed
                .overlays
                .iter()
                .any(|overlay| overlay.parameter() == name)
        };
        assert!(lies_on("transformer_blocks.0.attn.to_add_out.weight"));
        assert!(!lies_on("transformer_blocks.1.attn.to_add_out.weight"));
        assert!(
            mixed
                .parameters
                .names()
                .all(|name| !name.contains("blocks.1.attn.to_add_out"))
        );
    }
}
