//! Where cuDNN may lie. Pure but for reading folders.
//!
//! The system's loader is asked first; then the folders into which NVIDIA's packages for Python
//! put it, since that is how most machines have it.

use std::path::{Path, PathBuf};

/// Names the library's file or folder; nothing else is then looked at.
pub(super) const VARIABLE: &str = "TINTYPE_CUDNN";

/// What may be opened, in order: names for the system's loader, then files that exist.
pub(super) fn candidates(variable: &impl Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    if let Some(named) = variable(VARIABLE).map(PathBuf::from) {
        let file = if named.is_dir() {
            named.join(NAME)
        } else {
            named
        };
        return vec![file];
    }
    let mut candidates: Vec<PathBuf> = [NAME, "libcudnn.so"].map(PathBuf::from).into();
    let mut roots: Vec<PathBuf> = ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .into_iter()
        .filter_map(|name| variable(name).map(PathBuf::from))
        .collect();
    roots.extend(variable("HOME").map(|home| PathBuf::from(home).join(".local")));
    roots.extend([PathBuf::from("/usr/local"), PathBuf::from("/usr")]);
    let packages = roots.iter().flat_map(|root| packages_in(&root.join("lib")));
    let files = packages.map(|package| package.join("nvidia/cudnn/lib").join(NAME));
    candidates.extend(files.filter(|file| file.is_file()));
    candidates.dedup();
    candidates
}

/// The folders of packages below `lib/python3.*`, those of the newest Python first.
fn packages_in(lib: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(lib).into_iter().flatten().flatten();
    let mut pythons: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("python3"))
        .collect();
    pythons.sort();
    let sites = |python: &String| {
        ["site-packages", "dist-packages"].map(|site| lib.join(python).join(site))
    };
    pythons.iter().rev().flat_map(sites).collect()
}

/// The library of cuDNN 9, which loads its parts from its own folder.
const NAME: &str = "libcudnn.so.9";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_names_is_all_that_is_tried() {
        let named = |name: &str| (name == VARIABLE).then(|| "/opt/x/libcudnn.so.9".to_owned());
        assert_eq!(candidates(&named), [PathBuf::from("/opt/x/libcudnn.so.9")]);
        let folder = std::env::temp_dir().to_string_lossy().into_owned();
        let of_folder = candidates(&|name| (name == VARIABLE).then(|| folder.clone()));
        assert_eq!(of_folder, [Path::new(&folder).join(NAME)]);
    }

    #[test]
    fn packages_of_an_environment_are_found() {
        let root = std::env::temp_dir().join(format!("tintype-cudnn-{}", std::process::id()));
        let folder = root.join("lib/python3.12/site-packages/nvidia/cudnn/lib");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(NAME), b"").unwrap();
        let path = root.to_string_lossy().into_owned();
        let found = candidates(&|name| (name == "VIRTUAL_ENV").then(|| path.clone()));
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(found[0], Path::new(NAME), "the system's comes first");
        assert!(found.contains(&folder.join(NAME)), "{found:?}");
    }
}
