//! The refitter: an engine's weights, changed while it is loaded.

use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::Arc;

use tintype_backend::DeviceMemory;
use tintype_device::{CudaTensor, Stream};
use tintype_tensor::{DType, Tensor};
use tintype_tensorrt_sys as sys;
use tintype_tensorrt_sys::{IRefitter, TensorLocation, Weights};

use super::Engine;
use super::tensors::text;
use crate::calls::{Calls, Owned, name};
use crate::dtype::{from_library, to_library};
use crate::{Error, Result};

/// Sets weights of an engine by their names and refits the engine with them.
///
/// Weights that are set are kept until the refit, and let go after it. A refit need not have all
/// of an engine's weights, but those that belong together (the library may have merged some):
/// [`Refitter::missing`] says which it lacks, as far as the library knows. It is known to forget
/// some, so keep a list of your own.
///
/// ```no_run
/// # fn f(engine: &tintype_tensorrt::engine::Engine, weight: &tintype_device::CudaTensor,
/// #      stream: &tintype_device::Stream) -> tintype_tensorrt::Result<()> {
/// let mut refitter = engine.refitter()?;
/// refitter.set("blocks.0.qkv.weight", weight)?;
/// refitter.refit(stream)?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Refitter {
    /// First, so that it is destroyed before what it refers to.
    object: Owned<IRefitter>,
    set: BTreeMap<String, Source>,
    weights: BTreeMap<String, Own>,
    calls: Arc<Calls>,
    engine: Engine,
}

// SAFETY: a refitter belongs to no thread; the library wants one at a time, and it is not `Sync`.
unsafe impl Send for Refitter {}

/// Weights that can be refitted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefittableWeights<'r> {
    /// Their name.
    pub name: &'r str,
    /// The dtype that they must have.
    pub dtype: DType,
    /// The number of elements that they must have.
    pub count: usize,
}

#[derive(Debug)]
struct Own {
    dtype: DType,
    count: usize,
    raw_name: CString,
}

/// Where new weights lie; kept until they were read.
#[derive(Debug)]
enum Source {
    Device(CudaTensor),
    Host(#[expect(dead_code, reason = "it is read by address")] Tensor),
}

impl Refitter {
    pub(super) fn new(engine: &Engine) -> Result<Self> {
        engine.device().bind()?;
        let object = engine.calls().run("creating a refitter", || {
            let library = engine.tensorrt().library();
            // SAFETY: the engine is alive and kept until after the refitter; the logger is never
            // dropped. The caller owns a refitter.
            unsafe {
                let refitter = library.create_refitter(engine.raw(), crate::log::logger());
                refitter.map(|refitter| Owned::new(refitter))
            }
        })?;
        let calls = Calls::new(engine.tensorrt().abi());
        // SAFETY: the refitter is alive; the recorder is kept until after it.
        calls.run("setting the refitter's error recorder", || unsafe {
            object.set_error_recorder(calls.recorder())
        })?;
        let mut refitter = Self {
            object,
            set: BTreeMap::new(),
            weights: BTreeMap::new(),
            calls,
            engine: engine.clone(),
        };
        refitter.weights = refitter.all()?;
        Ok(refitter)
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// All weights that can be refitted, by their names in alphabetical order.
    pub fn weights(&self) -> impl ExactSizeIterator<Item = RefittableWeights<'_>> {
        self.weights.iter().map(|(name, own)| RefittableWeights {
            name,
            dtype: own.dtype,
            count: own.count,
        })
    }

    /// The weights of this name, if they can be refitted.
    pub fn find(&self, name: &str) -> Option<RefittableWeights<'_>> {
        let (name, own) = self.weights.get_key_value(name)?;
        Some(RefittableWeights {
            name,
            dtype: own.dtype,
            count: own.count,
        })
    }

    /// Names of weights that a refit would lack now, as far as the library knows.
    pub fn missing(&self) -> Result<Vec<String>> {
        let most = Some(self.weights.len());
        self.names("asking for missing weights", most, |count, names| {
            // SAFETY: the refitter is alive, and there is room for `count` names.
            unsafe { self.object.get_missing_weights(count, names) }
        })
    }

    /// Sets weights to a tensor on the device, which is kept until the refit. Their shape does
    /// not matter, only their number.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Mismatch`], [`Error::Foreign`] for a tensor of another
    /// device; nothing is then set.
    pub fn set(&mut self, name: &str, tensor: &CudaTensor) -> Result<()> {
        let (dtype, count) = (tensor.dtype(), tensor.shape().element_count());
        if !tensor.device().is_same(self.engine.device()) {
            return Err(Error::Foreign {
                action: format!("refitting an engine on {}", self.engine.device().name()),
                what: format!("`{name}`"),
                owner: "device",
            });
        }
        let address = tensor.buffer().address() as *const c_void;
        self.set_at(name, dtype, count, address, TensorLocation::DEVICE)?;
        self.set
            .insert(name.to_owned(), Source::Device(tensor.clone()));
        Ok(())
    }

    /// Sets weights to a tensor in host memory, which is kept until the refit.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Mismatch`]; nothing is then set.
    pub fn set_host(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        let (dtype, count) = (tensor.dtype(), tensor.shape().element_count());
        let tensor = tensor.clone();
        let address = tensor.bytes().as_ptr().cast();
        self.set_at(name, dtype, count, address, TensorLocation::HOST)?;
        self.set.insert(name.to_owned(), Source::Host(tensor));
        Ok(())
    }

    /// Lets go of weights that were set and not yet refitted.
    ///
    /// # Errors
    /// [`Error::Call`]; what the library does not let go of stays set.
    pub fn unset_all(&mut self) -> Result<()> {
        while let Some(name) = self.set.keys().next().cloned() {
            self.unset(&name)?;
            self.set.remove(&name);
        }
        Ok(())
    }

    /// Whether the library looks at the values when it must convert them. It does by itself;
    /// without it a refit is faster.
    pub fn set_validation(&mut self, on: bool) -> Result<()> {
        self.calls
            .run("choosing whether weights are validated", || {
                // SAFETY: the refitter is alive.
                unsafe { self.object.set_weights_validation(on) }
            })
    }

    /// Lets a refit use up to `count` threads; at least 1, which is the default.
    pub fn set_max_threads(&mut self, count: usize) -> Result<()> {
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        self.calls
            .done(format_args!("allowing {count} threads"), || {
                // SAFETY: the refitter is alive.
                unsafe { self.object.set_max_threads(count) }
            })
    }

    /// Refits the engine with the weights that were set, in the order of `stream`. The host
    /// waits for runs in other streams that came before; runs that come later, in any stream,
    /// have the new weights. Weights that were set are let go.
    ///
    /// # Errors
    /// [`Error::Call`] if weights are missing or not valid: some weights may then be new and
    /// others old. What was set stays set, to be tried again or let go.
    pub fn refit(&mut self, stream: &Stream) -> Result<()> {
        self.engine.device().bind()?;
        let tensors = || {
            self.set.values().filter_map(|source| match source {
                Source::Device(tensor) => Some(tensor),
                Source::Host(_) => None,
            })
        };
        for tensor in tensors() {
            tensor.wait_in(stream)?;
        }
        let refitted = self.engine.order().refit(stream, || {
            self.calls.done("refitting an engine", || {
                // SAFETY: refitter, engine and stream are alive, and so is all that was set:
                // host memory is read before this returns, buffers are told below until when
                // they are read. No other work of the engine is under way.
                unsafe { self.object.refit_cuda_engine_async(stream.as_raw()) }
            })
        });
        for tensor in tensors() {
            tensor.buffer().read_by(stream)?;
        }
        refitted?;
        if let Err(error) = self.unset_all() {
            // The engine is refitted all the same; what is still set is kept and does no harm.
            tracing::warn!("{error}");
        }
        Ok(())
    }

    /// Frees memory that the library keeps for further refits; the next one is slower.
    ///
    /// # Errors
    /// [`Error::Library`] if the version does not have it: TensorRT-RTX from 1.7, TensorRT from
    /// 11.4.
    pub fn release_resources(&mut self) -> Result<()> {
        self.engine.device().bind()?;
        self.engine.wait()?;
        self.engine.order().alone(|| {
            self.calls.done("releasing what refits keep", || {
                // SAFETY: the refitter is alive, and no refit of the engine is under way.
                unsafe { self.object.release_refit_resources() }
            })
        })
    }

    fn set_at(
        &mut self,
        name: &str,
        dtype: DType,
        count: usize,
        address: *const c_void,
        location: TensorLocation,
    ) -> Result<()> {
        let Some(own) = self.weights.get(name) else {
            return Err(Error::Unknown {
                what: "weights",
                name: name.to_owned(),
                known: self.weights.keys().cloned().collect(),
            });
        };
        if (own.dtype, own.count) != (dtype, count) {
            return Err(Error::Mismatch {
                name: name.to_owned(),
                expected: format!("{} elements of {}", own.count, own.dtype),
                found: format!("{count} of {dtype}"),
            });
        }
        let weights = Weights::new(to_library(dtype)?, address, count as i64);
        self.calls
            .done(format_args!("setting weights `{name}`"), || {
                // SAFETY: refitter and name are alive; the caller keeps the memory in `set`.
                unsafe {
                    let name = own.raw_name.as_ptr();
                    self.object
                        .set_named_weights_with_location(name, weights, location)
                }
            })
    }

    fn unset(&self, name: &str) -> Result<()> {
        let own = self.weights.get(name).expect("only known weights are set");
        self.calls
            .done(format_args!("letting go of weights `{name}`"), || {
                // SAFETY: refitter and name are alive.
                unsafe { self.object.unset_named_weights(own.raw_name.as_ptr()) }
            })
    }

    /// All weights with what they must be.
    fn all(&self) -> Result<BTreeMap<String, Own>> {
        let names = self.names("asking for all weights", None, |count, names| {
            // SAFETY: the refitter is alive, and there is room for `count` names.
            unsafe { self.object.get_all_weights(count, names) }
        })?;
        let prototype = |text: String| {
            let raw_name = name(&text)?;
            let prototype = self.calls.run("asking for a weight", || {
                // SAFETY: refitter and name are alive.
                unsafe { self.object.get_weights_prototype(raw_name.as_ptr()) }
            })?;
            let own = Own {
                dtype: from_library(prototype.type_)?,
                count: usize::try_from(prototype.count).unwrap_or_default(),
                raw_name,
            };
            Ok((text, own))
        };
        names.into_iter().map(prototype).collect()
    }

    /// Names that the library writes into an array. It counts them if there is none, which
    /// takes as long as naming them: where it is known how many there are at most, it is asked
    /// once.
    fn names(
        &self,
        action: &str,
        most: Option<usize>,
        ask: impl Fn(i32, *mut *const std::ffi::c_char) -> std::result::Result<i32, sys::Error>,
    ) -> Result<Vec<String>> {
        let count = match most {
            Some(most) => i32::try_from(most).unwrap_or(i32::MAX),
            None => self.calls.run(action, || ask(0, ptr::null_mut()))?.max(0),
        };
        let mut names = vec![ptr::null(); usize::try_from(count).unwrap_or_default()];
        let written = self.calls.run(action, || ask(count, names.as_mut_ptr()))?;
        names.truncate(usize::try_from(written).unwrap_or_default());
        // Weights without a name have none to be set by.
        let named = names.into_iter().filter(|name| !name.is_null());
        // SAFETY: so many names were written, which live with the engine.
        Ok(named.map(|name| unsafe { text(name) }).collect())
    }
}

impl Drop for Refitter {
    fn drop(&mut self) {
        // What is set is dropped after the refitter; what the device still reads is freed later.
        if let Err(error) = self.engine.device().bind() {
            tracing::warn!("{error}");
        }
    }
}
