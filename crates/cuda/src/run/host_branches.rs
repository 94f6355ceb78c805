//! Branches on the host: steps of a fork wait for its end and then run in an order that a test
//! chooses.
//!
//! A step is two halves, as on a device: what it reads, then what it writes. In a random order
//! halves of both branches alternate, so memory that they must not share shows: what one has read
//! is old, or its scratch memory is another's.

use std::collections::HashMap;

use tintype_tensor::Tensor;

use super::steps::compute;
use super::{Host, Reader};
use crate::{Place, Result, Step, View};

/// How the branches of a fork run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    FirstBefore,
    SecondBefore,
    /// Half step by half step, from this number on.
    Random(u64),
}

/// What was enqueued.
#[derive(Clone)]
pub(crate) enum Entry {
    Fork,
    Step(Box<Enqueued>),
    Join,
}

/// A step with the addresses of its places.
#[derive(Clone)]
pub(crate) struct Enqueued {
    pub(super) step: Step,
    pub(super) places: HashMap<Place, u64>,
    pub(super) scratch: u64,
    pub(super) branch: usize,
}

/// A step that has read all it reads.
struct Begun<'a> {
    of: &'a Enqueued,
    results: Vec<(View, Tensor)>,
    pattern: Vec<u8>,
}

impl Order {
    /// Which branch goes on, if both could.
    fn choose(&mut self) -> usize {
        match self {
            Self::FirstBefore => 0,
            Self::SecondBefore => 1,
            Self::Random(state) => {
                *state = state
                    .wrapping_mul(0x5851_f42d_4c95_7f2d)
                    .wrapping_add(0x1405_7b7e_f767_814f);
                (*state >> 63) as usize
            }
        }
    }
}

impl Host {
    /// Runs what was enqueued: steps of forks at their joins, all others one by one.
    pub(super) fn run(&self, entries: &[Entry]) -> Result<()> {
        let mut branches: Option<[Vec<&Enqueued>; 2]> = None;
        for entry in entries {
            match (entry, &mut branches) {
                (Entry::Fork, waiting) => *waiting = Some(Default::default()),
                (Entry::Step(step), Some(waiting)) => waiting[step.branch].push(step),
                (Entry::Step(step), None) => {
                    assert_eq!(step.branch, 0, "outside of forks");
                    self.begin(step)?.finish(self);
                }
                (Entry::Join, waiting) => {
                    self.interleave(waiting.take().expect("a fork before"))?;
                }
            }
        }
        assert!(branches.is_none(), "a fork without end");
        Ok(())
    }

    fn interleave(&self, branches: [Vec<&Enqueued>; 2]) -> Result<()> {
        let mut left = branches.map(Vec::into_iter);
        let mut begun: [Option<Begun<'_>>; 2] = [None, None];
        loop {
            let can = |branch: usize| begun[branch].is_some() || left[branch].len() > 0;
            let next = match (can(0), can(1)) {
                (false, false) => return Ok(()),
                (true, false) => 0,
                (false, true) => 1,
                (true, true) => self.order.lock().unwrap().choose(),
            };
            if let Some(step) = begun[next].take() {
                step.finish(self);
            } else {
                let step = left[next].next().expect("it can go on");
                begun[next] = Some(self.begin(step)?);
            }
        }
    }

    /// Reads, with other numbers in the scratch memory than anyone else's.
    fn begin<'a>(&self, of: &'a Enqueued) -> Result<Begun<'a>> {
        let mark = self
            .marks
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let pattern: Vec<u8> = mark.to_le_bytes().repeat(Self::scratch_of(&of.step) / 8);
        if !pattern.is_empty() {
            self.heap.write(of.scratch, &pattern);
        }
        let places = of.places.clone();
        let results = compute(&of.step.work, &Reader { host: self, places })?;
        Ok(Begun {
            of,
            results,
            pattern,
        })
    }

    /// So much that a wrong sum shows.
    pub(super) fn scratch_of(step: &Step) -> usize {
        step.work.reads().len() * 104
    }
}

impl Begun<'_> {
    fn finish(self, host: &Host) {
        if !self.pattern.is_empty() {
            let found = host.heap.read(self.of.scratch, self.pattern.len());
            assert_eq!(found, self.pattern, "scratch memory of two steps");
        }
        let places = self.of.places.clone();
        let reader = Reader { host, places };
        for (view, tensor) in &self.results {
            reader.write(view, tensor);
        }
    }
}
