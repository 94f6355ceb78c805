//! Where cuBLASLt may lie beside the folders that the system's loader knows. Pure but for reading
//! folders.
//!
//! Toolkits come first, then NVIDIA's packages for Python, as most machines have it from those.

use std::path::{Path, PathBuf};

/// The files that exist, the likelier first.
pub(super) fn candidates(variable: &impl Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let folder_of = |name: &str| variable(name).filter(|value| !value.is_empty());
    let folders_of = |names: &[&str]| -> Vec<PathBuf> {
        let named = names.iter().filter_map(|name| folder_of(name));
        named.map(PathBuf::from).collect()
    };
    let mut toolkits = folders_of(&["CUDA_HOME", "CUDA_PATH"]);
    let local = Path::new("/usr/local");
    toolkits.extend(folders_in(local, |name| {
        name == "cuda" || name.starts_with("cuda-")
    }));
    let mut roots = folders_of(&["VIRTUAL_ENV", "CONDA_PREFIX"]);
    roots.extend(folder_of("HOME").map(|home| PathBuf::from(home).join(".local")));
    roots.extend([local.to_owned(), PathBuf::from("/usr")]);
    let pythons = roots
        .iter()
        .flat_map(|root| folders_in(&root.join("lib"), |name| name.starts_with("python3")));
    let packages = pythons.flat_map(|python| {
        ["site-packages", "dist-packages"].map(|site| python.join(site).join("nvidia"))
    });
    let libraries =
        packages.flat_map(|nvidia| ["cu13", "cublas"].map(|name| nvidia.join(name).join("lib")));
    let folders = toolkits.iter().map(|root| root.join("lib64"));
    let folders = folders.chain(libraries);
    let files = folders.flat_map(|folder| NAMES.map(|name| folder.join(name)));
    files.filter(|file| file.is_file()).collect()
}

/// The folders of these names, the last in order first: newer versions.
fn folders_in(folder: &Path, is_wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| is_wanted(name)).collect();
    names.sort();
    names.iter().rev().map(|name| folder.join(name)).collect()
}

/// Names under which a library that was loaded before is found again.
const NAMES: [&str; 2] = ["libcublasLt.so.13", "libcublasLt.so.12"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toolkits_and_packages_are_found() {
        let root = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            let file = root.path().join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, b"").unwrap();
            file
        };
        let packages = "venv/lib/python3.12/site-packages/nvidia";
        let expected = [
            make("toolkit/lib64/libcublasLt.so.13"),
            make(&format!("{packages}/cu13/lib/libcublasLt.so.13")),
            make(&format!("{packages}/cublas/lib/libcublasLt.so.12")),
        ];
        make(&format!("{packages}/cudnn/lib/libcudnn.so.9"));
        let variable = |name: &str| {
            let folder = match name {
                "CUDA_HOME" => "toolkit",
                "VIRTUAL_ENV" => "venv",
                _ => return None,
            };
            Some(root.path().join(folder).to_string_lossy().into_owned())
        };
        let mut found = candidates(&variable);
        found.retain(|file| file.starts_with(root.path()));
        assert_eq!(found, expected);
        assert!(
            candidates(&|_| Some(String::new()))
                .iter()
                .all(|file| file.is_file())
        );
    }
}
