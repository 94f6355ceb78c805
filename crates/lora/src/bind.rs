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

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tintype_ir::{Graph, Overlay, Parameter};
use tintype_tensor::{Shape, Tensor};
use tintype_weights::Parameters;

use crate::fragment::{Bound, ScaleSlot, overlay};
use crate::own::OwnParameters;
use crate::{
    Adapter, AdapterReport, Component, Error, LoraFile, LoraTarget, Report, Result, Update,
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
    slots: Vec<ScaleSlot>,
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
        let mut values = Vec::new();
        for slot in self.slots.iter().filter(|slot| slot.adapter == index) {
            let scale = adapter.checked_scale(&slot.target, slot.factor)?;
            values.push((slot.name.clone(), scale));
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
    check_names(adapters)?;
    let mut matched: BTreeMap<usize, Vec<Bound<'_>>> = BTreeMap::new();
    let mut reports = Vec::with_capacity(adapters.len());
    let model = Model::new(component, graph);
    for (index, adapter) in adapters.iter().enumerate() {
        reports.push(model.bind((index, adapter), &mut matched)?);
    }
    for adapter in adapters {
        adapter.file().check_finite()?;
    }
    let mut own = OwnParameters::default();
    let mut slots = Vec::new();
    let mut overlays = Vec::with_capacity(matched.len());
    for (index, updates) in &matched {
        let parameter = &graph.parameters()[*index];
        overlays.push(overlay(parameter, updates, &mut own, &mut slots)?);
    }
    Ok(LoraOverlays {
        overlays,
        parameters: own.build(adapters)?,
        report: Report {
            component,
            adapters: reports,
        },
        adapters: adapters.to_vec(),
        slots,
    })
}

/// The parameters of a graph by name.
struct Model<'g> {
    component: Component,
    parameters: HashMap<&'g str, (usize, &'g Parameter)>,
}

impl<'g> Model<'g> {
    fn new(component: Component, graph: &'g Graph) -> Self {
        let parameters = graph.parameters().iter().enumerate();
        let parameters = parameters.map(|(index, one)| (one.name.as_str(), (index, one)));
        Self {
            component,
            parameters: parameters.collect(),
        }
    }

    fn bind<'a>(
        &self,
        adapter: (usize, &'a Adapter),
        matched: &mut BTreeMap<usize, Vec<Bound<'a>>>,
    ) -> Result<AdapterReport> {
        let file = adapter.1.file();
        let mut applied = 0;
        let (mut used, mut unmatched) = (BTreeSet::new(), BTreeSet::new());
        for target in file.targets() {
            if target.component != self.component {
                continue;
            }
            let Some((index, parameter)) = self.find(&target.parameter) else {
                unmatched.extend(&target.keys);
                continue;
            };
            check(file, target, parameter)?;
            used.extend(&target.keys);
            applied += 1;
            let updates = matched.entry(index).or_default();
            let before = updates.iter().filter(|other| other.adapter.0 == adapter.0);
            let mut prefix = format!("lora.{}.{}", adapter.1.name(), parameter.name);
            // A file may say two things about one parameter, under two names.
            match before.count() {
                0 => {}
                count => prefix = format!("{prefix}.{count}"),
            }
            updates.push(Bound {
                adapter,
                target,
                prefix,
            });
        }
        let unmatched = unmatched.difference(&used).copied().cloned();
        Ok(AdapterReport {
            adapter: adapter.1.name().to_owned(),
            applied,
            unknown_keys: file.unknown_keys().to_vec(),
            unmatched_keys: unmatched.collect(),
        })
    }

    /// CLIP's names are seen with and without their first part.
    fn find(&self, name: &str) -> Option<(usize, &'g Parameter)> {
        let mut found = self.parameters.get(name).copied();
        if found.is_none() && self.component == Component::TextEncoder {
            found = match name.strip_prefix("text_model.") {
                Some(short) => self.parameters.get(short).copied(),
                None => self
                    .parameters
                    .get(format!("text_model.{name}").as_str())
                    .copied(),
            };
        }
        found
    }
}

fn check_names(adapters: &[Adapter]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for adapter in adapters {
        if adapter.name().is_empty() {
            return Err(Error::adapter("", "a name", "none"));
        }
        if !seen.insert(adapter.name()) {
            let expected = "a name of its own";
            return Err(Error::adapter(adapter.name(), expected, "it twice"));
        }
    }
    Ok(())
}

/// Whether the update fits the parameter.
fn check(file: &LoraFile, target: &LoraTarget, parameter: &Parameter) -> Result<()> {
    let name = &parameter.name;
    let refused = |stored: &crate::Stored, expected: String, found: String| {
        Err(Error::tensor(file.origin(), &stored.key, expected, found))
    };
    if !parameter.ty.dtype.is_float() {
        let expected = format!("a parameter `{name}` of floats");
        return refused(target.row_tensor(), expected, parameter.ty.to_string());
    }
    let Some(wanted) = parameter.ty.static_shape() else {
        let expected = format!("a parameter `{name}` of known shape");
        return refused(target.row_tensor(), expected, parameter.ty.to_string());
    };
    let shape = target.shape();
    if shape == wanted || is_padded(target, &shape, &wanted) {
        return Ok(());
    }
    if let ([_, columns], &[rows, wanted_columns]) = (&shape[..], &wanted[..])
        && *columns != wanted_columns
    {
        let stored = target.column_tensor();
        let hint = if name == INPUT {
            format!(": the adapter is for a model with {columns} input channels")
        } else {
            String::new()
        };
        let found = format!("{columns} in shape {}{hint}", stored.shape);
        let expected = format!("{wanted_columns} columns for `{name}` [{rows}, {wanted_columns}]");
        return refused(stored, expected, found);
    }
    let stored = target.row_tensor();
    let expected = format!("values for `{name}` {wanted}");
    let found = format!("{shape} from shape {}", stored.shape);
    refused(stored, expected, found)
}

/// A LoRA of a model with fewer input channels changes the first of more, as the
/// latents come first whatever is put behind them.
fn is_padded(target: &LoraTarget, shape: &Shape, wanted: &Shape) -> bool {
    let is_plain = matches!(target.update, Update::LowRank { .. }) && target.magnitude.is_none();
    let is_narrow = match (&shape[..], &wanted[..]) {
        ([rows, columns], [wanted_rows, wanted_columns]) => {
            rows == wanted_rows && columns < wanted_columns
        }
        _ => false,
    };
    is_plain && is_narrow && target.parameter == INPUT
}

/// The parameter whose columns are the model's input channels.
const INPUT: &str = "x_embedder.weight";
