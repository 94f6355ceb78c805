//! Where an element lies, as CUDA C++: a count over axes taken apart and multiplied by strides.
//!
//! Sizes and strides are numbers in the text, so that divisions are cheap.
//!
//! ```ignore
//! assert_eq!(offset("m", &[axis(4, 64), axis(8, 1)]), "(u64)(m / 8u) * 64ull + (u64)(m % 8u)");
//! ```

use tintype_tensor::DType;

use crate::{Axis, KernelArgument, View};

/// The offset of position `variable`, counted over all axes, the innermost fastest.
pub(super) fn offset(variable: &str, axes: &[Axis]) -> String {
    let axes = joined(axes);
    let mut terms = Vec::new();
    let mut inner = 1;
    for (number, axis) in axes.iter().enumerate().rev() {
        let mut position = match inner {
            1 => variable.to_owned(),
            inner => format!("{variable} / {inner}u"),
        };
        if number > 0 {
            position = format!("{position} % {}u", axis.size);
        }
        match axis.stride {
            0 => {}
            1 => terms.push(format!("(u64)({position})")),
            stride => terms.push(format!("(u64)({position}) * {stride}ull")),
        }
        inner *= axis.size;
    }
    terms.reverse();
    if terms.is_empty() {
        return "0ull".to_owned();
    }
    terms.join(" + ")
}

/// The axes with those of one position dropped and those joined that go on from one to the next.
pub(super) fn joined(axes: &[Axis]) -> Vec<Axis> {
    let mut runs: Vec<Axis> = Vec::new();
    for &axis in axes.iter().filter(|axis| axis.size != 1) {
        match runs.last_mut() {
            Some(last) if last.stride == axis.stride * axis.size => {
                last.size *= axis.size;
                last.stride = axis.stride;
            }
            _ => runs.push(axis),
        }
    }
    runs
}

/// Whether packs of `count` elements along the last of `inner` are one access: without gaps,
/// never in two rows, at multiples of their size.
pub(super) fn is_packed(offset: usize, outer: &[Axis], inner: &[Axis], count: usize) -> bool {
    let runs = joined(inner);
    let Some((last, before)) = runs.split_last() else {
        return false;
    };
    let aligned = |axis: &Axis| axis.size == 1 || axis.stride.is_multiple_of(count);
    last.stride == 1
        && last.size.is_multiple_of(count)
        && offset.is_multiple_of(count)
        && before.iter().all(aligned)
        && outer.iter().all(aligned)
}

/// The address of a view's first element.
pub(super) fn address_of(view: &View) -> KernelArgument {
    KernelArgument::Address {
        place: view.place,
        bytes: view.offset * view.dtype.bits() / 8,
    }
}

/// The type of an element in CUDA C++.
pub(super) fn type_of(dtype: DType) -> &'static str {
    match dtype {
        DType::Bool => "u8",
        dtype => dtype.name(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(size: usize, stride: usize) -> Axis {
        Axis {
            size,
            stride,
            step: 0,
        }
    }

    #[test]
    fn positions_are_taken_apart_from_the_innermost_axis_on() {
        assert_eq!(
            offset("m", &[axis(4, 64), axis(8, 1)]),
            "(u64)(m / 8u) * 64ull + (u64)(m % 8u)"
        );
        assert_eq!(offset("m", &[axis(4, 8), axis(8, 1)]), "(u64)(m)");
        assert_eq!(offset("m", &[axis(1, 9), axis(5, 0)]), "0ull");
        assert_eq!(offset("m", &[]), "0ull");
    }

    #[test]
    fn packs_lie_at_multiples_of_their_size() {
        assert!(is_packed(8, &[axis(3, 64)], &[axis(32, 1)], 8));
        assert!(!is_packed(4, &[axis(3, 64)], &[axis(32, 1)], 8));
        assert!(!is_packed(0, &[axis(3, 60)], &[axis(32, 1)], 8));
        assert!(!is_packed(0, &[axis(3, 64)], &[axis(36, 1)], 8));
        assert!(!is_packed(0, &[axis(3, 64)], &[axis(32, 2)], 8));
        // Taps without gaps between them are one row.
        assert!(is_packed(0, &[], &[axis(16, 9), axis(3, 3), axis(3, 1)], 8));
        assert!(!is_packed(
            0,
            &[],
            &[axis(16, 16), axis(3, 3), axis(3, 1)],
            8
        ));
    }
}
