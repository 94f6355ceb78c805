//! Development tasks: `cargo xtask <task>`; `cargo xtask help` lists them.
//!
//! What a developer and the continuous integration both run lives here, so that they cannot
//! differ. It is not part of the product and no other crate depends on it.
//!
//! ```text
//! cargo xtask test     every test, doc test and example of the workspace
//! cargo xtask ci       what must pass before a change lands
//! ```
#![forbid(unsafe_code)]

mod codegen;
mod fixtures;
mod process;
mod test;
mod tidy;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

use crate::process::cargo;
use crate::workspace::Workspace;

/// Development tasks of Tintype.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run every test, doc test and example of the workspace
    Test {
        /// Arguments for `cargo test`, for instance `-p tintype-ir`; the examples are then left out
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run everything that must pass before a change lands, tests last
    Ci,
    /// Check layering, file lengths, module headers, licences and forbidden words
    Tidy,
    /// Write the generated files
    Codegen {
        /// Compare instead of writing; fail if a file is not current
        #[arg(long)]
        check: bool,
    },
    /// Record the fixtures anew from the reference implementation
    Fixtures {
        /// A Python with torch, diffusers, transformers and peft
        #[arg(long, default_value = "python3")]
        python: PathBuf,
        /// Print the command instead of running it
        #[arg(long)]
        print: bool,
    },
}

fn main() -> ExitCode {
    match run(&Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: &Task) -> Result<()> {
    let workspace = Workspace::load()?;
    match task {
        Task::Test { arguments } => test::run(&workspace, arguments),
        Task::Ci => ci(&workspace),
        Task::Tidy => tidy::run(&workspace),
        Task::Codegen { check } => codegen::run(&workspace, *check),
        Task::Fixtures { python, print } => fixtures::run(&workspace, python, *print),
    }
}

/// Cheap checks first; the tests come last, so that their result lines end the output.
fn ci(workspace: &Workspace) -> Result<()> {
    let mut failed = Vec::new();
    let mut note = |name: &'static str, result: Result<()>| {
        if let Err(error) = result {
            eprintln!("error: {name}: {error:#}");
            failed.push(name);
        }
    };
    note(
        "fmt",
        process::run(cargo().args(["fmt", "--all", "--", "--check", "-l"])),
    );
    note("tidy", tidy::run(workspace));
    note(
        "clippy",
        process::run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-Dwarnings"])),
    );
    note(
        "doc",
        process::run(
            cargo()
                .args(["doc", "--workspace", "--no-deps"])
                .env("RUSTDOCFLAGS", "-Dwarnings"),
        ),
    );
    note("codegen", codegen::run(workspace, true));
    note("test", test::run(workspace, &[]));
    if failed.is_empty() {
        println!("ci: everything passed");
        Ok(())
    } else {
        bail!("ci: failed: {}", failed.join(", "));
    }
}
