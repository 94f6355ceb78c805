//! What a context's inputs and outputs are bound to.

use std::ffi::c_void;
use std::sync::Arc;

use tintype_device::{CudaTensor, DeviceBuffer, Stream};
use tintype_tensor::DType;

use crate::{Error, Result};

/// What one input or output is bound to. It lives as long as the binding.
#[derive(Debug, Default)]
pub(super) enum Binding {
    /// Nothing; outputs get new memory with each run.
    #[default]
    None,
    /// A tensor that is read.
    Input(CudaTensor),
    /// Numbers in host memory that shapes depend on.
    Values(#[expect(dead_code, reason = "it is read by address")] HostValues),
    /// Memory that is written.
    Output(Arc<DeviceBuffer>),
}

impl Binding {
    /// Lets work in `stream` begin after what is bound can be read or written.
    pub(super) fn wait_in(&self, stream: &Stream) -> Result<()> {
        match self {
            Self::None | Self::Values(_) => Ok(()),
            Self::Input(tensor) => Ok(tensor.wait_in(stream)?),
            Self::Output(buffer) => wait_for(buffer, stream),
        }
    }

    /// Keeps what is bound until the work so far in `stream` is done.
    pub(super) fn used_by(&self, stream: &Stream) -> Result<()> {
        match self {
            Self::None | Self::Values(_) => Ok(()),
            Self::Input(tensor) => Ok(tensor.buffer().read_by(stream)?),
            Self::Output(buffer) => Ok(buffer.read_by(stream)?),
        }
    }
}

/// Lets work in `stream` begin after the work so far in a buffer's own stream.
pub(super) fn wait_for(buffer: &DeviceBuffer, stream: &Stream) -> Result<()> {
    if buffer.stream().is_same(stream) {
        return Ok(());
    }
    let event = buffer.stream().record()?;
    Ok(stream.wait(&event)?)
}

/// Numbers in host memory, at an address that the library takes.
#[derive(Debug)]
pub(super) struct HostValues(Vec<Chunk>);

/// The library wants addresses that are multiples of 256.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(256))]
struct Chunk([u8; 256]);

impl HostValues {
    /// # Errors
    /// [`Error::Mismatch`] for a dtype without whole numbers, and for numbers that it lacks.
    pub(super) fn new(name: &str, dtype: DType, values: &[i64]) -> Result<Self> {
        let failed = |found: String| Error::Mismatch {
            name: name.to_owned(),
            expected: format!("values of {dtype}"),
            found,
        };
        let mut bytes = Vec::new();
        for &value in values {
            match dtype {
                DType::I64 => bytes.extend(value.to_ne_bytes()),
                DType::I32 => {
                    let value = i32::try_from(value).map_err(|_| failed(value.to_string()))?;
                    bytes.extend(value.to_ne_bytes());
                }
                DType::Bool if matches!(value, 0 | 1) => bytes.push(value as u8),
                DType::U8 => {
                    bytes.push(u8::try_from(value).map_err(|_| failed(value.to_string()))?);
                }
                _ => return Err(failed("whole numbers".to_owned())),
            }
        }
        // At least one, so that there is an address.
        let mut chunks = vec![Chunk([0; 256]); bytes.len().div_ceil(256).max(1)];
        for (chunk, part) in chunks.iter_mut().zip(bytes.chunks(256)) {
            chunk.0[..part.len()].copy_from_slice(part);
        }
        Ok(Self(chunks))
    }

    /// The address of the first.
    pub(super) fn as_ptr(&self) -> *const c_void {
        self.0.as_ptr().cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lie_at_aligned_addresses_one_after_the_other() {
        let numbers = (0..100).collect::<Vec<i64>>();
        let values = HostValues::new("x", DType::I32, &numbers).unwrap();
        assert_eq!(values.as_ptr().align_offset(256), 0);
        let bytes = values
            .0
            .iter()
            .flat_map(|chunk| chunk.0)
            .collect::<Vec<_>>();
        let found = bytes
            .chunks(4)
            .map(|four| i32::from_ne_bytes(four.try_into().unwrap()));
        assert!(found.take(100).map(i64::from).eq(numbers));
        let empty = HostValues::new("x", DType::I64, &[]).unwrap();
        assert!(!empty.as_ptr().is_null());
    }

    #[test]
    fn values_that_do_not_fit_are_refused() {
        for (dtype, value) in [
            (DType::I32, 1 << 40),
            (DType::Bool, 2),
            (DType::F32, 1),
            (DType::U8, -1),
        ] {
            let error = HostValues::new("x", dtype, &[value]).unwrap_err();
            assert!(
                error.to_string().starts_with("`x`: expected values of"),
                "{error}"
            );
        }
    }
}
