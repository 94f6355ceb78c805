//! Finds TensorRT's headers and reads the declarations of each version.
//!
//! A set of headers is a folder with `NvInferImpl.h`. Sets come from folders that the user names
//! and from the `trtx-sys` package, which carries NVIDIA's public headers; cargo fetches it for a
//! manifest of its own below `target/`, so it never is a dependency of the workspace.
//!
//! ```text
//! cargo xtask codegen tensorrt --headers /opt/TensorRT-11.4/include
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::parse::Declarations;
use super::{Line, Version};
use crate::process::{cargo, output_of};
use crate::workspace::Workspace;

/// The headers of one version.
pub(super) struct Headers {
    pub(super) folder: PathBuf,
    pub(super) line: Line,
    pub(super) version: Version,
    pub(super) declarations: Declarations,
}

/// Headers whose declarations make up the ABI, in the order in which they include one another.
pub(super) const FILES: [&str; 7] = [
    "NvInferRuntimeBase.h",
    "NvInferPluginBase.h",
    "NvInferRuntimePlugin.h",
    "NvInferRuntimeCommon.h",
    "NvInferImpl.h",
    "NvInferRuntime.h",
    "NvInfer.h",
];

/// How far below a folder headers are looked for.
const DEPTH: usize = 3;

const PACKAGE: &str = "trtx-sys";
const PACKAGE_VERSION: &str = "0.9.1";

/// Every known version's headers, oldest first in each line; earlier folders go before later ones.
pub(super) fn read_all(folders: &[PathBuf]) -> Result<Vec<Headers>> {
    let mut found: Vec<Headers> = Vec::new();
    for folder in folders {
        let sets = folders_with_headers(folder, DEPTH);
        if sets.is_empty() {
            bail!("no NvInferImpl.h in {} or below", folder.display());
        }
        for folder in sets {
            let Some(headers) = read(&folder)? else {
                continue;
            };
            let is_known = found
                .iter()
                .any(|known| known.line == headers.line && known.version == headers.version);
            if !is_known {
                found.push(headers);
            }
        }
    }
    found.sort_by_key(|headers| (headers.line, headers.version));
    check_complete(&found)?;
    Ok(found)
}

/// Each line must be there, TensorRT-RTX from its first version on: what came with which version
/// is known only by comparing.
fn check_complete(found: &[Headers]) -> Result<()> {
    for line in Line::ALL {
        let oldest = found.iter().find(|headers| headers.line == line);
        let oldest = oldest.with_context(|| format!("no headers of {line} among those found"))?;
        if line == Line::Rtx && oldest.version.minor > Line::FIRST_RTX_MINOR {
            bail!(
                "no headers of {line} 1.{} among those found, the oldest are of {}",
                Line::FIRST_RTX_MINOR,
                oldest.version
            );
        }
    }
    Ok(())
}

/// Reads one folder; `None` if its version is older than the ABI lines that are supported.
fn read(folder: &Path) -> Result<Option<Headers>> {
    let text = |name: &str| {
        let path = folder.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let version = version_in(&text("NvInferVersion.h")?)
        .with_context(|| format!("{}: no version in NvInferVersion.h", folder.display()))?;
    let Some(line) = Line::of(version) else {
        return Ok(None);
    };
    let mut declarations = Declarations::default();
    for name in FILES {
        declarations
            .read(&text(name)?)
            .with_context(|| folder.join(name).display().to_string())?;
    }
    Ok(Some(Headers {
        folder: folder.to_owned(),
        line,
        version,
        declarations,
    }))
}

/// `#define TRT_MAJOR_RTX 1`, or `NV_TENSORRT_MAJOR` with a number.
fn version_in(text: &str) -> Option<Version> {
    let number = |part: &str| {
        let mut words = text.lines().map(|line| line.split_whitespace());
        words.find_map(|mut words| {
            let is_define = words.next() == Some("#define");
            let name = words.next()?;
            let is_part = name
                .strip_prefix("TRT_")
                .is_some_and(|rest| rest.starts_with(part))
                || name.strip_prefix("NV_TENSORRT_") == Some(part);
            words.next()?.parse().ok().filter(|_| is_define && is_part)
        })
    };
    Some(Version {
        major: number("MAJOR")?,
        minor: number("MINOR")?,
        patch: number("PATCH")?,
    })
}

fn folders_with_headers(folder: &Path, depth: usize) -> Vec<PathBuf> {
    if folder.join("NvInferImpl.h").is_file() {
        return vec![folder.to_owned()];
    }
    let Ok(entries) = folder.read_dir() else {
        return Vec::new();
    };
    let mut folders = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| depth > 0 && path.is_dir())
        .flat_map(|path| folders_with_headers(&path, depth - 1))
        .collect::<Vec<_>>();
    folders.sort();
    folders
}

/// Where cargo keeps the package's headers.
pub(super) fn package_folder(workspace: &Workspace) -> Result<PathBuf> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        manifest_path: PathBuf,
    }
    let folder = workspace.target.join("tensorrt").join("headers");
    let sources = folder.join("src");
    std::fs::create_dir_all(&sources)?;
    std::fs::write(sources.join("lib.rs"), "")?;
    let manifest = folder.join("Cargo.toml");
    std::fs::write(
        &manifest,
        format!(
            "[package]\nname = \"headers\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[workspace]\n\
             [dependencies]\n{PACKAGE} = \"={PACKAGE_VERSION}\"\n"
        ),
    )?;
    let metadata = |arguments: &[&str]| {
        output_of(
            cargo()
                .args([
                    "metadata",
                    "--quiet",
                    "--format-version",
                    "1",
                    "--manifest-path",
                ])
                .arg(&manifest)
                .args(arguments),
        )
    };
    // What is there already needs no network.
    let text = metadata(&["--offline"])
        .or_else(|_| metadata(&[]))
        .with_context(|| {
            format!("cannot fetch {PACKAGE} {PACKAGE_VERSION} for its headers; name a folder with --headers")
        })?;
    let metadata: Metadata = serde_json::from_str(&text)?;
    let package = metadata
        .packages
        .into_iter()
        .find(|package| package.name == PACKAGE)
        .with_context(|| format!("cargo metadata names no {PACKAGE}"))?;
    let headers = package.manifest_path.with_file_name("TensorRT-Headers");
    if !headers.is_dir() {
        bail!("{PACKAGE} {PACKAGE_VERSION} has no TensorRT-Headers");
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_either_form() {
        let rtx = "#define TRT_MAJOR_RTX 1\n#define TRT_MINOR_RTX 6\n#define TRT_PATCH_RTX 1\n\
                   #define NV_TENSORRT_MAJOR TRT_MAJOR_RTX //!< major\n";
        let plain = "#define NV_TENSORRT_MAJOR 11 //!< x\n#define NV_TENSORRT_MINOR 0\n\
                     #define NV_TENSORRT_PATCH 2\n#define NV_TENSORRT_LWS_MAJOR 9\n";
        let version = |text| version_in(text).map(|v| v.to_string());
        assert_eq!(version(rtx).as_deref(), Some("1.6.1"));
        assert_eq!(version(plain).as_deref(), Some("11.0.2"));
        assert_eq!(version("#define X 1\n"), None);
    }
}
