//! The OCP 8-bit float E4M3: bias 7, no infinity, `0x7f` and `0xff` are NaN.
//!
//! Source: "OCP 8-bit Floating Point Specification (OFP8)", revision 1.0.

/// The nearest E4M3 value of `value`, ties to even, saturating at ±448; NaN stays NaN.
pub fn f8e4m3_from_f32(value: f32) -> u8 {
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    let magnitude = value.abs();
    if magnitude.is_nan() {
        return sign | 0x7f;
    }
    if magnitude >= 448.0 {
        return sign | 0x7e;
    }
    // Below 2^-6 the spacing stays at the subnormals' 2^-9.
    let exponent = ((magnitude.to_bits() >> 23) as i32 - 127).max(-6);
    let spacing = f32::from_bits(((exponent - 3 + 127) as u32) << 23);
    let steps = (magnitude / spacing).round_ties_even() as u32;
    // `steps` counts spacings: 8..=16 for normals, below 8 for subnormals; the
    // carry into the next binade falls out of the addition.
    let biased = (exponent + 7) as u32;
    let code = if biased == 1 && steps < 8 {
        steps
    } else {
        (biased << 3) + (steps - 8)
    };
    sign | (code.min(0x7e) as u8)
}

/// The value of an E4M3 code.
pub fn f8e4m3_to_f32(code: u8) -> f32 {
    let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from((code >> 3) & 0xf);
    let mantissa = f32::from(code & 7);
    if code & 0x7f == 0x7f {
        return f32::NAN.copysign(sign);
    }
    let magnitude = if exponent == 0 {
        mantissa * 2f32.powi(-9)
    } else {
        (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7)
    };
    sign * magnitude
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_round_trips() {
        for code in 0..=255u8 {
            let value = f8e4m3_to_f32(code);
            if !value.is_nan() {
                assert_eq!(f8e4m3_from_f32(value), code, "{value}");
            }
        }
    }

    #[test]
    fn rounds_to_the_nearest_with_ties_to_even() {
        let values: Vec<f32> = (0..0x7fu8).map(f8e4m3_to_f32).collect();
        for (index, pair) in values.windows(2).enumerate() {
            let middle = f32::midpoint(pair[0], pair[1]);
            let even = if index % 2 == 0 { index } else { index + 1 };
            assert_eq!(usize::from(f8e4m3_from_f32(middle)), even);
            assert_eq!(usize::from(f8e4m3_from_f32(middle.next_down())), index);
            assert_eq!(usize::from(f8e4m3_from_f32(middle.next_up())), index + 1);
        }
    }

    #[test]
    fn saturates_and_keeps_nan() {
        assert_eq!(f8e4m3_to_f32(f8e4m3_from_f32(f32::INFINITY)), 448.0);
        assert_eq!(f8e4m3_to_f32(f8e4m3_from_f32(-1e30)), -448.0);
        assert!(f8e4m3_to_f32(f8e4m3_from_f32(f32::NAN)).is_nan());
        assert_eq!(f8e4m3_from_f32(-0.0), 0x80);
    }
}
