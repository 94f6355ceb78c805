//! Changes: made on a copy, checked whole, then wanted.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, MutexGuard};

use tintype_ir::{Overlay, StagedGraph};
use tintype_weights::Parameters;

use crate::engine::lock;
use crate::module::Wanted;
use crate::structure::Definition;
use crate::{Define, MutableModule, Result, Weights};

/// A change in the making: a copy of what is wanted. Nobody sees it before it is whole.
pub struct Change {
    wanted: Wanted,
}

impl Change {
    /// The parameters as they will be.
    pub fn parameters(&self) -> &Parameters {
        &self.wanted.weights.parameters
    }

    /// The parameters, to set, edit or replace some of them, or all.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.wanted.weights.parameters
    }

    /// Replaces all overlays, and the parameters that they bring.
    pub fn set_overlays(&mut self, overlays: impl Into<Arc<[Overlay]>>, own: Parameters) {
        self.wanted.weights.overlays = overlays.into();
        self.wanted.weights.own = own;
    }

    /// Replaces all that weights are computed from.
    pub fn set_weights(&mut self, weights: Weights) {
        self.wanted.weights = weights;
    }

    /// Replaces the definition. A graph of the same hash is the same structure.
    pub fn define(&mut self, define: impl Define + 'static) {
        self.wanted.definition = Definition::new(Arc::new(define));
    }

    /// Sets an argument of the definition.
    pub fn set_argument(&mut self, name: impl Into<String>, value: i64) {
        self.wanted.arguments.insert(name.into(), value);
    }

    /// The arguments as they will be.
    pub fn arguments(&self) -> &BTreeMap<String, i64> {
        &self.wanted.arguments
    }
}

/// The parameters of a module, to be changed in place. What was changed is noticed at the next
/// call, and checked then. Other changes wait until it is dropped.
pub struct Edit<'m> {
    module: &'m MutableModule,
    parameters: Parameters,
    _alone: MutexGuard<'m, ()>,
}

impl MutableModule {
    /// Makes a change of several parts as one. `change` works on a copy; if it fails, or if what
    /// it leaves does not fit, nothing has changed. The engines follow at the next call, or at
    /// [`MutableModule::apply`].
    ///
    /// # Errors
    /// What `change` says. [`Error::Refused`](crate::Error::Refused) for a parameter that is
    /// missing or of another shape, an overlay that does not fit, a value that is not finite, a
    /// definition that makes no graph.
    pub fn change<T>(&self, change: impl FnOnce(&mut Change) -> Result<T>) -> Result<T> {
        let _alone = lock(&self.changing);
        let before = self.wanted();
        let mut made = Change {
            wanted: before.clone(),
        };
        let result = change(&mut made)?;
        self.check(&before, &made.wanted)
            .map_err(crate::Error::refused)?;
        self.want(made.wanted);
        Ok(result)
    }

    /// The parameters, to be changed in place.
    pub fn edit(&self) -> Edit<'_> {
        let alone = lock(&self.changing);
        Edit {
            module: self,
            parameters: self.wanted().weights.parameters,
            _alone: alone,
        }
    }

    /// Whether a change fits, as far as can be told before a refit: everything is looked at
    /// before the first weight is written.
    fn check(&self, before: &Wanted, after: &Wanted) -> Result<()> {
        if self.settings.check_finite {
            expect_finite(&after.weights, &before.weights)?;
        }
        // Before the first call nobody knows which graph it will be.
        let Some(signature) = self.latest_signature() else {
            return Ok(());
        };
        let structure = self.structure(after, &signature)?;
        if before.weights.is_same(&after.weights)
            && self.structure(before, &signature)?.hash == structure.hash
        {
            return Ok(());
        }
        expect_parameters(&structure.graph, &after.weights)
    }
}

/// Every parameter that a graph with overlays needs is there, of its type; no tensor is read.
fn expect_parameters(graph: &tintype_ir::Graph, weights: &Weights) -> Result<()> {
    let graph = Overlay::attach(graph, &weights.overlays)?;
    let program = StagedGraph::split(&graph)?.weight;
    let all = weights.all()?;
    for parameter in program.parameters() {
        let shape = parameter
            .ty
            .static_shape()
            .expect("parameters have static types");
        all.check(&parameter.name, parameter.ty.dtype, &shape)?;
    }
    Ok(())
}

/// What differs by generation holds no NaN and no infinity.
pub(crate) fn expect_finite(new: &Weights, old: &Weights) -> Result<()> {
    for (new, old) in [(&new.parameters, &old.parameters), (&new.own, &old.own)] {
        if new.is_same(old) {
            continue;
        }
        let changes = new.changes_from(old);
        for name in changes.changed.iter().chain(&changes.added) {
            new.expect_finite(name)?;
        }
    }
    Ok(())
}

impl Deref for Edit<'_> {
    type Target = Parameters;

    fn deref(&self) -> &Parameters {
        &self.parameters
    }
}

impl DerefMut for Edit<'_> {
    fn deref_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }
}

impl Drop for Edit<'_> {
    fn drop(&mut self) {
        let mut wanted = self.module.wanted();
        if !wanted.weights.parameters.is_same(&self.parameters) {
            wanted.weights.parameters = std::mem::take(&mut self.parameters);
            self.module.want(wanted);
        }
    }
}
