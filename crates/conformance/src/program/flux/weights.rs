//! Random weights of the right size, made on the device.
//!
//! A matrix of `n` columns has numbers of the size 1/√n, so that what it multiplies keeps its
//! size; gains of norms are near 1, biases near 0. Each is cut out of a few millions of normal
//! numbers, at a place that its name decides: it is the same in every run, and no two are alike.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use tintype_device::{CudaTensor, DeviceBuffer, Staging, Stream};
use tintype_tensor::{DType, Tensor, TorchGenerator};
use tintype_tensorrt::lower::{Layers, PlacedWeight, WeightSource};

use super::super::Result;

/// Makes weights on a device.
pub(super) struct Maker {
    stream: Stream,
    normal: Vec<f32>,
    bases: RefCell<HashMap<Kind, Arc<DeviceBuffer>>>,
}

/// What a weight does, and in which dtype.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Gain(DType),
    Bias(DType),
    Matrix(DType, usize),
}

/// What a program's engine needs, by name.
pub(super) struct Needed(pub(super) HashMap<String, PlacedWeight>);

/// How many normal numbers there are; odd, so that rows of no matrix repeat.
const NUMBERS: usize = (8 << 20) + 1;

impl Needed {
    pub(super) fn of(layers: &Layers) -> Self {
        let weights = layers.weights().iter();
        let weights = weights.map(|weight| (weight.name.clone(), weight.clone()));
        Self(weights.collect())
    }

    /// The size of one.
    pub(super) fn bytes_of(&self, name: &str) -> usize {
        let weight = self.0.get(name);
        weight.map_or(0, |weight| byte_len(weight.dtype, weight.count()))
    }
}

impl Maker {
    pub(super) fn new(stream: &Stream) -> Result<Self> {
        let normal = TorchGenerator::new(1).randn(vec![NUMBERS])?.to_f32_vec()?;
        Ok(Self {
            stream: stream.clone(),
            normal,
            bases: RefCell::default(),
        })
    }

    /// The stream that it works in.
    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// A weight; `version` 0 is the usual one, others differ.
    pub(super) fn make(&self, weight: &PlacedWeight, version: usize) -> Result<CudaTensor> {
        let bytes = byte_len(weight.dtype, weight.count());
        let base = self.base(kind(weight))?;
        let mut hasher = DefaultHasher::new();
        (&weight.name, version).hash(&mut hasher);
        let element = byte_len(weight.dtype, 1);
        let mut from = (hasher.finish() as usize % NUMBERS) * element;
        let buffer = DeviceBuffer::allocate(&self.stream, bytes)?;
        let mut to = 0;
        while to < bytes {
            let count = (bytes - to).min(base.len() - from);
            buffer.copy_from(to, &base, from..from + count, &self.stream)?;
            (to, from) = (to + count, 0);
        }
        let sizes = weight.sizes.clone();
        Ok(CudaTensor::new(
            weight.dtype,
            sizes,
            Arc::new(buffer),
            &self.stream,
        )?)
    }

    fn base(&self, kind: Kind) -> Result<Arc<DeviceBuffer>> {
        if let Some(base) = self.bases.borrow().get(&kind) {
            return Ok(Arc::clone(base));
        }
        let (dtype, middle, size) = match kind {
            Kind::Gain(dtype) => (dtype, 1.0, 0.1),
            Kind::Bias(dtype) => (dtype, 0.0, 0.02),
            Kind::Matrix(dtype, columns) => (dtype, 0.0, 1.0 / (columns as f32).sqrt()),
        };
        let values = self.normal.iter().map(|value| middle + value * size);
        let tensor = Tensor::from_f32_as(dtype, [NUMBERS], values.collect())?;
        let mut staging = Staging::new(&self.stream)?;
        let base = Arc::clone(CudaTensor::upload(&tensor, &mut staging)?.buffer());
        self.bases.borrow_mut().insert(kind, Arc::clone(&base));
        Ok(base)
    }
}

fn byte_len(dtype: DType, count: usize) -> usize {
    dtype
        .byte_len(count)
        .expect("sizes of weights are checked when a graph is made")
}

/// Norms of heads are the only vectors of so few numbers.
fn kind(weight: &PlacedWeight) -> Kind {
    let mut wide = weight.sizes.iter().filter(|&&size| size > 1);
    let (first, second) = (wide.next(), wide.next());
    match (first, second) {
        (Some(_), Some(_)) => {
            let columns = weight.sizes.iter().rev().find(|&&size| size > 1);
            Kind::Matrix(weight.dtype, *columns.expect("there are two"))
        }
        _ if weight.count() <= 128 && weight.name.contains("norm") => Kind::Gain(weight.dtype),
        _ => Kind::Bias(weight.dtype),
    }
}

/// The values of a constant that does not depend on weights.
pub(super) fn literal(weight: &PlacedWeight) -> Option<&Tensor> {
    match &weight.source {
        WeightSource::Literal(values) => Some(values),
        _ => None,
    }
}
