//! What a refit is told, and what it reports.

use std::collections::BTreeSet;
use std::time::Duration;

use tintype_ir::Overlay;
use tintype_weights::{ChangeSet, Parameters};

/// The parameters and overlays that an executable shall have from now on, and
/// which of them differ from those it has.
#[derive(Debug, Clone)]
pub struct Changes<'a> {
    /// All parameters, those of the overlays included.
    pub parameters: &'a Parameters,
    /// All overlays that shall be attached, in order.
    pub overlays: &'a [Overlay],
    /// What may differ from the refit before.
    pub scope: Scope,
}

/// Which parameters a refit looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Every one: the first refit, or nothing is known.
    All,
    /// Those of these names. A parameter whose overlays were attached, changed
    /// or detached counts as changed.
    Names(BTreeSet<String>),
}

impl<'a> Changes<'a> {
    /// All parameters, without overlays.
    pub fn all(parameters: &'a Parameters) -> Self {
        Self {
            parameters,
            overlays: &[],
            scope: Scope::All,
        }
    }

    /// The same with overlays.
    #[must_use]
    pub fn with_overlays(mut self, overlays: &'a [Overlay]) -> Self {
        self.overlays = overlays;
        self
    }

    /// The same, but only what `changed` names is looked at.
    #[must_use]
    pub fn only(mut self, changed: &ChangeSet) -> Self {
        self.scope = Scope::Names(changed.names().map(str::to_owned).collect());
        self
    }

    /// The same, but only the parameters of these names are looked at.
    #[must_use]
    pub fn only_names<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.scope = Scope::Names(names.into_iter().map(Into::into).collect());
        self
    }
}

/// What a refit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RefitReport {
    /// Weights computed or handed on.
    pub weights: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Bytes copied between host and device for it, in either direction.
    pub moved: usize,
    /// How long it took.
    pub duration: Duration,
}
