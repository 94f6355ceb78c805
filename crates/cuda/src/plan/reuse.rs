//! Which buffers share memory: results written over what they are computed from, and buffers
//! that are never alive at once.
//!
//! A kernel may write over what it reads if each element is read where it is written, nothing
//! reads the old values later, and the kernel reads them in no other way.
//!
//! ```ignore
//! let (memory_of, workspace) = share(&lowered, &forks);
//! ```

use super::branches::{BRANCHES, Fork, is_before, moment};
use super::lower::Lowered;
use super::step::Work;
use super::workspace::{Lifetime, Workspace};
use crate::{Expression, Place, View};

/// For each buffer the one whose memory it has, and the offsets of all.
pub(super) fn share(lowered: &Lowered, forks: &[Fork]) -> (Vec<usize>, Workspace) {
    let mut users = users(lowered);
    let mut memory_of: Vec<usize> = (0..lowered.buffers.len()).collect();
    for (index, step) in lowered.steps.iter().enumerate() {
        let Work::Kernel(expression) = &step.work else {
            continue;
        };
        let is_until = |user: &usize| *user == index || is_before(forks, *user, index);
        let is_since = |user: &usize| *user == index || is_before(forks, index, *user);
        for store in &expression.stores {
            if let Some((new, old)) = written_over(expression, &store.view, lowered) {
                let root = memory_of[old];
                let is_free = memory_of[new] == new
                    && users[root].iter().all(is_until)
                    && users[new].iter().all(is_since);
                if is_free {
                    memory_of[new] = root;
                    let later = std::mem::take(&mut users[new]);
                    users[root].extend(later);
                }
            }
        }
    }
    let own: Vec<usize> = (0..memory_of.len())
        .filter(|&index| memory_of[index] == index)
        .collect();
    let lifetimes = own.iter().map(|&index| {
        let bytes = lowered.buffers[index];
        lifetime(bytes, &users[index], forks)
    });
    let compact = Workspace::new(&lifetimes.collect::<Vec<_>>());
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

/// The steps that use each buffer; outputs are used behind the last step.
fn users(lowered: &Lowered) -> Vec<Vec<usize>> {
    let mut users = vec![Vec::new(); lowered.buffers.len()];
    let mut note = |view: &View, step: usize| {
        let index = view.index.map(|index| index.place);
        for place in [Some(view.place), index].into_iter().flatten() {
            if let Place::Buffer(buffer) = place {
                users[buffer].push(step);
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
    users
}

/// When a buffer is first and last used; one that never is has no time of its own.
fn lifetime(bytes: usize, users: &[usize], forks: &[Fork]) -> Lifetime {
    let mut lifetime = Lifetime::new(bytes, 0, 0);
    for branch in 0..BRANCHES {
        let moments = || users.iter().map(|&user| moment(forks, user, branch));
        lifetime.first[branch] = moments().map(|moment| moment.start).min().unwrap_or(0);
        lifetime.last[branch] = moments().map(|moment| moment.end - 1).max().unwrap_or(0);
    }
    lifetime
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
