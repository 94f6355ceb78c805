//! `cargo xtask fixtures`: records the fixtures anew with the reference implementation.
//!
//! The recording itself is `tools/fixtures/run.sh`, the only place of the project that needs
//! Python; this task only starts it. Fixtures are committed, so nobody needs it to build or test.
//!
//! ```text
//! cargo xtask fixtures --python ~/venv/bin/python
//! ```

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::process::{line_of, run as run_command};
use crate::workspace::Workspace;

const SCRIPT: &str = "tools/fixtures/run.sh";

/// Runs (or prints) the recording script with `python` as its first argument.
pub(crate) fn run(workspace: &Workspace, python: &Path, print: bool) -> Result<()> {
    let script = workspace.root.join(SCRIPT);
    if !script.is_file() {
        bail!("expected {SCRIPT}, found no such file");
    }
    let mut command = Command::new("bash");
    command.arg(SCRIPT).arg(python);
    command.current_dir(&workspace.root).env("PYTHON", python);
    if print {
        println!("PYTHON={} {}", python.display(), line_of(&command));
        return Ok(());
    }
    run_command(&mut command)
}
