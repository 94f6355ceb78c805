//! Times algorithms on the device.
//!
//! Each runs on memory of its own, filled with numbers of both signs near 1, as a GPU that
//! multiplies zeros stays cooler and faster than one that works. An algorithm is warmed up once,
//! run until it has taken some tenths of a millisecond, and judged by the median of a few such
//! samples; one that is far slower than the best so far is dropped after its first.

use cudarc::driver::result;
use tintype_device::{DeviceBuffer, Stream};
use tintype_tensor::DType;

use super::descriptors::{Algorithm, Matrices, Operation, Pointer, Pointers};
use super::layout::ProductLayout;
use super::library::Library;
use crate::Result;

/// A product with memory to run it on.
pub(super) struct Trial<'a> {
    library: &'a Library,
    matrices: &'a Matrices,
    operation: &'a mut Operation,
    stream: &'a Stream,
    operands: [DeviceBuffer; 3],
    /// What the descriptor points at.
    pointed: Vec<(Pointer, DeviceBuffer)>,
    workspace: DeviceBuffer,
}

/// The fastest of some algorithms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fastest {
    /// Its place among them.
    pub(super) place: usize,
    /// How long a run takes.
    pub(super) nanoseconds: u64,
    /// How long the first takes, if it runs.
    pub(super) first: Option<u64>,
}

impl<'a> Trial<'a> {
    /// Memory for the operands of one call and `workspace` bytes.
    ///
    /// # Errors
    /// [`tintype_device::Error::OutOfMemory`]
    pub(super) fn new(
        library: &'a Library,
        (matrices, operation): (&'a Matrices, &'a mut Operation),
        layout: &ProductLayout,
        workspace: usize,
        stream: &'a Stream,
    ) -> Result<Self> {
        let extents = layout.extents();
        let noise = |place: usize| noise(stream, layout.matrices[place].dtype, extents[place]);
        let pointed = layout.pointers().into_iter().map(|pointer| {
            let (dtype, count) = layout.pointed(pointer);
            let memory = self::noise(stream, dtype, count * dtype.bits() / 8)?;
            Ok((pointer, memory))
        });
        Ok(Self {
            library,
            matrices,
            operation,
            stream,
            operands: [noise(0)?, noise(1)?, noise(2)?],
            pointed: pointed.collect::<Result<_>>()?,
            workspace: DeviceBuffer::allocate(stream, workspace)?,
        })
    }

    /// The fastest algorithm; `None` if none runs.
    ///
    /// # Errors
    /// What the device says when it fails at work that it had taken; it is lost then.
    pub(super) fn fastest(&mut self, algorithms: &[Algorithm]) -> Result<Option<Fastest>> {
        self.stream.device().bind()?;
        for (pointer, memory) in &self.pointed {
            let pointed = self.operation.point(*pointer, memory.address());
            pointed.map_err(|failure| failure.of("timing"))?;
        }
        let mut fastest: Option<Fastest> = None;
        for (place, algorithm) in algorithms.iter().enumerate() {
            let best = fastest.map(|fastest| fastest.nanoseconds);
            let Some(nanoseconds) = self.time(algorithm, best)? else {
                continue;
            };
            if best.is_none_or(|best| nanoseconds < best) {
                fastest = Some(Fastest {
                    place,
                    nanoseconds,
                    first: fastest.and_then(|fastest| fastest.first),
                });
            }
            if let Some(fastest) = fastest.as_mut().filter(|_| place == 0) {
                fastest.first = Some(nanoseconds);
            }
        }
        self.stream.synchronize()?;
        Ok(fastest)
    }

    /// How long a run takes; `None` if the library refuses it.
    fn time(&self, algorithm: &Algorithm, best: Option<u64>) -> Result<Option<u64>> {
        if self.sample(algorithm, 1)?.is_none() {
            return Ok(None);
        }
        let Some(first) = self.sample(algorithm, 1)? else {
            return Ok(None);
        };
        if is_hopeless(first, best) {
            return Ok(Some(first));
        }
        let runs = runs_of(first);
        let mut samples = Vec::with_capacity(SAMPLES);
        for _ in 0..SAMPLES {
            samples.extend(self.sample(algorithm, runs)?);
        }
        Ok(median(samples))
    }

    /// The nanoseconds of a run, as a mean of `runs` one after another.
    fn sample(&self, algorithm: &Algorithm, runs: u32) -> Result<Option<u64>> {
        let pointers = Pointers {
            operands: [0, 1, 2].map(|place: usize| self.operands[place].address()),
            workspace: self.workspace.address(),
        };
        let start = self.stream.record_timed()?;
        for _ in 0..runs {
            // SAFETY: the context was made current; all buffers are of this stream and as large
            // as the layout and the algorithm need, and the trial keeps them.
            let enqueued = unsafe {
                let (library, operation) = (self.library, &*self.operation);
                self.matrices
                    .enqueue(library, operation, algorithm, pointers, self.stream)
            };
            if let Err(failure) = enqueued {
                tracing::debug!("{}", failure.of("timing"));
                return Ok(None);
            }
        }
        let end = self.stream.record_timed()?;
        let milliseconds = f64::from(end.milliseconds_since(&start)?);
        Ok(Some((milliseconds * 1e6 / f64::from(runs)) as u64))
    }
}

/// Whether more samples of an algorithm are not worth their time.
fn is_hopeless(sample: u64, best: Option<u64>) -> bool {
    best.is_some_and(|best| sample > best + best / 2)
}

/// How many runs fill a sample.
fn runs_of(nanoseconds: u64) -> u32 {
    let runs = SAMPLE_NANOSECONDS / nanoseconds.max(1);
    runs.clamp(1, MOST_RUNS) as u32
}

fn median(mut samples: Vec<u64>) -> Option<u64> {
    samples.sort_unstable();
    samples.get(samples.len() / 2).copied()
}

/// Memory full of numbers of a dtype: a block of them from the host, again and again.
fn noise(stream: &Stream, dtype: DType, len: usize) -> Result<DeviceBuffer> {
    let buffer = DeviceBuffer::allocate(stream, len)?;
    let block = numbers(dtype, len.min(BLOCK_BYTES));
    // SAFETY: the block fits into the buffer and lives until the stream was waited for below.
    let copied = unsafe {
        result::memcpy_htod_async(buffer.address(), &block, stream.as_cudarc().cu_stream())
    };
    stream.synchronize()?;
    if let Err(error) = copied {
        // Any content will do, if need be.
        tracing::debug!("filling memory for timing: {error:?}");
    }
    let mut filled = block.len();
    while filled > 0 && filled < len {
        let next = filled.min(len - filled);
        buffer.copy_from(filled, &buffer, 0..next, stream)?;
        filled += next;
    }
    Ok(buffer)
}

/// Bytes of numbers of either sign, from 1/4 to 2.
fn numbers(dtype: DType, len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state
    };
    let mut bytes = Vec::with_capacity(len + 4);
    while bytes.len() < len {
        let (bits, choice) = (next(), next() >> 16);
        let sign = bits & 0x8000_0000;
        let exponent = 125 + choice % 3;
        let single = sign | exponent << 23 | bits >> 8 & 0x007f_ffff;
        match dtype {
            DType::F32 => bytes.extend(single.to_le_bytes()),
            DType::F16 => {
                let half = sign >> 16 | (exponent - 112) << 10 | bits >> 21 & 0x03ff;
                bytes.extend((half as u16).to_le_bytes());
            }
            DType::BF16 => bytes.extend(((single >> 16) as u16).to_le_bytes()),
            _ => bytes.push((sign >> 24 | (exponent - 120) << 3 | bits >> 20 & 7) as u8),
        }
    }
    bytes.truncate(len);
    bytes
}

const SAMPLES: usize = 5;

const SAMPLE_NANOSECONDS: u64 = 400_000;

const MOST_RUNS: u64 = 20;

const BLOCK_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use tintype_tensor::Tensor;

    use super::*;

    #[test]
    fn a_sample_is_neither_short_nor_endless() {
        assert_eq!(runs_of(0), 20);
        assert_eq!(runs_of(5_000), 20);
        assert_eq!(runs_of(100_000), 4);
        assert_eq!(runs_of(900_000), 1);
        assert_eq!(median(vec![9, 1, 5]), Some(5));
        assert_eq!(median(Vec::new()), None);
        assert!(is_hopeless(200, Some(100)));
        assert!(!is_hopeless(140, Some(100)));
        assert!(!is_hopeless(140, None));
    }

    #[test]
    fn numbers_are_near_one_in_each_dtype() {
        let words = |dtype, len: usize| -> Vec<f32> {
            let bytes = numbers(dtype, len);
            assert_eq!(bytes.len(), len);
            match dtype {
                DType::F32 => bytes
                    .chunks(4)
                    .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
                    .collect(),
                DType::F8E4M3 => {
                    let tensor = Tensor::from_bytes(dtype, [len], bytes).unwrap();
                    tensor.to_f32_vec().unwrap()
                }
                DType::BF16 => bytes
                    .chunks(2)
                    .map(|bytes| f32::from_le_bytes([0, 0, bytes[0], bytes[1]]))
                    .collect(),
                _ => bytes
                    .chunks(2)
                    .map(|bytes| {
                        let half = u32::from(u16::from_le_bytes(bytes.try_into().unwrap()));
                        let exponent = (half >> 10 & 31) + 112;
                        let sign = (half & 0x8000) << 16;
                        f32::from_bits(sign | exponent << 23 | (half & 0x3ff) << 13)
                    })
                    .collect(),
            }
        };
        for dtype in [DType::F32, DType::BF16, DType::F16, DType::F8E4M3] {
            let values = words(dtype, 4096);
            assert!(
                values
                    .iter()
                    .all(|value| (0.25..2.0).contains(&value.abs())),
                "{dtype}"
            );
            let negative = values.iter().filter(|value| **value < 0.0).count();
            assert!(negative > values.len() / 3, "{dtype}");
        }
    }
}
