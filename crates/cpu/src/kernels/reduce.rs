//! Sums, means and maxima over any axes.

use rayon::prelude::*;
use tintype_tensor::DType;

use super::layout::permute;
use super::simd;

/// A reduction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reduce {
    /// Σ x.
    Sum,
    /// Σ x / count.
    Mean,
    /// The largest value; NaN if there is one.
    Max,
}

/// Reduces `x` of `shape` over `axes`; `out` has the product of the other axes, in order.
///
/// # Panics
/// If a length does not fit or an axis is out of range.
pub fn reduce(
    reduction: Reduce,
    shape: &[usize],
    axes: &[usize],
    rounding: DType,
    x: &[f32],
    out: &mut [f32],
) {
    assert_eq!(
        shape.iter().product::<usize>(),
        x.len(),
        "reduce: input length"
    );
    assert!(axes.iter().all(|&axis| axis < shape.len()), "reduce: axes");
    let (mut order, reduced): (Vec<usize>, Vec<usize>) =
        (0..shape.len()).partition(|axis| !axes.contains(axis));
    let width: usize = reduced.iter().map(|&axis| shape[axis]).product();
    assert_eq!(
        order.iter().map(|&axis| shape[axis]).product::<usize>(),
        out.len(),
        "reduce: output length"
    );
    order.extend(reduced);
    if order.is_sorted() {
        reduce_rows(reduction, width, rounding, x, out);
    } else {
        let mut moved = vec![0.0; x.len()];
        permute(shape, &order, x, &mut moved);
        reduce_rows(reduction, width, rounding, &moved, out);
    }
}

fn reduce_rows(reduction: Reduce, width: usize, rounding: DType, x: &[f32], out: &mut [f32]) {
    out.par_iter_mut()
        .with_min_len((16 * 1024 / width.max(1)).max(1))
        .enumerate()
        .for_each(|(index, value)| {
            let row = &x[index * width..][..width];
            *value = rounding.round(match reduction {
                Reduce::Sum => sum_row(row),
                Reduce::Mean => sum_row(row) / width as f32,
                Reduce::Max => max_row(row),
            });
        });
}

vectorised! {
    fn sum_row<'a>(token; x: &'a [f32]) -> f32 {
        simd::sum(token, x)
    }
}

vectorised! {
    fn max_row<'a>(_token; x: &'a [f32]) -> f32 {
        simd::max(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{Random, assert_near, same_for_any_threads};

    #[test]
    fn reduces_any_axes() {
        let mut random = Random::new(8);
        let shape = [3, 5, 17, 65];
        let x = random.values(shape.iter().product());
        for axes in [&[3][..], &[0], &[1, 2], &[0, 3], &[0, 1, 2, 3], &[]] {
            for reduction in [Reduce::Sum, Reduce::Mean, Reduce::Max] {
                let kept: Vec<usize> = (0..4).filter(|axis| !axes.contains(axis)).collect();
                let count: usize = kept.iter().map(|&axis| shape[axis]).product();
                let width = (x.len() / count) as f64;
                let start = if reduction == Reduce::Max {
                    f64::NEG_INFINITY
                } else {
                    0.0
                };
                let mut expected = vec![start; count];
                for (index, &value) in x.iter().enumerate() {
                    let mut rest = index;
                    let mut position = [0; 4];
                    for axis in (0..4).rev() {
                        position[axis] = rest % shape[axis];
                        rest /= shape[axis];
                    }
                    let target = kept
                        .iter()
                        .fold(0, |at, &axis| at * shape[axis] + position[axis]);
                    let value = f64::from(value);
                    match reduction {
                        Reduce::Sum => expected[target] += value,
                        Reduce::Mean => expected[target] += value / width,
                        Reduce::Max => expected[target] = expected[target].max(value),
                    }
                }
                let out = same_for_any_threads(|| {
                    let mut out = vec![0.0; count];
                    reduce(reduction, &shape, axes, DType::F32, &x, &mut out);
                    out
                });
                assert_near(&out, &expected, 3e-6);
            }
        }
    }
}
