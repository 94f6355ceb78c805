//! Which buffers share memory: results written over what they are computed from, and buffers
//! that are never alive at once.
//!
//! A kernel may write over what it reads if each element is read where it is written, nothing
//! reads the old values later, and the kernel reads them in no other way.
//!
//! ```ignore
//! let (memory_of, workspace) = share(&lowered);
//! ```

use super::lower::Lowered;
use super::step::Work;
use super::workspace::{Lifetime, Workspace};
use crate::{Expression, Place, View};

/// For each buffer the one whose memory it has, and the offsets of all.
pub(super) fn share(lowered: &Lowered) -> (Vec<usize>, Workspace) {
    let mut lifetimes = lifetimes(lowered);
    let mut memory_of: Vec<usize> = (0..lowered.buffers.len()).collect();
    for (index, step) in lowered.steps.iter().enumerate() {
        let Work::Kernel(expression) = &step.work else {
            continue;
        };
        for store in &expression.stores {
            if let Some((new, old)) = written_over(expression, &store.view, lowered) {
                let root = memory_of[old];
                let is_free = memory_of[new] == new
                    && lifetimes[root].last == index
                    && lifetimes[new].first == index;
                if is_free {
                    memory_of[new] = root;
                    lifetimes[root].last = lifetimes[new].last;
                }
            }
        }
    }
    let own: Vec<usize> = (0..memory_of.len())
        .filter(|&index| memory_of[index] == index)
        .collect();
    let placed: Vec<Lifetime> = own.iter().map(|&index| lifetimes[index]).collect();
    let compact = Workspace::new(&placed);
    let mut workspace = Workspace {
        offsets: vec![0; memory_of.len()],
        ..compact
    };
    for (&index, &offset) in own.iter().zip(&compact.offsets) {
        workspace.offsets[index] = offset;
    }
    for (index, &memory) in memory_of.iter().enumerate() {
        workspace.offsets[index] = workspace.offsets[memory];
    }
    (memory_of, workspace)
}

/// When each buffer is first and last used; outputs stay to the end.
fn lifetimes(lowered: &Lowered) -> Vec<Lifetime> {
    let unused = |&bytes: &usize| Lifetime {
        bytes,
        first: usize::MAX,
        last: 0,
    };
    let mut lifetimes: Vec<Lifetime> = lowered.buffers.iter().map(unused).collect();
    let mut note = |view: &View, step: usize| {
        let index = view.index.map(|index| index.place);
        for place in [Some(view.place), index].into_iter().flatten() {
            if let Place::Buffer(buffer) = place {
                let lifetime = &mut lifetimes[buffer];
                lifetime.first = lifetime.first.min(step);
                lifetime.last = lifetime.last.max(step);
            }
        }
    };
    for (index, step) in lowered.steps.iter().enumerate() {
        for view in step.work.reads().into_iter().chain(step.work.writes()) {
            note(view, index);
        }
    }
    for (_, view) in &lowered.outputs {
        note(view, lowered.steps.len());
    }
    for lifetime in &mut lifetimes {
        lifetime.first = lifetime.first.min(lifetime.last);
    }
    lifetimes
}

/// The buffer that is stored and one that the kernel reads at the same elements alone.
fn written_over(
    expression: &Expression,
    stored: &View,
    lowered: &Lowered,
) -> Option<(usize, usize)> {
    let Place::Buffer(new) = stored.place else {
        return None;
    };
    let is_alike = |view: &View| {
        let mut moved = stored.clone();
        (moved.place, moved.dtype) = (view.place, view.dtype);
        view.is_same(&moved) && view.dtype.bits() == stored.dtype.bits()
    };
    let old = expression.loads.iter().find_map(|view| match view.place {
        Place::Buffer(old) if is_alike(view) => Some(old),
        _ => None,
    })?;
    let touches = |view: &&View| {
        view.place == Place::Buffer(old)
            || view
                .index
                .is_some_and(|index| index.place == Place::Buffer(old))
    };
    let is_whole =
        lowered.buffers[old] == lowered.buffers[new] && stored.bytes() == lowered.buffers[new];
    let only_so = expression.loads.iter().filter(touches).all(is_alike);
    let mut stores = expression.stores.iter().map(|store| &store.view);
    let not_stored = !stores.any(|view| touches(&view));
    (is_whole && only_so && not_stored).then_some((new, old))
}
