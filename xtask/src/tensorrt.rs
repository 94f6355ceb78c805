//! `cargo xtask codegen tensorrt`: the ABI of TensorRT from NVIDIA's headers, as Rust.
//!
//! Enums and plain structs come from bindgen, slots and signatures of virtual functions from a
//! small parser of class declarations, since bindgen cannot lay out these vtables. Where a C++
//! compiler is at hand, it confirms every slot. The result is committed below
//! `crates/tensorrt-sys/src/generated`, without a word of the headers' text; the headers
//! themselves never enter the repository.
//!
//! ```text
//! headers ─► tokens ─► parse ─► slots ─► render ─► generated/{slots,objects,interfaces}.rs
//!        └─► bindings (bindgen) ─────────────────► generated/types.rs
//!        └─► compiler (g++ -fdump-lang-class) ───► checks the slots
//! ```

mod bindings;
mod compiler;
pub(crate) mod fetch;
mod headers;
mod names;
mod parse;
mod render;
mod slots;
mod tokens;
mod types;

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result};

pub(crate) use bindings::print as print_bindings;

use crate::workspace::Workspace;

/// Where the generated files are, below the repository's root.
const FOLDER: &str = "crates/tensorrt-sys/src/generated";

/// A family of versions whose vtables only ever grow at their ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Line {
    /// TensorRT-RTX from 1.5.
    Rtx,
    /// TensorRT from 11.
    Enterprise,
}

/// A version as the library reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

impl Line {
    const ALL: [Self; 2] = [Self::Rtx, Self::Enterprise];

    /// TensorRT-RTX 1.5 removed functions from the middle of vtables; since then it only appends.
    const FIRST_RTX_MINOR: u32 = 5;

    /// The line of a version; `None` for what came before the two lines.
    fn of(version: Version) -> Option<Self> {
        match (version.major, version.minor) {
            (1, minor) if minor >= Self::FIRST_RTX_MINOR => Some(Self::Rtx),
            (11, _) => Some(Self::Enterprise),
            _ => None,
        }
    }
}

impl Version {
    const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self {
            major,
            minor,
            patch,
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Rtx => "TensorRT-RTX",
            Self::Enterprise => "TensorRT",
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A file and its text.
pub(crate) type File = (String, String);

/// What came of a generation for which not everything needed may be at hand.
pub(crate) enum Outcome {
    /// The files' texts.
    Files(Vec<File>),
    /// Why nothing could be generated.
    Skipped(String),
}

/// Generates every file from the headers below `folders` and those that cargo can fetch.
pub(crate) fn generate(workspace: &Workspace, folders: &[PathBuf]) -> Result<Outcome> {
    let mut folders = folders.to_vec();
    match headers::package_folder(workspace) {
        Ok(folder) => folders.push(folder),
        Err(error) if folders.is_empty() => {
            return Ok(Outcome::Skipped(format!("no headers: {error:#}")));
        }
        Err(error) => eprintln!("only headers of the folders named: {error:#}"),
    }
    let headers = headers::read_all(&folders)?;
    for headers in &headers {
        match compiler::check(workspace, headers)? {
            compiler::Outcome::Checked { classes, slots } => eprintln!(
                "{} {}: {classes} classes, {slots} slots as g++ lays them out",
                headers.line, headers.version
            ),
            compiler::Outcome::Skipped(reason) => eprintln!(
                "skipped: slots of {} {} against g++: {reason}",
                headers.line, headers.version
            ),
        }
    }
    let tables = slots::tables(&headers)?;
    let newest = |line| headers.iter().rev().find(|headers| headers.line == line);
    let rtx = newest(Line::Rtx).context("no headers of TensorRT-RTX")?;
    let enterprise = newest(Line::Enterprise).context("no headers of TensorRT")?;
    let context = types::Context::new([&rtx.declarations, &enterprise.declarations]);
    let newest_versions = [rtx.version, enterprise.version];
    let mut files = vec![
        ("slots.rs", render::slots(&tables, newest_versions)),
        ("objects.rs", render::objects(&tables, &context)?),
        ("interfaces.rs", render::interfaces(&headers, &context)?),
    ];
    match bindings::find_libclang(workspace) {
        Ok(libclang) => {
            let text = bindings::generate(workspace, &libclang, [rtx, enterprise])?;
            files.push(("types.rs", text));
        }
        Err(error) => println!("skipped: codegen of {FOLDER}/types.rs: no libclang: {error:#}"),
    }
    let formatted = |(name, text): (&str, String)| {
        let text = render::format(&text).with_context(|| format!("cannot format {name}"))?;
        Ok((format!("{FOLDER}/{name}"), text))
    };
    let files = files.into_iter().map(formatted).collect::<Result<_>>()?;
    Ok(Outcome::Files(files))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_begin_where_vtables_stopped_losing_slots() {
        let line = |major, minor| Line::of(Version::new(major, minor, 0));
        assert_eq!(line(1, 4), None);
        assert_eq!(line(1, 5), Some(Line::Rtx));
        assert_eq!(line(1, 7), Some(Line::Rtx));
        assert_eq!(line(10, 16), None);
        assert_eq!(line(11, 0), Some(Line::Enterprise));
        assert_eq!(line(12, 0), None);
    }
}
