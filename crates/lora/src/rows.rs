//! Which rows of a stored matrix belong to which parameter.
//!
//! Fused projections are stored as one matrix; each of its parts is a parameter
//! here. Sizes come from the matrix itself, so no width of a model is assumed.
//!
//! ```text
//! linear1 [3·D + M, D] → to_q 0..D, to_k D..2D, to_v 2D..3D, proj_mlp 3D..3D+M
//! ```

use crate::names::Split;

/// Rows `start..end` of the stored ones; with `swapped`, all of them, the second half first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rows {
    /// The first row.
    pub start: usize,
    /// One past the last row.
    pub end: usize,
    /// The number of rows that are stored.
    pub stored: usize,
    /// Whether the halves change places.
    pub swapped: bool,
}

impl Rows {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether the parameter has the stored rows as they are.
    pub fn is_whole(&self) -> bool {
        self.len() == self.stored && !self.swapped
    }
}

/// The rows of each module; `None` where they cannot be shared out so.
pub(crate) fn shares(split: Split, stored: usize, columns: Option<usize>) -> Option<Vec<Rows>> {
    let rows = |start: usize, end: usize| Rows {
        start,
        end,
        stored,
        swapped: false,
    };
    let thirds = |size: usize| {
        [
            rows(0, size),
            rows(size, 2 * size),
            rows(2 * size, 3 * size),
        ]
    };
    match split {
        Split::Whole => Some(vec![rows(0, stored)]),
        Split::SwappedHalves => stored.is_multiple_of(2).then(|| {
            vec![Rows {
                swapped: true,
                ..rows(0, stored)
            }]
        }),
        Split::Thirds => stored
            .is_multiple_of(3)
            .then(|| thirds(stored / 3).to_vec()),
        Split::ThirdsAndRest => {
            // The three are square, so their size is the number of columns.
            let size = columns?;
            let used = size.checked_mul(3).filter(|&used| used < stored)?;
            let mut all = thirds(size).to_vec();
            all.push(rows(used, stored));
            Some(all)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shares_cover_every_row_once(size in 1usize..50, rest in 1usize..200) {
            for (split, stored) in [
                (Split::Whole, rest),
                (Split::Thirds, 3 * size),
                (Split::ThirdsAndRest, 3 * size + rest),
            ] {
                let found = shares(split, stored, Some(size)).unwrap();
                let mut next = 0;
                for rows in found {
                    prop_assert_eq!(rows.start, next);
                    prop_assert_eq!(rows.stored, stored);
                    prop_assert!(!rows.is_empty());
                    next = rows.end;
                }
                prop_assert_eq!(next, stored);
            }
        }

        #[test]
        fn rows_that_do_not_divide_are_refused(stored in 0usize..400, columns in any::<usize>()) {
            prop_assert_eq!(shares(Split::Thirds, stored, None).is_some(), stored % 3 == 0);
            prop_assert_eq!(shares(Split::SwappedHalves, stored, None).is_some(), stored % 2 == 0);
            prop_assert!(shares(Split::ThirdsAndRest, stored, None).is_none());
            let shared = shares(Split::ThirdsAndRest, stored, Some(columns)).is_some();
            prop_assert_eq!(shared, (columns as u128) * 3 < stored as u128);
        }
    }
}
