//! What weights are computed from, and how two such states differ.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tintype_ir::{Overlay, TensorType};
use tintype_weights::{ChangeSet, Parameters};

use crate::{Error, Noticed, Result};

/// Parameters, and overlays with the parameters that they bring. Cloning is cheap, and a clone
/// keeps what it saw.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Weights {
    /// The untouched parameters.
    pub parameters: Parameters,
    /// What lies on them, in order.
    pub overlays: Arc<[Overlay]>,
    /// The parameters of the overlays themselves.
    pub own: Parameters,
}

/// How two states differ.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    /// Changed, added or removed, of either kind of parameters.
    pub(crate) parameters: ChangeSet,
    /// Written, but with what was there.
    pub(crate) equal: BTreeSet<String>,
    /// Parameters whose overlays are others.
    pub(crate) overlays: BTreeSet<String>,
}

impl Weights {
    /// Parameters without overlays.
    pub fn new(parameters: Parameters) -> Self {
        Self {
            parameters,
            ..Self::default()
        }
    }

    /// Both kinds of parameters together.
    pub(crate) fn all(&self) -> Result<Parameters> {
        if self.own.is_empty() {
            return Ok(self.parameters.clone());
        }
        let builder = Parameters::builder().parameters(&self.parameters);
        let all = builder.parameters(&self.own).build()?;
        if all.len() < self.parameters.len() + self.own.len() {
            self.expect_own_names()?;
        }
        Ok(all)
    }

    /// No parameter of an overlay has the name of a parameter below.
    pub(crate) fn expect_own_names(&self) -> Result<()> {
        match self.own.common_name(&self.parameters) {
            None => Ok(()),
            Some(name) => Err(Error::Shadowed {
                name: name.to_owned(),
                origin: self.parameters.origin(),
            }),
        }
    }

    /// A parameter of either kind is there, of this type; it is not read.
    pub(crate) fn expect(&self, name: &str, ty: &TensorType) -> Result<()> {
        let shape = ty.static_shape().expect("parameters have static types");
        let parameters = if self.own.contains(name) {
            &self.own
        } else {
            &self.parameters
        };
        parameters.check(name, ty.dtype, &shape)?;
        Ok(())
    }

    /// Whether both are the same state for sure, at the cost of three comparisons.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.parameters.is_same(&other.parameters)
            && self.own.is_same(&other.own)
            && Arc::ptr_eq(&self.overlays, &other.overlays)
    }

    /// What differs from `before`. Where generations differ, contents are compared if both
    /// hashes are known or the tensor is small.
    pub(crate) fn difference(&self, before: &Self) -> Result<Difference> {
        let mut difference = Difference::default();
        for (new, old) in [
            (&self.parameters, &before.parameters),
            (&self.own, &before.own),
        ] {
            if new.is_same(old) {
                continue;
            }
            let (mut changes, mut equal) = new.changes_and_equals_from(old, SMALL)?;
            difference.equal.append(&mut equal);
            difference.parameters.changed.append(&mut changes.changed);
            difference.parameters.added.append(&mut changes.added);
            difference.parameters.removed.append(&mut changes.removed);
        }
        if !Arc::ptr_eq(&self.overlays, &before.overlays) {
            difference.overlays = differing(&self.overlays, &before.overlays);
        }
        Ok(difference)
    }
}

impl Difference {
    /// The parameters that a refit must look at.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let parameters = self.parameters.names().map(str::to_owned);
        parameters.chain(self.overlays.iter().cloned()).collect()
    }

    /// For the report.
    pub(crate) fn noticed(self) -> Vec<Noticed> {
        let mut noticed = Vec::new();
        if !self.parameters.is_empty() {
            noticed.push(Noticed::Parameters(self.parameters));
        }
        if !self.equal.is_empty() {
            noticed.push(Noticed::Equal(self.equal));
        }
        if !self.overlays.is_empty() {
            let parameters = self.overlays;
            noticed.push(Noticed::Overlays { parameters });
        }
        noticed
    }
}

/// The parameters on which other overlays lie, or the same in another order.
fn differing(new: &[Overlay], old: &[Overlay]) -> BTreeSet<String> {
    let (new, old) = (by_parameter(new), by_parameter(old));
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    let changed = new.iter().filter(|(name, here)| {
        let there = old.get(*name);
        there.is_none_or(|there| *here != there)
    });
    let names = changed.map(|(name, _)| name).chain(gone);
    names.map(|&name| name.to_owned()).collect()
}

/// The overlays on each parameter, in order.
fn by_parameter(overlays: &[Overlay]) -> HashMap<&str, Vec<&Overlay>> {
    let mut map: HashMap<&str, Vec<&Overlay>> = HashMap::with_capacity(overlays.len());
    for overlay in overlays {
        map.entry(overlay.parameter()).or_default().push(overlay);
    }
    map
}

/// Bytes up to which hashing costs less than a needless refit.
const SMALL: usize = 1 << 16;
