//! From programs to plans: found in the cache, or lowered and built.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tintype_ir::{Graph, Stage, StagedGraph};
use tintype_tensor::DType;

use super::{F8Weights, Manifest};
use crate::build::{Config, Flag, Progress};
use crate::lower::{self, LowerOptions, SizeRange, lower};
use crate::plan::{PlanCache, PlanEntry, PlanFolder, PlanKey, Recipe};
use crate::{Error, Result, Target, Tensorrt};

/// Is told how far a build is, and which program is built; may say `Break`.
pub type Follow = Arc<dyn Fn(Stage, Progress<'_>) -> ControlFlow<()> + Send + Sync>;

/// How plans are built, and where they are kept.
///
/// ```
/// use tintype_tensorrt::backend::BuildOptions;
/// use tintype_tensorrt::lower::SizeRange;
/// use tintype_tensorrt::plan::PlanCache;
///
/// let options = BuildOptions::new(PlanCache::of_user())
///     .with_range("batch", SizeRange::fixed(1))
///     .with_optimization_level(5);
/// ```
#[derive(Clone)]
pub struct BuildOptions {
    cache: PlanCache,
    folder: Option<PlanFolder>,
    ranges: BTreeMap<String, SizeRange>,
    optimization_level: Option<u8>,
    follow: Option<Follow>,
    f8_weights: F8Weights,
}

/// What a plan is built for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PlanTarget {
    /// An architecture, by name.
    Named(Target),
    /// The GPU that is there, of this name and architecture.
    ThisGpu(String),
}

/// A plan with what stands beside it.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) key: PlanKey,
    pub(super) entry: PlanEntry,
    pub(super) manifest: Manifest,
    /// The file that it is in, if the cache can be written.
    pub(super) path: PathBuf,
}

/// A plan that [`build_plans`] found or built.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BuiltPlan {
    /// What it is for.
    pub target: Target,
    /// The program.
    pub stage: Stage,
    /// The file.
    pub path: PathBuf,
    /// The file's size in bytes.
    pub bytes: u64,
    /// The plan's, which is packed in the file.
    pub plan_bytes: u64,
    /// How many named constants must be set before it runs.
    pub weights: usize,
    /// Whether it was built now, or found.
    pub is_new: bool,
    /// How long lowering and building took, or finding.
    pub took: Duration,
}

/// Builds the plans of the request and the step program for every target, without a GPU where
/// the library can; those that the cache has are found. A program without outputs has no plan.
///
/// # Errors
/// [`Error::Target`] for a target that the library does not build for, before anything is built;
/// [`Error::Lowering`] for an operation that cannot be lowered; what the library says; and
/// [`Error::Cache`] if the cache's folder cannot be written.
///
/// ```no_run
/// # fn f(graph: &tintype_ir::Graph) -> Result<(), Box<dyn std::error::Error>> {
/// use tintype_tensorrt::backend::{BuildOptions, build_plans};
/// use tintype_tensorrt::plan::PlanCache;
/// use tintype_tensorrt::Tensorrt;
///
/// let tensorrt = Tensorrt::load(&Default::default())?;
/// let staged = tintype_ir::StagedGraph::split(graph)?;
/// let options = BuildOptions::new(PlanCache::new("plans").with_limit(u64::MAX));
/// for plan in build_plans(&tensorrt, &staged, &["sm89".parse()?], &options)? {
///     println!("{} {}: {} bytes in {}", plan.target, plan.stage, plan.bytes, plan.path.display());
/// }
/// # Ok(()) }
/// ```
pub fn build_plans(
    tensorrt: &Tensorrt,
    staged: &StagedGraph,
    targets: &[Target],
    options: &BuildOptions,
) -> Result<Vec<BuiltPlan>> {
    let known = tensorrt.targets();
    if let Some(&target) = targets.iter().find(|target| !known.contains(target)) {
        return Err(Error::Target {
            target,
            reason: match known {
                [] => "it builds for the GPU that is there alone".to_owned(),
                known => format!("it builds for {}", Target::list(known)),
            },
            abi: tensorrt.abi(),
        });
    }
    for &target in targets {
        expect_dtypes(tensorrt, staged, target)?;
    }
    let staged = staged.canonical()?;
    let mut plans = Vec::new();
    for &target in targets {
        for stage in [Stage::Request, Stage::Step] {
            let start = Instant::now();
            let built = plan(
                tensorrt,
                &staged,
                stage,
                &PlanTarget::Named(target),
                options,
            )?;
            let Some(built) = built else { continue };
            let path = built.path;
            // A cache that cannot be written still gives a plan, but here the file is wanted.
            let bytes = match std::fs::metadata(&path) {
                Ok(metadata) => metadata.len(),
                Err(source) => return Err(Error::Cache { path, source }),
            };
            plans.push(BuiltPlan {
                target,
                stage,
                path,
                bytes,
                plan_bytes: built.entry.len(),
                weights: built.manifest.weights.len(),
                is_new: built.entry.is_new(),
                took: start.elapsed(),
            });
        }
    }
    Ok(plans)
}

/// An error for a graph with 8-bit floats and a target without products of them: the library would
/// say so only while it builds.
///
/// # Errors
/// [`Error::Target`].
pub(super) fn expect_dtypes(
    tensorrt: &Tensorrt,
    staged: &StagedGraph,
    target: Target,
) -> Result<()> {
    if target.has_fp8() || ![&staged.request, &staged.step].into_iter().any(has_fp8) {
        return Ok(());
    }
    let known = tensorrt.targets().iter().copied();
    let able: Vec<Target> = known.filter(|known| known.has_fp8()).collect();
    Err(Error::Target {
        target,
        reason: format!(
            "`{}` is in f8e4m3, of which that architecture has no products; compile it in bf16{}",
            staged.source.name(),
            match &*able {
                [] => String::new(),
                able => format!(", or for {}", Target::list(able)),
            }
        ),
        abi: tensorrt.abi(),
    })
}

/// Whether something in a program is an 8-bit float.
fn has_fp8(program: &Graph) -> bool {
    let parameters = program.parameters().iter().map(|parameter| &parameter.ty);
    let nodes = program.nodes().iter().map(|node| &node.ty);
    let inputs = program.inputs().iter().map(|input| &input.ty);
    let mut types = parameters.chain(nodes).chain(inputs);
    types.any(|ty| ty.dtype == DType::F8E4M3)
}

/// Whether the plans of the request and the step program for a target are there, whole, by stage;
/// nothing is built. Unlike [`build_plans`], it takes every target, since none is asked of the
/// library.
///
/// # Errors
/// What [`StagedGraph::canonical`] says.
pub fn has_plans(
    tensorrt: &Tensorrt,
    staged: &StagedGraph,
    target: Target,
    options: &BuildOptions,
) -> Result<Vec<(Stage, bool)>> {
    let staged = staged.canonical()?;
    let stages = [Stage::Request, Stage::Step].into_iter();
    let stages = stages.filter(|&stage| !staged.program(stage).outputs().is_empty());
    let target = PlanTarget::Named(target);
    let found = stages.map(|stage| {
        let program = staged.program(stage);
        (stage, options.has_plan(tensorrt, program, &target))
    });
    Ok(found.collect())
}

/// The plan of a program of a canonical graph, found or built; none for a program without
/// outputs.
pub(super) fn plan(
    tensorrt: &Tensorrt,
    staged: &StagedGraph,
    stage: Stage,
    target: &PlanTarget,
    options: &BuildOptions,
) -> Result<Option<Plan>> {
    let program = staged.program(stage);
    if program.outputs().is_empty() {
        return Ok(None);
    }
    let key = PlanKey::new(program, &options.recipe(tensorrt, target));
    let found = options.folder.as_ref();
    let found = found.and_then(|folder| Some((folder.get(&key)?, folder.path(&key))));
    let (entry, path) = if let Some(found) = found {
        found
    } else {
        let entry = options.cache.get_or_build(&key, |writer| {
            tracing::info!("building a plan of `{}` for {target}", program.name());
            build(tensorrt, program, stage, target, options, writer)
        })?;
        (entry, options.cache.path(&key))
    };
    let manifest = Manifest::read(entry.manifest(), program).map_err(|reason| Error::Read {
        action: format!(
            "reading what stands beside the plan of `{}`",
            program.name()
        ),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, reason),
    })?;
    Ok(Some(Plan {
        key,
        entry,
        manifest,
        path,
    }))
}

/// Lowers and builds a program; gives its manifest.
fn build(
    tensorrt: &Tensorrt,
    program: &Graph,
    stage: Stage,
    target: &PlanTarget,
    options: &BuildOptions,
    writer: &mut (dyn Write + Send),
) -> Result<Vec<u8>> {
    let mut builder = tensorrt.builder()?;
    let threads = std::thread::available_parallelism();
    builder.set_max_threads(threads.map_or(1, std::num::NonZero::get))?;
    let network = builder.network()?;
    let lowered = lower(&network, program, &options.lowering(tensorrt))?;
    let mut config = builder.config()?;
    match target {
        PlanTarget::Named(target) => config.set_targets(&[*target])?,
        PlanTarget::ThisGpu(_) => config.set_target_of_this_gpu()?,
    }
    let has_weights = lowered.placeholders().next().is_some();
    if has_weights {
        make_weightless(tensorrt, &mut config)?;
    }
    if let Some(level) = options.optimization_level {
        config.set_optimization_level(level)?;
    }
    if let Some(follow) = &options.follow {
        let follow = Arc::clone(follow);
        config.on_progress(move |progress| follow(stage, progress))?;
    }
    let mut profile = builder.profile()?;
    if lowered.is_dynamic() {
        lowered.set_profile(&mut profile)?;
        config.add_profile(&profile)?;
    }
    let times = options.timing_cache(tensorrt, target);
    config.load_timing_cache(&options.known_times(&times))?;
    builder.build(&network, &config, writer)?;
    if let Err(error) = config.save_timing_cache(&times) {
        tracing::warn!("{error}");
    }
    let mut manifest = Manifest::new(&lowered);
    if !has_weights {
        // The plan has all of its constants.
        manifest.weights.clear();
    }
    Ok(manifest.to_bytes())
}

/// Set to 0, no NVIDIA library computes f32 products in TF32. TensorRT-RTX 1.6.1 does without it,
/// whatever it is told when it builds.
const TF32_OVERRIDE: &str = "NVIDIA_TF32_OVERRIDE";

/// No weight is in the plan, and each can be set by its name.
fn make_weightless(tensorrt: &Tensorrt, config: &mut Config<'_>) -> Result<()> {
    config.set_flag(Flag::StripPlan, true)?;
    // Null placeholders came together with this flag's use for them. Before, every constant of
    // the engine can be refitted, or none.
    let refit = if tensorrt.takes_placeholders() {
        Flag::RefitIndividual
    } else {
        Flag::Refit
    };
    config.set_flag(refit, true)
}

impl BuildOptions {
    /// The graph's own ranges, the library's own effort, and plans kept in `cache`.
    pub fn new(cache: PlanCache) -> Self {
        Self {
            cache,
            folder: None,
            ranges: BTreeMap::new(),
            optimization_level: None,
            follow: None,
            f8_weights: F8Weights::Auto,
        }
    }

    /// The same with fewer values of a symbol than the graph allows: a narrow range is faster,
    /// and one size more so.
    #[must_use]
    pub fn with_range(mut self, symbol: impl Into<String>, range: SizeRange) -> Self {
        self.ranges.insert(symbol.into(), range);
        self
    }

    /// The same with more or less effort, 0 to 5.
    #[must_use]
    pub fn with_optimization_level(mut self, level: u8) -> Self {
        self.optimization_level = Some(level);
        self
    }

    /// The same with a folder that is looked into first and never written to.
    #[must_use]
    pub fn with_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(PlanFolder::new(folder));
        self
    }

    /// The same with weights of 8-bit floats in another form.
    #[must_use]
    pub fn with_f8_weights(mut self, form: F8Weights) -> Self {
        self.f8_weights = form;
        self
    }

    /// Whether weights of 8-bit floats are widened for a library.
    pub(super) fn widens_f8_weights(&self, tensorrt: &Tensorrt) -> bool {
        self.f8_weights.are_widened(tensorrt)
    }

    /// The same with someone who is told how far a build is.
    #[must_use]
    pub fn with_follow(mut self, follow: Follow) -> Self {
        self.follow = Some(follow);
        self
    }

    /// Where plans are kept.
    pub fn cache(&self) -> &PlanCache {
        &self.cache
    }

    /// Whether the plan of a program of a canonical graph is in the folder or the cache, whole.
    pub(super) fn has_plan(
        &self,
        tensorrt: &Tensorrt,
        program: &Graph,
        target: &PlanTarget,
    ) -> bool {
        let key = PlanKey::new(program, &self.recipe(tensorrt, target));
        let saved = self.folder.as_ref().and_then(|folder| folder.get(&key));
        saved.is_some() || self.cache.get(&key).is_some()
    }

    /// What is looked into first.
    pub(super) fn folder(&self) -> Option<&PlanFolder> {
        self.folder.as_ref()
    }

    /// The ranges that are narrower than the graph's.
    pub(super) fn ranges(&self) -> &BTreeMap<String, SizeRange> {
        &self.ranges
    }

    /// Where the library's times are kept.
    pub(super) fn timing_cache(&self, tensorrt: &Tensorrt, target: &PlanTarget) -> PathBuf {
        let target = target.to_string();
        self.cache.timing_cache(&tensorrt.tag(), &target)
    }

    /// The times to begin with: the folder's, until there are own ones.
    fn known_times(&self, own: &Path) -> PathBuf {
        let name = own.file_name().unwrap_or_default().to_string_lossy();
        let saved = self.folder.as_ref().map(|folder| folder.file(&name));
        let saved = saved.filter(|saved| !own.exists() && saved.exists());
        saved.unwrap_or_else(|| own.to_owned())
    }

    fn lowering(&self, tensorrt: &Tensorrt) -> LowerOptions {
        LowerOptions {
            symbols: self.ranges.clone(),
            widen_f8_weights: self.widens_f8_weights(tensorrt),
        }
    }

    /// All that a plan depends on beside its program.
    fn recipe(&self, tensorrt: &Tensorrt, target: &PlanTarget) -> Recipe {
        let mut recipe = Recipe::new(tensorrt.abi(), target.to_string())
            .with("library", tensorrt.tag())
            .with("tintype", env!("CARGO_PKG_VERSION"))
            .with("lowering", lower::REVISION)
            .with("manifest", MANIFEST)
            .with("placeholders", tensorrt.takes_placeholders());
        if self.widens_f8_weights(tensorrt) {
            recipe = recipe.with("f8 weights", "widened");
        }
        if let Some(level) = self.optimization_level {
            recipe = recipe.with("optimization level", level);
        }
        // A plan runs only where this is as it was when it was built.
        if let Ok(value) = std::env::var(TF32_OVERRIDE) {
            recipe = recipe.with(TF32_OVERRIDE, value);
        }
        for (symbol, range) in &self.ranges {
            let range = format!("{}..{}..{}", range.min, range.opt, range.max);
            recipe = recipe.with(format!("range of {symbol}"), range);
        }
        recipe
    }
}

impl fmt::Debug for BuildOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuildOptions")
            .field("cache", &self.cache)
            .field("folder", &self.folder)
            .field("ranges", &self.ranges)
            .field("optimization_level", &self.optimization_level)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for PlanTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(target) => write!(f, "{target}"),
            Self::ThisGpu(name) => write!(f, "this {name}"),
        }
    }
}

/// The form of what stands beside plans.
const MANIFEST: u32 = 2;
