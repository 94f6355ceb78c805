//! Bad input, end to end: the program is run on a pipeline or a command line with one
//! thing broken, and must say which file, tensor or argument, what was expected and
//! what was found; it must not panic, nor leave anything where pictures go.
//!
//! The tables are in the modules, one test a row.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

mod arguments;
#[path = "../common/mod.rs"]
mod common;
mod configs;
mod defaults;
mod loras;
mod tokenizers;
mod weights;

use common::Bench;
use libtest_mimic::{Arguments, Failed, Trial};

/// One thing that is broken, and what the program says.
struct Case {
    name: &'static str,
    /// Breaks something in the folder where the program runs.
    breaks: fn(&Bench),
    arguments: &'static [&'static str],
    /// The exit status: 0, 1 for a failure, 2 for wrong use.
    status: i32,
    /// Parts of the message, in any order.
    says: &'static [&'static str],
}

/// The prompt, where nothing but a file is broken.
const FOX: &[&str] = &["a red fox"];

/// A file is broken: exit status 1.
const fn broken(name: &'static str, breaks: fn(&Bench), says: &'static [&'static str]) -> Case {
    Case {
        name,
        breaks,
        arguments: FOX,
        status: 1,
        says,
    }
}

/// The command line asks for what cannot be.
const fn asked(
    name: &'static str,
    arguments: &'static [&'static str],
    status: i32,
    says: &'static [&'static str],
) -> Case {
    Case {
        name,
        breaks: |_| {},
        arguments,
        status,
        says,
    }
}

fn main() {
    let tables = [
        ("weights", weights::CASES),
        ("configs", configs::CASES),
        ("defaults", defaults::CASES),
        ("tokenizers", tokenizers::CASES),
        ("loras", loras::CASES),
        ("arguments", arguments::CASES),
    ];
    let trials = tables.into_iter().flat_map(|(table, cases)| {
        cases
            .iter()
            .map(move |case| Trial::test(format!("{table}/{}", case.name), || check(case)))
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}

fn check(case: &'static Case) -> Result<(), Failed> {
    let bench = Bench::new("dev");
    (case.breaks)(&bench);
    let before = bench.files("out");
    let ran = bench.generate(case.arguments);
    let told = format!("status {:?}, stderr:\n{}", ran.status, ran.stderr);
    let expect = |is_so: bool, what: &str| {
        if is_so {
            Ok(())
        } else {
            Err(Failed::from(format!("{what}; {told}")))
        }
    };
    expect(!ran.stderr.contains("panicked"), "the program panicked")?;
    expect(
        ran.status == Some(case.status),
        &format!("expected status {}", case.status),
    )?;
    for part in case.says {
        expect(ran.stderr.contains(part), &format!("expected `{part}`"))?;
    }
    if case.status == 0 {
        return expect(!bench.files("out").is_empty(), "expected a picture");
    }
    expect(ran.stdout.is_empty(), "expected nothing on stdout")?;
    let after = bench.files("out");
    expect(before == after, &format!("left in the folder: {after:?}"))
}
