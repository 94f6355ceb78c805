//! `tintype compile`: all models of a pipeline, ahead of time, into one folder. Reads no weights.

#[cfg(feature = "tensorrt")]
mod tensorrt;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tintype::backends::Options;
use tintype::{Backend, ModelKind, Sizes, backends};
use tintype_backend::{Capabilities, CompileOptions, programs_for};
use tintype_ir::Graph;
use tintype_refit::Ahead;

use super::arguments::Compile;
use super::folder::{ComponentRecord, PipelineFolder, PlanRecord, told_sizes};
use super::named::{NamedModel, name};
use super::precision::Precision;
use super::progress::Progress;
use super::reference::ModelReference;

pub(crate) fn run(arguments: &Compile) -> Result<()> {
    let precision: Precision = arguments.dtype.parse()?;
    let dtype = precision.dtype;
    let model = NamedModel::open(arguments.model.as_deref(), arguments.quiet)?;
    let quantization = model.quantization(precision, arguments.scales.as_deref())?;
    let sizes = arguments.sizes.sizes(&model.defaults)?;
    let mut progress = Progress::new(arguments.quiet);
    let compiler = compiler(arguments, &progress)?;
    let architecture = model
        .architecture
        .clone()
        .for_backend(&compiler.capabilities());
    let reference = ModelReference::of(name(arguments.model.as_deref()), &arguments.output)?;
    let mut folder = PipelineFolder::create(&arguments.output, reference, precision, &sizes)?;
    let mut rows = Vec::new();
    for kind in kinds(arguments) {
        progress.spin(kind.name());
        let quantized = |graph| match &quantization {
            Some(quantization) => quantization.apply(kind, graph),
            None => Ok(graph),
        };
        let graph = quantized(architecture.graph(kind, dtype, &sizes)?)?;
        // As pipelines have it: for all sizes, from which engines are narrowed.
        let whole = quantized(architecture.graph(kind, dtype, &Sizes::default())?)?;
        folder.expect_graph(kind, &whole)?;
        let compiled = folder.compiled(kind.name());
        let told = || format!("{}: cannot be made", compiled.display());
        std::fs::create_dir_all(&compiled).with_context(told)?;
        let built = compiler.compile(kind, &graph, &compiled, &mut progress)?;
        let mut parameters = model.parameters(kind);
        if let Some(quantization) = &quantization {
            parameters = quantization.with_scales(kind, parameters)?;
        }
        Ahead::new(&whole, &arguments.backend)
            .ranges(&architecture.ranges(kind, &sizes))
            .parameters(parameters.as_ref())
            .compiled(&built.files)
            .save(folder.component(kind.name()))?;
        let component = ComponentRecord {
            component: kind.name().to_owned(),
            backend: arguments.backend.clone(),
        };
        folder.add(component, built.plans)?;
        rows.extend(built.rows);
    }
    progress.finish();
    if arguments.quiet {
        return Ok(());
    }
    table(&rows)?;
    say!("{}: {}", folder.path().display(), told_sizes(&sizes));
    Ok(())
}

/// What compiles for a backend.
trait Compiler {
    /// How the backend likes its graphs.
    fn capabilities(&self) -> Capabilities;

    /// Leaves the compiled forms of a model in a folder.
    fn compile(
        &self,
        kind: ModelKind,
        graph: &Graph,
        folder: &Path,
        progress: &mut Progress,
    ) -> Result<Built>;
}

/// What was compiled of a model.
#[derive(Default)]
struct Built {
    /// Names in the folder of compiled forms.
    files: Vec<String>,
    plans: Vec<PlanRecord>,
    rows: Vec<Row>,
}

/// A line of the table.
struct Row {
    component: &'static str,
    program: String,
    target: String,
    bytes: u64,
    /// How long it took; nothing if it was there.
    took: Option<Duration>,
    weights: usize,
}

fn compiler(arguments: &Compile, progress: &Progress) -> Result<Box<dyn Compiler>> {
    #[cfg(feature = "tensorrt")]
    if arguments.backend == tensorrt::NAME {
        return Ok(Box::new(tensorrt::Targets::new(arguments)?));
    }
    #[cfg(feature = "tensorrt")]
    if !arguments.target.is_empty() {
        let backend = &arguments.backend;
        anyhow::bail!(
            "--target: only the backend tensorrt builds for other GPUs, found --backend {backend}"
        );
    }
    let options = Options::default().with_follow(progress.follow());
    let backend = backends::choose_with(&arguments.backend, &options)?;
    Ok(Box::new(Here { backend }))
}

/// Compiles on this machine and for it.
struct Here {
    backend: Arc<dyn Backend>,
}

impl Compiler for Here {
    fn capabilities(&self) -> Capabilities {
        self.backend.capabilities()
    }

    fn compile(
        &self,
        kind: ModelKind,
        graph: &Graph,
        folder: &Path,
        _progress: &mut Progress,
    ) -> Result<Built> {
        let start = Instant::now();
        let programs = programs_for(self.backend.as_ref(), graph)?;
        // What was compiled here before is found.
        let options = CompileOptions::default().with_folder(folder);
        let executable = self.backend.compile(&programs, &options)?;
        let files = executable.save(folder)?;
        let took = start.elapsed();
        let mut bytes = 0;
        for file in &files {
            let path = folder.join(file);
            let size = path.metadata();
            bytes += size.with_context(|| path.display().to_string())?.len();
        }
        let row = Row {
            component: kind.name(),
            program: "all".to_owned(),
            target: self.backend.name().to_owned(),
            bytes,
            took: Some(took),
            weights: programs.weight.outputs().len(),
        };
        Ok(Built {
            files,
            plans: Vec::new(),
            rows: vec![row],
        })
    }
}

fn kinds(arguments: &Compile) -> Vec<ModelKind> {
    let is_wanted = |kind: &ModelKind| {
        if arguments.component.is_empty() {
            *kind != ModelKind::Encoder || arguments.img2img
        } else {
            arguments.component.iter().any(|name| name == kind.name())
        }
    };
    ModelKind::ALL.into_iter().filter(is_wanted).collect()
}

fn table(rows: &[Row]) -> Result<()> {
    say!(
        "{:15} {:8} {:8} {:>9} {:>8} {:>8}",
        "component",
        "program",
        "target",
        "file MiB",
        "seconds",
        "weights"
    );
    for row in rows {
        let seconds = |took: Duration| format!("{:.1}", took.as_secs_f64());
        say!(
            "{:15} {:8} {:8} {:9.2} {:>8} {:8}",
            row.component,
            row.program,
            row.target,
            row.bytes as f64 / f64::from(1 << 20),
            row.took.map_or("found".to_owned(), seconds),
            row.weights
        );
    }
    Ok(())
}
