//! A run: shapes, memory of outputs, and the order of all that takes part.

use std::ptr;
use std::sync::Arc;

use tintype_device::{CudaTensor, DeviceBuffer, Stream};
use tintype_tensor::Shape;

use super::super::binding::{Binding, wait_for};
use super::super::tensors::text;
use super::super::{Allocation, IoTensor, Outputs};
use super::{Context, mismatch};
use crate::{Error, Result};

/// An output of the run that is being enqueued.
struct Place {
    tensor: usize,
    shape: Shape,
    buffer: Arc<DeviceBuffer>,
}

impl Context {
    /// Puts a run into a stream; the host does not wait. Outputs can be read in the order of
    /// the stream, elsewhere after their events.
    ///
    /// # Errors
    /// [`Error::Missing`] with the inputs that were not given; [`Error::Mismatch`] for memory
    /// that is too small; [`Error::Call`] with the library's reasons.
    pub fn enqueue(&mut self, stream: &Stream) -> Result<Outputs> {
        self.expect_stream(stream)?;
        self.engine.device().bind()?;
        self.expect_inputs()?;
        if self.is_changed {
            self.infer_shapes()?;
            self.give_memory()?;
            self.is_changed = false;
        }
        let places = self.place_outputs(stream)?;
        self.wait_in(stream)?;
        let enqueued = self.engine.order().run(stream, || {
            self.calls.done("enqueueing a run", || {
                // SAFETY: the context and all that it is bound to are alive, and are kept until
                // the device is done: buffers are told so below.
                unsafe { self.object.enqueue_v3(stream.as_raw()) }
            })
        });
        // Also of a run that failed some may be under way.
        self.last = Some((stream.clone(), stream.record()?));
        for binding in &self.bindings {
            binding.used_by(stream)?;
        }
        if let Some(memory) = &self.memory {
            memory.read_by(stream)?;
        }
        enqueued?;
        self.outputs(places, stream)
    }

    fn expect_inputs(&self) -> Result<()> {
        let tensors = self.engine.tensors().iter().zip(&self.bindings);
        let missing = tensors
            .filter(|(tensor, binding)| tensor.is_input && matches!(binding, Binding::None))
            .map(|(tensor, _)| tensor.name.clone())
            .collect::<Vec<_>>();
        expect_none(missing)
    }

    fn infer_shapes(&self) -> Result<()> {
        let mut names = vec![ptr::null(); self.bindings.len()];
        let missing = self.calls.checked("inferring shapes", || {
            // SAFETY: the context is alive, and there is room for so many names.
            unsafe {
                self.object
                    .infer_shapes(names.len() as i32, names.as_mut_ptr())
            }
        })?;
        if missing < 0 {
            return Err(Error::Mismatch {
                name: "inputs".to_owned(),
                expected: "sizes that fit each other".to_owned(),
                found: "sizes that do not".to_owned(),
            });
        }
        let missing = names.iter().take(missing as usize);
        // SAFETY: so many names were written, which live with the engine.
        expect_none(missing.map(|name| unsafe { text(*name) }).collect())
    }

    /// Gives the library the caller's memory, if it is large enough.
    fn give_memory(&mut self) -> Result<()> {
        if self.allocation != Allocation::Caller {
            return Ok(());
        }
        let needed = self.needed_bytes()?;
        let len = self.memory.as_ref().map_or(0, |memory| memory.len());
        if len < needed {
            return Err(Error::Mismatch {
                name: "memory of the context".to_owned(),
                expected: format!("{needed} bytes"),
                found: format!("{len} bytes"),
            });
        }
        let Some(memory) = &self.memory else {
            return Ok(());
        };
        let address = memory.address() as *mut _;
        self.calls.checked("giving the context its memory", || {
            // SAFETY: the context is alive; the memory is kept until after it.
            unsafe { self.object.set_device_memory_v2(address, len as i64) }
        })
    }

    /// Memory for all outputs, new where none is bound.
    fn place_outputs(&self, stream: &Stream) -> Result<Vec<Place>> {
        let tensors = self.engine.tensors().iter().zip(&self.bindings).enumerate();
        let mut places = Vec::new();
        for (index, (tensor, binding)) in tensors.filter(|(_, (tensor, _))| !tensor.is_input) {
            if tensor.is_on_host {
                return Err(mismatch(tensor, "an output in host memory".to_owned()));
            }
            let shape = Shape::from(self.sizes(tensor)?);
            let bytes = self.output_bytes(tensor, &shape)?;
            let buffer = match binding {
                Binding::Output(buffer) if buffer.len() < bytes => {
                    return Err(Error::Mismatch {
                        name: tensor.name.clone(),
                        expected: format!("memory of {bytes} bytes"),
                        found: format!("{} bytes", buffer.len()),
                    });
                }
                Binding::Output(buffer) => buffer.clone(),
                _ => Arc::new(DeviceBuffer::allocate(stream, bytes)?),
            };
            let address = buffer.address() as *mut _;
            self.calls
                .done(format_args!("binding output `{}`", tensor.name), || {
                    // SAFETY: context and name are alive. The memory is large enough; it is kept
                    // until the run is done, and the next run binds it or another anew.
                    unsafe {
                        self.object
                            .set_output_tensor_address(tensor.raw_name.as_ptr(), address)
                    }
                })?;
            places.push(Place {
                tensor: index,
                shape,
                buffer,
            });
        }
        Ok(places)
    }

    /// The bytes of an output, and what the library may write beyond.
    pub(super) fn output_bytes(&self, tensor: &IoTensor, shape: &Shape) -> Result<usize> {
        let bytes = shape
            .byte_len(tensor.dtype)
            .map_err(tintype_device::Error::from)?;
        let most = self.calls.run("asking for the size of an output", || {
            // SAFETY: context and name are alive.
            unsafe { self.object.get_max_output_size(tensor.raw_name.as_ptr()) }
        })?;
        Ok(bytes.max(usize::try_from(most).unwrap_or_default()))
    }

    /// Lets later work in `stream` begin when everything is ready for it.
    fn wait_in(&self, stream: &Stream) -> Result<()> {
        if let Some((other, event)) = &self.last
            && !other.is_same(stream)
        {
            stream.wait(event)?;
        }
        if let Some(memory) = &self.memory {
            wait_for(memory, stream)?;
        }
        self.bindings
            .iter()
            .try_for_each(|binding| binding.wait_in(stream))
    }

    fn outputs(&self, places: Vec<Place>, stream: &Stream) -> Result<Outputs> {
        let output = |place: Place| {
            let own = &self.engine.tensors()[place.tensor];
            let tensor = CudaTensor::new(own.dtype, place.shape, place.buffer, stream)?;
            Ok((own.name.clone(), tensor))
        };
        places
            .into_iter()
            .map(output)
            .collect::<Result<_>>()
            .map(Outputs::new)
    }
}

fn expect_none(names: Vec<String>) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    Err(Error::Missing {
        action: "running an engine".to_owned(),
        names,
    })
}
