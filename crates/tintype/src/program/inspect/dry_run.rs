//! `tintype inspect --dry-run`: what would be compiled, where it would run, and what memory it
//! would take. Compiles nothing and reads no weights.

mod source;
mod table;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use anyhow::{Context as _, Result};
use serde::Serialize;
use tintype::{KeepWeights, ModelDefaults, ModelKind};
use tintype_backend::{Forecast, MemoryForecast, ProgramForecast};
use tintype_ir::{Binding, Graph, StagedGraph};

use self::source::Source;
use crate::program::arguments::Inspect;
use crate::program::folder::PipelineFolder;
use crate::program::named::{NamedModel, name};
use crate::program::precision::Precision;

pub(super) fn run(arguments: &Inspect) -> Result<()> {
    let plans = arguments.plans.as_deref();
    let folder = plans.map(PipelineFolder::open).transpose()?;
    let precision: Precision = arguments.dtype.parse()?;
    let model = NamedModel::open(arguments.model.as_deref(), arguments.dry.json)?;
    let quantization = model.quantization(precision, None)?;
    let sizes = arguments.dry.sizes.sizes(&model.defaults)?;
    let keep_weights: Result<KeepWeights, String> = arguments.dry.keep_weights.parse();
    let keep_weights = keep_weights.map_err(|error| anyhow::anyhow!("--keep-weights: {error}"))?;
    let mut reports = Vec::new();
    for source in Source::all(arguments)? {
        let architecture = model.architecture.clone();
        let architecture = architecture.for_backend(&source.capabilities());
        let mut components = Vec::new();
        for kind in kinds(arguments) {
            let mut graph = architecture.graph(kind, precision.dtype, &sizes)?;
            if let Some(quantization) = &quantization {
                graph = quantization.apply(kind, graph)?;
            }
            let compiled = folder.as_ref().map(|folder| folder.compiled(kind.name()));
            let asked = Asked {
                graph: &graph,
                sizes: &largest(&graph, &model.defaults),
                keep_weights,
                compiled: compiled.as_deref(),
            };
            let (staged, forecast) = source
                .forecast(&asked)
                .with_context(|| kind.name().to_owned())?;
            components.push(Component::new(kind, &staged, forecast));
        }
        reports.push(Report::new(
            &source,
            name(arguments.model.as_deref()),
            precision,
            components,
        ));
    }
    if arguments.dry.json {
        say!("{}", serde_json::to_string(&reports)?);
        return Ok(());
    }
    reports.iter().try_for_each(table::print)
}

/// What is asked of a source.
struct Asked<'a> {
    graph: &'a Graph,
    /// The largest.
    sizes: &'a Binding,
    keep_weights: KeepWeights,
    /// A folder of compiled forms.
    compiled: Option<&'a std::path::Path>,
}

/// All components on one backend.
#[derive(Serialize)]
struct Report {
    model: String,
    backend: String,
    /// The architecture, if it is asked for one that need not be here.
    target: Option<String>,
    dtype: String,
    components: Vec<Component>,
    /// The most bytes at once: with all components kept, and with `--low-memory`.
    most: usize,
    most_low_memory: usize,
}

#[allow(clippy::struct_field_names, reason = "the names of the JSON")]
#[derive(Serialize)]
struct Component {
    #[serde(rename = "component")]
    name: &'static str,
    /// Of symbols, both included; a size that is fixed has no symbol.
    ranges: BTreeMap<String, [usize; 2]>,
    programs: Vec<Program>,
    memory: Memory,
    /// The bytes held while it runs, with all that ran before it.
    held: usize,
    /// With `--low-memory`: the most, from its first weight on.
    held_low_memory: usize,
    /// With `--low-memory`: in the steps, without weights that only the request reads.
    steps_low_memory: usize,
}

#[allow(clippy::struct_field_names, reason = "the names of the JSON")]
#[derive(Serialize)]
struct Program {
    #[serde(rename = "program")]
    name: String,
    operations: usize,
    /// In which dtypes results are, by the number of operations.
    dtypes: BTreeMap<String, usize>,
    /// Nothing where nothing is compiled ahead.
    is_compiled: Option<bool>,
    fallbacks: Vec<String>,
}

#[derive(Serialize)]
struct Memory {
    weights: usize,
    /// Of these, what the request program alone reads.
    request_weights: usize,
    /// Beside weights, while they are computed.
    loading: usize,
    /// Nothing where only what is compiled tells.
    workspace: Option<usize>,
    inputs: usize,
    kept: usize,
    total: usize,
}

impl Report {
    fn new(
        source: &Source,
        model: &str,
        precision: Precision,
        mut components: Vec<Component>,
    ) -> Self {
        let mut held = 0;
        for component in &mut components {
            held += component.memory.total;
            component.held = held;
        }
        let low = components.iter().map(|component| component.held_low_memory);
        Self {
            model: model.to_owned(),
            backend: source.backend().to_owned(),
            target: source.target(),
            dtype: precision.to_string(),
            most: held,
            most_low_memory: low.max().unwrap_or(0),
            components,
        }
    }
}

impl Component {
    fn new(kind: ModelKind, staged: &StagedGraph, forecast: Forecast) -> Self {
        let symbols = staged.source.symbols().iter();
        let range = |range: &RangeInclusive<usize>| [*range.start(), *range.end()];
        let ranges = symbols.map(|(symbol, one)| (symbol.to_string(), range(one)));
        let programs = forecast.programs.into_iter();
        let total = forecast.memory.total();
        // Where each model goes after its use, nothing is kept for later.
        let mut low = forecast.memory;
        low.kept = 0;
        Self {
            name: kind.name(),
            ranges: ranges.collect(),
            programs: programs
                .map(|program| Program::new(staged, program))
                .collect(),
            memory: Memory::new(forecast.memory),
            held: total,
            held_low_memory: low.peak(),
            steps_low_memory: low.in_steps(),
        }
    }
}

impl Program {
    fn new(staged: &StagedGraph, forecast: ProgramForecast) -> Self {
        let mut dtypes: BTreeMap<String, usize> = BTreeMap::new();
        for node in staged.program(forecast.stage).nodes() {
            *dtypes.entry(node.ty.dtype.to_string()).or_default() += 1;
        }
        Self {
            name: forecast.stage.to_string(),
            operations: forecast.operations,
            dtypes,
            is_compiled: forecast.is_compiled,
            fallbacks: forecast.fallbacks,
        }
    }
}

impl Memory {
    fn new(memory: MemoryForecast) -> Self {
        Self {
            weights: memory.weights,
            request_weights: memory.request_weights,
            loading: memory.loading,
            workspace: memory.workspace,
            inputs: memory.inputs,
            kept: memory.kept,
            total: memory.total(),
        }
    }
}

/// The largest sizes that a graph is for; of steps, as many as a picture has.
fn largest(graph: &Graph, defaults: &ModelDefaults) -> Binding {
    let mut sizes = Binding::new();
    for (symbol, range) in graph.symbols() {
        let size = if &**symbol == STEPS {
            defaults.steps.clamp(*range.start(), *range.end())
        } else {
            *range.end()
        };
        sizes.set(symbol, size);
    }
    sizes
}

/// In the order of use; without one that is named, all that a prompt needs.
fn kinds(arguments: &Inspect) -> Vec<ModelKind> {
    let is_asked = |kind: &ModelKind| match &arguments.component {
        Some(name) => name == kind.name(),
        None => *kind != ModelKind::Encoder,
    };
    ModelKind::ALL.into_iter().filter(is_asked).collect()
}

/// The symbol of the number of steps.
const STEPS: &str = "steps";
