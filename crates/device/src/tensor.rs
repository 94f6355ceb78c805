//! Tensors in the memory of a device, as backends hand them on.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use tintype_backend::{DeviceMemory, DeviceTensor, Error as BackendError};
use tintype_tensor::{DType, Shape, Tensor};

use crate::{Device, DeviceBuffer, Error, Event, KeptTensor, Result, Staging, Stream};

/// A tensor on a device: row-major elements in a shared buffer, and the event after which
/// they may be read. A cheap handle.
///
/// ```no_run
/// # use tintype_device::{CudaTensor, Device, Result, Staging};
/// # use tintype_backend::{DeviceMemory, DeviceTensor};
/// # fn f(tensor: tintype_tensor::Tensor) -> Result<()> {
/// let stream = Device::open(0)?.new_stream()?;
/// let tensor = CudaTensor::upload(&tensor, &mut Staging::new(&stream)?)?;
/// let tensor: DeviceTensor = tensor.into();
/// println!("{tensor:?}"); // bf16[4096, 3072] on cuda:0
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct CudaTensor {
    dtype: DType,
    shape: Shape,
    buffer: Arc<DeviceBuffer>,
    ready: Arc<Event>,
}

impl CudaTensor {
    /// What lies at the beginning of `buffer`, readable once the work so far in `stream`
    /// is done.
    ///
    /// # Errors
    /// [`Error::Range`] if the buffer is too small.
    pub fn new(
        dtype: DType,
        shape: impl Into<Shape>,
        buffer: Arc<DeviceBuffer>,
        stream: &Stream,
    ) -> Result<Self> {
        let shape = shape.into();
        buffer.expect_range("making a tensor", &(0..shape.byte_len(dtype)?))?;
        Ok(Self {
            dtype,
            shape,
            buffer,
            ready: Arc::new(stream.record()?),
        })
    }

    /// A copy of a host tensor, made in the stream of `staging`.
    pub fn upload(tensor: &Tensor, staging: &mut Staging) -> Result<Self> {
        let stream = staging.stream().clone();
        let buffer = DeviceBuffer::allocate(&stream, tensor.bytes().len())?;
        staging.upload(tensor.bytes(), &buffer, 0)?;
        Self::new(
            tensor.dtype(),
            tensor.shape().clone(),
            buffer.into(),
            &stream,
        )
    }

    /// The tensor behind a handle, if it lies on `device`.
    pub fn of<'t>(tensor: &'t DeviceTensor, device: &Device) -> Option<&'t Self> {
        let DeviceTensor::Device(memory) = tensor else {
            return None;
        };
        let tensor = memory.as_any().downcast_ref::<Self>()?;
        tensor.device().is_same(device).then_some(tensor)
    }

    /// The memory of a tensor of `device`, of this dtype and shape, if nobody else has it: it can
    /// be written again, after [`DeviceBuffer::write_in`].
    pub fn reclaim(
        tensor: DeviceTensor,
        device: &Device,
        dtype: DType,
        shape: &Shape,
    ) -> Option<Arc<DeviceBuffer>> {
        let mut own = Self::of(&tensor, device)?.clone();
        let DeviceTensor::Device(memory) = tensor else {
            return None;
        };
        // Nobody can make a second handle of the only one.
        let is_only = Arc::strong_count(&memory) == 1 && Arc::weak_count(&memory) == 0;
        drop(memory);
        let fits = own.dtype == dtype && own.shape == *shape;
        (is_only && fits && Arc::get_mut(&mut own.buffer).is_some()).then_some(own.buffer)
    }

    /// The same elements under another shape of the same size, in the same memory.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into();
        if shape.checked_len()? != self.shape.element_count() {
            return Err(Error::Tensor(tintype_tensor::Error::Shape {
                expected: self.shape.clone(),
                found: shape,
            }));
        }
        Ok(Self {
            shape,
            ..self.clone()
        })
    }

    /// The bytes of the elements.
    pub fn byte_len(&self) -> usize {
        let bytes = self.shape.byte_len(self.dtype);
        bytes.expect("checked when the tensor was made")
    }

    /// The memory. Before work in another stream than its own, call [`CudaTensor::wait_in`];
    /// after it, [`DeviceBuffer::read_by`].
    pub fn buffer(&self) -> &Arc<DeviceBuffer> {
        &self.buffer
    }

    /// The event after which the elements may be read.
    pub fn ready(&self) -> &Event {
        &self.ready
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.buffer.device()
    }

    /// Lets later work in `stream` begin when the elements are there; the host does not wait.
    pub fn wait_in(&self, stream: &Stream) -> Result<()> {
        self.buffer.expect_device(stream.device())?;
        stream.wait(&self.ready)
    }

    /// A copy in host memory; waits until it is there.
    pub fn download(&self, stream: &Stream) -> Result<Tensor> {
        self.wait_in(stream)?;
        let bytes = self.buffer.to_host(0..self.byte_len(), stream)?;
        Ok(Tensor::from_bytes(self.dtype, self.shape.clone(), bytes)?)
    }
}

impl DeviceMemory for CudaTensor {
    fn dtype(&self) -> DType {
        self.dtype
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn device(&self) -> &str {
        self.buffer.device().name()
    }

    fn to_host(&self) -> tintype_backend::Result<Tensor> {
        let tensor = self.download(self.buffer.stream());
        tensor.map_err(|error| BackendError::Value {
            op: format!("copying {self:?} to the host"),
            message: error.to_string(),
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl KeptTensor for CudaTensor {
    fn address(&self) -> u64 {
        self.buffer.address()
    }

    fn byte_len(&self) -> usize {
        Self::byte_len(self)
    }

    fn is_alone(&self) -> bool {
        Arc::strong_count(&self.buffer) == 1
    }
}

impl From<CudaTensor> for DeviceTensor {
    fn from(tensor: CudaTensor) -> Self {
        Self::Device(Arc::new(tensor))
    }
}

impl fmt::Debug for CudaTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = self.buffer.device().name();
        write!(f, "{}{} on {device}", self.dtype, self.shape)
    }
}
