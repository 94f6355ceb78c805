//! What was found: rows of a table on the screen, and the same with figures as JSON.
//!
//! The file is written anew after every row and figure, through a rename, so that a run that
//! is cut off leaves all it has measured.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tintype_tensor::DType;

use super::Result;

/// Collects rows and figures.
#[derive(Debug)]
pub(crate) struct Report {
    document: Document,
    json: Option<PathBuf>,
    filter: String,
    begun: Instant,
}

/// All of it, as the JSON file has it.
#[derive(Debug, Serialize)]
struct Document {
    program: &'static str,
    version: &'static str,
    /// Of the sources, if the build was told (`TINTYPE_COMMIT`).
    commit: Option<&'static str>,
    /// Seconds since 1970.
    started: u64,
    arguments: Vec<String>,
    /// Device, driver, library, as far as they are there.
    machine: serde_json::Map<String, serde_json::Value>,
    is_complete: bool,
    passed: usize,
    failed: usize,
    skipped: usize,
    sections: Vec<Section>,
    rows: Vec<Row>,
    figures: Vec<Figure>,
    /// Lists of a section's own.
    tables: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Serialize)]
struct Section {
    name: &'static str,
    seconds: Option<f64>,
}

/// A case on a backend.
#[derive(Debug, Serialize)]
struct Row {
    section: &'static str,
    case: String,
    backend: String,
    dtype: Option<String>,
    outcome: Outcome,
    /// How many cases the row stands for.
    count: usize,
    error: Option<f64>,
    allowed: Option<f64>,
    milliseconds: f64,
    note: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Ok,
    Failed,
    Skipped,
}

/// Something measured.
#[derive(Debug, Serialize)]
struct Figure {
    section: &'static str,
    name: String,
    value: f64,
    unit: &'static str,
    allowed: Option<f64>,
}

/// What a case is called, and where it ran.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Label<'a> {
    pub(crate) case: &'a str,
    pub(crate) backend: &'a str,
    pub(crate) dtype: Option<DType>,
}

/// A relative error and what is said of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measured {
    pub(crate) error: f64,
    pub(crate) allowed: f64,
    pub(crate) note: String,
}

impl Measured {
    /// The part of what is allowed.
    pub(crate) fn share(&self) -> f64 {
        self.error / self.allowed
    }
}

impl Report {
    /// An empty one; `filter` is what names of cases must contain.
    pub(crate) fn new(json: Option<PathBuf>, filter: String) -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            document: Document {
                program: env!("CARGO_PKG_NAME"),
                version: env!("CARGO_PKG_VERSION"),
                commit: option_env!("TINTYPE_COMMIT"),
                started: started.map_or(0, |since| since.as_secs()),
                arguments: std::env::args().skip(1).collect(),
                machine: serde_json::Map::new(),
                is_complete: false,
                passed: 0,
                failed: 0,
                skipped: 0,
                sections: Vec::new(),
                rows: Vec::new(),
                figures: Vec::new(),
                tables: serde_json::Map::new(),
            },
            json,
            filter,
            begun: Instant::now(),
        }
    }

    /// Says something of the machine.
    pub(crate) fn machine(&mut self, name: &str, value: impl Into<serde_json::Value>) {
        let value = value.into();
        println!("{name}: {}", value.to_string().trim_matches('"'));
        self.document.machine.insert(name.to_owned(), value);
    }

    /// Whether a case is asked for.
    pub(crate) fn wants(&self, case: &str) -> bool {
        case.contains(&self.filter)
    }

    /// Begins a section.
    pub(crate) fn begin(&mut self, name: &'static str) {
        println!("\n== {name}");
        self.document.sections.push(Section {
            name,
            seconds: None,
        });
        self.begun = Instant::now();
    }

    /// Ends it, with the error that cut it short if there was one.
    pub(crate) fn end(&mut self, result: Result<()>) -> Result<()> {
        if let Err(error) = result {
            let label = Label::new("the section itself", "");
            self.check(label, Duration::ZERO, Err(error));
        }
        if let Some(section) = self.document.sections.last_mut() {
            section.seconds = Some(self.begun.elapsed().as_secs_f64());
        }
        self.write()
    }

    /// A relative error against what is allowed.
    pub(crate) fn compare(&mut self, label: Label<'_>, took: Duration, result: Result<Measured>) {
        let mut row = self.row(label, took);
        match result {
            Ok(found) => {
                // A NaN is not within anything.
                let is_within = found.error <= found.allowed;
                row.outcome = [Outcome::Failed, Outcome::Ok][usize::from(is_within)];
                (row.error, row.allowed) = (Some(found.error), Some(found.allowed));
                row.note = found.note;
            }
            Err(error) => row.fail(error.as_ref()),
        }
        self.push(row);
    }

    /// A check that passed, with what was found, or why it failed.
    pub(crate) fn check(&mut self, label: Label<'_>, took: Duration, result: Result<String>) {
        let mut row = self.row(label, took);
        match result {
            Ok(found) => row.note = found,
            Err(error) => row.fail(error.as_ref()),
        }
        self.push(row);
    }

    /// Cases that were not run, and why.
    pub(crate) fn skip(&mut self, label: Label<'_>, count: usize, reason: impl Into<String>) {
        let mut row = self.row(label, Duration::ZERO);
        (row.outcome, row.count, row.note) = (Outcome::Skipped, count, reason.into());
        self.push(row);
    }

    /// Something measured; beyond what is allowed it is a failure.
    pub(crate) fn figure(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        allowed: Option<f64>,
    ) -> Result<()> {
        let name = name.into();
        let limit = allowed.map_or(String::new(), |allowed| format!(", allowed {allowed}"));
        println!("        {name}: {value:.3} {unit}{limit}");
        self.document.figures.push(Figure {
            section: self.section(),
            name: name.clone(),
            value,
            unit,
            allowed,
        });
        if let Some(allowed) = allowed {
            let text = format!("{value:.3} {unit}, allowed {allowed}");
            let result = if value <= allowed {
                Ok(text)
            } else {
                Err(text.into())
            };
            self.check(Label::new(&name, ""), Duration::ZERO, result);
        }
        self.write()
    }

    /// A list of things measured, which is for the file alone.
    pub(crate) fn table(&mut self, name: &str, rows: Vec<serde_json::Value>) {
        self.document.tables.insert(name.to_owned(), rows.into());
    }

    /// Writes all of it and prints the sum; whether nothing failed.
    pub(crate) fn finish(mut self) -> Result<bool> {
        self.document.is_complete = true;
        self.write()?;
        let Document {
            passed,
            failed,
            skipped,
            ..
        } = self.document;
        println!("\n{passed} passed; {failed} failed; {skipped} skipped");
        for row in &self.document.rows {
            if row.outcome == Outcome::Failed {
                let [section, backend, case] = [row.section, &row.backend, &row.case];
                println!("failed: {section}: {case} {backend}: {}", row.note);
            }
        }
        Ok(failed == 0)
    }

    fn row(&self, label: Label<'_>, took: Duration) -> Row {
        Row {
            section: self.section(),
            case: label.case.to_owned(),
            backend: label.backend.to_owned(),
            dtype: label.dtype.map(|dtype| dtype.to_string()),
            outcome: Outcome::Ok,
            count: 1,
            error: None,
            allowed: None,
            milliseconds: took.as_secs_f64() * 1e3,
            note: String::new(),
        }
    }

    fn section(&self) -> &'static str {
        let sections = self.document.sections.last();
        sections.map_or("start", |section| section.name)
    }

    fn push(&mut self, row: Row) {
        row.print();
        match row.outcome {
            Outcome::Ok => self.document.passed += row.count,
            Outcome::Failed => self.document.failed += row.count,
            Outcome::Skipped => self.document.skipped += row.count,
        }
        self.document.rows.push(row);
        // If this fails, so does the write at the end of the section, which says so.
        let _ = self.write();
    }

    fn write(&self) -> Result<()> {
        let Some(path) = &self.json else {
            return Ok(());
        };
        let text = serde_json::to_string_pretty(&self.document)?;
        let unfinished = path.with_extension("part");
        let written = std::fs::write(&unfinished, text + "\n");
        let written = written.and_then(|()| std::fs::rename(&unfinished, path));
        written.map_err(|error| format!("{}: {error}", path.display()).into())
    }
}

impl Row {
    fn fail(&mut self, error: &dyn std::error::Error) {
        self.outcome = Outcome::Failed;
        self.note = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            let text = error.to_string();
            if !self.note.contains(&text) {
                self.note = format!("{}: {text}", self.note);
            }
            source = error.source();
        }
    }

    fn print(&self) {
        let outcome = match self.outcome {
            Outcome::Ok => "ok",
            Outcome::Failed => "FAILED",
            Outcome::Skipped => "skipped",
        };
        let number = |number: Option<f64>| number.map_or(String::new(), |n| format!("{n:.1e}"));
        let (error, allowed) = (number(self.error), number(self.allowed));
        let dtype = self.dtype.as_deref().unwrap_or_default();
        if self.outcome == Outcome::Skipped {
            let (case, backend, note) = (&self.case, &self.backend, &self.note);
            let count = match self.count {
                1 => String::new(),
                count => format!("{count} cases: "),
            };
            println!("{outcome:7} {case:58} {backend:8} {dtype:6} {count}{note}");
            return;
        }
        println!(
            "{outcome:7} {:58} {:8} {dtype:6} {error:>7} {allowed:>7} {:>9.1} ms  {}",
            self.case, self.backend, self.milliseconds, self.note
        );
    }
}

impl<'a> Label<'a> {
    /// A case without a dtype of its own.
    pub(crate) fn new(case: &'a str, backend: &'a str) -> Self {
        Self {
            case,
            backend,
            dtype: None,
        }
    }

    /// Another case there.
    pub(crate) fn called<'b>(self, case: &'b str) -> Label<'b>
    where
        'a: 'b,
    {
        Label { case, ..self }
    }

    /// The same in a dtype.
    pub(crate) fn of(self, dtype: DType) -> Self {
        Self {
            dtype: Some(dtype),
            ..self
        }
    }
}
