//! Writes the table of the files below `model/`, which `src/lib.rs` includes.
//!
//! It changes no file and packs none: the compiler takes them in as they are.
//!
//! ```text
//! &[("model_index.json", embedded!("/home/…/shapes/model/model_index.json")), …]
//! ```

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=model");
    let model = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("model");
    let mut paths = Vec::new();
    if model.exists() {
        collect(&model, &mut paths)?;
    }
    let mut entries = Vec::new();
    for path in paths {
        let full = path.to_str().ok_or("a path that is not UTF-8")?.to_owned();
        let name = path
            .strip_prefix(&model)?
            .to_str()
            .map(|name| name.replace('\\', "/"));
        entries.push((name.ok_or("a name that is not UTF-8")?, full));
    }
    // The order in which a folder is read differs between systems.
    entries.sort();
    let mut table = String::from("&[\n");
    for (name, path) in entries {
        writeln!(table, "    ({name:?}, embedded!({path:?})),")?;
    }
    table.push_str("]\n");
    let target = PathBuf::from(std::env::var("OUT_DIR")?).join("files.rs");
    Ok(std::fs::write(target, table)?)
}

/// The paths of all files below a folder, but for hidden ones.
fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if path.is_dir() {
            collect(&path, paths)?;
        } else {
            paths.push(path);
        }
    }
    Ok(())
}
