//! Changes: made on a copy, checked whole, then wanted.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use tintype_ir::Overlay;
use tintype_weights::Parameters;

use crate::engine::lock;
use crate::module::Wanted;
use crate::structure::{Definition, Structure};
use crate::turn::Taken;
use crate::{Define, Error, MutableModule, Result, Weights};

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

/// The parameters of a module, to be changed in place. When it is dropped, what was changed is
/// checked as by [`MutableModule::change`] and wanted as a whole; other changes wait until then.
/// What is refused the next call says, once, unless [`Edit::finish`] is asked.
pub struct Edit<'m> {
    module: &'m MutableModule,
    before: Wanted,
    /// There until it is finished.
    parameters: Option<Parameters>,
    _turn: Taken<'m>,
}

impl MutableModule {
    /// Makes a change of several parts as one. `change` works on a copy; if it fails, or if what
    /// it leaves does not fit, nothing has changed. The engines follow at the next call, or at
    /// [`MutableModule::apply`].
    ///
    /// # Errors
    /// What `change` says. [`Error::Refused`] for a parameter that is missing or of another
    /// shape, an overlay that does not fit, a value that is not finite, a definition that makes
    /// no graph of inputs like those of the last call. [`Error::ChangeUnderWay`] within another
    /// change of this thread.
    pub fn change<T>(&self, change: impl FnOnce(&mut Change) -> Result<T>) -> Result<T> {
        let _turn = self.turn.take().ok_or(Error::ChangeUnderWay)?;
        let before = self.wanted();
        let mut made = Change {
            wanted: before.clone(),
        };
        let result = change(&mut made)?;
        self.settle(&before, made.wanted)?;
        Ok(result)
    }

    /// The parameters, to be changed in place.
    ///
    /// # Panics
    /// Within another change of the same thread, which would wait for itself.
    pub fn edit(&self) -> Edit<'_> {
        let turn = self.turn.take();
        let turn = turn.expect("one change after the other in a thread");
        let before = self.wanted();
        Edit {
            module: self,
            parameters: Some(before.weights.parameters.clone()),
            before,
            _turn: turn,
        }
    }

    /// Wants `after`, if it fits.
    fn settle(&self, before: &Wanted, after: Wanted) -> Result<()> {
        let after = after.retyped(before);
        self.check(before, &after).map_err(Error::refused)?;
        if self.want(before, after) {
            Ok(())
        } else {
            Err(Error::Overtaken.refused())
        }
    }

    /// Whether a change fits, as far as can be told before a refit: everything is looked at
    /// before the first weight is written.
    fn check(&self, before: &Wanted, after: &Wanted) -> Result<()> {
        if before.is_same(after) {
            return Ok(());
        }
        if self.settings.check_finite {
            expect_finite(&after.weights, &before.weights)?;
        }
        match self.known_structure(after)? {
            Some(structure) => structure.expect(&after.weights),
            None => after.weights.expect_own_names(),
        }
    }

    /// The structure, if it can be known: before the first call only that of a graph.
    fn known_structure(&self, wanted: &Wanted) -> Result<Option<Arc<Structure>>> {
        let signature = self.latest_signature();
        if signature.is_none() && !wanted.definition.define.is_fixed() {
            return Ok(None);
        }
        let structure = self.structure(wanted, &signature.unwrap_or_default());
        structure.map(Some)
    }
}

impl Edit<'_> {
    /// Ends the edit, and says at once if it is refused: then nothing has changed.
    ///
    /// # Errors
    /// As [`MutableModule::change`].
    pub fn finish(mut self) -> Result<()> {
        self.settle()
    }

    fn settle(&mut self) -> Result<()> {
        let Some(parameters) = self.parameters.take() else {
            return Ok(());
        };
        if parameters.is_same(&self.before.weights.parameters) {
            return Ok(());
        }
        let mut after = self.before.clone();
        after.weights.parameters = parameters;
        self.module.settle(&self.before, after)
    }
}

/// What differs by generation holds no NaN and no infinity.
fn expect_finite(new: &Weights, old: &Weights) -> Result<()> {
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
        self.parameters.as_ref().expect("there until the end")
    }
}

impl DerefMut for Edit<'_> {
    fn deref_mut(&mut self) -> &mut Parameters {
        self.parameters.as_mut().expect("there until the end")
    }
}

impl Drop for Edit<'_> {
    fn drop(&mut self) {
        // Half an edit is none.
        if std::thread::panicking() {
            return;
        }
        if let Err(error) = self.settle() {
            *lock(&self.module.refused) = Some(error);
        }
    }
}
