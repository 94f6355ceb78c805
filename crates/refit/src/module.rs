//! The module: what is wanted, what runs, and how the one becomes the other.
//!
//! ```text
//! change, edit ──► wanted ──► bring (one at a time) ──► engines ──► pictures (many at a time)
//! ```
//!
//! A picture holds the gate as a reader; a refit of an engine, and a change of the list of
//! engines, hold it alone. Compiling holds it not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use tintype_backend::{Backend, CompileOptions, Tensors};
use tintype_ir::{Binding, GraphHash, Stage};
use tintype_weights::Parameters;

use crate::engine::{Engine, lock, timed, told_ranges};
use crate::ranges::EngineRanges;
use crate::structure::{Definition, Structure, Structures};
use crate::weights::Difference;
use crate::{
    Call, Define, Done, Error, Given, ModuleBuilder, Noticed, Picture, Ranges, Report, Result,
    Signature, Weights,
};

/// A graph on a backend that can be changed while it runs; see the [crate].
///
/// Threads share it. A thread that has a [`Picture`] must let it go before it changes the module
/// or begins another: a change waits for all pictures under way.
pub struct MutableModule {
    pub(crate) settings: Settings,
    /// Held for as long as something is copied out or in.
    wanted: Mutex<Wanted>,
    /// Held by a change from its beginning to its end, so that none is lost.
    pub(crate) changing: Mutex<()>,
    /// Held while an engine is compiled or refitted.
    bringing: Mutex<()>,
    gate: RwLock<Vec<Arc<Engine>>>,
    structures: Mutex<Structures>,
    latest: Mutex<Option<Latest>>,
    /// What the weights of the engine that was refitted last were computed from.
    proven: Mutex<Option<Weights>>,
    uses: AtomicU64,
}

/// What stays as it was said at the beginning.
pub(crate) struct Settings {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) options: CompileOptions,
    pub(crate) ranges: Ranges,
    pub(crate) most_engines: usize,
    pub(crate) check_finite: bool,
}

/// What shall run next.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub(crate) definition: Definition,
    pub(crate) arguments: BTreeMap<String, i64>,
    pub(crate) weights: Weights,
}

/// What ran last.
#[derive(Clone)]
struct Latest {
    signature: Signature,
    structure: GraphHash,
    ranges: EngineRanges,
}

/// What a module would do at the next call of the sizes of the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Compile: nothing ran yet, or the structure is another that no engine has.
    NeedsCompile,
    /// Refit: parameters or overlays changed.
    NeedsRefit,
    /// Run.
    Live,
}

impl MutableModule {
    /// A module of what `define` makes, on a backend, with these parameters.
    pub fn builder(
        backend: Arc<dyn Backend>,
        define: impl Define + 'static,
        parameters: Parameters,
    ) -> ModuleBuilder {
        ModuleBuilder::new(backend, Arc::new(define), parameters)
    }

    pub(crate) fn new(builder: ModuleBuilder) -> Self {
        Self {
            settings: builder.settings,
            wanted: Mutex::new(Wanted {
                definition: Definition::new(builder.define),
                arguments: builder.arguments,
                weights: builder.weights,
            }),
            changing: Mutex::new(()),
            bringing: Mutex::new(()),
            gate: RwLock::default(),
            structures: Mutex::default(),
            latest: Mutex::default(),
            proven: Mutex::default(),
            uses: AtomicU64::new(1),
        }
    }

    /// The backend.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.settings.backend
    }

    /// What weights shall be computed from. Cheap, and a value: later changes are not seen.
    pub fn weights(&self) -> Weights {
        lock(&self.wanted).weights.clone()
    }

    /// The number of engines there are.
    pub fn engines(&self) -> usize {
        self.read().len()
    }

    /// What the next call of the last one's sizes would do first.
    ///
    /// # Errors
    /// What the definition says.
    pub fn state(&self) -> Result<State> {
        let Some(latest) = lock(&self.latest).clone() else {
            return Ok(State::NeedsCompile);
        };
        let wanted = self.wanted();
        let structure = self.structure(&wanted, &latest.signature)?;
        let sizes = latest.signature.bind(&structure.graph)?;
        let Some(engine) = self.engine(&structure, &sizes) else {
            return Ok(State::NeedsCompile);
        };
        let Some(own) = engine.weights() else {
            return Ok(State::NeedsRefit);
        };
        let differs =
            !own.is_same(&wanted.weights) && !wanted.weights.difference(&own)?.names().is_empty();
        Ok(if differs {
            State::NeedsRefit
        } else {
            State::Live
        })
    }

    /// Does now what the next call of the last one's sizes would do first; nothing before the
    /// first call.
    ///
    /// # Errors
    /// As [`MutableModule::picture`].
    pub fn apply(&self) -> Result<Report> {
        let Some(latest) = lock(&self.latest).clone() else {
            return Ok(Report::default());
        };
        Ok(self.picture(&latest.signature)?.into_report())
    }

    /// Compiles and refits for inputs of these types, if need be, and begins a picture, which
    /// keeps its weights until it is dropped.
    ///
    /// # Errors
    /// A definition that makes no graph; inputs that do not fit it; what compiling says.
    /// [`Error::Refused`] if weights cannot be brought: the change that asked for them is taken
    /// back, and the next picture has the weights from before.
    pub fn picture(&self, signature: &Signature) -> Result<Picture<'_>> {
        let start = Instant::now();
        let mut report = Report::default();
        loop {
            let wanted = self.wanted();
            let structure = self.structure(&wanted, signature)?;
            let sizes = signature.bind(&structure.graph)?;
            if report.noticed.is_empty() {
                report.check = start.elapsed();
            }
            let engines = self.read();
            let found = engines
                .iter()
                .find(|engine| engine.fits(structure.hash, &sizes));
            if let Some(engine) = found.filter(|engine| engine.has(&wanted.weights)) {
                let engine = Arc::clone(engine);
                self.note_use(&engine, signature, &structure, &mut report);
                let session = engine.session()?;
                report.duration = start.elapsed();
                return Ok(Picture::new(engines, engine, session, report));
            }
            drop(engines);
            self.bring(&wanted, &structure, &sizes, &mut report)?;
        }
    }

    /// Runs the graph once: the request program, and the step program if there is one.
    ///
    /// # Errors
    /// As [`MutableModule::picture`], and what running says.
    pub fn call(&self, request: &Tensors, step: &Tensors) -> Result<Call> {
        let mut picture = self.picture(&Signature::of(request).and(step))?;
        let state = picture.prepare(request)?;
        let mut outputs = state.outputs().clone();
        if picture.has_steps() {
            for (name, tensor) in picture.step(state.as_ref(), step)?.iter() {
                outputs.insert(name, tensor.clone());
            }
        }
        let report = picture.into_report();
        Ok(Call { outputs, report })
    }

    pub(crate) fn wanted(&self) -> Wanted {
        lock(&self.wanted).clone()
    }

    pub(crate) fn want(&self, wanted: Wanted) {
        *lock(&self.wanted) = wanted;
    }

    /// The structure for inputs of these types.
    pub(crate) fn structure(
        &self,
        wanted: &Wanted,
        signature: &Signature,
    ) -> Result<Arc<Structure>> {
        let given = Given {
            dtypes: signature.dtypes(),
            arguments: wanted.arguments.clone(),
            parameters: wanted.weights.parameters.clone(),
        };
        lock(&self.structures).get(&wanted.definition, &given)
    }

    /// The types of the last call's inputs.
    pub(crate) fn latest_signature(&self) -> Option<Signature> {
        lock(&self.latest)
            .as_ref()
            .map(|latest| latest.signature.clone())
    }

    fn engine(&self, structure: &Structure, sizes: &Binding) -> Option<Arc<Engine>> {
        let engines = self.read();
        let found = engines
            .iter()
            .find(|engine| engine.fits(structure.hash, sizes));
        found.cloned()
    }

    /// Notes that an engine runs now, and in the report that it is another than before.
    fn note_use(
        &self,
        engine: &Engine,
        signature: &Signature,
        structure: &Structure,
        report: &mut Report,
    ) {
        engine.touch(self.uses.fetch_add(1, Ordering::Relaxed));
        let mut latest = lock(&self.latest);
        if let Some(latest) = &*latest {
            if latest.structure == structure.hash && latest.ranges == engine.ranges {
                if latest.signature == *signature {
                    return;
                }
            } else if report.compilations() == 0 {
                report.done.push(Done::Switched);
            }
        }
        *latest = Some(Latest {
            signature: signature.clone(),
            structure: structure.hash,
            ranges: engine.ranges.clone(),
        });
    }

    /// Makes an engine that fits, or brings the weights of the one there is.
    fn bring(
        &self,
        wanted: &Wanted,
        structure: &Structure,
        sizes: &Binding,
        report: &mut Report,
    ) -> Result<()> {
        let _alone = lock(&self.bringing);
        let brought = match self.engine(structure, sizes) {
            Some(engine) => self.bring_weights(&engine, wanted, report),
            None => self.bring_engine(wanted, structure, sizes, report),
        };
        brought.map_err(|error| self.taken_back(wanted, error))
    }

    fn bring_weights(&self, engine: &Engine, wanted: &Wanted, report: &mut Report) -> Result<()> {
        let start = Instant::now();
        let difference = match engine.weights() {
            Some(own) if own.is_same(&wanted.weights) => return Ok(()),
            Some(own) => Some(wanted.weights.difference(&own)?),
            None => None,
        };
        let names = difference.as_ref().map(Difference::names);
        report
            .noticed
            .extend(difference.into_iter().flat_map(Difference::noticed));
        report.check += start.elapsed();
        let names = match names {
            Some(names) if names.is_empty() => {
                engine.note(&wanted.weights);
                return Ok(());
            }
            names => names.unwrap_or_default(),
        };
        self.expect_finite(wanted)?;
        // Waits for pictures under way, and lets none begin.
        let engines = self.write();
        let refit = engine.refit(&wanted.weights, names);
        drop(engines);
        report.done.push(Done::Refitted(refit?));
        *lock(&self.proven) = Some(wanted.weights.clone());
        Ok(())
    }

    /// What was edited in place is looked at here; what came by a change was before.
    fn expect_finite(&self, wanted: &Wanted) -> Result<()> {
        match &*lock(&self.proven) {
            Some(proven) if self.settings.check_finite => {
                crate::change::expect_finite(&wanted.weights, proven)
            }
            _ => Ok(()),
        }
    }

    /// Wants the weights again that were brought last, if nobody wanted others meanwhile.
    fn taken_back(&self, tried: &Wanted, error: Error) -> Error {
        let Some(proven) = lock(&self.proven).clone() else {
            return error;
        };
        let mut wanted = lock(&self.wanted);
        if wanted.weights.is_same(&tried.weights) && !proven.is_same(&tried.weights) {
            wanted.weights = proven;
            return error.refused();
        }
        error
    }

    fn bring_engine(
        &self,
        wanted: &Wanted,
        structure: &Structure,
        sizes: &Binding,
        report: &mut Report,
    ) -> Result<()> {
        report.noticed.push(self.reason(structure, sizes));
        let ranges = self.ranges_for(structure, sizes)?;
        let told = told_ranges(&ranges);
        let settings = &self.settings;
        let compile = || {
            Engine::compile(
                settings.backend.as_ref(),
                &settings.options,
                structure,
                ranges,
            )
        };
        let (engine, duration) = timed(compile)?;
        tracing::debug!("compiled `{}` for {told}", structure.graph.name());
        let ranges = told;
        report.done.push(Done::Compiled { ranges, duration });
        self.expect_finite(wanted)?;
        // Only now, when nothing but memory can fail, may another engine go for it.
        self.evict(report);
        report.done.push(Done::Refitted(
            engine.refit(&wanted.weights, BTreeSet::new())?,
        ));
        engine.touch(self.uses.fetch_add(1, Ordering::Relaxed));
        self.write().push(Arc::new(engine));
        *lock(&self.proven) = Some(wanted.weights.clone());
        Ok(())
    }

    /// The ranges that a new engine is for.
    pub(crate) fn ranges_for(
        &self,
        structure: &Structure,
        sizes: &Binding,
    ) -> Result<EngineRanges> {
        if self.settings.backend.capabilities().compiles_sizes {
            return self.settings.ranges.for_sizes(&structure.graph, sizes);
        }
        // What is declared is checked all the same.
        self.settings.ranges.resolved(&structure.graph)?;
        Ok(structure.graph.symbols().clone())
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

    /// Lets the engines go that were used longest ago, until there is room for one more.
    fn evict(&self, report: &mut Report) {
        let mut engines = self.write();
        while engines.len() >= self.settings.most_engines {
            let oldest = (0..engines.len()).min_by_key(|&index| engines[index].last_used());
            let engine = engines.remove(oldest.expect("there is one"));
            report.done.push(Done::Evicted {
                ranges: engine.told_ranges(),
            });
        }
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Vec<Arc<Engine>>> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<Arc<Engine>>> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MutableModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MutableModule")
            .field("backend", &self.settings.backend.name())
            .field("most_engines", &self.settings.most_engines)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Whether the graph has a step program.
    pub(crate) fn has_steps(&self) -> bool {
        !self
            .executable
            .graph()
            .program(Stage::Step)
            .outputs()
            .is_empty()
    }
}
