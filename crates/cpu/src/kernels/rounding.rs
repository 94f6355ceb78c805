//! Rounding a slice to a dtype, without branches so that it vectorises.
//!
//! The results are those of [`DType::round`]; tests compare them bit by bit.

use tintype_tensor::DType;

/// Rounds every value to `rounding`; the caller holds the slice in cache.
pub(super) fn round_slice(rounding: DType, values: &mut [f32]) {
    match rounding {
        DType::F32 => {}
        DType::BF16 => round_bf16_slice(values),
        DType::F16 => round_f16_slice(values),
        other => other.round_slice(values),
    }
}

vectorised! {
    fn round_bf16_slice<'a>(_simd; values: &'a mut [f32]) {
        for value in values {
            *value = round_bf16(*value);
        }
    }
}

vectorised! {
    fn round_f16_slice<'a>(_simd; values: &'a mut [f32]) {
        for value in values {
            *value = round_f16(*value);
        }
    }
}

/// The nearest bf16 value, ties to even; the sum carries into the exponent as it must.
#[inline(always)]
fn round_bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    if value.is_nan() {
        f32::NAN
    } else {
        f32::from_bits(rounded)
    }
}

/// The nearest f16 value, ties to even; infinite from 65520 on.
#[inline(always)]
fn round_f16(value: f32) -> f32 {
    let sign = value.to_bits() & 0x8000_0000;
    let bits = value.to_bits() & 0x7fff_ffff;
    let magnitude = f32::from_bits(bits);
    let normal = f32::from_bits(bits.wrapping_add(0xfff + ((bits >> 13) & 1)) & 0xffff_e000);
    // In [0.5, 1) f32 has the spacing of f16's subnormals, 2^-24.
    let subnormal = (magnitude + 0.5) - 0.5;
    let finite = if magnitude < SMALLEST_NORMAL_F16 {
        subnormal
    } else {
        normal
    };
    let rounded = if magnitude >= 65520.0 {
        f32::INFINITY
    } else {
        finite
    };
    let result = f32::from_bits(rounded.to_bits() | sign);
    if value.is_nan() { f32::NAN } else { result }
}

const SMALLEST_NORMAL_F16: f32 = 6.103_515_625e-5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_dtype_on_every_exponent() {
        let mut values = Vec::new();
        for high in 0..=0xffffu32 {
            for low in [0, 1, 0x0fff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001, 0xffff] {
                values.push(f32::from_bits((high << 16) | low));
            }
        }
        for dtype in [DType::F32, DType::BF16, DType::F16, DType::F8E4M3] {
            let mut rounded = values.clone();
            round_slice(dtype, &mut rounded);
            for (&value, &found) in values.iter().zip(&rounded) {
                let expected = dtype.round(value);
                let same = expected.to_bits() == found.to_bits();
                assert!(
                    same || (expected.is_nan() && found.is_nan()),
                    "{dtype} {value}"
                );
            }
        }
    }
}
