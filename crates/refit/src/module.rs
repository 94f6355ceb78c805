//! The module: what is wanted, what runs, and how the one becomes the other.
//!
//! ```text
//! change, edit ──► wanted ──► bring (one at a time) ──► engines ──► pictures (many at a time)
//! ```
//!
//! A picture enters its engine at the [`Gate`]; a refit of that engine, and letting it go, wait
//! until all pictures have left. Compiling, and pictures of other engines, wait for nobody. How
//! weights and engines come is in `bring`; what may be wanted, in `change`.
//!
//! Locks are taken in this order, and none of them is held while a picture runs: a turn to
//! change or `bringing`, the gate, then any of the others, each for as long as something is
//! copied out or in.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tintype_backend::{Backend, CompileOptions, Tensors};
use tintype_ir::{Binding, GraphHash};
use tintype_weights::Parameters;

use crate::engine::{Engine, lock};
use crate::gate::Gate;
use crate::ranges::EngineRanges;
use crate::structure::{Definition, Key, ParameterTypes, Structure, Structures};
use crate::turn::Turn;
use crate::{
    Call, Define, Error, Given, ModuleBuilder, Picture, Ranges, Report, Result, Signature, Weights,
};

/// A graph on a backend that can be changed while it runs; see the [crate].
///
/// Threads share it. A thread that has a [`Picture`] may change the module, and begin another
/// picture as long as there is nothing to bring; to bring a change it must let its own picture
/// go, since a change waits for the pictures under way. Else it gets
/// [`Error::PictureUnderWay`].
pub struct MutableModule {
    pub(crate) settings: Settings,
    wanted: Mutex<Wanted>,
    /// What ran last: where a change goes back to that cannot be brought.
    pub(crate) proven: Mutex<Option<Wanted>>,
    /// Taken by a change from its beginning to its end, so that none is lost.
    pub(crate) turn: Turn,
    /// What was wrong with an edit, until a call says so.
    pub(crate) refused: Mutex<Option<Error>>,
    /// Held while an engine is compiled or refitted.
    pub(crate) bringing: Mutex<()>,
    pub(crate) gate: Gate,
    pub(crate) engines: Mutex<Vec<Arc<Engine>>>,
    pub(crate) structures: Mutex<Structures>,
    pub(crate) latest: Mutex<Option<Latest>>,
    /// Counts uses of engines.
    pub(crate) uses: AtomicU64,
}

/// What stays as it was said at the beginning.
pub(crate) struct Settings {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) options: CompileOptions,
    pub(crate) ranges: Ranges,
    pub(crate) most_engines: usize,
    pub(crate) check_finite: bool,
    /// Ranges of engines of another process.
    pub(crate) known_ranges: Vec<(GraphHash, EngineRanges)>,
}

/// What shall run next.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub(crate) definition: Definition,
    pub(crate) arguments: BTreeMap<String, i64>,
    pub(crate) weights: Weights,
    /// Of the parameters among the weights; [`Wanted::retyped`] after they changed.
    pub(crate) types: ParameterTypes,
    /// Rises with each change, also with one that is taken back.
    pub(crate) version: u64,
}

/// What ran last.
#[derive(Clone)]
pub(crate) struct Latest {
    pub(crate) signature: Signature,
    pub(crate) structure: GraphHash,
    pub(crate) ranges: EngineRanges,
}

/// What shall run for inputs of certain types.
pub(crate) struct Aim {
    pub(crate) wanted: Wanted,
    pub(crate) structure: Arc<Structure>,
    pub(crate) sizes: Binding,
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
                types: ParameterTypes::default(),
                version: 0,
            }),
            proven: Mutex::default(),
            turn: Turn::default(),
            refused: Mutex::default(),
            bringing: Mutex::default(),
            gate: Gate::default(),
            engines: Mutex::default(),
            structures: Mutex::default(),
            latest: Mutex::default(),
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
        lock(&self.engines).len()
    }

    /// What the next call of the last one's sizes would do first.
    ///
    /// # Errors
    /// What the definition says; inputs of the last call that do not fit it any more.
    pub fn state(&self) -> Result<State> {
        let Some(latest) = lock(&self.latest).clone() else {
            return Ok(if self.engines() == 0 {
                State::NeedsCompile
            } else {
                State::NeedsRefit
            });
        };
        self.state_for(&latest.signature)
    }

    /// What a call of inputs of these types would do first.
    ///
    /// # Errors
    /// What the definition says; inputs that do not fit it.
    pub fn state_for(&self, signature: &Signature) -> Result<State> {
        let aim = self.aim(signature)?;
        let Some(engine) = self.engine(&aim) else {
            return Ok(State::NeedsCompile);
        };
        let wanted = &aim.wanted.weights;
        let is_live = match engine.weights() {
            None => false,
            Some(own) => own.is_same(wanted) || wanted.difference(&own)?.names().is_empty(),
        };
        Ok(if is_live {
            State::Live
        } else {
            State::NeedsRefit
        })
    }

    /// Does now what the next call of the last one's sizes would do first; nothing before the
    /// first call.
    ///
    /// # Errors
    /// As [`MutableModule::picture`].
    pub fn apply(&self) -> Result<Report> {
        match self.latest_signature() {
            Some(signature) => Ok(self.picture(&signature)?.into_report()),
            None => self.expect_no_refusal().map(|()| Report::default()),
        }
    }

    /// Compiles and refits for inputs of these types, if need be, and begins a picture, which
    /// keeps its weights until it is dropped. Its weights were wanted when this was called, or
    /// later.
    ///
    /// # Errors
    /// A definition that makes no graph; inputs that do not fit it; what compiling says.
    /// [`Error::Refused`] if a change cannot be brought, and once after an [`Edit`](crate::Edit)
    /// that was refused: the change is taken back, and the next picture is what ran before.
    /// [`Error::PictureUnderWay`] if this thread would have to wait for itself.
    pub fn picture(&self, signature: &Signature) -> Result<Picture<'_>> {
        let start = Instant::now();
        self.expect_no_refusal()?;
        let mut report = Report::default();
        let aim = self.aim(signature)?;
        report.check = start.elapsed();
        let (aim, engine, entered) = match self.ready(&aim, &mut report) {
            Some((engine, entered)) => (aim, engine, entered),
            None => self.bring(signature, &mut report)?,
        };
        self.prove(&aim.wanted);
        self.note_use(&engine, signature, &aim, &mut report);
        let session = engine.session()?;
        report.duration = start.elapsed();
        Ok(Picture::new(engine, session, report, entered))
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
        // A change that waits for the picture shall not find the state.
        drop(state);
        let report = picture.into_report();
        Ok(Call { outputs, report })
    }

    pub(crate) fn wanted(&self) -> Wanted {
        lock(&self.wanted).clone()
    }

    /// Wants something else than `before`; false, and nothing, if that is not wanted any more.
    pub(crate) fn want(&self, before: &Wanted, after: Wanted) -> bool {
        let mut wanted = lock(&self.wanted);
        let is_current = wanted.version == before.version;
        if is_current && !before.is_same(&after) {
            let version = wanted.version + 1;
            *wanted = Wanted { version, ..after };
        }
        is_current
    }

    /// What shall run for inputs of these types.
    pub(crate) fn aim(&self, signature: &Signature) -> Result<Aim> {
        let wanted = self.wanted();
        let structure = self.structure(&wanted, signature)?;
        let sizes = signature.bind(&structure.graph)?;
        Ok(Aim {
            wanted,
            structure,
            sizes,
        })
    }

    /// The structure for inputs of these types. No lock is held while the definition makes it.
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
        let key = Key::new(&wanted.definition, &given, &wanted.types);
        if let Some(structure) = lock(&self.structures).get(&key) {
            return Ok(structure);
        }
        let structure = Arc::new(Structure::make(&wanted.definition, &given)?);
        lock(&self.structures).insert(key, &structure);
        Ok(structure)
    }

    /// The types of the last call's inputs.
    pub(crate) fn latest_signature(&self) -> Option<Signature> {
        let latest = lock(&self.latest);
        latest.as_ref().map(|latest| latest.signature.clone())
    }

    /// The engine that runs it.
    pub(crate) fn engine(&self, aim: &Aim) -> Option<Arc<Engine>> {
        let engines = lock(&self.engines);
        let found = engines
            .iter()
            .find(|engine| engine.fits(aim.structure.hash, &aim.sizes));
        found.cloned()
    }

    /// Says once what was wrong with an edit.
    fn expect_no_refusal(&self) -> Result<()> {
        lock(&self.refused).take().map_or(Ok(()), Err)
    }
}

impl Wanted {
    /// Whether both are the same for sure.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.weights.is_same(&other.weights)
            && self.definition.number == other.definition.number
            && self.arguments == other.arguments
    }

    /// The same, whose parameters may have other types than `before`.
    pub(crate) fn retyped(mut self, before: &Self) -> Self {
        let is_same = |one: &Weights| self.weights.parameters.is_same(&one.parameters);
        self.types = if is_same(&before.weights) {
            before.types.clone()
        } else {
            ParameterTypes::default()
        };
        self
    }
}

impl fmt::Debug for MutableModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MutableModule")
            .field("backend", &self.settings.backend.name())
            .field("engines", &self.engines())
            .field("most_engines", &self.settings.most_engines)
            .finish_non_exhaustive()
    }
}
