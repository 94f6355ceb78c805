//! Compiles a loop once per instruction set and picks one when it runs.
//!
//! [`vectorised`] writes the few lines that `pulp` wants around a body. The body
//! uses plain loops, which the compiler vectorises for each instruction set, or
//! the named `simd` token for explicit vectors. Neither needs `unsafe`.
//!
//! ```ignore
//! vectorised! {
//!     fn double<'a>(simd; values: &'a mut [f32]) {
//!         for value in values { *value *= 2.0; }
//!     }
//! }
//! ```

use pulp::Simd;

macro_rules! vectorised {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident<$life:lifetime>($simd:ident; $($arg:ident: $ty:ty),* $(,)?)
        $(-> $output:ty)? $body:block
    ) => {
        $(#[$meta])*
        $vis fn $name<$life>($($arg: $ty),*) $(-> $output)? {
            struct Operation<$life> { $($arg: $ty),* }
            impl<$life> pulp::WithSimd for Operation<$life> {
                type Output = vectorised!(@output $($output)?);
                #[inline(always)]
                fn with_simd<S: pulp::Simd>(self, $simd: S) -> Self::Output {
                    let Self { $($arg),* } = self;
                    $body
                }
            }
            pulp::Arch::new().dispatch(Operation { $($arg),* })
        }
    };
    (@output) => { () };
    (@output $output:ty) => { $output };
}

/// `Σ x`, in an order that depends on the length alone.
#[inline(always)]
pub(super) fn sum<S: Simd>(simd: S, x: &[f32]) -> f32 {
    fold(simd, x, |total, value| simd.add_f32s(total, value))
}

/// `Σ (x − center)²`, in an order that depends on the length alone.
#[inline(always)]
pub(super) fn sum_of_squares<S: Simd>(simd: S, x: &[f32], center: f32) -> f32 {
    let center_lanes = simd.splat_f32s(center);
    let (lanes, tail) = S::as_simd_f32s(x);
    let mut totals = [simd.splat_f32s(0.0); 4];
    let (groups, rest) = lanes.as_chunks::<4>();
    for group in groups {
        for (total, &value) in totals.iter_mut().zip(group) {
            let difference = simd.sub_f32s(value, center_lanes);
            *total = simd.mul_add_f32s(difference, difference, *total);
        }
    }
    for &value in rest {
        let difference = simd.sub_f32s(value, center_lanes);
        totals[0] = simd.mul_add_f32s(difference, difference, totals[0]);
    }
    let mut total = combine(simd, totals);
    for &value in tail {
        total += (value - center) * (value - center);
    }
    total
}

/// The largest value; NaN if there is one, −∞ for an empty slice.
#[inline(always)]
pub(super) fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let mut has_nan = false;
    let (chunks, tail) = x.as_chunks::<16>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
            has_nan |= value.is_nan();
        }
    }
    for &value in tail {
        lanes[0] = if value > lanes[0] { value } else { lanes[0] };
        has_nan |= value.is_nan();
    }
    if has_nan {
        return f32::NAN;
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

#[inline(always)]
fn fold<S: Simd>(simd: S, x: &[f32], add: impl Fn(S::f32s, S::f32s) -> S::f32s) -> f32 {
    let (lanes, tail) = S::as_simd_f32s(x);
    let mut totals = [simd.splat_f32s(0.0); 4];
    let (groups, rest) = lanes.as_chunks::<4>();
    for group in groups {
        for (total, &value) in totals.iter_mut().zip(group) {
            *total = add(*total, value);
        }
    }
    for &value in rest {
        totals[0] = add(totals[0], value);
    }
    combine(simd, totals) + tail.iter().sum::<f32>()
}

/// The sum of all lanes of four vectors.
#[inline(always)]
pub(super) fn combine<S: Simd>(simd: S, totals: [S::f32s; 4]) -> f32 {
    let low = simd.add_f32s(totals[0], totals[1]);
    let high = simd.add_f32s(totals[2], totals[3]);
    simd.reduce_sum_f32s(simd.add_f32s(low, high))
}
