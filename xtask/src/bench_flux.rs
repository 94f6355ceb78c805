//! `cargo xtask bench-flux`: FLUX.1-dev's transformer beside its peers on the GPU of this machine.
//!
//! The work is that of `benches/peers/bench_flux.py`, which needs no cargo and says what its parts
//! are; this task only builds the program that it times.
//!
//! ```text
//! cargo xtask bench-flux --python ~/venv/bin/python
//! cargo xtask bench-flux --out one.json --parts ours,profile
//! cargo xtask bench-flux --parts ours -- --small --backend cpu
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{cargo, run as run_command};
use crate::workspace::Workspace;

const SCRIPT: &str = "benches/peers/bench_flux.py";
const PACKAGE: &str = "tintype-conformance";

/// What the script is given.
pub(crate) struct Options<'a> {
    /// A Python with torch, diffusers and peft.
    pub(crate) python: &'a Path,
    /// Where the result goes.
    pub(crate) out: &'a Path,
    /// The parts that run; the script's own choice without.
    pub(crate) parts: Option<&'a str>,
    /// More arguments of the script.
    pub(crate) more: &'a [String],
}

/// Builds the program and runs the script.
pub(crate) fn run(workspace: &Workspace, options: &Options<'_>) -> Result<()> {
    let script = workspace.root.join(SCRIPT);
    if !script.is_file() {
        bail!("expected {SCRIPT}, found no such file");
    }
    let build = ["build", "--release", "--package", PACKAGE, "--bin", PACKAGE];
    run_command(cargo().args(build).current_dir(&workspace.root))?;
    run_command(&mut command(&script, &program(workspace)?, options))
}

fn program(workspace: &Workspace) -> Result<PathBuf> {
    let name = format!("{PACKAGE}{}", std::env::consts::EXE_SUFFIX);
    let path = workspace.target.join("release").join(name);
    path.canonicalize()
        .with_context(|| format!("cargo built no {}", path.display()))
}

fn command(script: &Path, program: &Path, options: &Options<'_>) -> Command {
    let mut command = Command::new(options.python);
    command.arg(script).arg("--program").arg(program);
    command.arg("--out").arg(options.out);
    if let Some(parts) = options.parts {
        command.args(["--parts", parts]);
    }
    command.args(options.more);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_gets_the_program_and_what_it_was_asked_for() {
        let options = Options {
            python: Path::new("python3"),
            out: Path::new("flux.json"),
            parts: Some("ours"),
            more: &["--small".to_owned()],
        };
        let command = command(Path::new("bench.py"), Path::new("program"), &options);
        let arguments: Vec<_> = command.get_args().collect();
        let expected = ["bench.py", "--program", "program", "--out", "flux.json"];
        assert_eq!(arguments[..5], expected);
        assert_eq!(arguments[5..], ["--parts", "ours", "--small"]);
    }
}
