//! A folder that `tintype compile` has filled, or that it fills.
//!
//! | file | holds |
//! |---|---|
//! | `pipeline.json` | which model, in which dtype and sizes, and what was compiled |
//! | `<component>/` | the component as a saved module, see [`SavedModule`] |
//! | `pipeline.lock` | nothing; held while the list is changed |
//!
//! Which compiled form a model needs is computed, not read here. The list says for which sizes
//! models must be compiled so that these forms are theirs, and it is what people read.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tintype::{FluxPipeline, KeepWeights, ModelKind, Sizes};
use tintype_backend::CompileOptions;
use tintype_ir::Graph;
use tintype_refit::SavedModule;

use super::precision::Precision;
use super::reference::ModelReference;
use super::save;

/// A folder with its list.
#[derive(Debug, Clone)]
pub(crate) struct PipelineFolder {
    path: PathBuf,
    pub(crate) list: PipelineList,
}

/// What is in a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PipelineList {
    /// The form of this file.
    version: u32,
    pub(crate) model: ModelReference,
    pub(crate) dtype: String,
    /// What all is compiled for.
    pub(crate) sizes: Sizes,
    pub(crate) components: Vec<ComponentRecord>,
    pub(crate) plans: Vec<PlanRecord>,
}

/// A component that was compiled for a backend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ComponentRecord {
    pub(crate) component: String,
    pub(crate) backend: String,
}

/// A plan of TensorRT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlanRecord {
    pub(crate) component: String,
    /// `request` or `step`.
    pub(crate) program: String,
    /// The architecture, as `sm89`.
    pub(crate) target: String,
    /// The library that built it and alone can run it.
    pub(crate) library: String,
    /// The file's name in the component's folder of compiled forms.
    pub(crate) file: String,
    /// The file's size.
    pub(crate) bytes: u64,
    /// How many named weights must be set before it runs.
    pub(crate) weights: usize,
}

impl PipelineFolder {
    /// A folder that is there.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = path.join(LIST);
        let told = || file.display().to_string();
        let size = fs::metadata(&file).with_context(|| {
            let told = told();
            format!("{told}: cannot be read; expected a folder that `tintype compile` has filled")
        })?;
        ensure!(
            size.len() <= MOST_BYTES,
            "{}: expected at most {MOST_BYTES} bytes, found {}",
            told(),
            size.len()
        );
        let bytes = fs::read(&file).with_context(|| format!("{}: cannot be read", told()))?;
        let version: Version = serde_json::from_slice(&bytes).with_context(told)?;
        ensure!(
            version.version == VERSION,
            "{}: expected version {VERSION}, found {}",
            told(),
            version.version
        );
        let list: PipelineList = serde_json::from_slice(&bytes).with_context(told)?;
        list.check().with_context(told)?;
        Ok(Self {
            path: path.to_owned(),
            list,
        })
    }

    /// A folder to fill for a model in these sizes: new, empty, or one that was filled for the
    /// same. Nothing is written yet.
    pub(crate) fn create(
        path: &Path,
        model: ModelReference,
        precision: Precision,
        sizes: &Sizes,
    ) -> Result<Self> {
        let told = || path.display().to_string();
        let new = PipelineList {
            version: VERSION,
            model,
            dtype: precision.to_string(),
            sizes: sizes.clone(),
            components: Vec::new(),
            plans: Vec::new(),
        };
        if path.join(LIST).exists() {
            let mut folder = Self::open(path)?;
            folder.list.join(new).with_context(told)?;
            return Ok(folder);
        }
        if path.exists() && !path.is_dir() {
            bail!("{}: expected a folder, found a file", told());
        }
        fs::create_dir_all(path).with_context(|| format!("{}: cannot be made", told()))?;
        let mut items = fs::read_dir(path).with_context(told)?;
        // What an earlier run left that was ended before it was listed is no harm.
        let is_ours = |name: &str| {
            name == LOCK
                || name.starts_with(save::TEMPORARY)
                || ModelKind::ALL.iter().any(|kind| kind.name() == name)
        };
        let other = items.find_map(|item| {
            let name = item.ok()?.file_name().to_string_lossy().into_owned();
            (!is_ours(&name)).then_some(name)
        });
        if let Some(other) = other {
            bail!(
                "{}: expected a new or empty folder, or one that was compiled, found `{other}` in \
                 it",
                told()
            );
        }
        save::check_writable(&path.join(LIST))?;
        Ok(Self {
            path: path.to_owned(),
            list: new,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of a component, which is that of a saved module.
    pub(crate) fn component(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where the compiled forms of a component are.
    pub(crate) fn compiled(&self, name: &str) -> PathBuf {
        SavedModule::compiled_folder(self.component(name))
    }

    /// The backends for which something is here, each once.
    pub(crate) fn backends(&self) -> Vec<&str> {
        let mut backends: Vec<&str> = Vec::new();
        for record in &self.list.components {
            if !backends.contains(&&*record.backend) {
                backends.push(&record.backend);
            }
        }
        backends
    }

    /// An error if a component is here that is another than this graph.
    pub(crate) fn expect_graph(&self, kind: ModelKind, graph: &Graph) -> Result<()> {
        let folder = self.component(kind.name());
        if !folder.join("module.json").exists() {
            return Ok(());
        }
        let saved = SavedModule::open(&folder)?;
        let hash = graph.hash();
        ensure!(
            saved.graphs().any(|(_, saved)| saved == hash),
            "{}: expected the {} of this model, found one that computes something else; give \
             another folder",
            folder.display(),
            kind.name()
        );
        Ok(())
    }

    /// Lists a component with its plans, in place of what was said of these, and writes the list.
    /// Others may do the same at the same time.
    pub(crate) fn add(&mut self, component: ComponentRecord, plans: Vec<PlanRecord>) -> Result<()> {
        let lock = self.path.join(LOCK);
        let told = || format!("{}: cannot be locked", lock.display());
        let mut options = File::options();
        let file = options.create(true).truncate(false).write(true).open(&lock);
        let file = file.with_context(told)?;
        file.lock().with_context(told)?;
        if self.path.join(LIST).exists() {
            // Others may have added something.
            let mut there = Self::open(&self.path)?;
            let told = || self.path.display().to_string();
            there.list.join(self.list.clone()).with_context(told)?;
            *self = there;
        }
        self.list.components.push(component);
        self.list.components.sort();
        self.list.components.dedup();
        for plan in plans {
            let is_other =
                |other: &PlanRecord| other.file != plan.file || other.component != plan.component;
            self.list.plans.retain(is_other);
            self.list.plans.push(plan);
        }
        let mut text = serde_json::to_vec_pretty(&self.list)?;
        text.push(b'\n');
        save::bytes(&self.path.join(LIST), &text)
    }

    /// Nothing here can be what a model of another dtype needs.
    pub(crate) fn expect_precision(&self, precision: Precision) -> Result<()> {
        ensure!(
            self.list.dtype == precision.to_string(),
            "{}: expected models compiled in {precision}, found {}; give --dtype",
            self.path.display(),
            self.list.dtype
        );
        Ok(())
    }

    /// A pipeline whose models are compiled for what is here, and take it from here.
    pub(crate) fn apply(&self, pipeline: FluxPipeline, keep_weights: KeepWeights) -> FluxPipeline {
        let pipeline = pipeline.sizes(self.list.sizes.clone());
        ModelKind::ALL.into_iter().fold(pipeline, |pipeline, kind| {
            let options = CompileOptions::default()
                .with_keep_weights(keep_weights)
                .with_folder(self.compiled(kind.name()));
            pipeline.compile_options(kind, options)
        })
    }
}

/// What is looked at before the rest, which other versions may write otherwise.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl PipelineList {
    fn check(&self) -> Result<()> {
        let sizes = self.sizes.clone().checked()?;
        ensure!(sizes == self.sizes, "sizes are no multiples of 16");
        let components = self.components.iter().map(|record| &record.component);
        for name in components.chain(self.plans.iter().map(|plan| &plan.component)) {
            let is_known = ModelKind::ALL.iter().any(|kind| kind.name() == name);
            ensure!(is_known, "`{name}` is no component");
        }
        for plan in &self.plans {
            let is_name = Path::new(&plan.file).file_name() == Some(plan.file.as_ref());
            ensure!(is_name, "`{}` is no name of a file", plan.file);
        }
        Ok(())
    }

    /// Takes another list of the same folder to be the same, or tells what differs.
    fn join(&mut self, other: Self) -> Result<()> {
        ensure!(
            self.sizes == other.sizes,
            "what is there is for {}, expected {}; give another folder",
            told_sizes(&self.sizes),
            told_sizes(&other.sizes)
        );
        ensure!(
            self.dtype == other.dtype,
            "what is there is in {}, expected {}; give another folder",
            self.dtype,
            other.dtype
        );
        // A model with files says more than its name.
        if self.model.is_without_files() {
            self.model = other.model;
        }
        Ok(())
    }
}

/// Sizes in the words of the command line.
pub(crate) fn told_sizes(sizes: &Sizes) -> String {
    let told = |range: &std::ops::RangeInclusive<usize>| {
        if range.start() == range.end() {
            range.start().to_string()
        } else {
            format!("{}..{}", range.start(), range.end())
        }
    };
    let tiles = if sizes.tiles { ", tiles" } else { "" };
    format!(
        "{} by {} pixels, {} tokens, {} at once{tiles}",
        told(&sizes.widths),
        told(&sizes.heights),
        told(&sizes.text_tokens),
        told(&sizes.pictures)
    )
}

/// The list's name in its folder.
const LIST: &str = "pipeline.json";
const LOCK: &str = "pipeline.lock";

const VERSION: u32 = 1;

/// Some hundred bytes for each plan.
const MOST_BYTES: u64 = 16 << 20;
