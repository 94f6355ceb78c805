//! `cargo xtask tidy`: the rules of the repository that no compiler checks.
//!
//! [`layers`] looks at packages and who names whom, [`sources`] at files. Both are pure: they
//! get what was read and return [`Finding`]s. A warning is printed, an error also fails the task.
//!
//! ```text
//! error: crates/cpu/Cargo.toml: tintype-cpu (layer 3) names tintype-lora (layer 4)
//! ```

mod layers;
mod packed;
mod sources;

use std::fmt;
use std::process::Command;

use anyhow::{Context, Result, bail};

use self::sources::SourceFile;
use crate::process::output_of;
use crate::workspace::Workspace;

/// Something that a rule objects to.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    severity: Severity,
    /// The file and, where it helps, the line.
    place: String,
    message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    Warning,
    Error,
}

impl Finding {
    fn error(place: impl fmt::Display, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            place: place.to_string(),
            message: message.into(),
        }
    }

    fn warning(place: impl fmt::Display, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(place, message)
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(formatter, "{severity}: {}: {}", self.place, self.message)
    }
}

/// Checks everything, prints what was found, fails if there is an error.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let files = read_files(workspace)?;
    let mut findings = layers::check(workspace);
    findings.extend(sources::check(&files));
    findings.extend(sources::check_packages(workspace, &files));
    for finding in &findings {
        eprintln!("{finding}");
    }
    let errors = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .count();
    println!(
        "tidy: {} files, {errors} errors, {} warnings",
        files.len(),
        findings.len() - errors
    );
    if errors > 0 {
        bail!("tidy found {errors} errors");
    }
    Ok(())
}

/// Every file that git has or would add.
fn read_files(workspace: &Workspace) -> Result<Vec<SourceFile>> {
    let mut git = Command::new("git");
    git.arg("-C").arg(&workspace.root);
    git.args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]);
    let list = output_of(&mut git)?;
    let mut files = Vec::new();
    for path in list.split('\0').filter(|path| !path.is_empty()) {
        let full = workspace.root.join(path);
        // Removed but not yet committed, or a link to somewhere else: nothing to check.
        if !full.symlink_metadata().is_ok_and(|data| data.is_file()) {
            continue;
        }
        let bytes = std::fs::read(&full).with_context(|| format!("cannot read {path}"))?;
        files.push(SourceFile::new(path, bytes));
    }
    Ok(files)
}
