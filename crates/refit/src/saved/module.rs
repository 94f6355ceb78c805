//! Where saving and loading touch a module: what it tells of itself, and what it takes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tintype_backend::programs_for;
use tintype_ir::Binding;

use crate::engine::{Engine, lock, timed};
use crate::module::{Latest, Settings, Wanted};
use crate::ranges::EngineRanges;
use crate::structure::{Made, Structure};
use crate::{Done, MutableModule, Report, Result, Signature};

/// A module at one moment.
pub(super) struct Moment<'m> {
    pub(super) settings: &'m Settings,
    pub(super) wanted: Wanted,
    /// What the definition made lately of such parameters; see `Structures::made`.
    pub(super) structures: Vec<(Option<Made>, Arc<Structure>)>,
    /// The one used longest ago first.
    pub(super) engines: Vec<Arc<Engine>>,
    pub(super) latest: Option<Signature>,
}

impl MutableModule {
    pub(super) fn moment(&self) -> Result<Moment<'_>> {
        let wanted = self.wanted();
        if wanted.definition.define.is_fixed() {
            // It may not have been asked for its graph yet.
            self.structure(&wanted, &Signature::new())?;
        }
        let structures = {
            let structures = lock(&self.structures);
            let parameters = &wanted.weights.parameters;
            structures.made(&wanted.definition, parameters, &wanted.types)
        };
        let mut engines = lock(&self.engines).clone();
        engines.sort_by_key(|engine| engine.last_used());
        Ok(Moment {
            settings: &self.settings,
            wanted,
            structures,
            engines,
            latest: self.latest_signature(),
        })
    }

    /// Makes an engine of what was compiled in another process, if that is there.
    pub(super) fn adopt(
        &self,
        structure: &Structure,
        ranges: &EngineRanges,
        report: &mut Report,
    ) -> Result<()> {
        if !self.is_compiled(structure, ranges)? {
            return Ok(());
        }
        let settings = &self.settings;
        let number = self.uses.fetch_add(1, Ordering::Relaxed);
        let compile = || {
            let ranges = ranges.clone();
            let backend = settings.backend.as_ref();
            Engine::compile(number, backend, &settings.options, structure, ranges)
        };
        let (engine, duration) = timed(compile)?;
        engine.touch(self.uses.fetch_add(1, Ordering::Relaxed));
        let ranges = engine.told_ranges();
        report.done.push(Done::Loaded { ranges, duration });
        lock(&self.engines).push(Arc::new(engine));
        Ok(())
    }

    /// Whether making an engine compiles nothing.
    fn is_compiled(&self, structure: &Structure, ranges: &EngineRanges) -> Result<bool> {
        let settings = &self.settings;
        let graph = structure.graph.narrowed(ranges)?;
        let staged = programs_for(settings.backend.as_ref(), &graph)?;
        let mut sizes = Binding::new();
        for (symbol, range) in graph.symbols() {
            sizes.set(symbol, *range.end());
        }
        let forecast = settings
            .backend
            .forecast(&staged, &settings.options, &sizes)?;
        let mut programs = forecast.programs.iter();
        Ok(programs.all(|program| program.is_compiled != Some(false)))
    }

    /// Takes over the types of the last call of another process.
    pub(super) fn resume(&self, signature: Signature) -> Result<()> {
        let aim = self.aim(&signature)?;
        let engine = self.engine(&aim);
        *lock(&self.latest) = Some(Latest {
            signature,
            structure: aim.structure.hash,
            ranges: engine
                .map(|engine| engine.ranges.clone())
                .unwrap_or_default(),
        });
        Ok(())
    }
}
