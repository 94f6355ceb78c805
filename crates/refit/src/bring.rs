//! How engines come to have what is wanted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tintype_ir::Binding;

use crate::engine::{Engine, lock, timed};
use crate::gate::Entered;
use crate::module::{Aim, Latest, MutableModule, Wanted};
use crate::ranges::{EngineRanges, holds};
use crate::structure::Structure;
use crate::weights::Difference;
use crate::{Done, Error, Noticed, Report, Result, Signature};

/// An engine with a picture of this thread.
type Ready<'m> = (Arc<Engine>, Entered<'m>);

impl MutableModule {
    /// The engine that has what is wanted already, if one has.
    pub(crate) fn ready(&self, aim: &Aim, report: &mut Report) -> Option<Ready<'_>> {
        let engine = self.engine(aim)?;
        let entered = waited(report, || self.gate.enter(engine.number));
        // It may have been changed or let go before it could be entered.
        let is_ready = engine.has(&aim.wanted.weights) && self.keeps(&engine);
        is_ready.then_some((engine, entered))
    }

    /// Brings what is wanted by now, and begins with it whatever is wanted meanwhile: so a
    /// picture begins however fast changes follow each other.
    pub(crate) fn bring(
        &self,
        signature: &Signature,
        report: &mut Report,
    ) -> Result<(Aim, Arc<Engine>, Entered<'_>)> {
        if self.gate.is_entered_here() {
            return Err(Error::PictureUnderWay);
        }
        let _alone = waited(report, || lock(&self.bringing));
        let start = Instant::now();
        let aim = self.aim(signature)?;
        report.check += start.elapsed();
        let (engine, entered) = match self.engine(&aim) {
            Some(engine) => self.bring_weights(engine, &aim.wanted, report),
            None => self.bring_engine(&aim, signature, report),
        }?;
        Ok((aim, engine, entered))
    }

    /// Notes that this ran.
    pub(crate) fn prove(&self, wanted: &Wanted) {
        let mut proven = lock(&self.proven);
        if proven
            .as_ref()
            .is_none_or(|proven| proven.version < wanted.version)
        {
            *proven = Some(wanted.clone());
        }
    }

    /// Notes that an engine runs now, and in the report that it is another than before.
    pub(crate) fn note_use(
        &self,
        engine: &Engine,
        signature: &Signature,
        aim: &Aim,
        report: &mut Report,
    ) {
        engine.touch(self.uses.fetch_add(1, Ordering::Relaxed));
        let mut latest = lock(&self.latest);
        if let Some(latest) = &*latest {
            if latest.structure == engine.structure && latest.ranges == engine.ranges {
                if latest.signature == *signature {
                    return;
                }
            } else if report.compilations() == 0 {
                report.noticed.extend(other_structure(latest, aim));
                report.done.push(Done::Switched);
            }
        }
        *latest = Some(Latest {
            signature: signature.clone(),
            structure: engine.structure,
            ranges: engine.ranges.clone(),
        });
    }

    fn bring_weights(
        &self,
        engine: Arc<Engine>,
        wanted: &Wanted,
        report: &mut Report,
    ) -> Result<Ready<'_>> {
        let start = Instant::now();
        let difference = match engine.weights() {
            Some(own) => Some(wanted.weights.difference(&own)?),
            None => None,
        };
        let names = difference.as_ref().map(Difference::names);
        let noticed = difference.into_iter().flat_map(Difference::noticed);
        report.noticed.extend(noticed);
        report.check += start.elapsed();
        if names.as_ref().is_some_and(BTreeSet::is_empty) {
            engine.note(&wanted.weights);
            let entered = self.gate.enter(engine.number);
            return Ok((engine, entered));
        }
        let closed = waited(report, || self.gate.close(engine.number));
        let refit = engine.refit(&wanted.weights, names.unwrap_or_default());
        let refit = refit.map_err(|error| self.taken_back(wanted, error))?;
        report.done.push(Done::Refitted(refit));
        Ok((engine, closed.enter()))
    }

    fn bring_engine(
        &self,
        aim: &Aim,
        signature: &Signature,
        report: &mut Report,
    ) -> Result<Ready<'_>> {
        let (wanted, structure) = (&aim.wanted, &aim.structure);
        report.noticed.push(self.reason(structure, &aim.sizes));
        let fits = structure.expect(&wanted.weights);
        fits.map_err(|error| self.taken_back(wanted, error))?;
        let (engine, duration) = timed(|| self.compiled(aim)).map_err(|error| {
            // Without weights: only another graph may be to blame, not other sizes of the same.
            if self.is_proven(aim, signature) {
                error
            } else {
                self.taken_back(wanted, error)
            }
        })?;
        let ranges = engine.told_ranges();
        tracing::debug!("compiled `{}` for {ranges}", structure.graph.name());
        report.done.push(Done::Compiled { ranges, duration });
        // Only now, when little but memory can fail, may another engine go for it.
        self.evict(report);
        let refit = engine.refit(&wanted.weights, BTreeSet::new());
        let refit = refit.map_err(|error| self.taken_back(wanted, error))?;
        report.done.push(Done::Refitted(refit));
        let engine = Arc::new(engine);
        let entered = self.gate.enter(engine.number);
        lock(&self.engines).push(Arc::clone(&engine));
        Ok((engine, entered))
    }

    /// A new engine.
    fn compiled(&self, aim: &Aim) -> Result<Engine> {
        let (settings, structure) = (&self.settings, aim.structure.as_ref());
        let ranges = self.ranges_for(structure, &aim.sizes)?;
        let number = self.uses.fetch_add(1, Ordering::Relaxed);
        let backend = settings.backend.as_ref();
        Engine::compile(number, backend, &settings.options, structure, ranges)
    }

    /// The ranges that a new engine is for.
    pub(crate) fn ranges_for(
        &self,
        structure: &Structure,
        sizes: &Binding,
    ) -> Result<EngineRanges> {
        if self.settings.backend.capabilities().compiles_sizes {
            let mut known = self.settings.known_ranges.iter();
            let known =
                known.find(|(hash, ranges)| *hash == structure.hash && holds(ranges, sizes));
            if let Some((_, ranges)) = known {
                return Ok(ranges.clone());
            }
            return self.settings.ranges.for_sizes(&structure.graph, sizes);
        }
        // What is declared is checked all the same.
        self.settings.ranges.resolved(&structure.graph)?;
        Ok(structure.graph.symbols().clone())
    }

    /// Wants again what ran last, if nobody wanted something else meanwhile.
    fn taken_back(&self, tried: &Wanted, error: Error) -> Error {
        let proven = lock(&self.proven).clone();
        let other = proven.filter(|proven| !proven.is_same(tried));
        if other.is_some_and(|proven| self.want(tried, proven)) {
            error.refused()
        } else {
            error
        }
    }

    /// Why no engine fits.
    fn reason(&self, structure: &Structure, sizes: &Binding) -> Noticed {
        match &*lock(&self.latest) {
            None => Noticed::FirstCall,
            Some(latest) if latest.structure != structure.hash => Noticed::Structure {
                from: latest.structure,
                to: structure.hash,
            },
            Some(_) => {
                let symbols = structure.graph.symbols().keys();
                let size = |symbol| sizes.get(symbol).expect("every symbol is bound");
                let told = symbols.map(|symbol| format!("{symbol} = {}", size(symbol)));
                Noticed::Sizes {
                    sizes: told.collect::<Vec<_>>().join(", "),
                }
            }
        }
    }

    /// Whether the graph is what it was before the latest changes.
    fn is_proven(&self, aim: &Aim, signature: &Signature) -> bool {
        let proven = lock(&self.proven).clone();
        let before = proven.and_then(|proven| self.structure(&proven, signature).ok());
        before.is_some_and(|before| before.hash == aim.structure.hash)
    }

    /// Whether an engine was not let go.
    fn keeps(&self, engine: &Arc<Engine>) -> bool {
        let engines = lock(&self.engines);
        engines.iter().any(|kept| Arc::ptr_eq(kept, engine))
    }

    /// Lets the engines go that were used longest ago, until there is room for one more.
    fn evict(&self, report: &mut Report) {
        while let Some(engine) = self.surplus() {
            // Its memory is free once its last picture is.
            let closed = waited(report, || self.gate.close(engine.number));
            let ranges = engine.told_ranges();
            report.done.push(Done::Evicted { ranges });
            drop(engine);
            drop(closed);
        }
    }

    /// Takes out the engine that was used longest ago if there is no room for one more.
    fn surplus(&self) -> Option<Arc<Engine>> {
        let mut engines = lock(&self.engines);
        if engines.len() < self.settings.most_engines {
            return None;
        }
        let oldest = (0..engines.len()).min_by_key(|&index| engines[index].last_used());
        Some(engines.remove(oldest.expect("there is one")))
    }
}

/// What is noticed where the graph is another than that which ran last.
fn other_structure(latest: &Latest, aim: &Aim) -> Option<Noticed> {
    let (from, to) = (latest.structure, aim.structure.hash);
    (from != to).then_some(Noticed::Structure { from, to })
}

/// Does what may wait for others, and notes how long it took.
fn waited<T>(report: &mut Report, wait: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = wait();
    report.waited += start.elapsed();
    result
}
