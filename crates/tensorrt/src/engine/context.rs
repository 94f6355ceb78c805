//! The context: what a run takes and gives.

mod run;

use std::ptr;
use std::sync::Arc;

use tintype_backend::DeviceMemory;
use tintype_device::{CudaTensor, DeviceBuffer, Event, Stream};
use tintype_tensor::Shape;
use tintype_tensorrt_sys::{IExecutionContext, IRuntimeConfig};

use super::binding::{Binding, HostValues};
use super::tensors::{from_dims, to_dims};
use super::{Allocation, ContextOptions, Engine, IoTensor, RuntimeCache};
use crate::calls::{Calls, Owned};
use crate::{Error, Result};

/// Runs an engine. Several contexts of one engine can be under way at once; one context runs
/// one thing after the other, and is used by one thread at a time:
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<tintype_tensorrt::engine::Context>();
/// ```
#[derive(Debug)]
pub struct Context {
    /// First, so that it is destroyed before what it refers to.
    object: Owned<IExecutionContext>,
    _config: Owned<IRuntimeConfig>,
    _cache: Option<RuntimeCache>,
    /// Of each input and output, in the engine's order.
    bindings: Vec<Binding>,
    /// Its memory, if the caller gives it.
    memory: Option<Arc<DeviceBuffer>>,
    allocation: Allocation,
    /// Whether shapes have changed since they were last inferred.
    is_changed: bool,
    /// The last run, or the last change of the profile.
    last: Option<(Stream, Event)>,
    calls: Arc<Calls>,
    engine: Engine,
}

// SAFETY: a context belongs to no thread; the library wants one at a time, and all functions
// that use it take `&mut self` or, since it is not `Sync`, are called by the one that has it.
unsafe impl Send for Context {}

impl Context {
    pub(super) fn new(engine: &Engine, options: &ContextOptions) -> Result<Self> {
        engine.device().bind()?;
        if let Some(cache) = &options.runtime_cache {
            let is_own = cache.engine().is_same(engine);
            expect_own(engine, is_own, "the runtime cache", "engine")?;
        }
        let calls = engine.calls();
        let config = calls.object("creating a runtime configuration", || {
            // SAFETY: the engine is alive.
            unsafe { engine.raw().create_runtime_config() }
        })?;
        // SAFETY: the caller owns a runtime configuration; the engine is kept until after it.
        let config = unsafe { Owned::new(config) };
        // SAFETY: the configuration is alive; the cache is kept until after it.
        unsafe { options.apply(config.raw(), calls) }?;
        let object = engine.order().alone(|| {
            calls.object("creating a context", || {
                // SAFETY: engine and configuration are alive.
                unsafe {
                    engine
                        .raw()
                        .create_execution_context_with_runtime_config(Some(config.raw()))
                }
            })
        })?;
        // SAFETY: the caller owns a context; engine and configuration are kept until after it.
        let object = unsafe { Owned::new(object) };
        let calls = Calls::new(engine.tensorrt().abi());
        // SAFETY: the context is alive; the recorder is kept until after it.
        calls.run("setting the context's error recorder", || unsafe {
            object.set_error_recorder(calls.recorder())
        })?;
        Ok(Self {
            object,
            _config: config,
            _cache: options.runtime_cache.clone(),
            bindings: engine.tensors().iter().map(|_| Binding::None).collect(),
            memory: None,
            allocation: options.allocation,
            is_changed: true,
            last: None,
            calls,
            engine: engine.clone(),
        })
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Uses another optimization profile; all inputs must then be given again.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is no such profile.
    pub fn set_profile(&mut self, profile: usize, stream: &Stream) -> Result<()> {
        let index = self.engine.expect_profile(profile)?;
        self.expect_stream(stream)?;
        self.wait()?;
        for (tensor, binding) in self.engine.tensors().iter().zip(&mut self.bindings) {
            if tensor.is_input {
                *binding = Binding::None;
            }
        }
        self.is_changed = true;
        let action = format_args!("switching to profile {profile}");
        let switched = self.calls.done(action, || {
            // SAFETY: context and stream are alive; later runs wait for what is enqueued here.
            unsafe {
                self.object
                    .set_optimization_profile_async(index, stream.as_raw())
            }
        });
        self.last = Some((stream.clone(), stream.record()?));
        switched
    }

    /// Binds a tensor to an input, for this and later runs, and keeps it meanwhile. It must
    /// not be written while they are under way, or they read what is being written.
    ///
    /// # Errors
    /// [`Error::Unknown`] if there is no such input; [`Error::Mismatch`] for another dtype or
    /// impossible sizes; [`Error::Device`] for a tensor of another device; [`Error::Call`] for
    /// sizes outside the profile.
    pub fn set_input(&mut self, input: &str, tensor: &CudaTensor) -> Result<()> {
        let (index, own) = self.input(input, false)?;
        if tensor.dtype() != own.dtype {
            return Err(mismatch(
                &own,
                format!("{}{}", tensor.dtype(), tensor.shape()),
            ));
        }
        expect_own(
            &self.engine,
            tensor.device().is_same(self.engine.device()),
            &format!("input `{input}`"),
            "device",
        )?;
        self.set_sizes(index, &own, tensor.shape())?;
        let address = tensor.buffer().address() as *const _;
        self.calls
            .done(format_args!("binding input `{input}`"), || {
                // SAFETY: context and name are alive; the memory is kept as long as it is bound.
                unsafe {
                    self.object
                        .set_input_tensor_address(own.raw_name.as_ptr(), address)
                }
            })?;
        self.bindings[index] = Binding::Input(tensor.clone());
        Ok(())
    }

    /// Gives the sizes of an input before the tensor is there, for instance to know the sizes
    /// of outputs.
    ///
    /// # Errors
    /// As [`Context::set_input`].
    pub fn set_input_sizes(&mut self, input: &str, sizes: &[usize]) -> Result<()> {
        let (index, own) = self.input(input, false)?;
        self.bindings[index] = Binding::None;
        self.set_sizes(index, &own, sizes)?;
        self.calls
            .done(format_args!("unbinding input `{input}`"), || {
                // SAFETY: context and name are alive.
                unsafe {
                    self.object
                        .set_input_tensor_address(own.raw_name.as_ptr(), ptr::null())
                }
            })
    }

    /// Gives the values of an input in host memory, on which shapes depend.
    ///
    /// # Errors
    /// As [`Context::set_input`], and for numbers that the input's dtype lacks.
    pub fn set_input_values(&mut self, input: &str, sizes: &[usize], values: &[i64]) -> Result<()> {
        let (index, own) = self.input(input, true)?;
        if sizes.iter().product::<usize>() != values.len() {
            return Err(mismatch(
                &own,
                format!("{} values for {sizes:?}", values.len()),
            ));
        }
        let values = HostValues::new(input, own.dtype, values)?;
        // The library may not have read the old ones.
        self.wait()?;
        self.bindings[index] = Binding::None;
        self.set_sizes(index, &own, sizes)?;
        self.calls
            .done(format_args!("binding input `{input}`"), || {
                // SAFETY: context and name are alive; the values are kept as long as they are bound.
                unsafe {
                    self.object
                        .set_input_tensor_address(own.raw_name.as_ptr(), values.as_ptr())
                }
            })?;
        self.bindings[index] = Binding::Values(values);
        self.is_changed = true;
        Ok(())
    }

    /// Writes an output of later runs into `buffer`, or into new memory each time if there is
    /// none. Tensors of earlier runs in the same buffer are overwritten.
    ///
    /// # Errors
    /// [`Error::Unknown`] if there is no such output; [`Error::Foreign`] for another device.
    pub fn set_output(&mut self, output: &str, buffer: Option<Arc<DeviceBuffer>>) -> Result<()> {
        let (index, _) = self.engine.expect_tensor(output, false)?;
        self.bindings[index] = match buffer {
            None => Binding::None,
            Some(buffer) => {
                let is_own = buffer.device().is_same(self.engine.device());
                expect_own(
                    &self.engine,
                    is_own,
                    &format!("output `{output}`"),
                    "device",
                )?;
                Binding::Output(buffer)
            }
        };
        Ok(())
    }

    /// Gives the context its memory, for [`Allocation::Caller`]. Contexts that never run at the
    /// same time may share it.
    ///
    /// # Errors
    /// [`Error::Foreign`] for another device; [`Error::Setting`] if the context has memory of its
    /// own. Whether it is large enough is looked at when the
    /// sizes of all inputs are known: see [`Context::needed_bytes`].
    pub fn set_memory(&mut self, buffer: Arc<DeviceBuffer>) -> Result<()> {
        let is_own = buffer.device().is_same(self.engine.device());
        expect_own(&self.engine, is_own, "the context's memory", "device")?;
        if self.allocation != Allocation::Caller {
            return Err(Error::Setting {
                what: "where the context's memory comes from".to_owned(),
                expected: format!("{:?}", Allocation::Caller),
                found: format!("{:?}", self.allocation),
            });
        }
        self.wait()?;
        self.memory = Some(buffer);
        self.is_changed = true;
        Ok(())
    }

    /// Bytes of memory that the context needs with the inputs' sizes; all must be known.
    pub fn needed_bytes(&mut self) -> Result<usize> {
        self.engine.device().bind()?;
        let bytes = self.calls.checked("asking for the context's memory", || {
            // SAFETY: the context is alive.
            unsafe { self.object.update_device_memory_size_for_shapes() }
        })?;
        // The library divides its memory anew; it is given again before the next run.
        self.is_changed = true;
        Ok(bytes)
    }

    /// The sizes of an output; those of all inputs must be known.
    ///
    /// # Errors
    /// [`Error::Unknown`] if there is no such output; [`Error::Mismatch`] if sizes are not known
    /// before a run.
    pub fn output_sizes(&self, output: &str) -> Result<Vec<usize>> {
        self.sizes(self.engine.expect_tensor(output, false)?.1)
    }

    /// The bytes that the memory of an output must have; the sizes of all inputs must be known. The
    /// library may want more than the tensor has.
    ///
    /// # Errors
    /// As [`Context::output_sizes`].
    pub fn output_len(&self, output: &str) -> Result<usize> {
        let (_, own) = self.engine.expect_tensor(output, false)?;
        let shape = Shape::from(self.sizes(own)?);
        self.output_bytes(own, &shape)
    }

    /// Waits until no run of this context is under way.
    pub fn wait(&self) -> Result<()> {
        match &self.last {
            Some((_, event)) => Ok(event.synchronize()?),
            None => Ok(()),
        }
    }

    pub(super) fn raw(&self) -> IExecutionContext {
        self.object.raw()
    }

    /// An input by its name, which lies where the caller thinks.
    fn input(&self, input: &str, on_host: bool) -> Result<(usize, IoTensor)> {
        let (index, own) = self.engine.expect_tensor(input, true)?;
        if own.is_on_host != on_host {
            let place = |on_host| {
                if on_host {
                    "values in host memory"
                } else {
                    "a tensor"
                }
            };
            return Err(Error::Mismatch {
                name: input.to_owned(),
                expected: place(own.is_on_host).to_owned(),
                found: place(on_host).to_owned(),
            });
        }
        Ok((index, own.clone()))
    }

    /// Gives the sizes of an input. If they are new, nothing is bound to it any more: what was
    /// might be too small.
    fn set_sizes(&mut self, index: usize, own: &IoTensor, sizes: &[usize]) -> Result<()> {
        if !own.accepts(sizes) {
            return Err(mismatch(
                own,
                format!("{}{}", own.dtype, Shape::from(sizes)),
            ));
        }
        if self.sizes(own).is_ok_and(|known| known == sizes) {
            return Ok(());
        }
        let dims = to_dims(sizes)?;
        self.bindings[index] = Binding::None;
        self.is_changed = true;
        let action = format_args!("setting the sizes of input `{}` to {sizes:?}", own.name);
        self.calls.done(action, || {
            // SAFETY: context, name and sizes are alive.
            unsafe { self.object.set_input_shape(own.raw_name.as_ptr(), &dims) }
        })
    }

    fn sizes(&self, own: &IoTensor) -> Result<Vec<usize>> {
        let dims = self.calls.run("asking for sizes", || {
            // SAFETY: context and name are alive.
            unsafe { self.object.get_tensor_shape(own.raw_name.as_ptr()) }
        })?;
        from_dims(&dims).ok_or_else(|| Error::Mismatch {
            name: own.name.clone(),
            expected: "sizes that are known before the run".to_owned(),
            found: format!("{:?}", dims.as_slice()),
        })
    }

    fn expect_stream(&self, stream: &Stream) -> Result<()> {
        let is_own = stream.device().is_same(self.engine.device());
        expect_own(&self.engine, is_own, "the stream", "device")
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // The library must not destroy what the device works with.
        let device = self.engine.device();
        if let Err(error) = device
            .bind()
            .map_err(Error::from)
            .and_then(|()| self.wait())
        {
            tracing::warn!("{error}");
        }
    }
}

fn mismatch(own: &IoTensor, found: String) -> Error {
    Error::Mismatch {
        name: own.name.clone(),
        expected: format!("{}{:?}", own.dtype, own.sizes),
        found,
    }
}

fn expect_own(engine: &Engine, is_own: bool, what: &str, owner: &'static str) -> Result<()> {
    if is_own {
        return Ok(());
    }
    Err(Error::Foreign {
        action: format!("using an engine on {}", engine.device().name()),
        what: what.to_owned(),
        owner,
    })
}
