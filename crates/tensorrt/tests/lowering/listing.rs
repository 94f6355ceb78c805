//! Graphs with the listing of their layers beside them.
//!
//! `; test: lower` lowers the graph; `; test: lower n=4 m=1..2..8` with ranges of symbols: one
//! size, or least, usual and greatest.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use libtest_mimic::{Failed, Trial};
use tintype_ir::parse;
use tintype_tensorrt::lower::{Layers, LowerOptions, SizeRange};

use super::cases::{Case, files, read};

pub(crate) fn trials(bless: bool) -> Vec<Trial> {
    let files = files("files").into_iter();
    files
        .map(|path| {
            let name = format!("listing of {}", path.file_stem().unwrap().to_string_lossy());
            Trial::test(name, move || run(&path, bless))
        })
        .collect()
}

fn run(path: &Path, bless: bool) -> Result<(), Failed> {
    let (mut failures, mut blessed) = (String::new(), String::new());
    for (index, case) in read(path)?.iter().enumerate() {
        let found = outcome(case)?;
        if index > 0 {
            blessed.push('\n');
        }
        write!(blessed, "{}; expect:\n{found}", case.given)?;
        if found.trim() != case.expected.trim() {
            let number = index + 1;
            write!(
                failures,
                "case {number}\nexpected:\n{}\nfound:\n{found}\n",
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

/// The listing, or the error.
fn outcome(case: &Case) -> Result<String, Failed> {
    let options = options(&case.test)?;
    let layers = parse(&case.given)
        .map_err(tintype_tensorrt::Error::from)
        .and_then(|graph| Layers::of(&graph, &options));
    Ok(match layers {
        Ok(layers) => layers.describe(),
        Err(error) => format!("error: {error}\n"),
    })
}

fn options(test: &str) -> Result<LowerOptions, Failed> {
    let mut words = test.split_whitespace();
    if words.next() != Some("lower") {
        return Err(format!("expected `lower`, found `{test}`").into());
    }
    let mut options = LowerOptions::default();
    for word in words {
        let (symbol, sizes) = word.split_once('=').ok_or("expected symbol=sizes")?;
        let sizes: Result<Vec<usize>, _> = sizes.split("..").map(str::parse).collect();
        let range = match *sizes?.as_slice() {
            [size] => SizeRange::fixed(size),
            [min, opt, max] => SizeRange { min, opt, max },
            _ => return Err("expected one size or three".into()),
        };
        options = options.with_symbol(symbol, range);
    }
    Ok(options)
}
