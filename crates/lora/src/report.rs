//! What became of each adapter's tensors in one model.

use std::fmt;

use crate::Component;
use crate::error::shown_list;

/// What was applied, and what was not.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The model.
    pub component: Component,
    /// One entry an adapter, in the order given.
    pub adapters: Vec<AdapterReport>,
}

/// What became of one adapter's tensors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdapterReport {
    /// The adapter's name.
    pub adapter: String,
    /// The number of updates that were applied to this model.
    pub applied: usize,
    /// Names in the file that have no meaning here.
    pub unknown_keys: Vec<String>,
    /// Names that are meant for this model, which has no such parameter.
    pub unmatched_keys: Vec<String>,
}

impl Report {
    /// Whether everything was understood and found its parameter.
    pub fn is_complete(&self) -> bool {
        self.adapters
            .iter()
            .all(|one| one.unknown_keys.is_empty() && one.unmatched_keys.is_empty())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for one in &self.adapters {
            writeln!(
                f,
                "`{}`: {} updates of {}",
                one.adapter, one.applied, self.component
            )?;
            for (keys, what) in [
                (&one.unknown_keys, "not understood"),
                (&one.unmatched_keys, "not in this model"),
            ] {
                if !keys.is_empty() {
                    let list = shown_list(keys.iter().map(String::as_str));
                    writeln!(f, "`{}`: {what}: {list}", one.adapter)?;
                }
            }
        }
        Ok(())
    }
}
