//! How a module is put together.

use std::collections::BTreeMap;
use std::sync::Arc;

use tintype_backend::{Backend, CompileOptions};
use tintype_weights::Parameters;

use crate::module::Settings;
use crate::ranges::EngineRanges;
use crate::structure::Structure;
use crate::{Define, MutableModule, Ranges, Weights};

/// What a module is made of.
///
/// ```no_run
/// # use std::sync::Arc;
/// # fn f(backend: Arc<dyn tintype_backend::Backend>, graph: tintype_ir::Graph,
/// #      parameters: tintype_weights::Parameters) {
/// use tintype_refit::{MutableModule, Ranges};
/// let module = MutableModule::builder(backend, graph, parameters)
///     .ranges(Ranges::new().symbol("batch", 1..=4))
///     .most_engines(3)
///     .build();
/// # }
/// ```
pub struct ModuleBuilder {
    pub(crate) settings: Settings,
    pub(crate) define: Arc<dyn Define>,
    pub(crate) arguments: BTreeMap<String, i64>,
    pub(crate) weights: Weights,
}

impl ModuleBuilder {
    pub(crate) fn new(
        backend: Arc<dyn Backend>,
        define: Arc<dyn Define>,
        parameters: Parameters,
    ) -> Self {
        Self {
            settings: Settings {
                backend,
                options: CompileOptions::default(),
                ranges: Ranges::default(),
                most_engines: MOST_ENGINES,
                check_finite: true,
                known_ranges: Vec::new(),
            },
            define,
            arguments: BTreeMap::new(),
            weights: Weights::new(parameters),
        }
    }

    /// Compiles for these ranges of sizes. Backends that run all sizes equally well compile once
    /// for all that the graph allows.
    #[must_use]
    pub fn ranges(mut self, ranges: Ranges) -> Self {
        self.settings.ranges = ranges;
        self
    }

    /// Keeps at most so many engines, 2 if nothing is said and 1 at least. Each has weights of
    /// its own.
    #[must_use]
    pub fn most_engines(mut self, most: usize) -> Self {
        self.settings.most_engines = most.max(1);
        self
    }

    /// What the backend is told at each compilation.
    #[must_use]
    pub fn options(mut self, options: CompileOptions) -> Self {
        self.settings.options = options;
        self
    }

    /// Whether changed parameters that hold NaN or an infinity are refused: yes if nothing is
    /// said. Each changed tensor is read once for it; those of the beginning are not.
    #[must_use]
    pub fn check_finite(mut self, check_finite: bool) -> Self {
        self.settings.check_finite = check_finite;
        self
    }

    /// An argument of the definition.
    #[must_use]
    pub fn argument(mut self, name: impl Into<String>, value: i64) -> Self {
        self.arguments.insert(name.into(), value);
        self
    }

    /// Overlays from the beginning.
    #[must_use]
    pub fn weights(mut self, weights: Weights) -> Self {
        self.weights = weights;
        self
    }

    /// Ranges that engines of some structures had before: a new engine is for these if they hold
    /// its sizes.
    pub(crate) fn known_ranges(mut self, known: &[(&Structure, EngineRanges)]) -> Self {
        let known = known
            .iter()
            .map(|(structure, ranges)| (structure.hash, ranges.clone()));
        self.settings.known_ranges = known.collect();
        self
    }

    /// The module. Nothing is compiled yet.
    pub fn build(self) -> MutableModule {
        MutableModule::new(self)
    }
}

/// Enough for two sizes in turn.
pub(crate) const MOST_ENGINES: usize = 2;
