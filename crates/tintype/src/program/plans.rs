//! A folder of plans: `plans.json` tells what is in it and for which sizes it is.
//!
//! The plans themselves lie beside it under names that tell their content; which one a model
//! needs is computed, not read here. The list says for which sizes models must be compiled so
//! that these plans are theirs, and it is what people read.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tintype::{DType, Sizes};

#[cfg(feature = "tensorrt")]
use super::save;

/// A folder with its list.
#[derive(Debug, Clone)]
pub(crate) struct PlanFolder {
    path: PathBuf,
    pub(crate) list: PlanList,
}

/// What is in a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlanList {
    /// The form of this file.
    version: u32,
    /// What all plans are for.
    pub(crate) sizes: Sizes,
    pub(crate) plans: Vec<PlanRecord>,
}

/// One plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlanRecord {
    /// The model as the command line named it.
    pub(crate) model: String,
    pub(crate) component: String,
    /// `request` or `step`.
    pub(crate) program: String,
    pub(crate) dtype: String,
    /// The architecture, as `sm89`.
    pub(crate) target: String,
    /// The library that built it and alone can run it.
    pub(crate) library: String,
    /// The file's name in the folder.
    pub(crate) file: String,
    /// The file's size.
    pub(crate) bytes: u64,
    /// How many named weights must be set before it runs.
    pub(crate) weights: usize,
}

impl PlanFolder {
    /// A folder that is there.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = path.join(LIST);
        let told = || file.display().to_string();
        let size = std::fs::metadata(&file).with_context(|| {
            format!(
                "{}: cannot be read; expected a folder that `tintype compile` has filled",
                file.display()
            )
        })?;
        ensure!(
            size.len() <= MOST_BYTES,
            "{}: expected at most {MOST_BYTES} bytes, found {}",
            file.display(),
            size.len()
        );
        let bytes = std::fs::read(&file).with_context(|| format!("{}: cannot be read", told()))?;
        let list: PlanList = serde_json::from_slice(&bytes).with_context(told)?;
        ensure!(
            list.version == VERSION,
            "{}: expected version {VERSION}, found {}",
            file.display(),
            list.version
        );
        let sizes = list.sizes.clone().checked().with_context(told)?;
        ensure!(
            sizes == list.sizes,
            "{}: sizes are no multiples of 16",
            file.display()
        );
        for plan in &list.plans {
            let is_name = Path::new(&plan.file).file_name() == Some(plan.file.as_ref());
            ensure!(
                is_name,
                "{}: `{}` is no name of a file",
                file.display(),
                plan.file
            );
        }
        Ok(Self {
            path: path.to_owned(),
            list,
        })
    }

    /// A folder to put plans for these sizes in: new, empty, or of plans for the same sizes.
    #[cfg(feature = "tensorrt")]
    pub(crate) fn create(path: &Path, sizes: &Sizes) -> Result<Self> {
        let told = || path.display().to_string();
        if path.join(LIST).exists() {
            let folder = Self::open(path)?;
            ensure!(
                folder.list.sizes == *sizes,
                "{}: the plans there are for {}, expected {}; give another folder",
                told(),
                told_sizes(&folder.list.sizes),
                told_sizes(sizes)
            );
            return Ok(folder);
        }
        if path.exists() && !path.is_dir() {
            bail!("{}: expected a folder, found a file", told());
        }
        std::fs::create_dir_all(path).with_context(|| format!("{}: cannot be made", told()))?;
        let mut items = std::fs::read_dir(path).with_context(told)?;
        // What an earlier run left that was ended before its first plan was listed is no harm.
        let is_ours = |name: &Path| {
            let extension = name.extension().and_then(|extension| extension.to_str());
            matches!(
                extension,
                Some("plan" | "lock" | "tmp" | "timing" | "kernels")
            )
        };
        let other = items.find_map(|item| {
            let name = PathBuf::from(item.ok()?.file_name());
            (!is_ours(&name)).then_some(name)
        });
        if let Some(other) = other {
            bail!(
                "{}: expected a new or empty folder, or one of plans, found `{}` in it",
                told(),
                other.display()
            );
        }
        save::check_writable(&path.join(LIST))?;
        Ok(Self {
            path: path.to_owned(),
            list: PlanList {
                version: VERSION,
                sizes: sizes.clone(),
                plans: Vec::new(),
            },
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Lists a plan, in place of what was said of it before, and writes the list.
    #[cfg(feature = "tensorrt")]
    pub(crate) fn add(&mut self, record: PlanRecord) -> Result<()> {
        let is_other =
            |other: &PlanRecord| other.file != record.file || other.model != record.model;
        self.list.plans.retain(is_other);
        self.list.plans.push(record);
        let mut text = serde_json::to_vec_pretty(&self.list)?;
        text.push(b'\n');
        save::bytes(&self.path.join(LIST), &text)
    }

    /// Nothing there can be what a model of this dtype needs.
    pub(crate) fn expect_dtype(&self, dtype: DType) -> Result<()> {
        let dtype = dtype.to_string();
        if self.list.plans.iter().any(|plan| plan.dtype == dtype) {
            return Ok(());
        }
        let mut found: Vec<&str> = self.list.plans.iter().map(|plan| &*plan.dtype).collect();
        found.sort_unstable();
        found.dedup();
        bail!(
            "{}: expected plans in {dtype}, found {}; give --dtype",
            self.path.display(),
            if found.is_empty() {
                "none".to_owned()
            } else {
                found.join(", ")
            }
        )
    }
}

/// Sizes in the words of the command line.
#[cfg(feature = "tensorrt")]
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
pub(crate) const LIST: &str = "plans.json";

const VERSION: u32 = 1;

/// Some hundred bytes for each plan.
const MOST_BYTES: u64 = 16 << 20;
