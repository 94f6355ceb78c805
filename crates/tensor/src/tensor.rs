//! Host tensors: dtype, shape, and shared row-major little-endian bytes.
//!
//! A tensor is a cheap handle; its bytes never change. It holds no arithmetic:
//! that is the business of graphs and backends.

use std::borrow::Cow;
use std::sync::Arc;

use half::{bf16, f16};

use crate::storage::Storage;
use crate::{
    ByteOwner, DType, Error, Result, Shape, f4e2m1_from_f32, f4e2m1_to_f32, f8e4m3_from_f32,
    f8e4m3_to_f32,
};

/// A tensor in host memory.
#[derive(Debug, Clone)]
pub struct Tensor {
    dtype: DType,
    shape: Shape,
    storage: Storage,
}

/// A Rust type that is the element of one dtype.
pub trait Element: bytemuck::Pod + Send + Sync {
    /// The dtype of this element.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($type:ty => $dtype:ident),*) => {
        $(impl Element for $type { const DTYPE: DType = DType::$dtype; })*
    };
}
elements!(f32 => F32, f16 => F16, bf16 => BF16, i64 => I64, i32 => I32, u8 => U8);

impl Tensor {
    /// A tensor of `values` in row-major order.
    pub fn new<T: Element>(shape: impl Into<Shape>, values: Vec<T>) -> Result<Self> {
        Self::with_dtype(T::DTYPE, shape.into(), Storage::from_vec(values))
    }

    /// An f32 tensor of `values` in row-major order.
    pub fn from_f32(shape: impl Into<Shape>, values: Vec<f32>) -> Result<Self> {
        Self::new(shape, values)
    }

    /// A tensor of raw little-endian bytes.
    pub fn from_bytes(dtype: DType, shape: impl Into<Shape>, bytes: Vec<u8>) -> Result<Self> {
        Self::with_dtype(dtype, shape.into(), Storage::from_vec(bytes))
    }

    /// A view of `range` of the bytes of `owner`, for example of a mapped file.
    pub fn from_owner(
        dtype: DType,
        shape: impl Into<Shape>,
        owner: Arc<dyn ByteOwner>,
        range: std::ops::Range<usize>,
    ) -> Result<Self> {
        let shape = shape.into();
        let found = owner.bytes().len().saturating_sub(range.start);
        match Storage::from_owner(owner, range) {
            Some(storage) => Self::with_dtype(dtype, shape, storage),
            None => Err(Error::Size {
                expected: shape.byte_len(dtype)?,
                dtype,
                shape,
                found,
            }),
        }
    }

    /// A tensor of one value without axes.
    pub fn scalar<T: Element>(value: T) -> Self {
        let storage = Storage::from_vec(vec![value]);
        Self {
            dtype: T::DTYPE,
            shape: Shape::default(),
            storage,
        }
    }

    /// A tensor of `dtype` whose elements are `values`, each rounded once.
    pub fn from_f32_as(dtype: DType, shape: impl Into<Shape>, values: Vec<f32>) -> Result<Self> {
        let shape = shape.into();
        let storage = match dtype {
            DType::F32 => Storage::from_vec(values),
            DType::F16 => Storage::from_vec(map(&values, f16::from_f32)),
            DType::BF16 => Storage::from_vec(map(&values, bf16::from_f32)),
            DType::F8E4M3 => Storage::from_vec(map(&values, f8e4m3_from_f32)),
            DType::F4E2M1 => Storage::from_vec(pack_f4(&values)),
            DType::I64 => Storage::from_vec(map(&values, |value| value as i64)),
            DType::I32 => Storage::from_vec(map(&values, |value| value as i32)),
            DType::U8 => Storage::from_vec(map(&values, |value| value as u8)),
            DType::Bool => Storage::from_vec(map(&values, |value| u8::from(value != 0.0))),
        };
        Self::with_dtype(dtype, shape, storage)
    }

    fn with_dtype(dtype: DType, shape: Shape, storage: Storage) -> Result<Self> {
        let (expected, found) = (shape.byte_len(dtype)?, storage.bytes().len());
        if expected != found {
            return Err(Error::Size {
                dtype,
                shape,
                expected,
                found,
            });
        }
        Ok(Self {
            dtype,
            shape,
            storage,
        })
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The sizes of the axes.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The number of elements.
    pub fn element_count(&self) -> usize {
        self.shape.element_count()
    }

    /// The bytes, row-major, little-endian.
    pub fn bytes(&self) -> &[u8] {
        self.storage.bytes()
    }

    /// The elements, without a copy; an error for another dtype or unaligned bytes.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        if T::DTYPE != self.dtype {
            return Err(Error::DType {
                expected: T::DTYPE,
                found: self.dtype,
            });
        }
        bytemuck::try_cast_slice(self.bytes()).map_err(|_| Error::Unaligned(self.dtype))
    }

    /// The elements, borrowed if their bytes are aligned and copied if not.
    pub fn to_slice<T: Element>(&self) -> Result<Cow<'_, [T]>> {
        match self.as_slice() {
            Ok(values) => Ok(Cow::Borrowed(values)),
            Err(Error::Unaligned(_)) => Ok(Cow::Owned(bytemuck::pod_collect_to_vec(self.bytes()))),
            Err(error) => Err(error),
        }
    }

    /// The elements as f32, borrowed where they are f32 already.
    pub fn to_f32(&self) -> Result<Cow<'_, [f32]>> {
        match self.dtype {
            DType::F32 => self.to_slice(),
            _ => self.to_f32_vec().map(Cow::Owned),
        }
    }

    /// The elements as f32, in row-major order. i64 and i32 lose precision beyond 2^24.
    pub fn to_f32_vec(&self) -> Result<Vec<f32>> {
        let mut values = vec![0.0; self.element_count()];
        self.read_f32(0, &mut values)?;
        Ok(values)
    }

    /// Reads `out.len()` elements from `start` on as f32, without holding the rest.
    ///
    /// # Panics
    /// If the range lies outside of the tensor; a caller counts elements first.
    pub fn read_f32(&self, start: usize, out: &mut [f32]) -> Result<()> {
        assert!(
            start + out.len() <= self.element_count(),
            "a range within the tensor"
        );
        let bytes = self.bytes();
        let size = self.dtype.bits() / 8;
        let part = |size: usize| &bytes[start * size..(start + out.len()) * size];
        match self.dtype {
            DType::F32 => read(part(size), out, f32::from_le_bytes),
            DType::F16 => read(part(size), out, |b| f16::from_le_bytes(b).to_f32()),
            DType::BF16 => read(part(size), out, |b| bf16::from_le_bytes(b).to_f32()),
            DType::F8E4M3 => read(part(size), out, |[b]: [u8; 1]| f8e4m3_to_f32(b)),
            DType::I64 => read(part(size), out, |b| i64::from_le_bytes(b) as f32),
            DType::I32 => read(part(size), out, |b| i32::from_le_bytes(b) as f32),
            DType::U8 => read(part(size), out, |[b]: [u8; 1]| f32::from(b)),
            DType::Bool => read(part(size), out, |[b]: [u8; 1]| f32::from(u8::from(b != 0))),
            DType::F4E2M1 => {
                for (offset, value) in out.iter_mut().enumerate() {
                    let index = start + offset;
                    *value = f4e2m1_to_f32(bytes[index / 2] >> (4 * (index % 2)));
                }
            }
        }
        Ok(())
    }

    /// The integers of an i64, i32, u8 or bool tensor.
    pub fn to_i64_vec(&self) -> Result<Vec<i64>> {
        match self.dtype {
            DType::I64 => Ok(self.to_slice::<i64>()?.into_owned()),
            DType::I32 => Ok(self
                .to_slice::<i32>()?
                .iter()
                .map(|&v| i64::from(v))
                .collect()),
            DType::U8 | DType::Bool => Ok(self.bytes().iter().map(|&v| i64::from(v)).collect()),
            found => Err(Error::DType {
                expected: DType::I64,
                found,
            }),
        }
    }

    /// The same values in another dtype, each rounded once; no copy if it is the same.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        if dtype == self.dtype {
            return Ok(self.clone());
        }
        if self.dtype.is_integer() && dtype.is_integer() {
            let values = self.to_i64_vec()?;
            let storage = match dtype {
                DType::I64 => Storage::from_vec(values),
                DType::I32 => Storage::from_vec(map(&values, |v| {
                    v.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
                })),
                _ => Storage::from_vec(map(&values, |v| v.clamp(0, 255) as u8)),
            };
            return Self::with_dtype(dtype, self.shape.clone(), storage);
        }
        Self::from_f32_as(dtype, self.shape.clone(), self.to_f32_vec()?)
    }

    /// The same elements under another shape of the same size, without a copy.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Result<Self> {
        Self::with_dtype(self.dtype, shape.into(), self.storage.clone())
    }

    /// Rows `start..end` of the outermost axis, without a copy.
    pub fn rows(&self, start: usize, end: usize) -> Result<Self> {
        let mut sizes = self.shape.to_vec();
        let fits = sizes
            .first()
            .is_some_and(|&size| start <= end && end <= size);
        if !fits {
            sizes.splice(..1.min(sizes.len()), [end]);
            return Err(Error::Shape {
                expected: sizes.into(),
                found: self.shape.clone(),
            });
        }
        sizes[0] = end - start;
        let row_bytes = self.bytes().len() / self.shape[0].max(1);
        let range = start * row_bytes..end * row_bytes;
        Self::with_dtype(self.dtype, sizes.into(), self.storage.part(&range))
    }

    /// An error unless the shape is `expected`.
    pub fn expect_shape(&self, expected: impl Into<Shape>) -> Result<()> {
        let expected = expected.into();
        if self.shape == expected {
            return Ok(());
        }
        Err(Error::Shape {
            expected,
            found: self.shape.clone(),
        })
    }
}

/// ‖a−b‖₂ / ‖b‖₂ in f64: the relative error of `a` against the reference `b`.
///
/// Zero where both are all zeros, infinite where only the reference is; NaN if
/// either holds one. Slices of different length have no relative error: NaN.
pub fn relative_error(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return f64::NAN;
    }
    let (mut difference, mut norm) = (0.0f64, 0.0f64);
    for (&a, &b) in a.iter().zip(b) {
        difference += (f64::from(a) - f64::from(b)).powi(2);
        norm += f64::from(b).powi(2);
    }
    if difference == 0.0 {
        return 0.0;
    }
    (difference / norm).sqrt()
}

fn map<A: Copy, B>(values: &[A], convert: impl Fn(A) -> B) -> Vec<B> {
    values.iter().map(|&value| convert(value)).collect()
}

fn read<const N: usize>(bytes: &[u8], out: &mut [f32], convert: impl Fn([u8; N]) -> f32) {
    let (chunks, _) = bytes.as_chunks::<N>();
    for (value, &chunk) in out.iter_mut().zip(chunks) {
        *value = convert(chunk);
    }
}

fn pack_f4(values: &[f32]) -> Vec<u8> {
    values
        .chunks(2)
        .map(|pair| {
            let high = pair.get(1).copied().map_or(0, f4e2m1_from_f32);
            f4e2m1_from_f32(pair[0]) | (high << 4)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_sizes_are_refused() {
        assert!(Tensor::from_f32([2, 3], vec![0.0; 5]).is_err());
        assert!(Tensor::from_bytes(DType::F4E2M1, [3], vec![0; 2]).is_ok());
        let owner: Arc<dyn ByteOwner> = Arc::new(Bytes(vec![0; 8]));
        assert!(Tensor::from_owner(DType::F32, [2], owner.clone(), 4..12).is_err());
        assert!(Tensor::from_owner(DType::F32, [1], owner, 4..8).is_ok());
    }

    #[test]
    fn unaligned_bytes_are_read_by_copy() {
        let mut bytes = vec![0u8];
        bytes.extend(1.5f32.to_le_bytes());
        bytes.extend((-2.0f32).to_le_bytes());
        let owner: Arc<dyn ByteOwner> = Arc::new(Bytes(bytes));
        let tensor = Tensor::from_owner(DType::F32, [2], owner, 1..9).unwrap();
        assert_eq!(&*tensor.to_f32().unwrap(), [1.5, -2.0]);
    }

    #[test]
    fn small_floats_pack_and_unpack() {
        let values = vec![0.5, -6.0, 3.0];
        let tensor = Tensor::from_f32_as(DType::F4E2M1, [3], values.clone()).unwrap();
        assert_eq!(tensor.bytes().len(), 2);
        assert_eq!(tensor.to_f32_vec().unwrap(), values);
    }

    #[test]
    fn rows_share_the_bytes() {
        let tensor = Tensor::new([3, 2], vec![0i64, 1, 2, 3, 4, 5]).unwrap();
        let part = tensor.rows(1, 3).unwrap();
        assert_eq!(part.to_i64_vec().unwrap(), [2, 3, 4, 5]);
        assert_eq!(part.bytes().as_ptr(), tensor.bytes()[16..].as_ptr());
        assert!(tensor.rows(2, 4).is_err());
    }

    struct Bytes(Vec<u8>);

    impl ByteOwner for Bytes {
        fn bytes(&self) -> &[u8] {
            &self.0
        }
    }
}
