//! `tintype compile`: plans of all models of a pipeline, ahead of time. Reads no weights.

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use tintype::backends::Options;
use tintype::{Architecture, DType, FluxPipeline, ModelDefaults, ModelKind, Sizes};
use tintype_ir::StagedGraph;
use tintype_tensorrt::backend::BuiltPlan;
use tintype_tensorrt::{LoadOptions, Target, Tensorrt};

use super::arguments::{Compile, Range};
use super::model;
use super::plans::{PlanFolder, PlanRecord, told_sizes};
use super::progress::Progress;

pub(crate) fn run(arguments: &Compile) -> Result<()> {
    let dtype: DType = arguments.dtype.parse().context("--dtype")?;
    let (architecture, defaults) = model(arguments)?;
    let sizes = sizes(arguments, &defaults).checked()?;
    let tensorrt = Tensorrt::load(&LoadOptions::default())?;
    tintype::tensorrt::expect_builder(&tensorrt)?;
    let targets = targets(arguments, &tensorrt)?;
    let mut folder = PlanFolder::create(&arguments.output, &sizes)?;
    let mut progress = Progress::new(arguments.quiet);
    let mut rows = Vec::new();
    for kind in kinds(arguments) {
        progress.spin(kind.name());
        let graph = architecture.graph(kind, dtype, &sizes)?;
        let programs = tintype::tensorrt::programs(&graph)?;
        for &target in &targets {
            progress.spin(&format!("{} for {target}", kind.name()));
            let build = Build {
                tensorrt: &tensorrt,
                kind,
                target,
                dtype,
                model: name(arguments),
            };
            rows.extend(build.run(&programs, &mut folder, &progress)?);
        }
    }
    progress.finish();
    if arguments.quiet {
        return Ok(());
    }
    table(&rows)?;
    say!("{}: {}", folder.path().display(), told_sizes(&sizes));
    Ok(())
}

/// The plans of one model for one target.
struct Build<'a> {
    tensorrt: &'a Tensorrt,
    kind: ModelKind,
    target: Target,
    dtype: DType,
    model: &'a str,
}

/// A line of the table.
struct Row {
    record: PlanRecord,
    /// How long it took; nothing if it was there.
    took: Option<Duration>,
}

impl Build<'_> {
    fn run(
        &self,
        programs: &StagedGraph,
        folder: &mut PlanFolder,
        progress: &Progress,
    ) -> Result<Vec<Row>> {
        let options = Options::default()
            .with_plans(folder.path())
            .with_follow(progress.follow());
        let plans = tintype::tensorrt::build(self.tensorrt, programs, self.target, &options);
        let plans = plans.with_context(|| format!("{} for {}", self.kind.name(), self.target))?;
        let mut rows = Vec::new();
        for plan in plans {
            let record = self.record(&plan)?;
            folder.add(record.clone())?;
            let took = plan.is_new.then_some(plan.took);
            rows.push(Row { record, took });
        }
        Ok(rows)
    }

    fn record(&self, plan: &BuiltPlan) -> Result<PlanRecord> {
        let file = plan.path.file_name().and_then(|name| name.to_str());
        Ok(PlanRecord {
            model: self.model.to_owned(),
            component: self.kind.name().to_owned(),
            program: plan.stage.to_string(),
            dtype: self.dtype.to_string(),
            target: self.target.to_string(),
            library: self.tensorrt.tag(),
            file: file.context("a plan has a name")?.to_owned(),
            bytes: plan.bytes,
            weights: plan.weights,
        })
    }
}

fn name(arguments: &Compile) -> &str {
    arguments
        .model
        .as_deref()
        .unwrap_or(tintype::built_in::NAME)
}

/// What the models compute, and what is asked of them by default.
fn model(arguments: &Compile) -> Result<(Architecture, ModelDefaults)> {
    match name(arguments) {
        "flux-dev" => Ok((Architecture::flux_dev(), ModelDefaults::default())),
        "flux-schnell" => Ok((Architecture::flux_schnell(), ModelDefaults::default())),
        name => {
            if is_no_model(name) {
                let known = "flux-dev, flux-schnell, shapes, org/name of the hub or a folder";
                return Err(anyhow!("--model: expected {known}, found `{name}`"));
            }
            let files = model::files(arguments.model.as_deref(), arguments.quiet)?;
            let pipeline = FluxPipeline::from_files(files)?;
            Ok((pipeline.architecture(), pipeline.defaults().clone()))
        }
    }
}

/// Neither a folder, nor a path, nor a name of the hub.
fn is_no_model(name: &str) -> bool {
    name != tintype::built_in::NAME && !name.contains('/') && !Path::new(name).exists()
}

fn sizes(arguments: &Compile, defaults: &ModelDefaults) -> Sizes {
    let range = |given: Option<Range>, default: usize| -> RangeInclusive<usize> {
        given.map_or(default..=default, |range| range.min..=range.max)
    };
    Sizes {
        pictures: range(arguments.batch, 1),
        prompts: 1..=1,
        heights: range(arguments.height, defaults.height),
        widths: range(arguments.width, defaults.width),
        text_tokens: range(arguments.max_sequence_length, defaults.max_sequence_length),
        tiles: arguments.vae_tiling,
    }
}

/// The targets that are named, each once, or those of the GPUs that are here.
fn targets(arguments: &Compile, tensorrt: &Tensorrt) -> Result<Vec<Target>> {
    let known = tensorrt.targets();
    let names = known
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    if arguments.target.is_empty() {
        return tintype::tensorrt::targets_of_this_machine(tensorrt).map_err(|reason| {
            anyhow!(
                "no GPU here to build for: {reason}; name architectures with --target, of {names}"
            )
        });
    }
    let mut targets = Vec::new();
    for &target in &arguments.target {
        ensure!(
            known.contains(&target),
            "--target: {} builds for {names}, found {target}",
            tensorrt.abi()
        );
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    Ok(targets)
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
        "{:15} {:8} {:6} {:>9} {:>8} {:>8}",
        "component",
        "program",
        "target",
        "file MiB",
        "seconds",
        "weights"
    );
    for Row { record, took } in rows {
        let took = took.map_or("found".to_owned(), |took| {
            format!("{:.1}", took.as_secs_f64())
        });
        say!(
            "{:15} {:8} {:6} {:9.2} {:>8} {:8}",
            record.component,
            record.program,
            record.target,
            record.bytes as f64 / f64::from(1 << 20),
            took,
            record.weights
        );
    }
    Ok(())
}
