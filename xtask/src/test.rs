//! `cargo xtask test`: every test, doc test and example of the workspace.
//!
//! One `cargo test` builds everything once, in the dev profile that the workspace tunes for it
//! (dependencies optimized, own code lightly). The examples are part of that build and are then
//! run as programs: each must succeed without arguments.
//!
//! Tests that build real engines need the library of TensorRT-RTX, which is fetched first; without
//! it they are reported as skipped, by name and number.
//!
//! ```text
//! cargo xtask test
//! cargo xtask test -p tintype-ir verify
//! ```

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::process::{cargo, run as run_command};
use crate::tensorrt;
use crate::workspace::Workspace;

/// Runs the tests; with `arguments` only what they select, and no examples.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    if !arguments.is_empty() {
        return run_command(cargo().arg("test").args(arguments));
    }
    if let Err(error) =
        tensorrt::fetch::library(workspace, tensorrt::fetch::VERSION, tensorrt::fetch::CUDA)
    {
        println!("skipped: tests with the library of TensorRT-RTX: {error:#}");
    }
    // Before the others, which need the program with its model.
    let without_model = run_command(
        cargo()
            .args(["test", "--package", "tintype", "--no-default-features"])
            .args(["--test", "without_model"])
            .current_dir(&workspace.root),
    );
    // Every crate is tried even if one fails: one run shows all there is to mend.
    let tests = run_command(
        cargo()
            .args(["test", "--workspace", "--no-fail-fast"])
            .current_dir(&workspace.root),
    );
    let examples = match tests {
        Ok(()) => run_examples(workspace),
        Err(_) => Ok(()),
    };
    without_model.and(tests).and(examples)
}

fn run_examples(workspace: &Workspace) -> Result<()> {
    let mut failed = Vec::new();
    let mut count = 0;
    for package in &workspace.packages {
        for example in package.targets_of("example") {
            count += 1;
            if let Err(error) = run_example(workspace, &example.name) {
                eprintln!("{error:#}");
                failed.push(format!("{}/{}", package.name, example.name));
            }
        }
    }
    println!(
        "examples: {} passed; {} failed",
        count - failed.len(),
        failed.len()
    );
    if !failed.is_empty() {
        bail!("failing examples: {}", failed.join(", "));
    }
    Ok(())
}

/// Runs one built example in an empty folder and shows its output only if it fails.
fn run_example(workspace: &Workspace, name: &str) -> Result<()> {
    let folder = workspace.target.join("tmp").join("examples").join(name);
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let program = executable(workspace, name);
    let output = Command::new(&program)
        .current_dir(&folder)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        bail!(
            "example {name} failed ({})\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    println!("example {name} ... ok");
    Ok(())
}

fn executable(workspace: &Workspace, name: &str) -> PathBuf {
    let folder = workspace.target.join("debug").join("examples");
    folder.join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
}
