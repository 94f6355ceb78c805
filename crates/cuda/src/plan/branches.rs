//! Steps that run side by side: two streams of a model between the places where they meet.
//!
//! Small products leave most of a GPU idle: in a double block of FLUX those of the text, which run
//! as well beside those of the image. A [`Fork`] is two sets of steps that share no memory that one
//! of them writes. The steps of a plan stay a list that may run in its order: those of the first
//! branch, then those of the second. What may share memory is decided with the order that is left.
//!
//! ```
//! use tintype_cuda::{Plan, PlanOptions};
//! use tintype_ir::{Binding, parse};
//!
//! let graph = parse(r#"
//! graph "streams" {
//!   param @a: bf16[32, 32]
//!   param @b: bf16[32, 32]
//!   input step %image: bf16[64, 32]
//!   input step %text: bf16[16, 32]
//!   %0: bf16[64, 32] = linear %image, @a
//!   %1: bf16[64, 32] = linear %0, @a
//!   %2: bf16[16, 32] = linear %text, @b
//!   %3: bf16[80, 32] = concat %1, %2 {axis = 0}
//!   %4: bf16[80, 32] = silu %3
//!   output y = %4
//! }
//! "#)?;
//! let plan = Plan::with(&graph, &Binding::new(), PlanOptions { branches: true })?;
//! assert_eq!((plan.forks[0].first.clone(), plan.forks[0].second.clone()), (0..2, 2..3));
//! # Ok::<(), tintype_cuda::Error>(())
//! ```

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::Range;

use super::step::{Product, Step, Work};
use crate::{Place, View};

/// Two branches, which begin together; what follows in the plan begins after both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    /// The steps of the branch with more operations.
    pub first: Range<usize>,
    /// Those of the other, which follow in the plan.
    pub second: Range<usize>,
}

/// How many steps run at a time at most.
pub const BRANCHES: usize = 2;

impl Fork {
    /// All its steps.
    pub fn steps(&self) -> Range<usize> {
        self.first.start..self.second.end
    }

    /// The branch of a step; `None` if it has none here.
    pub fn branch_of(&self, step: usize) -> Option<usize> {
        let branches: [_; BRANCHES] = [&self.first, &self.second];
        branches
            .into_iter()
            .position(|branch| branch.contains(&step))
    }
}

/// Whether step `a` is over before step `b` begins, however branches run.
pub(super) fn is_before(forks: &[Fork], a: usize, b: usize) -> bool {
    let together = |fork: &Fork| fork.branch_of(a).zip(fork.branch_of(b));
    let are_apart = |(a, b): (usize, usize)| a != b;
    a < b && !forks.iter().filter_map(together).any(are_apart)
}

/// The steps during which `step` may run, as a branch sees it: its own one by one, those of the
/// other branch at any time of the fork.
pub(super) fn moment(forks: &[Fork], step: usize, branch: usize) -> Range<usize> {
    let elsewhere = |fork: &&Fork| fork.branch_of(step).is_some_and(|own| own != branch);
    let fork = forks.iter().find(elsewhere);
    fork.map_or(step..step + 1, Fork::steps)
}

/// Brings the steps of branches together, and says where they are.
pub(super) fn branch(steps: Vec<Step>) -> (Vec<Step>, Vec<Fork>) {
    let search = Search::new(&steps);
    let (mut order, mut forks) = (Vec::with_capacity(steps.len()), Vec::new());
    for region in search.regions() {
        order.extend(order.len()..region.steps.start);
        let [first, second] = region.branches;
        let (start, middle) = (region.steps.start, region.steps.start + first.len());
        forks.push(Fork {
            first: start..middle,
            second: middle..region.steps.end,
        });
        order.extend(first.into_iter().chain(second));
    }
    order.extend(order.len()..steps.len());
    let mut steps: Vec<Option<Step>> = steps.into_iter().map(Some).collect();
    let ordered = order.into_iter().map(|step| steps[step].take());
    let ordered = ordered.map(|step| step.expect("each step is in one branch, once"));
    (ordered.collect(), forks)
}

/// Looks for runs of steps that fall into two.
struct Search {
    /// For each step, earlier ones that it must not run beside.
    conflicts: Vec<Vec<usize>>,
    work: Vec<Load>,
}

/// What a step, or steps that belong together, have to do.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    operations: usize,
    has_product: bool,
    /// Whether a product leaves room beside it.
    has_room: bool,
}

/// A run of steps with its branches.
struct Region {
    steps: Range<usize>,
    branches: [Vec<usize>; BRANCHES],
}

impl Search {
    fn new(steps: &[Step]) -> Self {
        let work = steps.iter().map(|step| Load::of(&step.work));
        Self {
            conflicts: conflicts(steps),
            work: work.collect(),
        }
    }

    /// Runs apart from each other, in order: of two that overlap, that which gains more.
    fn regions(&self) -> Vec<Region> {
        let (mut found, mut start) = (Vec::new(), 0);
        let best: Vec<(usize, usize)> = (0..self.work.len()).map(|step| self.best(step)).collect();
        while start < best.len() {
            let (gain, end) = best[start];
            let is_best = || best[start + 1..end].iter().all(|other| other.0 <= gain);
            if gain > 0 && is_best() {
                found.extend(self.split(start..end));
                start = end;
            } else {
                start += 1;
            }
        }
        found
    }

    /// The most that a run of steps from `start` on gains, and where it ends: late, so that the
    /// greater branch is in it whole.
    fn best(&self, start: usize) -> (usize, usize) {
        let mut groups = Groups::new(start);
        let mut best = (0, start);
        for step in start..self.work.len().min(start + MOST_STEPS) {
            groups.add(self, step);
            let gain = groups.gain();
            if gain > 0 && gain >= best.0 {
                best = (gain, step + 1);
            }
        }
        best
    }

    fn split(&self, steps: Range<usize>) -> Option<Region> {
        let mut groups = Groups::new(steps.start);
        steps.clone().for_each(|step| groups.add(self, step));
        let (_, branch_of) = groups.halves()?;
        let of = |branch: usize| {
            let own = steps.clone().filter(|&step| {
                let group = groups.group_of[step - steps.start];
                branch_of.get(&group).copied().unwrap_or(0) == branch
            });
            own.collect()
        };
        Some(Region {
            branches: [of(0), of(1)],
            steps,
        })
    }
}

/// Steps from a first one on, in groups that have nothing to do with each other.
struct Groups {
    start: usize,
    group_of: Vec<usize>,
    /// By group; what went over into another is gone.
    loads: HashMap<usize, Load>,
}

impl Groups {
    fn new(start: usize) -> Self {
        Self {
            start,
            group_of: Vec::new(),
            loads: HashMap::new(),
        }
    }

    /// Adds the next step, and joins all groups that it conflicts with.
    fn add(&mut self, search: &Search, step: usize) {
        let own = self.group_of.len();
        self.group_of.push(own);
        self.loads.insert(own, search.work[step]);
        let earlier = search.conflicts[step].iter();
        for other in earlier.filter_map(|other| other.checked_sub(self.start)) {
            let (own, other) = (self.group_of[own], self.group_of[other]);
            if own != other {
                let load = self.loads.remove(&other).unwrap_or_default();
                self.loads.entry(own).or_default().add(load);
                let members = self.group_of.iter_mut().filter(|group| **group == other);
                members.for_each(|group| *group = own);
            }
        }
    }

    fn gain(&self) -> usize {
        self.halves().map_or(0, |(gain, _)| gain)
    }

    /// The groups that hold products in two branches of about the same work, as far as both have
    /// some and the lesser one fits beside; its operations.
    fn halves(&self) -> Option<(usize, HashMap<usize, usize>)> {
        let mut groups: Vec<(usize, Load)> = self
            .loads
            .iter()
            .filter(|(_, load)| load.has_product)
            .map(|(&group, &load)| (group, load))
            .collect();
        if groups.len() < BRANCHES {
            return None;
        }
        groups.sort_by_key(|&(group, load)| (Reverse(load.operations), group));
        let (mut branches, mut branch_of) = ([Load::default(); BRANCHES], HashMap::new());
        for (group, load) in groups {
            let lesser = usize::from(branches[1].operations < branches[0].operations);
            branches[lesser].add(load);
            branch_of.insert(group, lesser);
        }
        if branches[1].operations > branches[0].operations {
            branches.swap(0, 1);
            for branch in branch_of.values_mut() {
                *branch = 1 - *branch;
            }
        }
        let lesser = branches[1];
        lesser.has_room.then_some((lesser.operations, branch_of))
    }
}

impl Load {
    fn of(work: &Work) -> Self {
        let product = match work {
            Work::Product(call) => Some(call),
            _ => None,
        };
        Self {
            operations: work.operations(),
            has_product: product.is_some(),
            has_room: product.is_some_and(has_room),
        }
    }

    fn add(&mut self, other: Self) {
        self.operations += other.operations;
        self.has_product |= other.has_product;
        self.has_room |= other.has_room;
    }
}

/// Whether a large GPU is idle to a quarter or more while it computes a product: it takes whole
/// rounds of tiles, the last of which is as long as the others however few there are left.
fn has_room(product: &Product) -> bool {
    let columns = product.output.axes.last().map_or(1, |axis| axis.size);
    let rows = product.output.count() / columns.max(1);
    let tiles = rows.div_ceil(TILE[0]) * columns.div_ceil(TILE[1]);
    let places = tiles.next_multiple_of(TILES_AT_ONCE);
    4 * tiles <= 3 * places
}

/// For each step, the earlier ones that write what it touches, or touch what it writes.
fn conflicts(steps: &[Step]) -> Vec<Vec<usize>> {
    let mut uses: HashMap<usize, Vec<Use<'_>>> = HashMap::new();
    let mut conflicts = vec![Vec::new(); steps.len()];
    for (index, step) in steps.iter().enumerate() {
        for (buffer, found) in uses_of(index, step) {
            let earlier = uses.entry(buffer).or_default();
            let against = earlier.iter().filter(|earlier| earlier.conflicts(&found));
            conflicts[index].extend(against.map(|earlier| earlier.step));
            earlier.push(found);
        }
        conflicts[index].sort_unstable();
        conflicts[index].dedup();
        conflicts[index].retain(|&other| other != index);
    }
    conflicts
}

/// A use of a buffer by a step.
struct Use<'a> {
    step: usize,
    /// What of it; `None` for anything.
    view: Option<&'a View>,
    writes: bool,
}

impl Use<'_> {
    fn conflicts(&self, other: &Self) -> bool {
        let are_apart = self
            .view
            .zip(other.view)
            .is_some_and(|(a, b)| a.is_apart(b));
        (self.writes || other.writes) && !are_apart
    }
}

fn uses_of(index: usize, step: &Step) -> Vec<(usize, Use<'_>)> {
    let mut found = Vec::new();
    let reads = step.work.reads().into_iter().map(|view| (view, false));
    let writes = step.work.writes().into_iter().map(|view| (view, true));
    for (view, writes) in reads.chain(writes) {
        if let Place::Buffer(buffer) = view.place {
            let view = Some(view);
            found.push((
                buffer,
                Use {
                    step: index,
                    view,
                    writes,
                },
            ));
        }
        if let Some(Place::Buffer(buffer)) = view.index.map(|index| index.place) {
            let (view, writes) = (None, false);
            found.push((
                buffer,
                Use {
                    step: index,
                    view,
                    writes,
                },
            ));
        }
    }
    found
}

/// Longer runs of steps are not looked for.
const MOST_STEPS: usize = 64;

/// Rows and columns of what a multiprocessor computes of a product at a time.
const TILE: [usize; 2] = [128, 256];

/// The multiprocessors of an H100.
const TILES_AT_ONCE: usize = 132;

#[cfg(test)]
#[path = "branches_tests.rs"]
mod tests;
