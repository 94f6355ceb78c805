//! The program of this crate, as it is run where there is no GPU.
//!
//! Sections for a GPU say that they are skipped, and how many cases that are; the others pass.
//! Plans are built with the library that `cargo xtask test` fetches, if it is there.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// Runs it in an empty folder: what it needs is inside, or is named.
fn program(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tintype-conformance"));
    if let Some(library) = library() {
        command.env("TINTYPE_TENSORRT", library);
    }
    command.current_dir(folder).args(arguments);
    command.output().unwrap()
}

/// The file that `TINTYPE_TEST_TENSORRT` names, or what `cargo xtask fetch tensorrt` leaves below
/// `target/`.
fn library() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("TINTYPE_TEST_TENSORRT") {
        return Some(named.into());
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?;
    let path = target.join("tensorrt/library/rtx-1.7.1.116-cu13/tensorrt_rtx_libs");
    path.is_dir().then(|| path.join("libtensorrt_rtx.so.1"))
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn all_but_the_recordings_pass_without_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let sections = "engine,operations,promises,mutable,plans,picture,flux,smaller";
    let output = program(folder.path(), &["--only", sections, "--json", "found.json"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let found = json(&folder.path().join("found.json"));
    assert_eq!(found["is_complete"], true);
    assert_eq!(found["failed"], 0);
    assert_eq!(found["sections"].as_array().unwrap().len(), 8);
    let rows = found["rows"].as_array().unwrap();
    for row in rows.iter().filter(|row| row["outcome"] == "skipped") {
        assert!(!row["note"].as_str().unwrap().is_empty(), "{row}");
        assert!(row["count"].as_u64().unwrap() > 0, "{row}");
    }
    if library().is_some() {
        let plans = rows.iter().filter(|row| row["section"] == "plans");
        assert_eq!(plans.filter(|row| row["outcome"] == "ok").count(), 3);
    }
    let mutable = rows.iter().filter(|row| row["section"] == "mutable");
    let passed = mutable.filter(|row| row["backend"] == "cpu" && row["outcome"] == "ok");
    // Twenty in f32 and twenty in bf16.
    assert_eq!(passed.count(), 40);
    let operations = rows.iter().filter(|row| row["section"] == "operations");
    let passed = operations.filter(|row| row["backend"] == "cpu" && row["outcome"] == "ok");
    assert!(passed.count() > 100);
}

/// The models are compared with themselves, so that a mistake in the comparison is seen.
#[test]
fn a_rehearsal_compares_the_cpu_with_itself() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--rehearse", "--backend", "cpu", "--only", "models"];
    let more = ["--filter", "shapes", "--json", "found.json"];
    let output = program(folder.path(), &[&arguments[..], &more].concat());
    assert!(output.status.success());
    let found = json(&folder.path().join("found.json"));
    let rows = found["rows"].as_array().unwrap();
    let ok: Vec<&Value> = rows.iter().filter(|row| row["outcome"] == "ok").collect();
    // Five models in three dtypes, the transformer in fp8.
    assert_eq!(ok.len(), 16);
    let fp8 = ok.iter().filter(|row| row["dtype"] == "f8e4m3");
    assert_eq!(fp8.count(), 1);
    assert!(ok.iter().all(|row| row["error"] == 0.0));
    // The smaller dtypes are allowed what they cost, which is more than nothing.
    assert!(ok.iter().any(|row| row["allowed"].as_f64().unwrap() > 1e-2));
}

#[test]
fn what_cannot_run_is_said() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        &["--only", "abacus"][..],
        &["--backend", "abacus"],
        &["--target", "abacus"],
        &["--backend", "cpu", "--require-gpu"],
        &["--fixtures", "nowhere", "--only", "recordings"],
    ] {
        let output = program(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn sections_are_listed() {
    let output = program(Path::new("."), &["--list"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 17);
}
