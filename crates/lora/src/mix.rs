//! Several adapters on one model, with scales that change.
//!
//! All low-rank updates of a parameter are one product and one rounding, so which fragment a
//! parameter gets depends on who takes part. Fragments are kept: going back to a mix from
//! before, or changing scales, builds none.
//!
//! ```
//! # use tintype_ir::{GraphBuilder, TensorType};
//! # use tintype_tensor::{DType, Tensor};
//! # use tintype_weights::Parameters;
//! use std::sync::Arc;
//! use tintype_lora::{AdapterScale, BoundAdapter, Component, LoraFile, LoraModel, Mixer};
//! # let file = LoraFile::from_parameters(&Parameters::builder()
//! #     .tensor("transformer.proj_out.lora_A.weight", Tensor::from_f32([1, 4], vec![1.0; 4])?)
//! #     .tensor("transformer.proj_out.lora_B.weight", Tensor::from_f32([2, 1], vec![0.5; 2])?)
//! #     .build()?)?;
//! # let mut b = GraphBuilder::new("transformer");
//! # let weight = b.parameter("proj_out.weight", TensorType::new(DType::BF16, [2, 4]));
//! # b.output("weight", weight);
//! # let graph = b.finish()?;
//! let model = LoraModel::new(Component::Transformer, &graph);
//! let style = Arc::new(BoundAdapter::new(&model, "style", &file)?);
//! let mut mixer = Mixer::default();
//! let full = mixer.mix(&model, &[(style.clone(), AdapterScale::new(1.0))])?;
//! let half = mixer.mix(&model, &[(style.clone(), AdapterScale::new(0.5))])?;
//! assert!(Arc::ptr_eq(&full.overlays, &half.overlays));
//! let none = mixer.mix(&model, &[(style, AdapterScale::new(0.0))])?;
//! assert!(none.overlays.is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tintype_ir::Overlay;
use tintype_tensor::Tensor;
use tintype_weights::Parameters;

use crate::bound::BoundUpdate;
use crate::fragment::{Bound, overlay, scale_factor};
use crate::own::OwnParameters;
use crate::{AdapterScale, BoundAdapter, Error, LoraModel, LoraTarget, Result};

/// What lies on a model.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Mixed {
    /// One for each parameter that changes, in the graph's order. The same allocation as before
    /// if no more than scales changed.
    pub overlays: Arc<[Overlay]>,
    /// The overlays' own parameters, `lora.<adapter>.<parameter>.…`; to be read as f32. Those
    /// that are as before keep their generations.
    pub parameters: Parameters,
}

/// Mixes bound adapters of one model.
#[derive(Debug, Default)]
pub struct Mixer {
    /// Overlays of several adapters, or of a part of one's updates.
    fragments: HashMap<Key, Overlay>,
    last: Last,
}

/// A parameter with the updates that act on it: numbers of adapters, and of updates in each.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    place: usize,
    updates: Vec<(u64, usize)>,
}

/// The mix before, of which as much is used again as stays.
#[derive(Debug, Default)]
struct Last {
    keys: Vec<Key>,
    overlays: Arc<[Overlay]>,
    /// The factors of these adapters.
    adapters: Vec<u64>,
    factors: Parameters,
    /// Bits of the scales.
    values: BTreeMap<String, u32>,
    scales: Parameters,
    /// Both.
    all: Parameters,
}

/// An adapter with what scales its updates.
pub(crate) type Scaled<'a> = (&'a BoundAdapter, &'a dyn Fn(&LoraTarget) -> f32);

impl Mixer {
    /// What lies on the model with these adapters, the first below. Updates whose scale is 0
    /// are left out, so that nothing is left of an adapter that is off.
    ///
    /// # Errors
    /// [`Error::Adapter`] for two adapters of one name or of names of which one begins the
    /// other's parameters, and for a scale that is not finite. The mixer can be used again.
    pub fn mix(
        &mut self,
        model: &LoraModel,
        adapters: &[(Arc<BoundAdapter>, AdapterScale)],
    ) -> Result<Mixed> {
        let scales: Vec<_> = adapters
            .iter()
            .map(|(_, scale)| |target: &LoraTarget| scale.of(target))
            .collect();
        let scaled: Vec<Scaled<'_>> = adapters
            .iter()
            .zip(&scales)
            .map(|((adapter, _), scale)| (&**adapter, scale as &dyn Fn(&LoraTarget) -> f32))
            .collect();
        self.mix_all(model, &scaled, true)
    }

    /// Forgets the fragments of adapters that are none of these.
    pub fn keep_only(&mut self, adapters: &[Arc<BoundAdapter>]) {
        let is_kept = |number: u64| adapters.iter().any(|adapter| adapter.number == number);
        self.fragments
            .retain(|key, _| key.updates.iter().all(|&(number, _)| is_kept(number)));
    }

    /// The same with any scales; those of 0 are left out or not.
    pub(crate) fn mix_all(
        &mut self,
        model: &LoraModel,
        adapters: &[Scaled<'_>],
        leave_out: bool,
    ) -> Result<Mixed> {
        check_names(adapters)?;
        let mut values = BTreeMap::new();
        let mut taking: BTreeMap<usize, Vec<Taking<'_>>> = BTreeMap::new();
        for &(adapter, scale) in adapters {
            for (&place, updates) in &adapter.updates {
                for (index, update) in updates.iter().enumerate() {
                    let bound = adapter.bound(update);
                    let value = scale_of(adapter, bound.target, scale)?;
                    if value == Some(0.0) && leave_out {
                        continue;
                    }
                    if let Some(value) = value.filter(|_| scale_factor(bound.target).is_some()) {
                        values.insert(bound.scale_name(), value.to_bits());
                    }
                    let taking = taking.entry(place).or_default();
                    taking.push((adapter, index, update));
                }
            }
        }
        let overlays = self.overlays(model, &taking)?;
        Ok(Mixed {
            overlays,
            parameters: self.parameters(&taking, values)?,
        })
    }

    fn overlays(
        &mut self,
        model: &LoraModel,
        taking: &BTreeMap<usize, Vec<Taking<'_>>>,
    ) -> Result<Arc<[Overlay]>> {
        let key = |(&place, taking): (&usize, &Vec<Taking<'_>>)| Key {
            place,
            updates: taking
                .iter()
                .map(|(adapter, index, _)| (adapter.number, *index))
                .collect(),
        };
        let keys: Vec<Key> = taking.iter().map(key).collect();
        if keys == self.last.keys {
            return Ok(Arc::clone(&self.last.overlays));
        }
        if self.fragments.len() > MOST_FRAGMENTS {
            self.fragments.clear();
        }
        let mut overlays = Vec::with_capacity(keys.len());
        for (key, taking) in keys.iter().zip(taking.values()) {
            overlays.push(self.overlay(model, key, taking)?);
        }
        self.last.keys = keys;
        self.last.overlays = overlays.into();
        Ok(Arc::clone(&self.last.overlays))
    }

    fn overlay(&mut self, model: &LoraModel, key: &Key, taking: &[Taking<'_>]) -> Result<Overlay> {
        let (first, ..) = taking[0];
        let is_alone = taking
            .iter()
            .all(|(adapter, ..)| adapter.number == first.number);
        if is_alone && taking.len() == first.updates[&key.place].len() {
            return Ok(first.alone[&key.place].clone());
        }
        if let Some(known) = self.fragments.get(key) {
            return Ok(known.clone());
        }
        let bounds: Vec<Bound<'_>> = taking
            .iter()
            .map(|(adapter, _, update)| adapter.bound(update))
            .collect();
        // What it reads is among the factors of the adapters already.
        let mut own = OwnParameters::default();
        let made = overlay(&model.parameters[key.place], &bounds, &mut own)?;
        self.fragments.insert(key.clone(), made.clone());
        Ok(made)
    }

    /// Factors of those who take part, and scales. What stays is the same entry as before.
    fn parameters(
        &mut self,
        taking: &BTreeMap<usize, Vec<Taking<'_>>>,
        values: BTreeMap<String, u32>,
    ) -> Result<Parameters> {
        let mut adapters: BTreeMap<u64, &BoundAdapter> = BTreeMap::new();
        for (adapter, ..) in taking.values().flatten() {
            adapters.insert(adapter.number, adapter);
        }
        let numbers: Vec<u64> = adapters.keys().copied().collect();
        if numbers == self.last.adapters && values == self.last.values {
            return Ok(self.last.all.clone());
        }
        if numbers != self.last.adapters {
            self.last.factors = factors_of(adapters.into_values())?;
            self.last.adapters = numbers;
        }
        let old = &self.last;
        let mut builder = Parameters::builder();
        for (name, &bits) in &values {
            builder = match old.values.get(name) {
                Some(&before) if before == bits => builder.parameter(&old.scales, name)?,
                _ => builder.tensor(name, Tensor::scalar(f32::from_bits(bits))),
            };
        }
        self.last.scales = builder.build()?;
        self.last.values = values;
        let builder = Parameters::builder().parameters(&self.last.factors);
        self.last.all = builder.parameters(&self.last.scales).build()?;
        Ok(self.last.all.clone())
    }
}

/// The factors of several adapters; those of one are what they are.
fn factors_of<'a>(mut adapters: impl Iterator<Item = &'a BoundAdapter>) -> Result<Parameters> {
    let Some(first) = adapters.next() else {
        return Ok(Parameters::default());
    };
    let mut all = first.factors.clone();
    for adapter in adapters {
        let builder = Parameters::builder().parameters(&all);
        all = builder.parameters(&adapter.factors).build()?;
    }
    Ok(all)
}

/// An update that acts: its adapter, its number on the parameter, itself.
type Taking<'a> = (&'a BoundAdapter, usize, &'a BoundUpdate);

/// The scale of an update with its factor; without the factor for one that has no scale.
pub(crate) fn scale_of(
    adapter: &BoundAdapter,
    target: &LoraTarget,
    scale: &dyn Fn(&LoraTarget) -> f32,
) -> Result<Option<f32>> {
    let own = scale(target);
    let value = own * scale_factor(target).unwrap_or(1.0);
    if value.is_finite() {
        // A factor of 0 is a matter of the file, a scale of 0 one of the caller.
        return Ok(Some(if own == 0.0 { 0.0 } else { value }));
    }
    let expected = format!("a finite scale for `{}`", target.parameter);
    Err(Error::adapter(adapter.name(), expected, value.to_string()))
}

fn check_names(adapters: &[Scaled<'_>]) -> Result<()> {
    for (index, (adapter, _)) in adapters.iter().enumerate() {
        if adapter.name().is_empty() {
            return Err(Error::adapter("", "a name", "none"));
        }
        for (other, _) in &adapters[..index] {
            if adapter.name() == other.name() {
                let expected = "a name of its own";
                return Err(Error::adapter(adapter.name(), expected, "it twice"));
            }
            check_beginnings(adapter, other)?;
        }
    }
    Ok(())
}

/// `a` and `a.x_embedder` could both claim `lora.a.x_embedder.…`.
fn check_beginnings(one: &BoundAdapter, other: &BoundAdapter) -> Result<()> {
    let begins = |short: &str, long: &str| {
        let rest = long.strip_prefix(short);
        rest.is_some_and(|rest| rest.starts_with('.'))
    };
    if !begins(one.name(), other.name()) && !begins(other.name(), one.name()) {
        return Ok(());
    }
    let Some(name) = one.factors.common_name(&other.factors) else {
        return Ok(());
    };
    let expected = "a name that is not the beginning of another adapter's";
    Err(Error::adapter(
        one.name(),
        expected,
        format!("`{name}` twice"),
    ))
}

/// Fragments that are kept: some mixes of a model with a thousand parameters.
const MOST_FRAGMENTS: usize = 1 << 14;
