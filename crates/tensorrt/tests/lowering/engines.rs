//! Every operation as an engine.
//!
//! `; test: f32 f16 bf16` names dtypes; `T` in the graph stands for each of them. Each case is
//! built with sizes as they are and, if it has symbols, with all of them known, each in the
//! middle of its range.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use libtest_mimic::{Failed, Trial};
use tintype_ir::{Graph, parse};
use tintype_tensor::DType;
use tintype_tensorrt::lower::{LowerOptions, SizeRange};

use super::cases::{Case, files, read};
use super::library::build;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for path in files("engines") {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        for dtype in DType::ALL {
            let path = path.clone();
            let cases = read(&path).unwrap();
            if cases.iter().any(|case| dtypes(case).contains(&dtype)) {
                let run = move || run(&path, dtype);
                trials.push(Trial::test(format!("engines of {name} in {dtype}"), run));
            }
        }
    }
    trials
}

/// The operations of docs/ir.md are those of the cases and of the table of `lower`.
pub(crate) fn covered() -> Result<(), Failed> {
    let mut built = BTreeSet::new();
    for path in files("engines") {
        for case in read(&path)? {
            let graph = graph(&case, dtypes(&case)[0])?;
            built.extend(graph.nodes().iter().map(|node| node.op.name().to_owned()));
        }
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let specification = std::fs::read_to_string(folder.join("../../docs/ir.md"))?;
    let (_, operations) = specification
        .split_once("## Operations")
        .ok_or("no operations")?;
    let (operations, _) = operations.split_once("## Passes").ok_or("no passes")?;
    let specified = first_column(operations);
    assert_eq!(built, specified);
    let module = std::fs::read_to_string(folder.join("src/lower.rs"))?;
    let documented = first_column(&module.replace("//! ", ""));
    assert_eq!(documented, specified);
    Ok(())
}

/// The names in the first column of tables.
fn first_column(text: &str) -> BTreeSet<String> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.filter_map(|row| row.split_once(" |").map(|(cell, _)| cell));
    let names = cells.flat_map(|cell| cell.split('`').step_by(2).map(str::to_owned));
    names.filter(|name| !name.is_empty()).collect()
}

fn dtypes(case: &Case) -> Vec<DType> {
    case.test
        .split_whitespace()
        .map(|name| name.parse().unwrap())
        .collect()
}

/// The case's graph in a dtype. A line of the test is no part of it.
fn graph(case: &Case, dtype: DType) -> Result<Graph, Failed> {
    let given = case.given.lines().filter(|line| !line.starts_with(';'));
    let text: Vec<String> = given
        .map(|line| {
            line.replace(" T[", &format!(" {dtype}["))
                .replace("T[", &format!("{dtype}["))
        })
        .collect();
    Ok(parse(&text.join("\n"))?)
}

fn run(path: &Path, dtype: DType) -> Result<(), Failed> {
    let cases = read(path)?;
    let mut failures = Vec::new();
    for case in cases.iter().filter(|case| dtypes(case).contains(&dtype)) {
        let graph = graph(case, dtype)?;
        let known: BTreeMap<String, SizeRange> = graph
            .symbols()
            .iter()
            .map(|(symbol, range)| {
                let middle = usize::midpoint(*range.start(), *range.end());
                (symbol.to_string(), SizeRange::fixed(middle))
            })
            .collect();
        let mut all = vec![LowerOptions::default()];
        if !known.is_empty() {
            let mut options = LowerOptions::default();
            options.symbols = known;
            all.push(options);
        }
        for options in all {
            if let Err(error) = build(&graph, &options) {
                let sizes = if options.symbols.is_empty() {
                    "unknown"
                } else {
                    "known"
                };
                failures.push(format!("{} with sizes {sizes}: {error:?}", graph.name()));
            }
        }
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures.join("\n").into())
    }
}
