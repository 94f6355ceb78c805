//! Weights as a file stores them, widened to f32 piece by piece.

use half::{bf16, f16};
use std::ops::Range;
use std::sync::LazyLock;
use tintype_tensor::f8e4m3_to_f32;

/// A weight's values in their stored type, row-major.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Weights<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// The upper half of 32-bit floats.
    BF16(&'a [bf16]),
    /// 16-bit floats.
    F16(&'a [f16]),
    /// 8-bit floats, unscaled codes.
    F8E4M3(&'a [u8]),
}

impl Weights<'_> {
    /// The number of values.
    pub const fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::BF16(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::F8E4M3(values) => values.len(),
        }
    }

    /// Whether there are no values.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the values of `range` to `out`, exactly.
    ///
    /// # Panics
    /// If the range is out of bounds or has another length than `out`.
    pub fn widen(&self, range: Range<usize>, out: &mut [f32]) {
        match self {
            Self::F32(values) => out.copy_from_slice(&values[range]),
            Self::BF16(values) => widen_bf16(&values[range], out),
            Self::F16(values) => widen_f16(&values[range], out),
            Self::F8E4M3(codes) => widen_f8(&codes[range], out),
        }
    }

    /// The values of `range` as f32: those stored, or widened into `scratch`.
    pub(super) fn read<'s>(&'s self, range: Range<usize>, scratch: &'s mut Vec<f32>) -> &'s [f32] {
        if let Self::F32(values) = self {
            return &values[range];
        }
        scratch.resize(range.len(), 0.0);
        self.widen(range, scratch);
        scratch
    }
}

vectorised! {
    fn widen_bf16<'a>(_simd; values: &'a [bf16], out: &'a mut [f32]) {
        assert_eq!(values.len(), out.len(), "widen: lengths");
        for (target, value) in out.iter_mut().zip(values) {
            *target = f32::from_bits(u32::from(value.to_bits()) << 16);
        }
    }
}

vectorised! {
    fn widen_f16<'a>(_simd; values: &'a [f16], out: &'a mut [f32]) {
        assert_eq!(values.len(), out.len(), "widen: lengths");
        for (target, value) in out.iter_mut().zip(values) {
            *target = f16_to_f32(value.to_bits());
        }
    }
}

/// The f32 of an f16: the bits moved to f32's fields, the exponent's bias corrected
/// by a product with 2¹¹², which is exact for subnormals too.
#[inline(always)]
fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let value = f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23);
    let special = f32::from_bits(magnitude | 0x7f80_0000);
    let value = if magnitude >= 0x7c00 << 13 {
        special
    } else {
        value
    };
    f32::from_bits(value.to_bits() | sign)
}

fn widen_f8(codes: &[u8], out: &mut [f32]) {
    assert_eq!(codes.len(), out.len(), "widen: lengths");
    for (target, &code) in out.iter_mut().zip(codes) {
        *target = F8_VALUES[usize::from(code)];
    }
}

static F8_VALUES: LazyLock<[f32; 256]> =
    LazyLock::new(|| std::array::from_fn(|code| f8e4m3_to_f32(code as u8)));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_widens_to_its_value() {
        let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        let brains: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
        let codes: Vec<u8> = (0..=u8::MAX).collect();
        let mut out = vec![0.0; halves.len()];
        Weights::F16(&halves).widen(0..halves.len(), &mut out);
        for (value, &found) in halves.iter().zip(&out) {
            assert!(
                value.to_f32().to_bits() == found.to_bits() || (value.is_nan() && found.is_nan())
            );
        }
        Weights::BF16(&brains).widen(0..brains.len(), &mut out);
        for (value, &found) in brains.iter().zip(&out) {
            assert!(value.to_f32() == found || (value.is_nan() && found.is_nan()));
        }
        Weights::F8E4M3(&codes).widen(3..256, &mut out[..253]);
        for (&code, &found) in codes[3..].iter().zip(&out) {
            let expected = f8e4m3_to_f32(code);
            assert!(expected == found || (expected.is_nan() && found.is_nan()));
        }
    }
}
