//! The values of a weight program while it runs: on the host, on the device, or both.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tintype_ir::{Graph, Value};
use tintype_tensor::{DType, Shape, Tensor};
use tintype_weights::Parameters;

use super::kept::Keeping;
use super::reading::{Candidates, parameter_on_device};
use crate::kernels::Operand;
use crate::{CudaTensor, DeviceBuffer, Result, Staging, WeightKernels};

/// What a run works with.
pub(super) struct Context<'a> {
    pub(super) kernels: &'a WeightKernels,
    pub(super) staging: &'a mut Staging,
    pub(super) graph: &'a Graph,
    pub(super) parameters: &'a Parameters,
    /// Parameters of earlier runs.
    pub(super) kept: Option<Keeping<'a>>,
    /// Parameters that are kept if they turn out to be weights.
    pub(super) candidates: Candidates,
    /// Where weights shall lie, by their values.
    pub(super) targets: HashMap<Value, Arc<DeviceBuffer>>,
    /// Set before something is written there.
    pub(super) is_begun: Option<&'a AtomicBool>,
    /// Bytes of weights that are still to come.
    pub(super) pending: usize,
    /// Bytes copied back to the host, for the evaluator.
    pub(super) downloaded: u64,
}

/// All values that are still needed. A parameter appears when it is first read.
#[derive(Default)]
pub(super) struct Values(HashMap<Value, Held>);

/// A value. At least one side is there.
struct Held {
    dtype: DType,
    shape: Shape,
    host: Option<Tensor>,
    device: Option<Arc<DeviceBuffer>>,
}

/// A value on the device.
#[derive(Clone)]
pub(super) struct OnDevice {
    pub(super) dtype: DType,
    pub(super) shape: Shape,
    pub(super) buffer: Arc<DeviceBuffer>,
}

impl OnDevice {
    /// A value of this type that nothing has written yet.
    pub(super) fn new(dtype: DType, shape: Shape, staging: &Staging) -> Result<Self> {
        let bytes = shape.byte_len(dtype)?;
        let buffer = DeviceBuffer::allocate(staging.stream(), bytes)?;
        Ok(Self {
            dtype,
            shape,
            buffer: Arc::new(buffer),
        })
    }

    /// The same in this memory, if there is any, which later work of the stream may write.
    pub(super) fn in_memory(
        buffer: Option<Arc<DeviceBuffer>>,
        dtype: DType,
        shape: Shape,
        context: &Context<'_>,
    ) -> Result<Self> {
        let Some(buffer) = buffer else {
            return Self::new(dtype, shape, context.staging);
        };
        if let Some(is_begun) = context.is_begun {
            is_begun.store(true, Ordering::Relaxed);
        }
        buffer.write_in(context.staging.stream())?;
        Ok(Self {
            dtype,
            shape,
            buffer,
        })
    }

    /// A copy of a host tensor.
    pub(super) fn upload(tensor: &Tensor, staging: &mut Staging) -> Result<Self> {
        let value = Self::new(tensor.dtype(), tensor.shape().clone(), staging)?;
        staging.upload(tensor.bytes(), &value.buffer, 0)?;
        Ok(value)
    }

    /// As a tensor that is ready after the work so far.
    pub(super) fn tensor(&self, staging: &Staging) -> Result<CudaTensor> {
        let buffer = Arc::clone(&self.buffer);
        CudaTensor::new(self.dtype, self.shape.clone(), buffer, staging.stream())
    }

    pub(super) fn operand(&self) -> Result<Operand<'_>> {
        Operand::new(self.dtype, &self.shape, &self.buffer)
    }
}

impl Values {
    /// Keeps a value of the host.
    pub(super) fn keep_host(&mut self, value: Value, tensor: Tensor) {
        let held = Held {
            dtype: tensor.dtype(),
            shape: tensor.shape().clone(),
            host: Some(tensor),
            device: None,
        };
        self.0.insert(value, held);
    }

    /// Keeps a value of the device.
    pub(super) fn keep_device(&mut self, value: Value, result: OnDevice) {
        let held = Held {
            dtype: result.dtype,
            shape: result.shape,
            host: None,
            device: Some(result.buffer),
        };
        self.0.insert(value, held);
    }

    /// Whether a value is here.
    pub(super) fn has(&self, value: Value) -> bool {
        self.0.contains_key(&value)
    }

    /// Lets a value go; its memory is freed once the device is past its last reader.
    pub(super) fn free(&mut self, value: Value) {
        self.0.remove(&value);
    }

    /// The value on the device, brought there if need be.
    pub(super) fn device(&mut self, value: Value, context: &mut Context<'_>) -> Result<OnDevice> {
        if !self.0.contains_key(&value) {
            let parameter = parameter_on_device(value, context)?;
            self.keep_device(value, parameter.clone());
            return Ok(parameter);
        }
        let held = self.0.get_mut(&value).expect("inserted above or before");
        let buffer = match (&held.device, &held.host) {
            (Some(buffer), _) => Arc::clone(buffer),
            (None, Some(tensor)) => OnDevice::upload(tensor, context.staging)?.buffer,
            (None, None) => unreachable!("a value is somewhere"),
        };
        held.device = Some(Arc::clone(&buffer));
        Ok(OnDevice {
            dtype: held.dtype,
            shape: held.shape.clone(),
            buffer,
        })
    }

    /// The value on the host; waits for the device if it must come from there.
    pub(super) fn host(&mut self, value: Value, context: &mut Context<'_>) -> Result<Tensor> {
        if !self.0.contains_key(&value) {
            let (name, dtype, shape) = parameter(value, context.graph);
            let tensor = context.parameters.expect(name, dtype, &shape)?;
            self.keep_host(value, tensor);
        }
        let held = self.0.get_mut(&value).expect("inserted above or before");
        if let Some(tensor) = &held.host {
            return Ok(tensor.clone());
        }
        let buffer = held.device.as_ref().expect("a value is somewhere");
        let bytes = buffer.to_host(
            0..held.shape.byte_len(held.dtype)?,
            context.staging.stream(),
        )?;
        context.downloaded += bytes.len() as u64;
        let tensor = Tensor::from_bytes(held.dtype, held.shape.clone(), bytes)?;
        held.host = Some(tensor.clone());
        Ok(tensor)
    }
}

/// Name, dtype and shape of a parameter.
pub(super) fn parameter(value: Value, graph: &Graph) -> (&str, DType, Shape) {
    let Value::Parameter(index) = value else {
        unreachable!("weight programs have no inputs, and nodes are computed before their use")
    };
    let parameter = &graph.parameters()[index];
    let shape = parameter.ty.static_shape();
    let shape = shape.expect("parameters have static types");
    (&parameter.name, parameter.ty.dtype, shape)
}
