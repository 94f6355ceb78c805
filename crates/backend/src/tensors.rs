//! Tensors in host memory or in that of a device, and sets of them by name.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use tintype_tensor::{DType, Shape, Tensor};

use crate::{Error, Result};

/// Memory of a device that holds one tensor. Backends implement it.
///
/// Dropping the last handle frees the memory. A reader waits for the writer's
/// ready event by itself, in [`DeviceMemory::to_host`] as on its own stream.
pub trait DeviceMemory: Send + Sync {
    /// The element type.
    fn dtype(&self) -> DType;
    /// The sizes of the axes.
    fn shape(&self) -> &Shape;
    /// The device, for example `cuda:0`.
    fn device(&self) -> &str;
    /// A copy in host memory, once the tensor is ready.
    fn to_host(&self) -> Result<Tensor>;
    /// For the backend that owns it.
    fn as_any(&self) -> &dyn Any;
}

/// A tensor in host memory or in that of one device. Every backend accepts either.
#[derive(Clone)]
pub enum DeviceTensor {
    /// In host memory.
    Host(Tensor),
    /// In the memory of a device.
    Device(Arc<dyn DeviceMemory>),
}

impl DeviceTensor {
    /// The element type.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Host(tensor) => tensor.dtype(),
            Self::Device(memory) => memory.dtype(),
        }
    }

    /// The sizes of the axes.
    pub fn shape(&self) -> &Shape {
        match self {
            Self::Host(tensor) => tensor.shape(),
            Self::Device(memory) => memory.shape(),
        }
    }

    /// The tensor in host memory, copied there if it is not.
    pub fn to_host(&self) -> Result<Tensor> {
        match self {
            Self::Host(tensor) => Ok(tensor.clone()),
            Self::Device(memory) => memory.to_host(),
        }
    }
}

impl From<Tensor> for DeviceTensor {
    fn from(tensor: Tensor) -> Self {
        Self::Host(tensor)
    }
}

impl fmt::Debug for DeviceTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self {
            Self::Host(_) => "host",
            Self::Device(memory) => memory.device(),
        };
        write!(f, "{}{} on {place}", self.dtype(), self.shape())
    }
}

/// Tensors by name, in the order given.
#[derive(Debug, Clone, Default)]
pub struct Tensors(Vec<(String, DeviceTensor)>);

impl Tensors {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// These and one more; a tensor of the same name is replaced.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, tensor: impl Into<DeviceTensor>) -> Self {
        self.insert(name, tensor);
        self
    }

    /// Adds a tensor or replaces the one of this name.
    pub fn insert(&mut self, name: impl Into<String>, tensor: impl Into<DeviceTensor>) {
        let (name, tensor) = (name.into(), tensor.into());
        match self.0.iter_mut().find(|(other, _)| *other == name) {
            Some((_, old)) => *old = tensor,
            None => self.0.push((name, tensor)),
        }
    }

    /// Takes out the tensor of this name.
    pub fn take(&mut self, name: &str) -> Option<DeviceTensor> {
        let index = self.0.iter().position(|(other, _)| other == name)?;
        Some(self.0.remove(index).1)
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<&DeviceTensor> {
        self.0
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, tensor)| tensor)
    }

    /// The tensor of this name in host memory, or an error that lists the names there are.
    pub fn host(&self, name: &str) -> Result<Tensor> {
        let Some(tensor) = self.get(name) else {
            let names: Vec<_> = self.0.iter().map(|(name, _)| name.as_str()).collect();
            return Err(Error::MissingOutput {
                name: name.to_owned(),
                found: names.join(", "),
            });
        };
        tensor.to_host()
    }

    /// Names and tensors.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &DeviceTensor)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }
}

impl<N: Into<String>, T: Into<DeviceTensor>> FromIterator<(N, T)> for Tensors {
    fn from_iter<I: IntoIterator<Item = (N, T)>>(tensors: I) -> Self {
        let mut all = Self::new();
        for (name, tensor) in tensors {
            all.insert(name, tensor);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_once() {
        let tensors = Tensors::new()
            .with("x", Tensor::scalar(1.0f32))
            .with("x", Tensor::scalar(2.0f32));
        assert_eq!(tensors.iter().count(), 1);
        assert_eq!(tensors.host("x").unwrap().to_f32_vec().unwrap(), [2.0]);
        let error = tensors.host("y").unwrap_err().to_string();
        assert_eq!(error, "there is no output `y`, only x");
        let mut tensors = tensors;
        assert!(tensors.take("y").is_none());
        assert!(tensors.take("x").is_some());
        assert_eq!(tensors.iter().count(), 0);
    }
}
