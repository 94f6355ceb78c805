//! The OCP 4-bit float E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.
//!
//! Source: "OCP Microscaling Formats (MX) Specification", revision 1.0. In
//! memory two codes share a byte, the earlier element in the low half.

const MAGNITUDES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// The nearest E2M1 value of `value`, ties to even, saturating at ±6; NaN becomes +6.
pub fn f4e2m1_from_f32(value: f32) -> u8 {
    if value.is_nan() {
        return 7;
    }
    let sign = if value.is_sign_negative() { 8 } else { 0 };
    let magnitude = value.abs();
    let mut code = 0u8;
    for index in 0..7u8 {
        let (low, high) = (
            MAGNITUDES[usize::from(index)],
            MAGNITUDES[usize::from(index) + 1],
        );
        let middle = f32::midpoint(low, high);
        let upper_is_even = index % 2 == 1;
        if magnitude > middle || (magnitude >= middle && upper_is_even) {
            code = index + 1;
        }
    }
    sign | code
}

/// The value of an E2M1 code; only the low four bits count.
pub fn f4e2m1_to_f32(code: u8) -> f32 {
    let magnitude = MAGNITUDES[usize::from(code & 7)];
    if code & 8 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_round_trips() {
        for code in 0..16u8 {
            assert_eq!(f4e2m1_from_f32(f4e2m1_to_f32(code)), code);
        }
    }

    #[test]
    fn ties_go_to_even_codes() {
        assert_eq!(f4e2m1_to_f32(f4e2m1_from_f32(0.25)), 0.0);
        assert_eq!(f4e2m1_to_f32(f4e2m1_from_f32(0.75)), 1.0);
        assert_eq!(f4e2m1_to_f32(f4e2m1_from_f32(5.0)), 4.0);
        assert_eq!(f4e2m1_to_f32(f4e2m1_from_f32(-99.0)), -6.0);
    }
}
