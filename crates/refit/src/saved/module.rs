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
            structures.made(&wanted.definition, &wanted.weights.parameters)
        };
        let mut engines = self.engine_list();
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
        let compile = || {
            let ranges = ranges.clone();
            let backend = settings.backend.as_ref();
            Engine::compile(backend, &settings.options, structure, ranges)
        };
        let (engine, duration) = timed(compile)?;
        engine.touch(self.uses.fetch_add(1, Ordering::Relaxed));
        let ranges = engine.told_ranges();
        report.done.push(Done::Loaded { ranges, duration });
        self.add_engine(engine);
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
        let structure = self.structure(&self.wanted(), &signature)?;
        let sizes = signature.bind(&structure.graph)?;
        let engine = self.engine(&structure, &sizes);
        *lock(&self.latest) = Some(Latest {
            signature,
            structure: structure.hash,
            ranges: engine
                .map(|engine| engine.ranges.clone())
                .unwrap_or_default(),
        });
        Ok(())
    }
}
