//! Whether two views have no byte in common.
//!
//! Streams that a model joins along tokens write into one buffer: in rows of their own, for each
//! picture of a batch. So ranges of addresses are compared, then ranges within the greatest stride. What this cannot tell counts as shared.
//!
//! ```
//! use tintype_cuda::{Place, View};
//! use tintype_tensor::DType;
//!
//! let tokens = View::contiguous(Place::Buffer(0), DType::BF16, &[2, 80, 32]);
//! let (text, image) = (tokens.slice(1, 0, 16), tokens.slice(1, 16, 80));
//! assert!(text.is_apart(&image) && !text.is_apart(&tokens));
//! ```

use crate::{Axis, View};

impl View {
    /// Whether no byte is of both: then one may be written while the other is read or written.
    pub fn is_apart(&self, other: &Self) -> bool {
        if self.place != other.place || self.count() == 0 || other.count() == 0 {
            return true;
        }
        // An index may lead anywhere.
        if self.index.is_some() || other.index.is_some() {
            return false;
        }
        if self.dtype.bits() == other.dtype.bits() {
            return are_apart(Elements::of(self), Elements::of(other));
        }
        let bits = |view: &Self| {
            let (start, end) = Elements::of(view).range();
            (start * view.dtype.bits(), end * view.dtype.bits())
        };
        let (own, others) = (bits(self), bits(other));
        own.1 <= others.0 || others.1 <= own.0
    }
}

/// Elements from an offset on, along axes of which the first has the greatest stride.
struct Elements {
    offset: usize,
    axes: Vec<Axis>,
}

impl Elements {
    fn of(view: &View) -> Self {
        let moves = |axis: &&Axis| axis.size > 1 && axis.stride > 0;
        let mut axes: Vec<Axis> = view.axes.iter().filter(moves).copied().collect();
        axes.sort_by_key(|axis| std::cmp::Reverse(axis.stride));
        let offset = view.offset;
        Self { offset, axes }
    }

    /// The first element, and the one behind the last.
    fn range(&self) -> (usize, usize) {
        let along = |axis: &Axis| (axis.size - 1) * axis.stride;
        let last = self.offset + self.axes.iter().map(along).sum::<usize>();
        (self.offset, last + 1)
    }

    /// Without the outermost axis, within one of its strides; `None` if one reaches into the next.
    fn within(mut self, stride: usize) -> Option<Self> {
        self.axes.retain(|axis| axis.stride < stride);
        self.offset %= stride;
        (self.range().1 <= stride).then_some(self)
    }
}

fn are_apart(a: Elements, b: Elements) -> bool {
    let (first, second) = (a.range(), b.range());
    if first.1 <= second.0 || second.1 <= first.0 {
        return true;
    }
    let outermost = a.axes.first().into_iter().chain(b.axes.first());
    let Some(stride) = outermost.map(|axis| axis.stride).max() else {
        return false;
    };
    match (a.within(stride), b.within(stride)) {
        (Some(a), Some(b)) => are_apart(a, b),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use tintype_tensor::DType;

    use super::*;
    use crate::Place;

    /// Every element that a view has.
    fn elements(view: &View) -> HashSet<usize> {
        let mut offsets = vec![view.offset];
        for axis in &view.axes {
            let along = |offset| (0..axis.size).map(move |at| offset + at * axis.stride);
            offsets = offsets.into_iter().flat_map(along).collect();
        }
        offsets.into_iter().collect()
    }

    fn part() -> impl Strategy<Value = View> {
        let slice = (0usize..4, 1usize..4);
        (proptest::array::uniform3(slice), any::<bool>()).prop_map(|(slices, is_turned)| {
            let mut view = View::contiguous(Place::Buffer(0), DType::BF16, &[3, 5, 6]);
            for (axis, (start, length)) in slices.into_iter().enumerate() {
                let end = (start + length).min(view.axes[axis].size);
                view = view.slice(axis, start.min(end), end);
            }
            if is_turned {
                view = view.transpose(&[2, 0, 1]);
            }
            view
        })
    }

    proptest! {
        #[test]
        fn slices_are_apart_where_no_element_is_of_both(a in part(), b in part()) {
            let shares = !elements(&a).is_disjoint(&elements(&b));
            prop_assert_eq!(a.is_apart(&b), !shares, "{} and {}", a, b);
        }

        #[test]
        fn what_shares_an_element_is_never_apart(
            offsets in proptest::array::uniform2(0usize..40),
            axes in proptest::array::uniform2(proptest::collection::vec((0usize..4, 0usize..12), 0..4)),
        ) {
            let view = |which: usize| View {
                place: Place::Buffer(0),
                dtype: DType::F32,
                offset: offsets[which],
                axes: axes[which].iter().map(|&(size, stride)| Axis { size, stride, step: 0 }).collect(),
                index: None,
            };
            let (a, b) = (view(0), view(1));
            let shares = !elements(&a).is_disjoint(&elements(&b));
            prop_assert!(!(shares && a.is_apart(&b)), "{a:?} and {b:?}");
        }
    }

    #[test]
    fn tokens_of_a_batch_and_columns_of_rows_are_apart() {
        let joined = View::contiguous(Place::Buffer(0), DType::BF16, &[2, 80, 96]);
        let (text, image) = (joined.slice(1, 0, 16), joined.slice(1, 16, 80));
        let keys = |part: &View, tokens: usize| {
            let keys = part.slice(2, 32, 64);
            keys.reshape(&[2, tokens, 2, 16]).unwrap()
        };
        assert!(keys(&text, 16).is_apart(&keys(&image, 64)));
        assert!(joined.slice(2, 0, 32).is_apart(&joined.slice(2, 32, 96)));
        assert!(!text.is_apart(&joined.slice(2, 0, 32)));
        // Bytes of another dtype are compared as ranges.
        let wide = View::contiguous(Place::Buffer(0), DType::F32, &[8]);
        let narrow = View::contiguous(Place::Buffer(0), DType::BF16, &[32]);
        assert!(wide.is_apart(&narrow.slice(0, 16, 32)));
        assert!(!wide.is_apart(&narrow.slice(0, 15, 32)));
        let elsewhere = View::contiguous(Place::Buffer(1), DType::F32, &[8]);
        assert!(wide.is_apart(&elsewhere));
    }
}
