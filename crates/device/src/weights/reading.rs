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
    let into = context.targets.get(&value).cloned();
    let wanted = Wanted {
        name,
        dtype,
        shape,
        into,
    };
    context
        .parameters
        .check(wanted.name, wanted.dtype, &wanted.shape)?;
    bring(wanted, context)
}

/// A factor of a merge, in the dtype in which it is stored if the kernel reads that.
pub(super) fn factor_on_device(value: Value, context: &mut Context<'_>) -> Result<OnDevice> {
    let (name, dtype, shape) = parameter(value, context.graph);
    let stored = context.parameters.check(name, dtype, &shape)?;
    let is_read = WeightKernels::merges(stored);
    let wanted = Wanted {
        name,
        dtype: if is_read { stored } else { dtype },
        shape,
        into: None,
    };
    bring(wanted, context)
}

/// A parameter that a run reads, which was checked.
struct Wanted<'a> {
    name: &'a str,
    dtype: DType,
    shape: Shape,
    /// Where it shall lie if it is not kept elsewhere.
    into: Option<Arc<DeviceBuffer>>,
}

fn bring(wanted: Wanted<'_>, context: &mut Context<'_>) -> Result<OnDevice> {
    let Some(kept) = context.kept.filter(|kept| kept.store.takes(wanted.name)) else {
        return read(wanted, context);
    };
    let key = KeptKey::new(context.parameters, wanted.name, wanted.dtype)?;
    match kept.store.find(wanted.name, &key) {
        Some(KeptPlace::Device(tensor)) => {
            tensor.wait_in(context.staging.stream())?;
            let buffer = Arc::clone(tensor.buffer());
            Ok(OnDevice {
                dtype: wanted.dtype,
                shape: wanted.shape,
                buffer,
            })
        }
        Some(KeptPlace::Host(pinned)) => upload_pinned(&pinned, wanted, context),
        None => read_and_keep(wanted, (key, kept), context),
    }
}

fn read_and_keep(
    wanted: Wanted<'_>,
    (key, kept): (KeptKey, Keeping<'_>),
    context: &mut Context<'_>,
) -> Result<OnDevice> {
    let device = context.staging.stream().device().clone();
    let (name, free) = (wanted.name, || device.available_memory());
    let wish = if kept.grows {
        kept.store.wish(name, context.pending, free)?
    } else {
        Wish::Leave
    };
    if wish == Wish::Host {
        let stored = stored(&wanted, context)?;
        match PinnedTensor::copy_of(&stored, &device) {
            Ok(pinned) => {
                let bytes = pinned.byte_len();
                let pinned = kept.store.keep_pinned(name, key, bytes, pinned);
                return upload_pinned(&pinned, wanted, context);
            }
            Err(error) => kept.store.stop_pinning(&error),
        }
        return read(wanted, context);
    }
    let result = read(wanted, context)?;
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
fn read(wanted: Wanted<'_>, context: &mut Context<'_>) -> Result<OnDevice> {
    let tensor = stored(&wanted, context)?;
    let stored = place(&wanted, tensor.dtype(), context)?;
    context.staging.upload(tensor.bytes(), &stored.buffer, 0)?;
    in_dtype(stored, wanted, context)
}

/// A copy of what is pinned, in the dtype that is wanted.
fn upload_pinned(
    pinned: &PinnedTensor,
    wanted: Wanted<'_>,
    context: &mut Context<'_>,
) -> Result<OnDevice> {
    let stored = place(&wanted, pinned.dtype(), context)?;
    pinned.upload(context.staging, &stored.buffer)?;
    in_dtype(stored, wanted, context)
}

/// Memory for a parameter as it is stored: that of the result if it needs no conversion.
fn place(wanted: &Wanted<'_>, dtype: DType, context: &mut Context<'_>) -> Result<OnDevice> {
    let into = wanted.into.clone().filter(|_| dtype == wanted.dtype);
    OnDevice::in_memory(into, dtype, wanted.shape.clone(), context)
}

/// A parameter as it is stored, or in the dtype that is wanted if no kernel reads that.
fn stored(wanted: &Wanted<'_>, context: &Context<'_>) -> Result<Tensor> {
    let (name, dtype) = (wanted.name, wanted.dtype);
    let stored = context.parameters.check(name, dtype, &wanted.shape)?;
    let can_cast = WeightKernels::computes(stored) && WeightKernels::computes(dtype);
    if stored == dtype || can_cast {
        Ok(context.parameters.get(name)?)
    } else {
        Ok(context.parameters.read_as(name, dtype)?)
    }
}

fn in_dtype(stored: OnDevice, wanted: Wanted<'_>, context: &mut Context<'_>) -> Result<OnDevice> {
    if stored.dtype == wanted.dtype {
        return Ok(stored);
    }
    let result = OnDevice::in_memory(wanted.into, wanted.dtype, wanted.shape, context)?;
    let stream = context.staging.stream();
    context
        .kernels
        .cast(stream, stored.operand()?, result.operand()?)?;
    Ok(result)
}
