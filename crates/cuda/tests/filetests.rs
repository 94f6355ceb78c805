//! Runs the files under `tests/files`: programs with the plan that comes of them.
//!
//! A file has a line `; plan: symbol = size, …`, a line `; kernels: n` (how many generated
//! kernels there must be), a graph, and after `; expect:` the listing of its plan. The steps of
//! the graph's step program are planned, or those of its request program if it has no step. With a
//! line `; branches` those that can run side by side do.
//!
//! `cargo test -p tintype-cuda --test filetests -- --bless` writes what comes out into the files.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::{Arguments, Failed, Trial};
use tintype_cuda::{Plan, PlanOptions};
use tintype_ir::{Binding, StagedGraph, parse};

fn main() {
    let bless = std::env::args().any(|argument| argument == "--bless");
    let arguments = Arguments::from_iter(std::env::args().filter(|argument| argument != "--bless"));
    let trials = files().into_iter().map(|path| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        Trial::test(name, move || run_file(&path, bless))
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files");
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .filter(|path| path.extension().is_some_and(|extension| extension == "ir"))
        .collect();
    files.sort();
    files
}

fn run_file(path: &Path, bless: bool) -> Result<(), Failed> {
    let text = fs::read_to_string(path)?;
    let (given, expected) = text
        .split_once("; expect:\n")
        .ok_or("there is no `; expect:`")?;
    let plan = plan(given)?;
    let kernels: usize = line(given, "; kernels:")?.trim().parse()?;
    if plan.count_of("kernel") != kernels {
        let found = plan.count_of("kernel");
        return Err(format!("expected {kernels} kernels, found {found}:\n{plan}").into());
    }
    let listing = plan.to_string();
    if bless {
        fs::write(path, format!("{given}; expect:\n{listing}"))?;
    } else if listing.trim() != expected.trim() {
        return Err(format!("expected:\n{expected}\nfound:\n{listing}").into());
    }
    Ok(())
}

fn plan(given: &str) -> Result<Plan, Failed> {
    let staged = StagedGraph::split(&parse(given)?)?.canonical()?;
    let program = if staged.step.nodes().is_empty() {
        &staged.request
    } else {
        &staged.step
    };
    let mut sizes = Binding::new();
    for part in line(given, "; plan:")?
        .split(',')
        .filter(|part| !part.trim().is_empty())
    {
        let (symbol, size) = part.split_once('=').ok_or("expected `symbol = size`")?;
        sizes.set(symbol.trim(), size.trim().parse()?);
    }
    let branches = given.lines().any(|line| line.trim() == "; branches");
    Ok(Plan::with(program, &sizes, PlanOptions { branches })?)
}

fn line<'a>(given: &'a str, start: &str) -> Result<&'a str, Failed> {
    let mut found = given.lines().filter_map(|line| line.strip_prefix(start));
    found
        .next()
        .ok_or_else(|| format!("there is no line `{start}`").into())
}
