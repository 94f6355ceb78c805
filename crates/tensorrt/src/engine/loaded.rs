//! The engine.

use std::sync::Arc;

use tintype_device::Device;
use tintype_tensorrt_sys::{EngineStat, ICudaEngine, OptProfileSelector};

use super::order::Order;
use super::tensors::IoTensor;
use super::{Context, ContextOptions, Inspector, Refitter, Runtime, RuntimeCache};
use crate::calls::{Calls, Owned};
use crate::{Error, Result, Tensorrt};

/// A loaded plan with its weights on the device. A cheap handle, for any thread.
#[derive(Clone, Debug)]
pub struct Engine(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// First, so that it is destroyed first.
    object: Owned<ICudaEngine>,
    tensors: Vec<IoTensor>,
    order: Order,
    calls: Arc<Calls>,
    runtime: Runtime,
}

// SAFETY: an engine belongs to no thread. What changes it goes through `calls`, one at a time;
// what only asks may be called from several threads, as the library documents.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Engine {
    pub(super) fn new(runtime: &Runtime, object: Owned<ICudaEngine>) -> Result<Self> {
        let calls = Calls::new(runtime.tensorrt().abi());
        let (recorder, action) = (calls.recorder(), "setting the engine's error recorder");
        // SAFETY: the engine is alive, and the recorder outlives it: fields are dropped in
        // their order.
        calls.run(action, || unsafe { object.set_error_recorder(recorder) })?;
        // SAFETY: the engine is alive.
        let tensors = unsafe { IoTensor::all_of(object.raw()) }?;
        Ok(Self(Arc::new(Shared {
            object,
            tensors,
            order: Order::default(),
            calls,
            runtime: runtime.clone(),
        })))
    }

    /// The library.
    pub fn tensorrt(&self) -> &Tensorrt {
        self.0.runtime.tensorrt()
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.0.runtime.device()
    }

    /// Inputs and outputs, in the order of the network.
    pub fn tensors(&self) -> &[IoTensor] {
        &self.0.tensors
    }

    /// The input or output of this name.
    pub fn tensor(&self, name: &str) -> Option<&IoTensor> {
        self.0.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// How many optimization profiles it has, at least 1.
    pub fn profile_count(&self) -> Result<usize> {
        // SAFETY: the engine is alive.
        let count = unsafe { self.raw().get_nb_optimization_profiles() }?;
        Ok(usize::try_from(count).unwrap_or_default())
    }

    /// The smallest, usual and largest shape of an input in a profile.
    ///
    /// # Errors
    /// [`Error::Unknown`] if there is no such input; [`Error::Setting`] for no such profile.
    pub fn profile_shapes(&self, input: &str, profile: usize) -> Result<[Vec<i64>; 3]> {
        let (_, tensor) = self.expect_tensor(input, true)?;
        let index = self.expect_profile(profile)?;
        let shape = |selector| {
            // SAFETY: the engine is alive, and so is the name.
            let dims = unsafe {
                self.raw()
                    .get_profile_shape(tensor.raw_name.as_ptr(), index, selector)
            }?;
            Ok::<_, Error>(dims.as_slice().to_vec())
        };
        Ok([
            shape(OptProfileSelector::MIN)?,
            shape(OptProfileSelector::OPT)?,
            shape(OptProfileSelector::MAX)?,
        ])
    }

    /// The number of layers, after fusion.
    pub fn layer_count(&self) -> Result<usize> {
        // SAFETY: the engine is alive.
        let count = unsafe { self.raw().get_nb_layers() }?;
        Ok(usize::try_from(count).unwrap_or_default())
    }

    /// Whether its weights can be changed.
    pub fn is_refittable(&self) -> Result<bool> {
        // SAFETY: the engine is alive.
        Ok(unsafe { self.raw().is_refittable() }?)
    }

    /// Bytes of memory that a context needs, for one profile or the largest of all.
    pub fn context_bytes(&self, profile: Option<usize>) -> Result<usize> {
        let profile = profile
            .map(|profile| self.expect_profile(profile))
            .transpose()?;
        // SAFETY: the engine is alive.
        let bytes = unsafe {
            match profile {
                None => self.raw().get_device_memory_size_v2(),
                Some(index) => self.raw().get_device_memory_size_for_profile_v2(index),
            }
        }?;
        Ok(usize::try_from(bytes).unwrap_or_default())
    }

    /// Bytes of all weights.
    pub fn weight_bytes(&self) -> Result<u64> {
        self.statistic(EngineStat::TOTAL_WEIGHTS_SIZE)
    }

    /// Bytes of weights that the plan does not hold; 0 if it holds all.
    pub fn stripped_bytes(&self) -> Result<u64> {
        match self.statistic(EngineStat::STRIPPED_WEIGHTS_SIZE) {
            // An engine that was not stripped calls the question wrong.
            Err(Error::Call { .. }) => Ok(0),
            other => other,
        }
    }

    /// A context, which runs the engine.
    ///
    /// # Errors
    /// [`Error::Call`] if memory does not suffice; [`Error::Library`] for options that this
    /// library does not have.
    pub fn context(&self, options: &ContextOptions) -> Result<Context> {
        Context::new(self, options)
    }

    /// A refitter, which changes its weights.
    ///
    /// # Errors
    /// [`Error::Call`] if the engine was not built for it.
    pub fn refitter(&self) -> Result<Refitter> {
        Refitter::new(self)
    }

    /// An inspector, which tells its layers.
    pub fn inspector(&self) -> Result<Inspector> {
        Inspector::new(self)
    }

    /// An empty cache for compiled kernels.
    ///
    /// # Errors
    /// [`Error::Library`] with TensorRT, which compiles no kernels at run time.
    pub fn runtime_cache(&self) -> Result<RuntimeCache> {
        RuntimeCache::new(self)
    }

    /// Waits until no run or refit is under way.
    pub fn wait(&self) -> Result<()> {
        self.0.order.wait()
    }

    /// Whether two handles are of the same engine.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn raw(&self) -> ICudaEngine {
        self.0.object.raw()
    }

    /// Where errors of calls of the engine itself go.
    pub(super) fn calls(&self) -> &Arc<Calls> {
        &self.0.calls
    }

    pub(super) fn order(&self) -> &Order {
        &self.0.order
    }

    /// The number of a profile as the library takes it.
    pub(super) fn expect_profile(&self, profile: usize) -> Result<i32> {
        let count = self.profile_count()?;
        if profile < count {
            return Ok(profile as i32);
        }
        Err(Error::Setting {
            what: "number of an optimization profile".to_owned(),
            expected: format!("less than {count}"),
            found: profile.to_string(),
        })
    }

    /// The input or output of this name, and its place among all.
    pub(super) fn expect_tensor(&self, name: &str, is_input: bool) -> Result<(usize, &IoTensor)> {
        let of_kind = || {
            let tensors = self.0.tensors.iter().enumerate();
            tensors.filter(|(_, tensor)| tensor.is_input == is_input)
        };
        let found = of_kind().find(|(_, tensor)| tensor.name == name);
        found.ok_or_else(|| Error::Unknown {
            what: if is_input { "input" } else { "output" },
            name: name.to_owned(),
            known: of_kind().map(|(_, tensor)| tensor.name.clone()).collect(),
        })
    }

    fn statistic(&self, statistic: EngineStat) -> Result<u64> {
        let value = self.0.calls.run("asking for the size of the weights", || {
            // SAFETY: the engine is alive.
            unsafe { self.raw().get_engine_stat(statistic) }
        })?;
        // Negative if the engine has no such number.
        Ok(u64::try_from(value).unwrap_or_default())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let device = self.runtime.device();
        // What is destroyed after this belongs to the device's context and must not be in use.
        if let Err(error) = device
            .bind()
            .map_err(Error::from)
            .and_then(|()| self.order.wait())
        {
            tracing::warn!("{error}");
        }
    }
}
