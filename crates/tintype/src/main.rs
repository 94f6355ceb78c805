//! The `tintype` program. Exit status: 0, 1 for a failure, 2 for wrong use.
#![forbid(unsafe_code)]

mod program;

use std::process::ExitCode;

fn main() -> ExitCode {
    program::run()
}
