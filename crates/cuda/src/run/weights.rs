//! The weights of one version, and who still reads them.
//!
//! Versions share the tensors that they have in common. What is freed with the last version that
//! has it is freed after all work that read it; and weights are overwritten only after that too.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tintype_device::KeptTensor;
use tintype_ir::{Graph, Value};

use super::machine::{KeepingOn, Machine, Over, WeightJob};
use crate::{Error, Result};

/// Weights by name.
pub(crate) type Tensors<M> = HashMap<String, <M as Machine>::Tensor>;

/// The weights of one version. Whoever holds it keeps them as they are.
pub(crate) struct WeightSet<M: Machine> {
    machine: Arc<M>,
    /// Equal numbers are equal addresses: what was captured with one runs with the other.
    layout: u64,
    tensors: Tensors<M>,
    /// The last reads, by the number of the lane.
    readers: Mutex<HashMap<u64, M::Event>>,
}

impl<M: Machine> WeightSet<M> {
    pub(crate) fn new(machine: Arc<M>, tensors: Tensors<M>) -> Self {
        static LAYOUTS: AtomicU64 = AtomicU64::new(0);
        Self {
            machine,
            layout: LAYOUTS.fetch_add(1, Ordering::Relaxed),
            tensors,
            readers: Mutex::default(),
        }
    }

    /// Another version, with some weights in new memory.
    pub(crate) fn with(&self, changed: Tensors<M>) -> Self {
        let mut tensors = self.tensors.clone();
        tensors.extend(changed);
        Self::new(Arc::clone(&self.machine), tensors)
    }

    /// The same version without some weights.
    pub(crate) fn without(&self, names: &BTreeSet<String>) -> Self {
        let left = self.tensors.iter();
        let left = left.filter(|(name, _)| !names.contains(*name));
        let left = left.map(|(name, tensor)| (name.clone(), tensor.clone()));
        Self::new(Arc::clone(&self.machine), left.collect())
    }

    /// Whether a weight is there.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub(crate) fn layout(&self) -> u64 {
        self.layout
    }

    /// The address of a weight.
    ///
    /// # Errors
    /// [`NoWeights`](tintype_backend::Error::NoWeights) for one that is not there.
    pub(crate) fn address(&self, name: &str) -> Result<u64> {
        let tensor = self.tensors.get(name);
        let missing = || Error::Backend(tintype_backend::Error::NoWeights(name.to_owned()));
        tensor.map(KeptTensor::address).ok_or_else(missing)
    }

    /// Whether weights that lie in one memory are several values in a program. They were one where
    /// several overlays gave the same parameter.
    pub(crate) fn is_tied(&self, program: &Graph) -> bool {
        let mut values: HashMap<u64, Value> = HashMap::new();
        program.outputs().iter().any(|output| {
            let Some(tensor) = self.tensors.get(&output.name) else {
                return false;
            };
            let value = values.entry(tensor.address()).or_insert(output.value);
            *value != output.value
        })
    }

    /// Notes that a lane has read them until this event.
    pub(crate) fn read_by(&self, lane: u64, event: M::Event) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.insert(lane, event);
    }

    /// Writes new values where the old ones are, after all that still read them. What is kept
    /// where old ones are stays whole.
    ///
    /// # Errors
    /// What the device says; some weights may then be new, others old.
    pub(crate) fn overwrite(&self, new: &Tensors<M>, kept: KeepingOn<'_, M>) -> Result<()> {
        let pairs = new
            .iter()
            .filter_map(|(name, new)| self.tensors.get(name).map(|old| [old, new]));
        // Weights that are one value share their memory, and are written once.
        let mut seen = HashSet::new();
        let mut pairs: Vec<_> = pairs
            .filter(|pair| seen.insert(pair.map(KeptTensor::address)))
            .collect();
        let is_elsewhere = |pair: &[&M::Tensor; 2]| pair[0].address() != pair[1].address();
        pairs.retain(is_elsewhere);
        if pairs.is_empty() {
            return Ok(());
        }
        let store = kept.store;
        let written = self.machine.overwrite(&pairs, &self.take_readers(), kept);
        // What is kept may be half a parameter now.
        written.inspect_err(|_| store.clear())
    }

    /// Computes new values where the old ones are, after all that still read them; gives the bytes
    /// copied between host and device. Nothing that is kept may lie there.
    ///
    /// # Errors
    /// What the device says. If `is_begun` is set, some weights may then be new, others old.
    pub(crate) fn compute_in_place(
        &self,
        job: &WeightJob<'_>,
        is_begun: &AtomicBool,
        kept: KeepingOn<'_, M>,
    ) -> Result<usize> {
        let after = self.take_readers();
        let over = Over {
            weights: &self.tensors,
            is_begun,
            after: &after,
        };
        let computed = self.machine.compute(job, Some(over), kept);
        if computed.is_err() {
            kept.store.clear();
        }
        if computed.is_err() && !is_begun.load(Ordering::Relaxed) {
            // Whoever writes next has to wait for them still.
            self.machine.retire(&after)?;
        }
        let computed = computed?;
        is_begun.store(true, Ordering::Relaxed);
        self.overwrite(&computed.weights.into_iter().collect(), kept)?;
        Ok(computed.moved)
    }

    fn take_readers(&self) -> Vec<M::Event> {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.drain().map(|(_, event)| event).collect()
    }
}

impl<M: Machine> Drop for WeightSet<M> {
    fn drop(&mut self) {
        if let Err(error) = self.machine.retire(&self.take_readers()) {
            tracing::warn!("{error}");
        }
    }
}
