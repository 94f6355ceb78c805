//! Parameters that wait on the device, or where it reads directly, for the next refit.
//!
//! A refit computes weights from untouched parameters, so that a LoRA can be taken off to the bit.
//! [`KeptParameters`] holds those parameters between the runs of one weight program:
//!
//! | [`KeepWeights`] | a parameter waits | costs | the next refit |
//! |---|---|---|---|
//! | `Device` | on the device, in the dtype of the program | device memory, its size | reads it there |
//! | `Host` | in pinned memory, as it is stored | memory of the host that is never swapped out | copies it to the device |
//! | `Disk` | in its file | nothing | reads the file, or what the system has of it |
//! | `Auto` | as `Device` while the device has room to spare, else as `Disk`; makes room for what must run ([`KeptRegistry`](crate::KeptRegistry)) | | |
//!
//! **What is kept, and when.** The first run of a program, which loads a model, reads each
//! parameter once, and most are never read again. So it keeps what costs nothing: parameters that
//! lie in weights as they are share these weights' memory, where the caller says that weights stay
//! where they are computed ([`Sharing`]). Each later run keeps what it reads. The first switch of
//! a LoRA thus reads from the file what the load did not leave on the device, and the second
//! nothing.
//!
//! **A kept parameter is never written.** Whoever writes a weight in place asks
//! [`KeptParameters::write_over`] how. Where a kept parameter lies in that weight, the two pieces
//! of memory exchange their contents: the new value is then where the weight is, and the parameter
//! where the new value was. That needs no more memory than computing the new value did. From then
//! on the parameter has memory of its own, also while its weight is equal to it again.
//!
//! **Nothing stale is served.** A parameter is known by its name in the program, its
//! [`ParameterIdentity`] and the dtype; a changed one has another identity.
//! [`KeptParameters::settle`] lets go what is no longer a parameter of the program. After a failed
//! run or write all is let go, since nobody knows how far the device came; the files still have it.
//!
//! **What overlays bring**, as the factors of LoRAs, waits on the device too, those that were used
//! last, up to [`OVERLAY_BYTES`]. Who switches between a few LoRAs so moves nothing. They stay when
//! their overlay goes, since nobody here knows whether it comes again.
//!
//! ```
//! use tintype_backend::KeepWeights;
//! use tintype_device::{KeptParameters, Sharing};
//!
//! let program = tintype_ir::parse("graph weights { param @w: bf16[8] output w = @w }")?;
//! let kept: KeptParameters = KeptParameters::new(KeepWeights::Auto, Sharing::Weights, &program);
//! assert_eq!(kept.usage().device, 0);
//! # Ok::<(), tintype_ir::Error>(())
//! ```

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tintype_backend::KeepWeights;
use tintype_ir::Graph;
use tintype_tensor::DType;
use tintype_weights::{ParameterIdentity, Parameters};

use super::pinned::PinnedTensor;
use crate::CudaTensor;

/// The parameters of one weight program that wait for its next run.
///
/// `T` is a tensor on the device and `P` one in pinned memory, others in tests.
pub struct KeptParameters<T = CudaTensor, P = PinnedTensor> {
    policy: KeepWeights,
    sharing: Sharing,
    /// The program's own parameters; all others are those of overlays.
    names: HashSet<String>,
    state: Mutex<State<T, P>>,
}

/// Whether weights stay in the memory in which they were computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// They do, so that a parameter that is a weight needs no memory beside it.
    Weights,
    /// They are copied elsewhere.
    Nothing,
}

/// Kept parameters as a run uses them.
#[derive(Debug)]
pub struct Keeping<'a, T = CudaTensor, P = PinnedTensor> {
    /// Where they are.
    pub store: &'a KeptParameters<T, P>,
    /// Whether it may take more memory than it has: not where new weights have to come in groups.
    pub grows: bool,
}

/// What tensors on the device must tell.
pub trait KeptTensor: Clone {
    /// The first byte. Tensors of one address are one.
    fn address(&self) -> u64;
    /// The bytes of the elements.
    fn byte_len(&self) -> usize;
    /// Whether nobody else has the memory.
    fn is_alone(&self) -> bool;
}

/// By what a kept parameter is known beside its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptKey {
    identity: ParameterIdentity,
    /// In the program, which may be another one than in the file.
    dtype: DType,
}

/// Where a parameter waits.
#[derive(Debug)]
pub enum KeptPlace<T = CudaTensor, P = PinnedTensor> {
    /// On the device.
    Device(T),
    /// In pinned memory.
    Host(Arc<P>),
}

/// What is to be done with a parameter that was not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Keep its copy on the device.
    Device,
    /// Pin it on the host.
    Host,
    /// Keep it if it turns out to be a weight as it is.
    IfWeight,
    /// Nothing.
    Leave,
}

/// How a new value comes into the memory of an old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOver {
    /// By a copy.
    Copy,
    /// By exchanging the contents of both.
    Exchange,
}

/// Bytes that are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct KeptUsage {
    /// On the device, beside the weights.
    pub device: usize,
    /// On the device, in the memory of weights.
    pub shared: usize,
    /// In pinned memory.
    pub host: usize,
}

struct State<T, P> {
    /// Whether the program has run to its end once.
    is_loaded: bool,
    /// Whether the system refused to pin memory.
    cannot_pin: bool,
    entries: HashMap<String, Entry<T, P>>,
    /// Names of entries on the device, by address.
    addresses: HashMap<u64, String>,
    /// Runs so far.
    runs: u64,
}

struct Entry<T, P> {
    key: KeptKey,
    bytes: usize,
    place: KeptPlace<T, P>,
    /// The run that used it last.
    used: u64,
}

impl KeptKey {
    /// That of a parameter.
    ///
    /// # Errors
    /// One that is missing.
    pub fn new(parameters: &Parameters, name: &str, dtype: DType) -> tintype_weights::Result<Self> {
        Ok(Self {
            identity: parameters.identity_of(name)?,
            dtype,
        })
    }
}

impl<T: KeptTensor, P> KeptParameters<T, P> {
    /// None yet, of a weight program without overlays.
    pub fn new(policy: KeepWeights, sharing: Sharing, program: &Graph) -> Self {
        let names = program.parameters().iter();
        Self {
            policy,
            sharing,
            names: names.map(|parameter| parameter.name.clone()).collect(),
            state: Mutex::new(State {
                is_loaded: false,
                cannot_pin: false,
                entries: HashMap::new(),
                addresses: HashMap::new(),
                runs: 0,
            }),
        }
    }

    /// Whether a parameter may be kept at all.
    pub fn takes(&self, name: &str) -> bool {
        match self.policy {
            KeepWeights::Disk => false,
            KeepWeights::Host => self.names.contains(name),
            KeepWeights::Device | KeepWeights::Auto => true,
        }
    }

    /// Where a parameter waits, if it does.
    pub fn find(&self, name: &str, key: &KeptKey) -> Option<KeptPlace<T, P>> {
        let mut state = self.lock();
        let now = state.runs;
        let entry = state.entries.get_mut(name)?;
        entry.used = now;
        (entry.key == *key).then(|| entry.place.clone())
    }

    /// Whether nothing is kept at any of these addresses.
    pub fn lies_outside(&self, addresses: impl IntoIterator<Item = u64>) -> bool {
        let state = self.lock();
        let mut addresses = addresses.into_iter();
        !addresses.any(|address| state.addresses.contains_key(&address))
    }

    /// What to do with a parameter that is brought to the device now. `pending` bytes of weights
    /// are still to come in this run; `free` asks the device.
    pub fn wish<E>(
        &self,
        name: &str,
        pending: usize,
        free: impl FnOnce() -> Result<usize, E>,
    ) -> Result<Wish, E> {
        let state = self.lock();
        let (is_loaded, cannot_pin) = (state.is_loaded, state.cannot_pin);
        drop(state);
        match self.policy {
            KeepWeights::Host if is_loaded && !cannot_pin => Ok(Wish::Host),
            KeepWeights::Host | KeepWeights::Disk => Ok(Wish::Leave),
            policy if !self.names.contains(name) => {
                let has_room = has_room(policy, pending, free()?);
                Ok(if has_room { Wish::Device } else { Wish::Leave })
            }
            _ if !is_loaded && self.sharing == Sharing::Weights => Ok(Wish::IfWeight),
            _ if !is_loaded => Ok(Wish::Leave),
            policy if has_room(policy, pending, free()?) => Ok(Wish::Device),
            _ => Ok(Wish::Leave),
        }
    }

    /// Keeps a parameter on the device, in memory that it may have in common with a weight.
    pub fn keep(&self, name: &str, key: KeptKey, tensor: T) {
        let bytes = tensor.byte_len();
        self.put(name, key, bytes, KeptPlace::Device(tensor));
    }

    /// Keeps a parameter in pinned memory; gives a handle to it.
    pub fn keep_pinned(&self, name: &str, key: KeptKey, bytes: usize, tensor: P) -> Arc<P> {
        let tensor = Arc::new(tensor);
        self.put(name, key, bytes, KeptPlace::Host(Arc::clone(&tensor)));
        tensor
    }

    /// No more memory can be pinned: what is not pinned stays in its file.
    pub fn stop_pinning(&self, reason: &dyn fmt::Display) {
        if !std::mem::replace(&mut self.lock().cannot_pin, true) {
            tracing::warn!("parameters are read from their files at each refit: {reason}");
        }
    }

    /// Has `new` written over `old`, the memory of a weight, in the way that loses no kept
    /// parameter; nothing is to be done where both are one. Where the parameter in `old` may not
    /// take `new`'s memory (`grows`), it is let go.
    ///
    /// # Errors
    /// Those of `write`; the parameter in `old` is then let go.
    pub fn write_over<E>(
        &self,
        [old, new]: [&T; 2],
        grows: bool,
        write: impl FnOnce(WriteOver) -> Result<(), E>,
    ) -> Result<(), E> {
        if old.address() == new.address() {
            return Ok(());
        }
        let mut state = self.lock();
        let inside = state.take_at(old.address());
        let arriving = state.addresses.get(&new.address()).cloned();
        drop(state);
        match (inside, arriving) {
            (Some((name, entry)), None) if grows && old.byte_len() == new.byte_len() => {
                write(WriteOver::Exchange)?;
                let place = KeptPlace::Device(new.clone());
                self.lock().put(&name, Entry { place, ..entry });
            }
            (Some(_), Some(name)) => {
                write(WriteOver::Copy)?;
                // What the weight's memory held was shared with it, and so is what it holds now.
                self.lock().move_to(&name, old.clone());
            }
            _ => write(WriteOver::Copy)?,
        }
        Ok(())
    }

    /// After a run whose weights are in place: parameters of an earlier version go, and from now
    /// on what is read is kept.
    pub fn settle(&self, parameters: &Parameters) {
        let mut state = self.lock();
        state.is_loaded = true;
        state.runs += 1;
        state.retain(|name, entry| {
            let now = || parameters.identity_of(name);
            !self.names.contains(name) || now().is_ok_and(|now| now == entry.key.identity)
        });
        for name in self.surplus(&state) {
            state.remove(&name);
        }
        drop(state);
        tracing::debug!("kept parameters: {:?}", self.usage());
    }

    /// What overlays brought and is more than may be kept: what was used longest ago.
    fn surplus(&self, state: &State<T, P>) -> Vec<String> {
        let entries = state.entries.iter();
        let mut own: Vec<_> = entries
            .filter(|(name, _)| !self.names.contains(*name))
            .collect();
        let mut bytes: usize = own.iter().map(|(_, entry)| entry.bytes).sum();
        if bytes <= OVERLAY_BYTES {
            return Vec::new();
        }
        own.sort_by_key(|(name, entry)| (entry.used, *name));
        let surplus = own.into_iter().take_while(|(_, entry)| {
            let is_surplus = bytes > OVERLAY_BYTES;
            bytes = bytes.saturating_sub(entry.bytes);
            is_surplus
        });
        surplus.map(|(name, _)| name.clone()).collect()
    }

    /// Begins again: the next run loads a model.
    pub fn reset(&self) {
        self.clear();
        self.lock().is_loaded = false;
    }

    /// Lets go of all, as after a failure.
    pub fn clear(&self) {
        let mut state = self.lock();
        state.entries.clear();
        state.addresses.clear();
    }

    /// Lets go, where nobody asked for the device, of what takes memory there beside weights; gives
    /// its bytes.
    pub fn let_go(&self) -> usize {
        if self.policy != KeepWeights::Auto {
            return 0;
        }
        self.lock().retain(|_, entry| match &entry.place {
            KeptPlace::Device(tensor) => !tensor.is_alone(),
            KeptPlace::Host(_) => true,
        })
    }

    /// Whether more can be kept on the device, with what it has `free`.
    pub fn has_room(&self, pending: usize, free: usize) -> bool {
        has_room(self.policy, pending, free)
    }

    /// What is kept now.
    pub fn usage(&self) -> KeptUsage {
        let mut usage = KeptUsage::default();
        for entry in self.lock().entries.values() {
            *match &entry.place {
                KeptPlace::Device(tensor) if tensor.is_alone() => &mut usage.device,
                KeptPlace::Device(_) => &mut usage.shared,
                KeptPlace::Host(_) => &mut usage.host,
            } += entry.bytes;
        }
        usage
    }

    fn put(&self, name: &str, key: KeptKey, bytes: usize, place: KeptPlace<T, P>) {
        let mut state = self.lock();
        let used = state.runs;
        let entry = Entry {
            key,
            bytes,
            place,
            used,
        };
        state.put(name, entry);
    }

    /// A panic elsewhere leaves the entries whole.
    fn lock(&self) -> MutexGuard<'_, State<T, P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: KeptTensor, P> State<T, P> {
    fn put(&mut self, name: &str, entry: Entry<T, P>) {
        self.remove(name);
        if let KeptPlace::Device(tensor) = &entry.place {
            self.addresses.insert(tensor.address(), name.to_owned());
        }
        self.entries.insert(name.to_owned(), entry);
    }

    fn remove(&mut self, name: &str) {
        if let Some(entry) = self.entries.remove(name)
            && let KeptPlace::Device(tensor) = entry.place
        {
            self.addresses.remove(&tensor.address());
        }
    }

    /// Removes the entries that are not to stay; gives their bytes.
    fn retain(&mut self, stays: impl Fn(&str, &Entry<T, P>) -> bool) -> usize {
        let (addresses, mut removed) = (&mut self.addresses, 0);
        self.entries.retain(|name, entry| {
            let stays = stays(name, entry);
            if !stays {
                removed += entry.bytes;
                if let KeptPlace::Device(tensor) = &entry.place {
                    addresses.remove(&tensor.address());
                }
            }
            stays
        });
        removed
    }

    /// Takes out what lies at an address.
    fn take_at(&mut self, address: u64) -> Option<(String, Entry<T, P>)> {
        let name = self.addresses.remove(&address)?;
        let entry = self.entries.remove(&name)?;
        Some((name, entry))
    }

    fn move_to(&mut self, name: &str, tensor: T) {
        if let Some(entry) = self.entries.get_mut(name) {
            if let KeptPlace::Device(before) = &entry.place {
                self.addresses.remove(&before.address());
            }
            self.addresses.insert(tensor.address(), name.to_owned());
            entry.place = KeptPlace::Device(tensor);
        }
    }
}

impl<T: Clone, P> Clone for KeptPlace<T, P> {
    fn clone(&self) -> Self {
        match self {
            Self::Device(tensor) => Self::Device(tensor.clone()),
            Self::Host(tensor) => Self::Host(Arc::clone(tensor)),
        }
    }
}

impl<T, P> Clone for Keeping<'_, T, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, P> Copy for Keeping<'_, T, P> {}

impl<T, P> fmt::Debug for KeptParameters<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "parameters kept as `{}` says", self.policy)
    }
}

/// Whether a copy that lies on the device already may stay there: what is free has to suffice for
/// what is pending and the policy's reserve. Pure.
fn has_room(policy: KeepWeights, pending: usize, free: usize) -> bool {
    reserve(policy).is_some_and(|reserve| free >= pending.saturating_add(reserve))
}

/// What stays free on the device where a policy keeps parameters there; `None` where it does not.
pub(super) fn reserve(policy: KeepWeights) -> Option<usize> {
    match policy {
        KeepWeights::Device => Some(DEVICE_RESERVE),
        KeepWeights::Auto => Some(AUTO_RESERVE),
        KeepWeights::Host | KeepWeights::Disk => None,
    }
}

/// Left free where the user asked for the device: temporary values of weight programs.
pub const DEVICE_RESERVE: usize = 1 << 30;

/// What overlays brought and waits: a LoRA of rank 16 on all of FLUX.1's blocks has 125 MiB in bf16.
pub const OVERLAY_BYTES: usize = 1 << 30;

/// Left free where nobody asked: these, and workspaces and models that are yet to come.
pub const AUTO_RESERVE: usize = 6 << 30;

#[cfg(test)]
#[path = "kept_tests.rs"]
mod tests;
