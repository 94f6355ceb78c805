//! One static workspace: an offset for every buffer, by when it is alive.
//!
//! Buffers are placed from the largest to the smallest, each at the lowest offset where no
//! buffer lies that is alive at the same time.
//!
//! ```
//! use tintype_cuda::{Lifetime, Workspace};
//!
//! let buffer = Lifetime::new;
//! let workspace = Workspace::new(&[buffer(1000, 0, 1), buffer(500, 1, 2), buffer(900, 2, 3)]);
//! assert_eq!(workspace.offsets, [0, 1024, 0]);
//! assert_eq!(workspace.bytes, 1536);
//! ```

use std::collections::BTreeSet;

use super::branches::BRANCHES;

/// A buffer: its size, and the first and last step that use it, as each branch sees it. What
/// another branch uses may be in use at any time of the fork; so of two buffers one is over before
/// the other begins where any branch sees it so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// The size in bytes.
    pub bytes: usize,
    /// The step that writes it first.
    pub first: [usize; BRANCHES],
    /// The last step that reads or writes it.
    pub last: [usize; BRANCHES],
}

impl Lifetime {
    /// That of steps which run one after another.
    pub fn new(bytes: usize, first: usize, last: usize) -> Self {
        Self {
            bytes,
            first: [first; BRANCHES],
            last: [last; BRANCHES],
        }
    }

    /// Whether it is alive at these steps of branches, all at once.
    fn is_at(&self, steps: [usize; BRANCHES]) -> bool {
        (0..BRANCHES)
            .all(|branch| (self.first[branch]..=self.last[branch]).contains(&steps[branch]))
    }
}

/// The offsets of buffers in one piece of memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Workspace {
    /// The offset of each buffer in bytes, a multiple of [`ALIGNMENT`].
    pub offsets: Vec<usize>,
    /// The size of the whole in bytes.
    pub bytes: usize,
    /// What is alive at once at most: no placement is smaller.
    pub lower_bound: usize,
}

/// Offsets are multiples of this: what the libraries ask for.
pub const ALIGNMENT: usize = 256;

impl Workspace {
    /// Places the buffers.
    pub fn new(buffers: &[Lifetime]) -> Self {
        let mut order: Vec<usize> = (0..buffers.len()).collect();
        order.sort_by_key(|&index| {
            (
                std::cmp::Reverse(buffers[index].bytes),
                buffers[index].first[0],
            )
        });
        let mut offsets = vec![0; buffers.len()];
        let mut placed: Vec<usize> = Vec::new();
        for index in order {
            let alive = placed
                .iter()
                .filter(|&&other| meet(buffers[index], buffers[other]));
            let taken = alive.map(|&other| (offsets[other], size(buffers[other])));
            offsets[index] = lowest_gap(taken.collect(), size(buffers[index]));
            placed.push(index);
        }
        let ends = buffers.iter().zip(&offsets);
        Self {
            bytes: ends
                .map(|(buffer, offset)| offset + size(*buffer))
                .max()
                .unwrap_or(0),
            lower_bound: lower_bound(buffers),
            offsets,
        }
    }
}

fn size(buffer: Lifetime) -> usize {
    buffer.bytes.next_multiple_of(ALIGNMENT)
}

fn meet(a: Lifetime, b: Lifetime) -> bool {
    (0..BRANCHES)
        .all(|branch| a.first[branch] <= b.last[branch] && b.first[branch] <= a.last[branch])
}

/// The lowest offset with `bytes` free between what is taken.
fn lowest_gap(mut taken: Vec<(usize, usize)>, bytes: usize) -> usize {
    taken.sort_unstable();
    let mut offset = 0;
    for (start, length) in taken {
        if offset + bytes <= start {
            break;
        }
        offset = offset.max(start + length);
    }
    offset
}

fn lower_bound(buffers: &[Lifetime]) -> usize {
    let at = |steps: [usize; BRANCHES]| -> usize {
        let alive = buffers.iter().filter(|buffer| buffer.is_at(steps));
        alive.map(|&buffer| size(buffer)).sum()
    };
    // Where the most are alive, each branch is at a step where one of them begins: lifetimes that
    // all meet in pairs have a moment in common.
    let pairs = buffers.iter().flat_map(|&one| {
        let others = buffers.iter().filter(move |&&other| meet(one, other));
        others.map(move |other| [one.first[0], other.first[1]])
    });
    let moments: BTreeSet<_> = pairs.collect();
    moments.into_iter().map(at).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lifetimes() -> impl Strategy<Value = Vec<Lifetime>> {
        let one = (0usize..100_000, 0usize..60, 0usize..12);
        let buffers = proptest::collection::vec(one, 0..80);
        buffers.prop_map(|buffers| {
            let lifetime = |(bytes, first, length)| Lifetime::new(bytes, first, first + length);
            buffers.into_iter().map(lifetime).collect()
        })
    }

    /// As branches see them: each by itself.
    fn branched() -> impl Strategy<Value = Vec<Lifetime>> {
        let times = proptest::array::uniform2((0usize..30, 0usize..12));
        let one = (0usize..100_000, times);
        let lifetime = |(bytes, times): (usize, [(usize, usize); 2])| Lifetime {
            bytes,
            first: times.map(|(first, _)| first),
            last: times.map(|(first, length)| first + length),
        };
        proptest::collection::vec(one.prop_map(lifetime), 0..60)
    }

    fn expect_apart(buffers: &[Lifetime]) -> Result<(), TestCaseError> {
        let workspace = Workspace::new(buffers);
        prop_assert!(workspace.bytes >= workspace.lower_bound);
        for (a, first) in buffers.iter().enumerate() {
            prop_assert!(workspace.offsets[a].is_multiple_of(ALIGNMENT));
            prop_assert!(workspace.offsets[a] + first.bytes <= workspace.bytes);
            for (b, second) in buffers.iter().enumerate().take(a) {
                let apart = workspace.offsets[a] + first.bytes <= workspace.offsets[b]
                    || workspace.offsets[b] + second.bytes <= workspace.offsets[a];
                prop_assert!(apart || !meet(*first, *second));
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn what_is_alive_together_never_overlaps(buffers in lifetimes()) {
            expect_apart(&buffers)?;
        }

        #[test]
        fn what_branches_have_alive_together_never_overlaps(buffers in branched()) {
            expect_apart(&buffers)?;
            let most = (0..42).flat_map(|a| (0..42).map(move |b| [a, b])).map(|steps| {
                let alive = buffers.iter().filter(|buffer| buffer.is_at(steps));
                alive.map(|&buffer| size(buffer)).sum::<usize>()
            });
            prop_assert_eq!(lower_bound(&buffers), most.max().unwrap_or(0));
        }

        #[test]
        fn it_is_within_twice_the_lower_bound(buffers in lifetimes()) {
            let workspace = Workspace::new(&buffers);
            prop_assert!(workspace.bytes <= 2 * workspace.lower_bound);
        }
    }
}
