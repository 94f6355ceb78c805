//! exp, tanh, erf and what is built from them, as branch-free scalar functions.
//!
//! Loops over them vectorise; no table, no call. Every polynomial was computed for
//! this crate with 40 digits by interpolation at the Chebyshev nodes of its range
//! and rounded to f32; the error stated is that of the exact polynomial. NaN gives
//! NaN, infinities give the limits. Products and sums are fused by name, so the results
//! are the same on every instruction set.

/// eˣ to 2 units in the last place; 0 below −104, ∞ above 88.73.
///
/// `x = n·ln 2 + r` with |r| ≤ ln 2 / 2 in two steps (W. J. Cody and W. Waite,
/// "Software Manual for the Elementary Functions", 1980), then
/// `1 + r + r²·P(r)`, P of degree 4, relative error 1e-8.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    // Adding 1.5·2²³ leaves the nearest whole number in the low bits.
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUNDING_SHIFT);
    let mantissa = exp_of_rest(x, shifted - ROUNDING_SHIFT);
    // Two factors reach subnormal results and infinity, where one would not.
    let exponent = shifted.to_bits().wrapping_sub(ROUNDING_SHIFT.to_bits()) as i32;
    let half = exponent >> 1;
    mantissa * power_of_two(half) * power_of_two(exponent - half)
}

/// [`exp`] without its ends: 0 below −87.7, where results would be subnormal, and ∞ from
/// 88.4 on. Enough beside 1, and for the weights of a softmax.
#[inline(always)]
pub(super) fn exp_normal(x: f32) -> f32 {
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -88.0 { -88.0 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUNDING_SHIFT);
    let mantissa = exp_of_rest(x, shifted - ROUNDING_SHIFT);
    let exponent = shifted.to_bits().wrapping_sub(ROUNDING_SHIFT.to_bits()) as i32;
    // 2¹²⁸ has the bits of infinity, 2⁻¹²⁷ those of zero.
    mantissa * power_of_two(exponent)
}

/// e^(x − n·ln 2) for whole n, in 1/√2..√2.
#[inline(always)]
fn exp_of_rest(x: f32, n: f32) -> f32 {
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let p = 0.001_392_617_6_f32;
    let p = p.mul_add(r, 0.008_363_173);
    let p = p.mul_add(r, 0.041_666_556);
    let p = p.mul_add(r, 0.166_665_78);
    let p = p.mul_add(r, 0.5);
    p.mul_add(r * r, r) + 1.0
}

/// 2ⁿ for n in −127..=128, the ends being 0 and ∞.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// tanh x: an odd polynomial of degree 11 below 0.625 (relative error 1.7e-8),
/// `1 − 2 / (e²ˣ + 1)` above.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let magnitude = x.abs();
    let z = x * x;
    let p = -0.006_096_714_f32;
    let p = p.mul_add(z, 0.020_997_18);
    let p = p.mul_add(z, -0.053_850_908);
    let p = p.mul_add(z, 0.133_327_7);
    let p = p.mul_add(z, -0.333_333_28);
    let small = (p * z).mul_add(x, x);
    let large = (1.0 - 2.0 / (exp_normal(2.0 * magnitude) + 1.0)).copysign(x);
    if magnitude < 0.625 { small } else { large }
}

/// erf x: `x·P(x²)` below 0.875 (P of degree 6, relative error 2e-10); above,
/// `1 − exp(Q(x))` with Q of degree 8 near ln erfc (absolute error 5e-9).
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let magnitude = x.abs();
    let z = x * x;
    let p = 8.690_369e-5_f32;
    let p = p.mul_add(z, -0.000_821_457_07);
    let p = p.mul_add(z, 0.005_207_048_7);
    let p = p.mul_add(z, -0.026_861_707);
    let p = p.mul_add(z, 0.112_837_35);
    let p = p.mul_add(z, -0.376_126_35);
    // 2/√π − 1 apart keeps the last bit: x + x·(…) instead of x·1.128….
    let p = p.mul_add(z, 0.128_379_167);
    let small = p.mul_add(x, x);
    let t = if magnitude > 4.0 { 4.0 } else { magnitude };
    let q = 1.641_114_4e-6_f32;
    let q = q.mul_add(t, -4.611_923e-5);
    let q = q.mul_add(t, 0.000_597_151_5);
    let q = q.mul_add(t, -0.004_760_286);
    let q = q.mul_add(t, 0.026_420_016);
    let q = q.mul_add(t, -0.110_071_845);
    let q = q.mul_add(t, -0.631_842_43);
    let q = q.mul_add(t, -1.130_218_9);
    let q = q.mul_add(t, 0.000_315_154_15);
    let large = (1.0 - exp(q)).copysign(x);
    let value = if magnitude < 0.875 { small } else { large };
    if x.is_nan() { x } else { value }
}

/// 1 / (1 + e⁻ˣ); 0 from −88.4 down.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp_normal(-x))
}

/// x / (1 + e⁻ˣ).
#[inline(always)]
pub(super) fn silu(x: f32) -> f32 {
    x / (1.0 + exp_normal(-x))
}

/// GELU with erf: x·(1 + erf(x/√2)) / 2.
#[inline(always)]
pub(super) fn gelu_erf(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// GELU's tanh form, x·(1 + tanh u)/2 = x / (1 + e⁻²ᵘ), u = √(2/π)·(x + 0.044715·x³).
#[inline(always)]
pub(super) fn gelu_tanh(x: f32) -> f32 {
    let doubled = 1.595_769_1 * (x + 0.044_715 * (x * x * x));
    x / (1.0 + exp_normal(-doubled))
}

/// GELU's sigmoid form, x / (1 + e^(−1.702·x)).
#[inline(always)]
pub(super) fn gelu_quick(x: f32) -> f32 {
    x / (1.0 + exp_normal(-1.702 * x))
}

const ROUNDING_SHIFT: f32 = 12_582_912.0;
/// The leading bits of ln 2: 355/512, exact times any exponent.
const LN2_HIGH: f32 = 0.693_359_375;
/// ln 2 − 355/512.
const LN2_LOW: f32 = -2.121_944_4e-4;

#[cfg(test)]
mod tests {
    use super::*;

    /// |found − expected| in units of the last place of `expected`.
    fn units(found: f32, expected: f64) -> f64 {
        let nearest = expected as f32;
        let spacing = f64::from(nearest.abs().next_up()) - f64::from(nearest.abs());
        (f64::from(found) - expected).abs() / spacing
    }

    #[test]
    fn exp_is_within_two_units() {
        let mut worst: f64 = 0.0;
        for step in -103_900..88_700 {
            let x = step as f32 * 1e-3 + 1.7e-4;
            worst = worst.max(units(exp(x), f64::from(x).exp()));
        }
        assert!(worst <= 2.0, "{worst}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(88.8), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn exp_normal_is_exp_between_its_ends() {
        for step in -87_000..88_300 {
            let x = step as f32 * 1e-3;
            assert_eq!(exp_normal(x), exp(x), "{x}");
        }
        assert_eq!(exp_normal(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp_normal(f32::INFINITY), f32::INFINITY);
        assert!(exp_normal(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_is_within_three_units() {
        let mut worst: f64 = 0.0;
        for step in -100_000..100_000 {
            let x = step as f32 * 1e-4 + 1.3e-6;
            worst = worst.max(units(tanh(x), f64::from(x).tanh()));
        }
        assert!(worst <= 3.0, "{worst}");
        assert_eq!(tanh(f32::INFINITY), 1.0);
        assert_eq!(tanh(f32::NEG_INFINITY), -1.0);
        assert_eq!(tanh(1e-20), 1e-20);
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn erf_is_within_three_units() {
        let mut worst: f64 = 0.0;
        for step in -4200..4200 {
            let x = step as f32 * 1e-3 + 1.3e-5;
            worst = worst.max(units(erf(x), erf_series(f64::from(x))));
        }
        assert!(worst <= 3.0, "{worst}");
        assert_eq!(erf(f32::INFINITY), 1.0);
        assert_eq!(erf(f32::NEG_INFINITY), -1.0);
        assert!(erf(f32::NAN).is_nan());
    }

    /// erf by its everywhere convergent series with positive terms (Abramowitz and Stegun 7.1.6).
    fn erf_series(x: f64) -> f64 {
        let mut term = x;
        let mut total = x;
        for n in 1..200 {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            total += term;
        }
        total * (-x * x).exp() * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn activations_follow_their_formulas() {
        for step in -800..800 {
            let x = step as f32 * 1e-2 + 3e-4;
            let wide = f64::from(x);
            let u = (2.0 / std::f64::consts::PI).sqrt() * (wide + 0.044715 * wide.powi(3));
            let near = |found: f32, expected: f64| {
                assert!(
                    (f64::from(found) - expected).abs() < 1e-6 * (1.0 + expected.abs()),
                    "{x}"
                );
            };
            near(gelu_tanh(x), 0.5 * wide * (1.0 + u.tanh()));
            near(
                gelu_erf(x),
                0.5 * wide * (1.0 + erf_series(wide / 2f64.sqrt())),
            );
            near(gelu_quick(x), wide / (1.0 + (-1.702 * wide).exp()));
            near(silu(x), wide / (1.0 + (-wide).exp()));
            near(sigmoid(x), 1.0 / (1.0 + (-wide).exp()));
        }
    }
}
