//! The command line: arguments, subcommands, and how failures are told.

/// `println!` to a reader that may have gone away.
macro_rules! say {
    ($($argument:tt)*) => {
        $crate::program::write(format_args!("{}\n", format_args!($($argument)*)))?
    };
}

mod arguments;
mod bench;
mod compile;
mod doctor;
mod folder;
mod generate;
mod inspect;
mod model;
mod named;
mod precision;
mod progress;
mod prompts;
mod quantize;
mod reference;
mod repl;
mod save;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use arguments::{Arguments, Command};

/// Parses the command line and runs it.
pub(crate) fn run() -> ExitCode {
    let arguments = Arguments::parse();
    start_log(arguments.command.is_quiet());
    let result = match arguments.command {
        Command::Generate(generate) => generate::run(&generate),
        Command::Repl(repl) => repl::run(&repl),
        Command::Compile(compile) => compile::run(&compile),
        Command::Inspect(inspect) => inspect::run(&inspect),
        Command::Bench(bench) => bench::run(&bench),
        Command::Quantize(quantize) => quantize::run(&quantize),
        Command::Doctor => doctor::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed pipe at the other end of stderr is nothing to panic about.
            let _ = writeln!(std::io::stderr(), "error: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// Writes to stdout. A reader that has seen enough (`| head`) ends the program in peace;
/// `println!` would panic.
fn write(text: std::fmt::Arguments) -> anyhow::Result<()> {
    match std::io::stdout().write_fmt(text) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => Ok(result?),
    }
}

/// Warnings go to stderr; `TINTYPE_LOG` sets the filter.
fn start_log(quiet: bool) {
    let default = if quiet { "error" } else { "warn" };
    let filter = tracing_subscriber::EnvFilter::try_from_env("TINTYPE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .without_time()
        .init();
}

/// The message and its causes in one line; a cause that its effect already tells is left out.
fn chain(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain() {
        let message = cause.to_string();
        if told.is_empty() {
            told = message;
        } else if !told.contains(&message) {
            told = format!("{told}: {message}");
        }
    }
    told
}
