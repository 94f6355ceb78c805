//! Changes of a pipeline while it runs: all models or none.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLockWriteGuard};
use std::time::{Duration, Instant};

use tintype_ir::passes::dead_code;
use tintype_refit::{MutableModule, Report, Weights};
use tintype_weights::Parameters;

use super::FluxPipeline;
use super::live::Live;
use super::modules::{ModelKind, Modules, parameters_in};
use crate::model_index::Component;
use crate::{Error, Result};

/// What a change of a pipeline did. Models that are not loaded cost nothing and are not listed.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ChangeReport {
    /// What each model that differs noticed and did.
    pub models: Vec<(ModelKind, Report)>,
    /// Looking names up, checking values, mixing: beside pictures under way.
    pub prepared: Duration,
    /// Waiting for pictures under way.
    pub waited: Duration,
    /// All of it.
    pub duration: Duration,
}

impl ChangeReport {
    /// The weights that were computed, of all models.
    pub fn weights(&self) -> usize {
        self.models.iter().map(|(_, report)| report.weights()).sum()
    }

    /// The bytes that were copied between host and device.
    pub fn moved(&self) -> usize {
        self.models.iter().map(|(_, report)| report.moved()).sum()
    }

    /// The engines that were compiled.
    pub fn compilations(&self) -> usize {
        let compilations = self.models.iter();
        compilations.map(|(_, report)| report.compilations()).sum()
    }
}

impl fmt::Display for ChangeReport {
    /// One line: `504 weights, 0 bytes moved, 12.3 ms (0.8 ms to prepare, 0.0 ms waited)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
        write!(
            f,
            "{} weights, {} bytes moved, {:.1} ms ({:.1} ms to prepare, {:.1} ms waited)",
            self.weights(),
            self.moved(),
            milliseconds(self.duration),
            milliseconds(self.prepared),
            milliseconds(self.waited)
        )
    }
}

impl FluxPipeline {
    /// Takes the transformer's weights from another file or folder while the pipeline runs, in
    /// diffusers' or the original layout. The new tensors have the shapes of the old ones, so
    /// what is compiled stays; LoRAs stay on.
    ///
    /// # Errors
    /// [`Error::Refused`] for a file that cannot be read, lacks a tensor or has one of another
    /// shape; where the model is loaded, also for values that are not finite, which reads all of
    /// them, and for what the refit says. Nothing has changed then.
    pub fn replace_transformer(&self, path: impl AsRef<Path>) -> Result<ChangeReport> {
        self.replace(Component::Transformer, path.as_ref())
    }

    /// The same for the autoencoder.
    ///
    /// # Errors
    /// As [`FluxPipeline::replace_transformer`].
    pub fn replace_vae(&self, path: impl AsRef<Path>) -> Result<ChangeReport> {
        self.replace(Component::Vae, path.as_ref())
    }

    /// Changes parameters of a model, under the names of its graph; both models of the
    /// autoencoder have the same ones. `change` works on a copy that nobody sees before it is
    /// whole. Pictures under way keep the old weights.
    ///
    /// ```no_run
    /// # fn f(pipeline: tintype_flux::FluxPipeline) -> Result<(), tintype_flux::Error> {
    /// use tintype_flux::ModelKind;
    /// let report = pipeline.edit_weights(ModelKind::Transformer, |parameters| {
    ///     parameters.edit("proj_out.bias", |values| values.fill(0.0))?;
    ///     Ok(())
    /// })?;
    /// println!("{report}");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// What `change` says; [`Error::Refused`] for parameters that do not fit the graph or are
    /// not finite, and for what the refit says. Nothing has changed then.
    pub fn edit_weights(
        &self,
        kind: ModelKind,
        change: impl FnOnce(&mut Parameters) -> tintype_weights::Result<()>,
    ) -> Result<ChangeReport> {
        let component = kind.component();
        self.change_live(|pipeline, live| {
            let before = match pipeline.modules.loaded(kind) {
                Some(module) => module.weights().parameters,
                None => pipeline.with_rewritten(kind, pipeline.live_parameters(live, kind)?)?,
            };
            let mut parameters = before.clone();
            change(&mut parameters)?;
            let changes = parameters.changes_from(&before);
            for name in changes.changed.iter().chain(&changes.added) {
                parameters.expect_finite(name)?;
            }
            pipeline.expect_parameters(component, &parameters)?;
            live.parameters.insert(component, parameters);
            Ok(())
        })
    }

    fn replace(&self, component: Component, path: &Path) -> Result<ChangeReport> {
        self.change_live(|pipeline, live| {
            let parameters = parameters_in(component, path)?;
            let parameters = match component {
                Component::Transformer => {
                    pipeline.with_rewritten(ModelKind::Transformer, parameters)?
                }
                _ => parameters,
            };
            pipeline.expect_parameters(component, &parameters)?;
            live.weight_files.insert(component, path.to_owned());
            live.parameters.insert(component, parameters);
            Ok(())
        })
    }

    /// Everything that the models of a component need is there, of its shape.
    fn expect_parameters(&self, component: Component, parameters: &Parameters) -> Result<()> {
        let kinds = ModelKind::ALL.into_iter();
        for kind in kinds.filter(|kind| kind.component() == component) {
            for parameter in dead_code(&self.full_graph(kind)?).parameters() {
                let shape = parameter.ty.static_shape();
                let shape = shape.expect("parameters have static types");
                parameters.check(&parameter.name, parameter.ty.dtype, &shape)?;
            }
        }
        Ok(())
    }

    fn change_live(
        &self,
        change: impl FnOnce(&Self, &mut Live) -> Result<()>,
    ) -> Result<ChangeReport> {
        let start = Instant::now();
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut live = self.read_live().clone();
        change(self, &mut live).map_err(Error::refused)?;
        Ok(self.commit(start, live)?.0)
    }

    /// Makes `new` the state: each loaded model that differs is refitted, once pictures under
    /// way are done. If one fails, those before it get their old weights back. Whoever calls
    /// this holds `changing`.
    pub(super) fn commit(
        &self,
        start: Instant,
        new: Live,
    ) -> Result<(ChangeReport, RwLockWriteGuard<'_, Live>)> {
        let prepared = start.elapsed();
        let mut live = self.write_live();
        let mut report = ChangeReport {
            prepared,
            waited: start.elapsed().saturating_sub(prepared),
            ..ChangeReport::default()
        };
        let unwinding = Unwinding(&self.modules);
        let mut done = Vec::new();
        for kind in ModelKind::ALL {
            let Some(module) = self.modules.loaded(kind) else {
                continue;
            };
            match self.bring(&module, kind, &new) {
                Ok(None) => {}
                Ok(Some((before, told))) => {
                    report.models.push((kind, told));
                    done.push((kind, module, before));
                }
                Err(error) => {
                    for (kind, module, before) in done {
                        self.bring_back(&module, kind, before);
                    }
                    std::mem::forget(unwinding);
                    return Err(error.refused());
                }
            }
        }
        std::mem::forget(unwinding);
        *live = new;
        report.duration = start.elapsed();
        Ok((report, live))
    }

    /// Brings a module to a state; gives its weights from before, or nothing if they are those.
    fn bring(
        &self,
        module: &Arc<MutableModule>,
        kind: ModelKind,
        state: &Live,
    ) -> Result<Option<(Weights, Report)>> {
        let before = module.weights();
        let mut after = before.clone();
        if let Some(parameters) = state.parameters.get(&kind.component()) {
            after.parameters = parameters.clone();
        }
        state.lay_overlays(self, kind, &mut after)?;
        if is_same(&before, &after) {
            return Ok(None);
        }
        match refitted(module, after) {
            Ok(report) => Ok(Some((before, report))),
            Err(error) => {
                self.bring_back(module, kind, before);
                Err(error)
            }
        }
    }

    /// Gives a module the weights that it had. Where even that fails it is let go, and made anew
    /// from the state there is when it is needed.
    fn bring_back(&self, module: &Arc<MutableModule>, kind: ModelKind, before: Weights) {
        let is_back = is_same(&module.weights(), &before) || refitted(module, before).is_ok();
        if !is_back {
            self.modules.forget(kind);
        }
    }
}

/// Dropped by a panic alone: some models may have changed then, so all are made anew from the
/// state there was.
struct Unwinding<'m>(&'m Modules);

impl Drop for Unwinding<'_> {
    fn drop(&mut self) {
        for kind in ModelKind::ALL {
            self.0.forget(kind);
        }
    }
}

fn refitted(module: &MutableModule, weights: Weights) -> Result<Report> {
    module.change(|change| {
        change.set_weights(weights);
        Ok(())
    })?;
    Ok(module.apply()?)
}

/// Whether both are one state, at the cost of three comparisons.
fn is_same(one: &Weights, other: &Weights) -> bool {
    let is_bare = |weights: &Weights| weights.overlays.is_empty() && weights.own.is_empty();
    let is_same_on_top = (is_bare(one) && is_bare(other))
        || (Arc::ptr_eq(&one.overlays, &other.overlays) && one.own.is_same(&other.own));
    is_same_on_top && one.parameters.is_same(&other.parameters)
}
