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

mod bench_flux;
mod codegen;
mod fixtures;
mod process;
mod simulated_gpu;
mod tensorrt;
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
        /// Which of them: all, or those of one generator
        #[arg(value_enum)]
        what: Option<codegen::What>,
        /// Compare instead of writing; fail if a file is not current
        #[arg(long)]
        check: bool,
        /// A folder with headers of TensorRT, beside those that cargo can fetch (repeatable)
        #[arg(long)]
        headers: Vec<PathBuf>,
    },
    /// Fetch what tests can use and the repository does not hold, into `target/`
    Fetch {
        /// What to fetch
        #[arg(value_enum)]
        what: Fetched,
        /// The version of TensorRT-RTX
        #[arg(long, default_value = tensorrt::fetch::VERSION)]
        version: String,
        /// The CUDA version that it is built for
        #[arg(long, default_value = tensorrt::fetch::CUDA)]
        cuda: String,
    },
    /// Print the bindings of one folder of headers (what `codegen` runs)
    #[command(hide = true)]
    Bindings {
        /// The folder with `NvInfer.h`
        folder: PathBuf,
        /// A folder with what stands for CUDA's headers
        stubs: PathBuf,
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
    /// Run a program on a GPU that is not there, to find mistakes
    SimulatedGpu {
        /// The program and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Time FLUX.1-dev's transformer beside its peers on the GPU of this machine
    BenchFlux {
        /// A Python with torch, diffusers and peft
        #[arg(long, default_value = "python3")]
        python: PathBuf,
        /// Where the result goes; a chart and logs go beside it
        #[arg(long, default_value = "target/bench-flux/flux.json")]
        out: PathBuf,
        /// Parts with commas between them, for instance `ours,profile`
        #[arg(long)]
        parts: Option<String>,
        /// Arguments for `benches/peers/bench_flux.py`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        more: Vec<String>,
    },
}

/// What `cargo xtask fetch` can fetch.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Fetched {
    /// The library of TensorRT-RTX
    Tensorrt,
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
        Task::Bindings { folder, stubs } => tensorrt::print_bindings(folder, stubs),
        Task::Fetch {
            what: Fetched::Tensorrt,
            version,
            cuda,
        } => {
            let folder = tensorrt::fetch::library(&workspace, version, cuda)?;
            println!("{}", folder.display());
            Ok(())
        }
        Task::Test { arguments } => test::run(&workspace, arguments),
        Task::Ci => ci(&workspace),
        Task::Tidy => tidy::run(&workspace),
        Task::Codegen {
            what,
            check,
            headers,
        } => codegen::run(&workspace, *what, headers, *check),
        Task::SimulatedGpu { command } => simulated_gpu::run(&workspace, command),
        Task::Fixtures { python, print } => fixtures::run(&workspace, python, *print),
        Task::BenchFlux {
            python,
            out,
            parts,
            more,
        } => bench_flux::run(
            &workspace,
            &bench_flux::Options {
                python,
                out,
                parts: parts.as_deref(),
                more,
            },
        ),
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
    note("codegen", codegen::run(workspace, None, &[], true));
    note("test", test::run(workspace, &[]));
    if failed.is_empty() {
        println!("ci: everything passed");
        Ok(())
    } else {
        bail!("ci: failed: {}", failed.join(", "));
    }
}
