//! Where NVRTC may lie. Pure but for reading folders.

use std::path::{Path, PathBuf};

/// Names the library's file or folder; nothing else is then looked at.
pub(super) const VARIABLE: &str = "TINTYPE_NVRTC";

/// Folders beside those that the system's loader knows, the likelier first.
pub(super) fn places(variable: &impl Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let mut places = Vec::new();
    for name in ["CUDA_HOME", "CUDA_PATH"] {
        places.extend(variable(name).map(|root| PathBuf::from(root).join("lib64")));
    }
    let local = Path::new("/usr/local");
    let toolkits = folders_in(local, |name| name == "cuda" || name.starts_with("cuda-"));
    places.extend(toolkits.into_iter().map(|root| root.join("lib64")));
    let mut pythons = Vec::new();
    for name in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        pythons.extend(variable(name).map(PathBuf::from));
    }
    pythons.extend(variable("HOME").map(|home| PathBuf::from(home).join(".local")));
    pythons.extend([PathBuf::from("/usr/local"), PathBuf::from("/usr")]);
    for python in pythons {
        places.extend(pip_folders(&python.join("lib")));
    }
    places.retain(|place| place.is_dir());
    places.dedup();
    places
}

/// What may be opened: names for the system's loader, then the files in the places.
pub(super) fn candidates(places: &[PathBuf]) -> Vec<PathBuf> {
    let names = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];
    let mut candidates: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
    for place in places {
        candidates.extend(libraries_in(place));
    }
    candidates
}

/// The libraries in a folder, the newest first, each under its shortest name with a version.
pub(super) fn libraries_in(folder: &Path) -> Vec<PathBuf> {
    let major = |name: &str| -> Option<u32> { name.strip_prefix("libnvrtc.so.")?.parse().ok() };
    let mut found: Vec<(u32, PathBuf)> = names_in(folder)
        .into_iter()
        .filter_map(|name| Some((major(&name)?, folder.join(name))))
        .collect();
    found.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    let mut found: Vec<PathBuf> = found.into_iter().map(|(_, path)| path).collect();
    let plain = folder.join("libnvrtc.so");
    if found.is_empty() && plain.is_file() {
        found.push(plain);
    }
    found
}

/// The folders of NVIDIA's packages below `lib/python3.*`.
fn pip_folders(lib: &Path) -> Vec<PathBuf> {
    let pythons = folders_in(lib, |name| name.starts_with("python3"));
    let sites = pythons.iter().flat_map(|python| {
        ["site-packages", "dist-packages"].map(|site| python.join(site).join("nvidia"))
    });
    sites
        .flat_map(|nvidia| ["cu13", "cuda_nvrtc"].map(|package| nvidia.join(package).join("lib")))
        .collect()
}

fn folders_in(folder: &Path, is_wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut names = names_in(folder);
    names.retain(|name| is_wanted(name));
    names.sort();
    names.iter().rev().map(|name| folder.join(name)).collect()
}

fn names_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"").unwrap();
    }

    #[test]
    fn the_newest_library_of_a_folder_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "libnvrtc.so.12",
            "libnvrtc.so.13",
            "libnvrtc.so.12.9.86",
            "libnvrtc.so",
        ] {
            touch(&folder.path().join(name));
        }
        touch(&folder.path().join("libnvrtc-builtins.so.13"));
        let expected = ["libnvrtc.so.13", "libnvrtc.so.12"].map(|name| folder.path().join(name));
        assert_eq!(libraries_in(folder.path()), expected);
    }

    #[test]
    fn packages_of_an_environment_are_found() {
        let root = tempfile::tempdir().unwrap();
        let lib = "lib/python3.11/site-packages/nvidia/cuda_nvrtc/lib";
        touch(&root.path().join(lib).join("libnvrtc.so.12"));
        let path = root.path().to_str().unwrap().to_owned();
        let places = places(&|name| (name == "VIRTUAL_ENV").then(|| path.clone()));
        assert!(places.contains(&root.path().join(lib)), "{places:?}");
        let file = root.path().join(lib).join("libnvrtc.so.12");
        assert!(candidates(&places).contains(&file));
    }
}
