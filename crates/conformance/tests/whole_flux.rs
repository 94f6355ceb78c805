//! Sections for the whole of FLUX.1-dev, on a small transformer and the CPU: that the program does
//! what it says, not how fast.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn found(folder: &Path, arguments: &[&str]) -> Value {
    let json = folder.join("found.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tintype-conformance"));
    command
        .args(["--backend", "cpu", "--small", "--json"])
        .arg(&json);
    let output = command
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap()
}

fn figure(found: &Value, name: &str) -> f64 {
    let mut figures = found["figures"].as_array().unwrap().iter();
    let figure = figures.find(|figure| figure["name"] == name);
    let figure = figure.unwrap_or_else(|| panic!("no figure `{name}`"));
    figure["value"].as_f64().unwrap()
}

#[test]
fn steps_are_timed_for_one_picture_and_two() {
    let folder = tempfile::tempdir().unwrap();
    for batch in ["1", "2"] {
        let arguments = [
            "--only", "steps", "--batch", batch, "--steps", "3", "--runs", "2",
        ];
        let found = found(folder.path(), &arguments);
        let step = figure(&found, "a step, with its share of the request: median");
        assert!(step > 0.0);
        assert!(figure(&found, "a step, least") <= step);
        assert_eq!(found["passed"], 2);
    }
}

#[test]
fn loras_are_exchanged_and_taken_away_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = [
        "--only",
        "swap",
        "--keep",
        "host,disk",
        "--swaps",
        "3",
        "--dtype",
        "f16",
    ];
    let found = found(folder.path(), &arguments);
    // Four comparisons for each place.
    assert_eq!(found["passed"], 8);
    // 2 · 12 modules of double blocks and 2 · 5 of single ones.
    assert_eq!(figure(&found, "cpu, host: weights changed"), 34.0);
}

#[test]
fn samples_are_written_for_the_peer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("samples.safetensors");
    let arguments = [
        "--only",
        "fidelity",
        "--seeds",
        "2",
        "--tensors",
        "samples.safetensors",
    ];
    let found = found(
        folder.path(),
        &[&arguments[..], &["--layers", "1,1"]].concat(),
    );
    assert_eq!(found["passed"], 2);
    let samples = tintype_weights::Parameters::open(path).unwrap();
    let [first, second] = ["sample.0", "sample.1"].map(|name| samples.get(name).unwrap());
    assert_eq!(first.shape().to_vec(), [1, 64, 64]);
    assert_ne!(first.bytes(), second.bytes());
}

#[test]
fn what_needs_a_gpu_or_a_pipeline_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let found = found(folder.path(), &["--only", "profile,bandwidth,pictures"]);
    assert_eq!(
        (found["failed"].as_u64(), found["skipped"].as_u64()),
        (Some(0), Some(3))
    );
    for row in found["rows"].as_array().unwrap() {
        assert!(!row["note"].as_str().unwrap().is_empty(), "{row}");
    }
}
