//! How parameters come to the device: from where they wait, or from their files.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use tintype_ir::Value;
use tintype_tensor::{DType, Shape, Tensor};

use super::kept::{Keeping, KeptKey, KeptPlace, Wish};
use super::pinned::PinnedTensor;
use super::values::{Context, OnDevice, parameter};
use crate::{CudaTensor, DeviceBuffer, Result, WeightKernels};

/// Parameters of a run that are kept if they turn out to be weights, by address. An address may
/// come again when its buffer is gone.
#[derive(Default)]
pub(super) struct Candidates(HashMap<u64, (Weak<DeviceBuffer>, String, KeptKey)>);

impl Candidates {
    fn add(&mut self, parameter: &OnDevice, name: &str, key: KeptKey) {
        let buffer = &parameter.buffer;
        let candidate = (Arc::downgrade(buffer), name.to_owned(), key);
        self.0.insert(buffer.address(), candidate);
    }

    /// The parameter that a weight is, once.
    pub(super) fn take(&mut self, weight: &CudaTensor) -> Option<(String, KeptKey)> {
        let buffer = weight.buffer();
        let (parameter, name, key) = self.0.remove(&buffer.address())?;
        std::ptr::eq(parameter.as_ptr(), Arc::as_ptr(buffer)).then_some((name, key))
    }
}

/// A parameter in the dtype of the graph, which is kept if it may be.
pub(super) fn parameter_on_device(value: Value, context: &mut Context<'_>) -> Result<OnDevice> {
    let (name, dtype, shape) = parameter(value, context.graph);
    let Some(kept) = context.kept.filter(|kept| kept.store.takes(name)) else {
        return read(name, dtype, &shape, context);
    };
    context.parameters.check(name, dtype, &shape)?;
    let key = KeptKey::new(context.parameters, name, dtype)?;
    match kept.store.find(name, &key) {
        Some(KeptPlace::Device(tensor)) => {
            tensor.wait_in(context.staging.stream())?;
            let buffer = Arc::clone(tensor.buffer());
            Ok(OnDevice {
                dtype,
                shape,
                buffer,
            })
        }
        Some(KeptPlace::Host(pinned)) => upload_pinned(&pinned, dtype, context),
        None => read_and_keep(name, dtype, &shape, (key, kept), context),
    }
}

fn read_and_keep(
    name: &str,
    dtype: DType,
    shape: &Shape,
    (key, kept): (KeptKey, Keeping<'_>),
    context: &mut Context<'_>,
) -> Result<OnDevice> {
    let device = context.staging.stream().device().clone();
    let free = || device.available_memory();
    let wish = if kept.grows {
        kept.store.wish(context.pending, free)?
    } else {
        Wish::Leave
    };
    if wish == Wish::Host {
        let stored = stored(name, dtype, shape, context)?;
        match PinnedTensor::copy_of(&stored, &device) {
            Ok(pinned) => {
                let bytes = pinned.byte_len();
                let pinned = kept.store.keep_pinned(name, key, bytes, pinned);
                return upload_pinned(&pinned, dtype, context);
            }
            Err(error) => kept.store.stop_pinning(&error),
        }
        return read(name, dtype, shape, context);
    }
    let result = read(name, dtype, shape, context)?;
    match wish {
        Wish::Device => {
            let tensor = result.tensor(context.staging)?;
            kept.store.keep(name, key, tensor);
        }
        Wish::IfWeight => context.candidates.add(&result, name, key),
        Wish::Host | Wish::Leave => {}
    }
    Ok(result)
}

/// A parameter from where it lies. It goes as it is stored, and the device rounds it.
fn read(name: &str, dtype: DType, shape: &Shape, context: &mut Context<'_>) -> Result<OnDevice> {
    let tensor = stored(name, dtype, shape, context)?;
    let stored = OnDevice::upload(&tensor, context.staging)?;
    in_dtype(stored, dtype, context)
}

/// A copy of what is pinned, in the dtype of the graph.
fn upload_pinned(
    pinned: &PinnedTensor,
    dtype: DType,
    context: &mut Context<'_>,
) -> Result<OnDevice> {
    let stored = OnDevice::new(pinned.dtype(), pinned.shape().clone(), context.staging)?;
    pinned.upload(context.staging, &stored.buffer)?;
    in_dtype(stored, dtype, context)
}

/// A parameter as it is stored, or in the dtype of the graph if no kernel reads that.
fn stored(name: &str, dtype: DType, shape: &Shape, context: &Context<'_>) -> Result<Tensor> {
    let info = context.parameters.info(name)?;
    let can_cast = WeightKernels::computes(info.dtype) && WeightKernels::computes(dtype);
    if info.dtype == dtype || !can_cast || info.shape != *shape {
        return Ok(context.parameters.expect(name, dtype, shape)?);
    }
    Ok(context.parameters.get(name)?)
}

fn in_dtype(stored: OnDevice, dtype: DType, context: &Context<'_>) -> Result<OnDevice> {
    if stored.dtype == dtype {
        return Ok(stored);
    }
    let result = OnDevice::new(dtype, stored.shape.clone(), context.staging)?;
    let stream = context.staging.stream();
    context
        .kernels
        .cast(stream, stored.operand()?, result.operand()?)?;
    Ok(result)
}
