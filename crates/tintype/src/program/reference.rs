//! Which model a folder was compiled for, so that it can be opened again.
//!
//! ```text
//! {"path": "../FLUX.1-dev"}  {"hub": "org/name"}  {"inside": "shapes"}  {"name": "flux-dev"}
//! ```

use std::path::{Component, Path};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tintype::built_in;

/// A model as a list of a folder names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ModelReference {
    /// A folder: from where the list is if it lies in or beside it, else absolute.
    Path(String),
    /// On the hub.
    Hub(String),
    /// Inside the program.
    Inside(String),
    /// Known by name, without any file.
    Name(String),
}

impl ModelReference {
    /// Of a model as `--model` names it, in a list of this folder.
    pub(crate) fn of(model: &str, folder: &Path) -> Result<Self> {
        if model == built_in::NAME {
            return Ok(Self::Inside(model.to_owned()));
        }
        if KNOWN.contains(&model) {
            return Ok(Self::Name(model.to_owned()));
        }
        let path = Path::new(model);
        if !path.exists() {
            return Ok(Self::Hub(model.to_owned()));
        }
        let told = || format!("{model}: cannot be found");
        let path = std::fs::canonicalize(path).with_context(told)?;
        // Links on the way to a folder that is yet to be made lead where they will then.
        let folder = std::path::absolute(folder).with_context(told)?;
        let beside = folder.parent().unwrap_or(&folder);
        let beside = std::fs::canonicalize(beside).unwrap_or_else(|_| beside.to_owned());
        let folder = beside.join(folder.file_name().unwrap_or_default());
        let relative = match (path.strip_prefix(&folder), path.strip_prefix(&beside)) {
            (Ok(inside), _) => inside.to_owned(),
            (_, Ok(beside)) => Path::new("..").join(beside),
            _ => path,
        };
        let text = relative.to_str();
        let text = text.with_context(|| format!("{model}: expected a path in UTF-8"))?;
        Ok(Self::Path(text.to_owned()))
    }

    /// What `--model` would say, for a list of this folder.
    pub(crate) fn argument(&self, folder: &Path) -> Result<String> {
        match self {
            Self::Hub(name) | Self::Inside(name) => Ok(name.clone()),
            Self::Name(name) => bail!(
                "{}: compiled for {name} without any files; give --model",
                folder.display()
            ),
            Self::Path(path) => {
                let told = Path::new(path);
                let mut components = told.components();
                if told.is_relative() {
                    // Beside the folder, and no further.
                    components.next();
                }
                let is_straight = !components.any(|part| matches!(part, Component::ParentDir));
                ensure!(
                    is_straight,
                    "{}: expected a model in or beside the folder, found `{path}`",
                    folder.display()
                );
                let path = folder.join(told);
                let text = path.to_str();
                let text = text.with_context(|| format!("{}: not UTF-8", path.display()))?;
                Ok(text.to_owned())
            }
        }
    }

    /// Whether nothing can be opened by it.
    pub(crate) fn is_without_files(&self) -> bool {
        matches!(self, Self::Name(_))
    }
}

impl std::fmt::Display for ModelReference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(text) | Self::Hub(text) | Self::Inside(text) | Self::Name(text) => {
                f.write_str(text)
            }
        }
    }
}

/// Models of which nothing need be there to compile them.
pub(crate) const KNOWN: [&str; 2] = ["flux-dev", "flux-schnell"];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test panics")]

    use super::*;

    #[test]
    fn a_model_beside_the_folder_moves_with_it() {
        let root = tempfile::tempdir().unwrap();
        let (model, folder) = (root.path().join("model"), root.path().join("compiled"));
        std::fs::create_dir(&model).unwrap();
        let reference = ModelReference::of(model.to_str().unwrap(), &folder).unwrap();
        assert_eq!(reference, ModelReference::Path("../model".to_owned()));
        std::fs::create_dir(&folder).unwrap();
        let found = reference.argument(&folder).unwrap();
        assert_eq!(
            std::fs::canonicalize(found).unwrap(),
            std::fs::canonicalize(&model).unwrap()
        );
        let far = ModelReference::of(model.to_str().unwrap(), &folder.join("a/b")).unwrap();
        assert!(matches!(&far, ModelReference::Path(path) if Path::new(path).is_absolute()));
        far.argument(&folder.join("a/b")).unwrap();
        for path in ["../../model", "a/../../model", "/a/../model"] {
            let reference = ModelReference::Path(path.to_owned());
            assert!(reference.argument(&folder).is_err(), "{path}");
        }
    }

    #[test]
    fn names_are_told_from_folders() {
        let of = |name: &str| ModelReference::of(name, Path::new("folder")).unwrap();
        assert_eq!(of("org/name"), ModelReference::Hub("org/name".to_owned()));
        assert_eq!(of("shapes"), ModelReference::Inside("shapes".to_owned()));
        assert!(of("flux-dev").is_without_files());
        let error = of("flux-dev").argument(Path::new("folder")).unwrap_err();
        assert!(error.to_string().contains("give --model"));
    }
}
