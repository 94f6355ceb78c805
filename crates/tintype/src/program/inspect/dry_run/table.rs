//! A forecast as people read it.

use anyhow::Result;

use super::{Component, Program, Report};

/// The table of one backend, what falls back, and the memory.
pub(super) fn print(report: &Report) -> Result<()> {
    let target = report.target.as_ref();
    let target = target.map_or(String::new(), |target| format!(" for {target}"));
    say!(
        "{} on {}{target} in {}: nothing is compiled, this is what would be",
        report.model,
        report.backend,
        report.dtype
    );
    say!(
        "{:15} {:8} {:>10} {:11} precision",
        "component",
        "program",
        "operations",
        "compiled"
    );
    for component in &report.components {
        for program in &component.programs {
            say!(
                "{:15} {:8} {:10} {:11} {}",
                component.name,
                program.name,
                program.operations,
                compiled(program),
                dtypes(program)
            );
        }
    }
    ranges(report)?;
    fallbacks(report)?;
    memory(report)
}

fn compiled(program: &Program) -> &'static str {
    match program.is_compiled {
        None => "not needed",
        Some(true) => "found",
        Some(false) => "to be done",
    }
}

/// `1200 bf16, 85 f32`, the most first.
fn dtypes(program: &Program) -> String {
    let mut counts: Vec<_> = program.dtypes.iter().collect();
    counts.sort_by(|one, other| other.1.cmp(one.1));
    let told = counts
        .iter()
        .map(|(dtype, count)| format!("{count} {dtype}"));
    told.collect::<Vec<_>>().join(", ")
}

fn ranges(report: &Report) -> Result<()> {
    for component in report
        .components
        .iter()
        .filter(|one| !one.ranges.is_empty())
    {
        let ranges = component.ranges.iter();
        let told = ranges.map(|(symbol, [start, end])| format!("{symbol} {start}..{end}"));
        let told: Vec<String> = told.collect();
        say!("{}: for {}", component.name, told.join(", "));
    }
    Ok(())
}

fn fallbacks(report: &Report) -> Result<()> {
    let mut count = 0;
    for component in &report.components {
        for program in &component.programs {
            for fallback in &program.fallbacks {
                let program = &program.name;
                say!("{} {program}: {fallback}", component.name);
                count += 1;
            }
        }
    }
    if count == 0 {
        say!("all operations run on the backend");
    }
    Ok(())
}

fn memory(report: &Report) -> Result<()> {
    say!(
        "{:15} {:>9} {:>9} {:>9} {:>9} {:>9} {:>12} {:>9}",
        "MiB",
        "weights",
        "workspace",
        "inputs",
        "kept",
        "all held",
        "--low-memory",
        "in steps"
    );
    for component in &report.components {
        let Component {
            name,
            memory,
            held,
            held_low_memory,
            steps_low_memory,
            ..
        } = component;
        say!(
            "{name:15} {} {:>9} {} {} {} {:>12} {}",
            mebibytes(memory.weights),
            memory.workspace.map_or("unknown".to_owned(), mebibytes),
            mebibytes(memory.inputs),
            mebibytes(memory.kept),
            mebibytes(*held),
            mebibytes(*held_low_memory),
            mebibytes(*steps_low_memory)
        );
    }
    say!(
        "{:15} {:>9} {:>9} {:>9} {:>9} {} {:>12}",
        "most at once",
        "",
        "",
        "",
        "",
        mebibytes(report.most),
        mebibytes(report.most_low_memory)
    );
    Ok(())
}

fn mebibytes(bytes: usize) -> String {
    format!("{:9.1}", bytes as f64 / f64::from(1 << 20))
}
