//! Numbers that every program can compute for itself: a hash of a name and an index.
//!
//! `benches/peers/flux_weights.py` computes the same numbers to the bit, so that two programs have
//! the same weights and inputs and hand no file of 24 GB to each other. The numbers are spread
//! evenly over an interval; weights of a linear layer of `n` columns have the deviation 1/√n, so
//! that what they multiply keeps its size.
//!
//! ```text
//! key    = FNV-1a of the name, 32 bits
//! hash   = mix(index xor key)
//! number = ((hash >> 8) − 2²³) · factor, in f32, then rounded to the dtype
//! ```

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use tintype_ir::Graph;
use tintype_tensor::{DType, Shape, Tensor};
use tintype_weights::Parameters;

use super::super::Result;

/// All parameters of a graph, in host memory, each of its dtype there.
pub(crate) fn parameters(graph: &Graph) -> Result<Parameters> {
    let mut builder = Parameters::builder();
    for parameter in graph.parameters() {
        let name = parameter.name.as_str();
        let shape = parameter.ty.static_shape();
        let shape = shape.ok_or_else(|| format!("parameter `{name}` has no shape of its own"))?;
        builder = builder.tensor(name, weight(name, parameter.ty.dtype, &shape)?);
    }
    Ok(builder.build()?)
}

/// A parameter of a model: a matrix, a gain near 1, or a bias near 0.
pub(crate) fn weight(name: &str, dtype: DType, shape: &Shape) -> Result<Tensor> {
    let columns: usize = shape.iter().skip(1).product();
    match shape.len() {
        0 | 1 if name.contains("norm") && name.ends_with(".weight") => {
            tensor(name, dtype, shape, 1.0, 0.1)
        }
        0 | 1 => tensor(name, dtype, shape, 0.0, 0.02),
        _ => tensor(
            name,
            dtype,
            shape,
            0.0,
            1.0 / (columns.max(1) as f64).sqrt(),
        ),
    }
}

/// Numbers around 0 with the deviation 1.
pub(crate) fn noise(name: &str, dtype: DType, shape: impl Into<Shape>) -> Result<Tensor> {
    tensor(name, dtype, &shape.into(), 0.0, 1.0)
}

fn tensor(name: &str, dtype: DType, shape: &Shape, middle: f32, deviation: f64) -> Result<Tensor> {
    let sequence = Sequence {
        key: key(name),
        middle,
        // Evenly spread numbers in −a..a have the deviation a/√3.
        factor: (deviation * 3f64.sqrt() / f64::from(1 << 23)) as f32,
    };
    let count = shape.element_count();
    Ok(match dtype {
        DType::F32 => {
            let mut values = vec![0f32; count];
            sequence.fill(&mut values, |to, from| to.copy_from_slice(from));
            Tensor::new(shape.clone(), values)?
        }
        DType::BF16 => {
            let mut values = vec![bf16::ZERO; count];
            sequence.fill(&mut values, HalfFloatSliceExt::convert_from_f32_slice);
            Tensor::new(shape.clone(), values)?
        }
        DType::F16 => {
            let mut values = vec![f16::ZERO; count];
            sequence.fill(&mut values, HalfFloatSliceExt::convert_from_f32_slice);
            Tensor::new(shape.clone(), values)?
        }
        other => return Err(format!("random numbers are f32, bf16 or f16, not {other}").into()),
    })
}

/// The numbers of one name.
#[derive(Clone, Copy)]
struct Sequence {
    key: u32,
    middle: f32,
    factor: f32,
}

impl Sequence {
    fn number(self, index: usize) -> f32 {
        let spread = (mix(index as u32 ^ self.key) >> 8) as i32 - (1 << 23);
        // Exact until the product, which is rounded as the sum is.
        self.middle + spread as f32 * self.factor
    }

    /// Fills on all cores; `convert` rounds some numbers to the element's type.
    fn fill<T: Send>(self, values: &mut [T], convert: impl Fn(&mut [T], &[f32]) + Sync) {
        values
            .par_chunks_mut(PIECE)
            .enumerate()
            .for_each(|(piece, values)| {
                let mut numbers = [0f32; PIECE];
                let numbers = &mut numbers[..values.len()];
                for (offset, number) in numbers.iter_mut().enumerate() {
                    *number = self.number(piece * PIECE + offset);
                }
                convert(values, numbers);
            });
    }
}

/// Elements that a core fills at once.
const PIECE: usize = 4096;

/// FNV-1a.
fn key(name: &str) -> u32 {
    let add = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    name.bytes().fold(0x811c_9dc5, add)
}

/// A mixing function of 32 bits that is one to one.
fn mix(mut bits: u32) -> u32 {
    bits = (bits ^ (bits >> 16)).wrapping_mul(0x7feb_352d);
    bits = (bits ^ (bits >> 15)).wrapping_mul(0x846c_a68b);
    bits ^ (bits >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same bits as `python benches/peers/flux_weights.py --check` prints.
    #[test]
    fn numbers_are_those_of_the_peers() {
        let sum = |name: &str, dtype: DType, shape: &[usize]| {
            let tensor = weight(name, dtype, &Shape::from(shape)).unwrap();
            let add = |sum: u32, byte: &u8| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
            format!("{:08x}", tensor.bytes().iter().fold(0x811c_9dc5, add))
        };
        let found = [
            sum("a.weight", DType::BF16, &[96, 40]),
            sum("a.weight", DType::F16, &[96, 40]),
            sum("a.weight", DType::F32, &[96, 40]),
            sum("a.norm_q.weight", DType::BF16, &[128]),
            sum("a.bias", DType::BF16, &[3072]),
            sum("conv.weight", DType::BF16, &[8, 4, 3, 3]),
        ];
        assert_eq!(found, CHECKED);
    }

    #[test]
    fn rows_keep_the_size_of_what_they_multiply() {
        let tensor = weight("b.weight", DType::F32, &Shape::from([64, 400])).unwrap();
        let values = tensor.to_f32_vec().unwrap();
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let square = values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32;
        assert!(mean.abs() < 2e-3, "{mean}");
        assert!((square * 400.0 - 1.0).abs() < 0.03, "{square}");
        let other = weight("c.weight", DType::F32, &Shape::from([64, 400])).unwrap();
        assert_ne!(other.bytes(), tensor.bytes());
    }

    #[test]
    fn gains_are_near_one() {
        let tensor = weight("norm_q.weight", DType::F32, &Shape::from([128])).unwrap();
        let values = tensor.to_f32_vec().unwrap();
        assert!(values.iter().all(|value| (value - 1.0).abs() < 0.2));
        assert!(weight("ids", DType::I64, &Shape::from([4])).is_err());
    }

    const CHECKED: [&str; 6] = [
        "cf1c0863", "f2e5b090", "51ab0cde", "77d83dfd", "f829c522", "92dd8532",
    ];
}
