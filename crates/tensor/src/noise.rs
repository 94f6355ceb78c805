//! Normal noise equal to what PyTorch's CPU generator draws for the same seed.
//!
//! The generator is MT19937 (Matsumoto and Nishimura, 1998). Sixteen or more
//! values are drawn as uniforms of 24 bits, then turned to normals in blocks of
//! sixteen by the Box–Muller transform; fewer are drawn one by one from 53-bit
//! uniforms, in pairs. Equal to PyTorch to the last digits of `ln`, `sin`, `cos`.

use crate::{DType, Result, Shape, Tensor};

/// A source of random numbers that repeats `torch.Generator("cpu")`.
///
/// ```
/// # use tintype_tensor::TorchGenerator;
/// let mut generator = TorchGenerator::new(0);
/// let noise = generator.randn([1, 4, 4, 4])?;
/// assert!((noise.to_f32_vec()?[0] - -1.125_840).abs() < 1e-5);
/// # Ok::<(), tintype_tensor::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct TorchGenerator {
    state: Box<[u32; STATE]>,
    index: usize,
    spare_normal: Option<f64>,
}

const STATE: usize = 624;
const MIDDLE: usize = 397;

impl TorchGenerator {
    /// A generator as `torch.Generator().manual_seed(seed)`: only the low 32 bits
    /// of the seed enter the state, as in PyTorch.
    pub fn new(seed: u64) -> Self {
        let mut state = Box::new([0u32; STATE]);
        state[0] = seed as u32;
        for index in 1..STATE {
            let previous = state[index - 1];
            state[index] = 1_812_433_253u32
                .wrapping_mul(previous ^ (previous >> 30))
                .wrapping_add(index as u32);
        }
        Self {
            state,
            index: STATE,
            spare_normal: None,
        }
    }

    /// f32 noise of the given shape, as `torch.randn(shape, generator=…)`.
    pub fn randn(&mut self, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        shape.byte_len(DType::F32)?;
        let count = shape.element_count();
        let values = if count >= BLOCK {
            self.normals_in_blocks(count)
        } else {
            (0..count).map(|_| self.next_normal() as f32).collect()
        };
        Tensor::from_f32(shape, values)
    }

    fn normals_in_blocks(&mut self, count: usize) -> Vec<f32> {
        let mut values: Vec<f32> = (0..count).map(|_| self.next_uniform_f32()).collect();
        let mut blocks = values.chunks_exact_mut(BLOCK);
        for block in &mut blocks {
            to_normals(block);
        }
        // A tail shorter than a block is redrawn together with its predecessors.
        if !blocks.into_remainder().is_empty() {
            let tail = &mut values[count - BLOCK..];
            for value in tail.iter_mut() {
                *value = self.next_uniform_f32();
            }
            to_normals(tail);
        }
        values
    }

    fn next_uniform_f32(&mut self) -> f32 {
        (self.next_u32() & ((1 << 24) - 1)) as f32 * 2f32.powi(-24)
    }

    fn next_uniform_f64(&mut self) -> f64 {
        let high = u64::from(self.next_u32());
        let low = u64::from(self.next_u32());
        let bits = ((high << 32) | low) & ((1 << 53) - 1);
        bits as f64 * 2f64.powi(-53)
    }

    fn next_normal(&mut self) -> f64 {
        if let Some(normal) = self.spare_normal.take() {
            return normal;
        }
        let angle = 2.0 * std::f64::consts::PI * self.next_uniform_f64();
        let radius = (-2.0 * (-self.next_uniform_f64()).ln_1p()).sqrt();
        self.spare_normal = Some(radius * angle.sin());
        radius * angle.cos()
    }

    fn next_u32(&mut self) -> u32 {
        if self.index == STATE {
            self.refill();
        }
        let mut word = self.state[self.index];
        self.index += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    fn refill(&mut self) {
        for index in 0..STATE {
            let next = self.state[(index + 1) % STATE];
            let mixed = (self.state[index] & 0x8000_0000) | (next & 0x7fff_ffff);
            let twist = if next & 1 == 0 { 0 } else { 0x9908_b0df };
            self.state[index] = self.state[(index + MIDDLE) % STATE] ^ (mixed >> 1) ^ twist;
        }
        self.index = 0;
    }
}

const BLOCK: usize = 16;

fn to_normals(block: &mut [f32]) {
    let (radii, angles) = block.split_at_mut(BLOCK / 2);
    for (first, second) in radii.iter_mut().zip(angles) {
        let radius = (-2.0 * (1.0 - *first).ln()).sqrt();
        let angle = 2.0 * std::f32::consts::PI * *second;
        *first = radius * angle.cos();
        *second = radius * angle.sin();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_mt19937() {
        // The ten-thousandth output for seed 5489, as the C++ standard requires.
        let mut generator = TorchGenerator::new(5489);
        let last = (0..10_000).map(|_| generator.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    /// Recorded from `torch.randn` (PyTorch 2.11): three calls on one generator.
    #[test]
    fn small_draws_repeat_pytorch() {
        let mut generator = TorchGenerator::new(12_345_678_901_234);
        let first = generator.randn([3]).unwrap().to_f32_vec().unwrap();
        let second = generator.randn([2]).unwrap().to_f32_vec().unwrap();
        let third = generator.randn([2]).unwrap().to_f32_vec().unwrap();
        let expected = [
            1.266_054_2,
            1.043_764_4,
            -1.630_600_7,
            0.643_871_2,
            0.718_049,
            -0.627_451_2,
            0.341_175_5,
        ];
        let drawn = [first, second, third].concat();
        assert!(crate::relative_error(&drawn, &expected) < 1e-6, "{drawn:?}");
    }

    #[test]
    fn block_draws_repeat_pytorch() {
        let mut generator = TorchGenerator::new(12_345_678_901_234);
        let tail = |n: usize, generator: &mut TorchGenerator| {
            generator.randn([n]).unwrap().to_f32_vec().unwrap()[n - 3..].to_vec()
        };
        let whole_blocks = tail(16, &mut generator);
        let expected = [-0.408_915_34, -0.427_165_03, -0.193_532_35];
        assert!(
            crate::relative_error(&whole_blocks, &expected) < 1e-6,
            "{whole_blocks:?}"
        );
        let redrawn = tail(17, &mut TorchGenerator::new(12_345_678_901_234));
        let expected = [2.108_603_7, 0.227_814_12, -0.041_752_074];
        assert!(
            crate::relative_error(&redrawn, &expected) < 1e-6,
            "{redrawn:?}"
        );
    }
}
