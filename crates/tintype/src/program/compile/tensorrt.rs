//! Plans of TensorRT, for GPUs that need not be here.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use tintype::ModelKind;
use tintype::backends::Options;
use tintype_backend::Capabilities;
use tintype_ir::Graph;
use tintype_tensorrt::backend::{self, BuiltPlan};
use tintype_tensorrt::{LoadOptions, Target, Tensorrt};

use super::{Built, Compiler, Row};
use crate::program::arguments::Compile;
use crate::program::folder::PlanRecord;
use crate::program::precision::Precision;
use crate::program::progress::Progress;

/// The name of the backend.
pub(super) const NAME: &str = "tensorrt";

/// The library, and what it builds for.
pub(super) struct Targets {
    tensorrt: Tensorrt,
    targets: Vec<Target>,
}

impl Targets {
    pub(super) fn new(arguments: &Compile) -> Result<Self> {
        let tensorrt = Tensorrt::load(&LoadOptions::default())?;
        tintype::tensorrt::expect_builder(&tensorrt)?;
        let targets = targets(arguments, &tensorrt)?;
        let precision: Precision = arguments.dtype.parse()?;
        if precision.is_fp8 {
            expect_fp8(&tensorrt, &targets)?;
        }
        Ok(Self { tensorrt, targets })
    }

    fn record(&self, kind: ModelKind, target: Target, plan: &BuiltPlan) -> Result<PlanRecord> {
        let file = plan.path.file_name().and_then(|name| name.to_str());
        Ok(PlanRecord {
            component: kind.name().to_owned(),
            program: plan.stage.to_string(),
            target: target.to_string(),
            library: self.tensorrt.tag(),
            file: file.context("a plan has a name")?.to_owned(),
            bytes: plan.bytes,
            weights: plan.weights,
        })
    }
}

impl Compiler for Targets {
    fn capabilities(&self) -> Capabilities {
        backend::capabilities()
    }

    fn compile(
        &self,
        kind: ModelKind,
        graph: &Graph,
        folder: &Path,
        progress: &mut Progress,
    ) -> Result<Built> {
        let programs = tintype::tensorrt::programs(graph)?;
        let mut built = Built::default();
        for &target in &self.targets {
            progress.spin(&format!("{} for {target}", kind.name()));
            let options = Options::default()
                .with_plans(folder)
                .with_follow(progress.follow());
            let plans = tintype::tensorrt::build(&self.tensorrt, &programs, target, &options);
            for plan in plans.with_context(|| format!("{} for {target}", kind.name()))? {
                let record = self.record(kind, target, &plan)?;
                built.rows.push(Row {
                    component: kind.name(),
                    program: record.program.clone(),
                    target: record.target.clone(),
                    bytes: record.bytes,
                    took: plan.is_new.then_some(plan.took),
                    weights: record.weights,
                });
                built.files.push(record.file.clone());
                built.plans.push(record);
            }
        }
        Ok(built)
    }
}

/// An error for architectures without products of fp8, before other models are built.
fn expect_fp8(tensorrt: &Tensorrt, targets: &[Target]) -> Result<()> {
    let Some(lacking) = targets.iter().find(|target| !target.has_fp8()) else {
        return Ok(());
    };
    let able = tensorrt.targets().iter().filter(|known| known.has_fp8());
    let able: Vec<String> = able.map(ToString::to_string).collect();
    bail!(
        "--target: {lacking} has no products of fp8; expected {}, or --dtype bf16",
        able.join(", ")
    );
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
