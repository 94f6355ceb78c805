//! What `cargo metadata` says about the workspace, as far as the tasks need it.
//!
//! Only members appear; dependencies from outside the workspace are dropped on reading.
//!
//! ```text
//! let workspace = Workspace::load()?;
//! workspace.packages.iter().map(|package| &package.name);
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::process::{cargo, output_of};

/// The workspace: its folders and its packages.
#[derive(Debug, Deserialize)]
pub(crate) struct Workspace {
    /// Absolute path of the repository.
    #[serde(rename = "workspace_root")]
    pub(crate) root: PathBuf,
    /// Where cargo builds.
    #[serde(rename = "target_directory")]
    pub(crate) target: PathBuf,
    pub(crate) packages: Vec<Package>,
}

/// One package of the workspace.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) license: Option<String>,
    pub(crate) manifest_path: PathBuf,
    /// `Some([])` for a package that is never published.
    #[serde(default)]
    pub(crate) publish: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) dependencies: Vec<Dependency>,
    #[serde(default)]
    pub(crate) targets: Vec<Target>,
}

/// A dependency as written in the manifest.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// Absent for normal ones, else `dev` or `build`.
    #[serde(default)]
    pub(crate) kind: Option<String>,
}

/// A library, program, example, test or bench.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) kind: Vec<String>,
    pub(crate) src_path: PathBuf,
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn load() -> Result<Self> {
        let mut command = cargo();
        // The folder of this crate, so that the task runs from anywhere.
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
        command.args(["metadata", "--no-deps", "--format-version=1"]);
        command.args(["--manifest-path", manifest]);
        Self::parse(&output_of(&mut command)?)
    }

    /// Reads what `cargo metadata --no-deps` prints.
    pub(crate) fn parse(metadata: &str) -> Result<Self> {
        serde_json::from_str(metadata).context("cannot read the output of `cargo metadata`")
    }

    /// A path below the root, for messages.
    pub(crate) fn relative<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.root).unwrap_or(path)
    }
}

impl Package {
    /// The programs and examples of one kind (`bin`, `example`).
    pub(crate) fn targets_of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Target> {
        self.targets
            .iter()
            .filter(move |target| target.kind.iter().any(|found| found == kind))
    }

    /// Whether others may ever depend on it from outside.
    pub(crate) fn is_public(&self) -> bool {
        self.publish
            .as_ref()
            .is_none_or(|registries| !registries.is_empty())
    }
}
