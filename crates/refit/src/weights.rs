//! What weights are computed from, and how two such states differ.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tintype_ir::{Overlay, TensorType};
use tintype_weights::{ChangeSet, ParameterInfo, Parameters};

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
        self.expect_own_names()?;
        let builder = Parameters::builder().parameters(&self.parameters);
        Ok(builder.parameters(&self.own).build()?)
    }

    /// No parameter of an overlay has the name of a parameter below.
    pub(crate) fn expect_own_names(&self) -> Result<()> {
        let shadowed = self.own.names().find(|name| self.parameters.contains(name));
        match shadowed {
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
            let mut changes = new.changes_from(old);
            for name in std::mem::take(&mut changes.changed) {
                let names = if is_equal(new, old, &name)? {
                    &mut difference.equal
                } else {
                    &mut difference.parameters.changed
                };
                names.insert(name);
            }
            difference.parameters.added.extend(changes.added);
            difference.parameters.removed.extend(changes.removed);
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

/// Whether a parameter of two generations has one content, as far as that is cheap to know.
fn is_equal(new: &Parameters, old: &Parameters, name: &str) -> Result<bool> {
    let is_cheap = |parameters: &Parameters| -> Result<bool> {
        // What cannot be read, and need not be, has no dtype.
        let size = |info: ParameterInfo| info.shape.byte_len(info.dtype).ok();
        let size = parameters.info(name).ok().and_then(size);
        let is_small = size.is_some_and(|size| size <= SMALL);
        Ok(is_small || parameters.known_hash(name)?.is_some())
    };
    let may_be = new.shape(name)? == old.shape(name)? && is_cheap(new)? && is_cheap(old)?;
    Ok(may_be && new.hash(name)? == old.hash(name)?)
}

/// The parameters on which other overlays lie, or the same in another order.
fn differing(new: &[Overlay], old: &[Overlay]) -> BTreeSet<String> {
    let by_parameter = |overlays: &'_ [Overlay]| -> BTreeMap<String, Vec<usize>> {
        let mut map: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, overlay) in overlays.iter().enumerate() {
            map.entry(overlay.parameter().to_owned())
                .or_default()
                .push(index);
        }
        map
    };
    let (new_places, old_places) = (by_parameter(new), by_parameter(old));
    let none = Vec::new();
    let names: BTreeSet<&String> = new_places.keys().chain(old_places.keys()).collect();
    let differs = |name: &&&String| {
        let here = new_places.get(**name).unwrap_or(&none);
        let there = old_places.get(**name).unwrap_or(&none);
        here.len() != there.len()
            || here
                .iter()
                .zip(there)
                .any(|(&here, &there)| new[here] != old[there])
    };
    names
        .iter()
        .filter(differs)
        .map(|name| (*name).clone())
        .collect()
}

/// Bytes up to which hashing costs less than a needless refit.
const SMALL: usize = 1 << 16;
