//! `cargo xtask test`: every test, doc test and example of the workspace.
//!
//! One `cargo test` builds everything once, in the dev profile that the workspace tunes for it
//! (dependencies optimized, own code lightly). The examples are part of that build and are then
//! run as programs: each must succeed without arguments, or end with 77 if it lacks something.
//!
//! Tests and examples that build real engines need the library of TensorRT-RTX, which is fetched
//! first; without it they are reported as skipped, by name and number.
//!
//! ```text
//! cargo xtask test
//! cargo xtask test -p tintype-ir verify
//! ```

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::process::{cargo, run as run_command};
use crate::workspace::Workspace;
use crate::{simulated_gpu, tensorrt};

/// Runs the tests; with `arguments` only what they select, and no examples.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    if !arguments.is_empty() {
        return run_command(cargo().arg("test").args(arguments));
    }
    let library =
        tensorrt::fetch::library(workspace, tensorrt::fetch::VERSION, tensorrt::fetch::CUDA);
    if let Err(error) = &library {
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
        Ok(()) => run_examples(workspace, library.ok().as_deref()),
        Err(_) => Ok(()),
    };
    without_model.and(tests).and(examples)
}

/// Runs them; `library` is the folder of TensorRT-RTX, for those that use it.
fn run_examples(workspace: &Workspace, library: Option<&Path>) -> Result<()> {
    let (mut failed, mut skipped, mut count) = (Vec::new(), 0, 0);
    for package in &workspace.packages {
        for example in package.targets_of("example") {
            count += 1;
            match run_example(workspace, &example.name, library) {
                Ok(true) => {}
                Ok(false) => skipped += 1,
                Err(error) => {
                    eprintln!("{error:#}");
                    failed.push(format!("{}/{}", package.name, example.name));
                }
            }
        }
    }
    for check in CHECKS {
        count += 1;
        match run_check(workspace, check) {
            Ok(true) => {}
            Ok(false) => skipped += 1,
            Err(error) => {
                eprintln!("{error:#}");
                failed.push(format!("{check:?}"));
            }
        }
    }
    println!(
        "examples: {} passed; {} failed; {skipped} skipped",
        count - failed.len() - skipped,
        failed.len()
    );
    if !failed.is_empty() {
        bail!("failing examples: {}", failed.join(", "));
    }
    Ok(())
}

/// Ends a program that lacks what it needs, as test runners agree.
const SKIPPED: i32 = 77;

/// Runs one built example in an empty folder and shows its output only if it fails. Whether it
/// was run; if not, it has said why.
fn run_example(workspace: &Workspace, name: &str, library: Option<&Path>) -> Result<bool> {
    let folder = workspace.target.join("tmp").join("examples").join(name);
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let program = executable(workspace, name);
    let mut command = Command::new(&program);
    if let Some(library) = library {
        command.env("TINTYPE_TENSORRT", library);
    }
    succeeds(name, command.current_dir(&folder))
}

/// Examples that check a GPU, on one that is not there.
const CHECKS: [&[&str]; 3] = [
    &["check_device", "--require-gpu", "--no-speed"],
    &["check_cuda", "--require-gpu", "--own-kernels"],
    &["check_cuda", "--require-gpu"],
];

fn run_check(workspace: &Workspace, check: &[&str]) -> Result<bool> {
    let name = format!("{} on a simulated GPU", check[0]);
    if let Some(reason) = simulated_gpu::missing() {
        println!("example {name} ... skipped: {reason}");
        return Ok(false);
    }
    let libraries = simulated_gpu::build(workspace)?;
    let mut command = Command::new(executable(workspace, check[0]));
    succeeds(
        &name,
        simulated_gpu::on(&libraries, command.args(&check[1..])),
    )
}

/// Whether it was run; if not, it has said why.
fn succeeds(name: &str, command: &mut Command) -> Result<bool> {
    let program = command.get_program().to_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if output.status.code() == Some(SKIPPED) {
        let reason = String::from_utf8_lossy(&output.stderr);
        println!("example {name} ... skipped: {}", reason.trim());
        return Ok(false);
    }
    if !output.status.success() {
        bail!(
            "example {name} failed ({})\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    println!("example {name} ... ok");
    Ok(true)
}

fn executable(workspace: &Workspace, name: &str) -> PathBuf {
    let folder = workspace.target.join("debug").join("examples");
    folder.join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
}
