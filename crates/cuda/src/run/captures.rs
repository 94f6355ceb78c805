//! When a program is run step by step, captured, and replayed.
//!
//! | run | does |
//! |---|---|
//! | the first in a lane | enqueues each step: modules are loaded, libraries warm up |
//! | the first with weights at other addresses | captures, then launches what was captured |
//! | any other | one launch |
//!
//! Captured work has its addresses in it. Those of inputs and buffers stay as long as the lane's
//! memory does; those of weights are told by the version's layout.

/// What was captured of one program in one lane.
#[derive(Debug)]
pub(super) struct Captures<G> {
    /// By layout, the latest last.
    graphs: Vec<(u64, G)>,
    is_warm: bool,
    is_refused: bool,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Enqueue,
    Capture,
    Replay,
}

impl<G> Captures<G> {
    /// None yet. Where `is_refused`, there will be none.
    pub(super) fn new(is_refused: bool) -> Self {
        Self {
            graphs: Vec::new(),
            is_warm: false,
            is_refused,
        }
    }

    pub(super) fn next(&self, layout: u64) -> Next {
        if self.get(layout).is_some() {
            Next::Replay
        } else if self.is_warm && !self.is_refused {
            Next::Capture
        } else {
            Next::Enqueue
        }
    }

    pub(super) fn get(&self, layout: u64) -> Option<&G> {
        let mut graphs = self.graphs.iter();
        graphs.find(|graph| graph.0 == layout).map(|graph| &graph.1)
    }

    /// The program has run.
    pub(super) fn warm(&mut self) {
        self.is_warm = true;
    }

    /// Capturing has failed: it is not tried again.
    pub(super) fn refuse(&mut self) {
        self.is_refused = true;
    }

    /// Whether another one would put an old one out, which may be running still.
    pub(super) fn is_full(&self) -> bool {
        self.graphs.len() >= MOST
    }

    /// Keeps a graph in place of the oldest.
    pub(super) fn put(&mut self, layout: u64, graph: G) {
        if self.is_full() {
            self.graphs.remove(0);
        }
        self.graphs.push((layout, graph));
    }
}

/// The weights at hand, and those that another state still holds.
const MOST: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_run_then_captured_then_replayed() {
        let mut captures = Captures::new(false);
        assert_eq!(captures.next(1), Next::Enqueue);
        captures.warm();
        assert_eq!(captures.next(1), Next::Capture);
        captures.put(1, "one");
        assert_eq!(captures.next(1), Next::Replay);
        // Other weights: the program is warm already.
        assert_eq!(captures.next(2), Next::Capture);
        captures.put(2, "two");
        assert_eq!(captures.get(1), Some(&"one"));
        captures.put(3, "three");
        assert_eq!(captures.get(1), None);
        assert_eq!(captures.graphs.len(), MOST);
    }

    #[test]
    fn what_cannot_be_captured_is_enqueued_for_ever() {
        let mut captures = Captures::<()>::new(false);
        captures.warm();
        captures.refuse();
        assert_eq!(captures.next(1), Next::Enqueue);
        let mut none = Captures::<()>::new(true);
        none.warm();
        assert_eq!(none.next(1), Next::Enqueue);
    }
}
