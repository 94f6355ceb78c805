//! Runs all cases on the backends that are there, and prints a table.
//!
//! ```text
//! TINTYPE_TENSORRT=FOLDER tintype-conformance --fixtures fixtures --target sm80 --json found.json
//! ```
//!
//! The program stands alone: it needs neither cargo nor the network, and of the repository the
//! folder of recorded cases at most. `docs/tensorrt.md` says how it is taken to a GPU.
#![forbid(unsafe_code)]

mod program;

use std::process::ExitCode;

use clap::Parser;

use program::Arguments;

fn main() -> ExitCode {
    tintype_conformance::log_to_stderr();
    match program::run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tintype-conformance: {error}");
            ExitCode::from(2)
        }
    }
}
