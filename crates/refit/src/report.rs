//! What a module noticed and did.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use tintype_backend::RefitReport;
use tintype_ir::GraphHash;
use tintype_weights::ChangeSet;

/// What one call, or one [`apply`](crate::MutableModule::apply), noticed and did.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Report {
    /// What was other than before, in the order found.
    pub noticed: Vec<Noticed>,
    /// What was done about it, in order.
    pub done: Vec<Done>,
    /// How long looking for changes took.
    pub check: Duration,
    /// How long it waited for pictures of other threads, and for what these brought.
    pub waited: Duration,
    /// All of it, without running the graph.
    pub duration: Duration,
}

/// Something that is other than before.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Noticed {
    /// Nothing was compiled yet.
    FirstCall,
    /// The graph is another.
    Structure {
        /// The hash of the one that ran last.
        from: GraphHash,
        /// The hash of the one that runs now.
        to: GraphHash,
    },
    /// No engine of this graph runs these sizes.
    Sizes {
        /// The sizes by symbol, as `batch = 2, tokens = 77`.
        sizes: String,
    },
    /// Parameters differ from those the engine has.
    Parameters(ChangeSet),
    /// Parameters were written, and hold what they held.
    Equal(BTreeSet<String>),
    /// Overlays were attached, changed or detached.
    Overlays {
        /// The parameters that they lie or lay on.
        parameters: BTreeSet<String>,
    },
}

/// Something that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Done {
    /// An engine was compiled.
    Compiled {
        /// The ranges it is for, as `batch = 1..=4`.
        ranges: String,
        /// How long that took.
        duration: Duration,
    },
    /// An engine was made of what another process compiled and saved.
    Loaded {
        /// The ranges it is for, as `batch = 1..=4`.
        ranges: String,
        /// How long that took.
        duration: Duration,
    },
    /// An engine got weights: all of them, or those that a change reaches.
    Refitted(RefitReport),
    /// Another engine than that of the call before runs.
    Switched,
    /// An engine was let go, since there may be no more.
    Evicted {
        /// The ranges it was for.
        ranges: String,
    },
}

impl Report {
    /// The engines that were compiled.
    pub fn compilations(&self) -> usize {
        let is_compiled = |done: &&Done| matches!(done, Done::Compiled { .. });
        self.done.iter().filter(is_compiled).count()
    }

    /// The weights that refits computed.
    pub fn weights(&self) -> usize {
        self.refits().map(|refit| refit.weights).sum()
    }

    /// The bytes that refits copied between host and device.
    pub fn moved(&self) -> usize {
        self.refits().map(|refit| refit.moved).sum()
    }

    /// The refits.
    pub fn refits(&self) -> impl Iterator<Item = &RefitReport> {
        self.done.iter().filter_map(|done| match done {
            Done::Refitted(refit) => Some(refit),
            _ => None,
        })
    }
}

impl fmt::Display for Report {
    /// A line each, as a log would have it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for noticed in &self.noticed {
            writeln!(f, "noticed: {noticed}")?;
        }
        for done in &self.done {
            writeln!(f, "done: {done}")?;
        }
        let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
        write!(
            f,
            "checked in {:.3} ms, waited {:.3} ms, {:.3} ms in all",
            milliseconds(self.check),
            milliseconds(self.waited),
            milliseconds(self.duration)
        )
    }
}

impl fmt::Display for Noticed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstCall => write!(f, "nothing is compiled yet"),
            Self::Structure { .. } => write!(f, "another graph"),
            Self::Sizes { sizes } => write!(f, "other sizes: {sizes}"),
            Self::Parameters(changes) => {
                write!(f, "other parameters: {}", listed(changes.names()))
            }
            Self::Equal(names) => write!(
                f,
                "written with what was there: {}",
                listed(names.iter().map(String::as_str))
            ),
            Self::Overlays { parameters } => write!(
                f,
                "other overlays on {}",
                listed(parameters.iter().map(String::as_str))
            ),
        }
    }
}

/// The first names, and how many more there are.
fn listed<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<&str> = names.collect();
    let few = names.len().min(FEW);
    let told: Vec<String> = names[..few]
        .iter()
        .map(|name| format!("`{name}`"))
        .collect();
    match names.len() - few {
        0 => told.join(", "),
        more => format!("{} and {more} more", told.join(", ")),
    }
}

/// As many names as fit a line.
const FEW: usize = 3;

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compiled { ranges, duration } => {
                write!(
                    f,
                    "compiled for {ranges} in {:.3} s",
                    duration.as_secs_f64()
                )
            }
            Self::Loaded { ranges, duration } => {
                let seconds = duration.as_secs_f64();
                write!(
                    f,
                    "made an engine of what was saved, for {ranges}, in {seconds:.3} s"
                )
            }
            Self::Refitted(refit) => write!(
                f,
                "refitted {} {} of {} bytes, {} moved, in {:.3} ms",
                refit.weights,
                if refit.weights == 1 {
                    "weight"
                } else {
                    "weights"
                },
                refit.bytes,
                refit.moved,
                refit.duration.as_secs_f64() * 1e3
            ),
            Self::Switched => write!(f, "switched to another engine"),
            Self::Evicted { ranges } => write!(f, "let go of the engine for {ranges}"),
        }
    }
}
