//! Runs the files under `tests/files`: graphs in text form with what is expected of
//! them beside them.
//!
//! A file holds cases. Each begins with a line `; test: steps` and has a graph; after
//! `; expect:` stands what comes of it, up to the next case. Steps are separated by
//! commas and run in order:
//!
//! - `parse`, `verify`: the graph as printed, or the error;
//! - the name of a pass, `fold_constants`, or `optimize`: the new graph;
//! - `decompose`: everything that can be is taken apart;
//! - `decompose(a b)`: all but the operations named;
//! - `split`, last: the three programs.
//!
//! `cargo test -p tintype-ir --test filetests -- --bless` writes what comes out into
//! the files.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/evaluator.rs"]
mod evaluator;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use evaluator::Arithmetic;
use libtest_mimic::{Arguments, Failed, Trial};
use tintype_ir::passes::{FoldConstants, Options, Pass, by_name, optimize};
use tintype_ir::{Error, Graph, StagedGraph, decompose, parse, verify};

fn main() {
    let bless = std::env::args().any(|argument| argument == "--bless")
        || std::env::var_os("BLESS").is_some();
    let arguments = Arguments::from_iter(std::env::args().filter(|argument| argument != "--bless"));
    let trials = files()
        .into_iter()
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            Trial::test(name, move || run_file(&path, bless))
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files");
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "tt"))
        .collect();
    files.sort();
    files
}

/// A case: what stands before its expectation, the steps, the expectation.
struct Case {
    /// Comment lines, the line of steps and the graph, as they stand in the file.
    given: String,
    steps: Vec<String>,
    expected: String,
}

fn run_file(path: &Path, bless: bool) -> Result<(), Failed> {
    let text = fs::read_to_string(path)?;
    let cases = cases(&text)?;
    let (mut failures, mut blessed) = (String::new(), String::new());
    for (index, case) in cases.iter().enumerate() {
        let found = outcome(case);
        if index > 0 {
            blessed.push('\n');
        }
        write!(blessed, "{}; expect:\n{found}", case.given)?;
        if found.trim() != case.expected.trim() {
            write!(
                failures,
                "case {} (`{}`)\nexpected:\n{}\nfound:\n{found}\n",
                index + 1,
                case.steps.join(", "),
                case.expected
            )?;
        }
    }
    if bless {
        fs::write(path, blessed)?;
        return Ok(());
    }
    if failures.is_empty() {
        return Ok(());
    }
    Err(format!("{}\n{failures}", path.display()).into())
}

fn cases(text: &str) -> Result<Vec<Case>, Failed> {
    let mut cases: Vec<Case> = Vec::new();
    let mut in_expectation = true;
    let mut comments = String::new();
    for line in text.lines() {
        if let Some(steps) = line.strip_prefix("; test:") {
            cases.push(Case {
                given: std::mem::take(&mut comments),
                steps: steps
                    .split(',')
                    .map(|step| step.trim().to_owned())
                    .collect(),
                expected: String::new(),
            });
            in_expectation = false;
        }
        if in_expectation && line.starts_with(';') {
            // A comment after an expectation belongs to the case that follows.
            comments.push_str(line);
            comments.push('\n');
            continue;
        }
        let Some(case) = cases.last_mut() else {
            return Err("the file does not begin with `; test:`".into());
        };
        if line.trim_end() == "; expect:" {
            in_expectation = true;
            continue;
        }
        let part = if in_expectation {
            &mut case.expected
        } else {
            &mut case.given
        };
        part.push_str(line);
        part.push('\n');
    }
    Ok(cases)
}

/// What comes of a case: graphs, or an error after `error: `.
fn outcome(case: &Case) -> String {
    // The graph keeps its place in the file's case, so that errors name lines of the case.
    let result = parse(&case.given).and_then(|graph| run_steps(&case.steps, graph));
    match result {
        Ok(text) => text,
        Err(error) => format!("error: {error}\n"),
    }
}

fn run_steps(steps: &[String], mut graph: Graph) -> tintype_ir::Result<String> {
    if steps != ["parse"] {
        verify(&graph)?;
    }
    for step in steps {
        graph = match step.as_str() {
            "parse" | "verify" => graph,
            "split" => return Ok(programs(&StagedGraph::split(&graph)?)),
            step => run_step(step, &graph)?,
        };
        if steps != ["parse"] {
            verify(&graph)?;
        }
    }
    Ok(graph.to_string())
}

fn run_step(step: &str, graph: &Graph) -> tintype_ir::Result<Graph> {
    if let Some(pass) = by_name(step) {
        return pass.run(graph);
    }
    if let Some(rest) = step.strip_prefix("decompose") {
        let names = rest.trim_matches(['(', ')']);
        let kept: Vec<&str> = names.split_whitespace().collect();
        return decompose(graph, &|op| kept.contains(&op.name()));
    }
    let fold = FoldConstants {
        evaluator: &Arithmetic,
    };
    match step {
        "fold_constants" => fold.run(graph),
        "optimize" => optimize(
            graph,
            &Options::default().with_verify(true),
            Some(&Arithmetic),
        ),
        other => Err(Error::UnknownStage(format!("no step is named `{other}`"))),
    }
}

fn programs(staged: &StagedGraph) -> String {
    format!("{}{}{}", staged.weight, staged.request, staged.step)
}
