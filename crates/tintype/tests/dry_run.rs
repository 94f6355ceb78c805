//! `inspect --dry-run` on the CPU: what would be done, and the memory that is needed.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

mod common;

use common::{Bench, Ran};
use serde_json::Value;

fn dry_run(bench: &Bench, arguments: &[&str]) -> Ran {
    bench.run(&[&["inspect", "--dry-run"], arguments].concat())
}

fn reports(bench: &Bench, arguments: &[&str]) -> Value {
    let ran = dry_run(bench, &[&["--json"], arguments].concat());
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(ran.stdout.lines().count(), 1);
    serde_json::from_str(&ran.stdout).unwrap()
}

fn bytes(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

#[test]
fn memory_adds_up() {
    let bench = Bench::new("dev");
    let arguments = ["--model", "model", "--backend", "cpu", "--dtype", "bf16"];
    let reports = reports(&bench, &arguments);
    let report = &reports[0];
    assert_eq!(report["backend"], "cpu");
    let components = report["components"].as_array().unwrap();
    let names: Vec<_> = components
        .iter()
        .map(|one| one["component"].as_str().unwrap())
        .collect();
    let expected = [
        "text_encoder",
        "text_encoder_2",
        "transformer",
        "vae_decoder",
    ];
    assert_eq!(names, expected);
    let (mut sum, mut most) = (0, 0);
    for component in components {
        let memory = &component["memory"];
        let parts = ["weights", "workspace", "inputs", "kept"].map(|part| bytes(&memory[part]));
        let total = bytes(&memory["total"]);
        assert_eq!(parts.iter().sum::<u64>(), total, "{component}");
        assert!(parts[0] > 0 && parts[1] > 0 && parts[2] > 0, "{component}");
        let low = bytes(&component["held_low_memory"]);
        let in_steps = bytes(&component["steps_low_memory"]);
        let [loading, of_request] = ["loading", "request_weights"].map(|part| bytes(&memory[part]));
        assert_eq!(low, total.max(parts[0] + loading), "{component}");
        assert_eq!(in_steps, total - of_request, "{component}");
        (sum, most) = (sum + total, most.max(low));
        assert_eq!(bytes(&component["held"]), sum);
        for program in component["programs"].as_array().unwrap() {
            assert_eq!(program["is_compiled"], Value::Null);
            let dtypes = program["dtypes"].as_object().unwrap();
            let operations: u64 = dtypes.values().map(bytes).sum();
            assert_eq!(operations, bytes(&program["operations"]));
        }
    }
    assert_eq!(
        (bytes(&report["most"]), bytes(&report["most_low_memory"])),
        (sum, most)
    );
    let transformer = components[2]["programs"].as_array().unwrap();
    assert!(
        transformer
            .iter()
            .any(|program| program["dtypes"]["bf16"].is_u64())
    );
}

#[test]
fn larger_pictures_need_more() {
    let bench = Bench::new("dev");
    let of = |height: &str| {
        let arguments = [
            "--model",
            "model",
            "--backend",
            "cpu",
            "--component",
            "transformer",
        ];
        let reports = reports(&bench, &[&arguments[..], &["--height", height]].concat());
        let component = &reports[0]["components"][0];
        let memory = &component["memory"];
        (
            bytes(&memory["weights"]),
            bytes(&memory["workspace"]),
            component["ranges"].clone(),
        )
    };
    let (small, large, range) = (of("64"), of("128"), of("64..128"));
    assert_eq!(small.0, large.0);
    assert!(small.1 < large.1);
    assert_eq!(range.1, large.1);
    assert!(small.2.get("image_tokens").is_none());
    assert!(range.2["image_tokens"][0].as_u64() < range.2["image_tokens"][1].as_u64());
}

#[test]
fn flux_is_told_without_its_files() {
    let bench = Bench::new("dev");
    let arguments = ["--model", "flux-dev", "--backend", "cpu", "--dtype", "bf16"];
    let all = [&arguments[..], &["--component", "transformer"]].concat();
    let reports = reports(&bench, &all);
    let weights = bytes(&reports[0]["components"][0]["memory"]["weights"]) as f64;
    // 11.9 billion parameters of two bytes.
    assert!((23.0e9..25.0e9).contains(&weights), "{weights}");
}

#[test]
fn flux_in_fp8_runs_in_sixteen_gigabytes_with_low_memory() {
    let bench = Bench::new("dev");
    let arguments = ["--model", "flux-dev", "--backend", "cpu", "--dtype", "fp8"];
    let all = [&arguments[..], &["--component", "transformer"]].concat();
    let reports = reports(&bench, &all);
    assert_eq!(reports[0]["dtype"], "fp8");
    let component = &reports[0]["components"][0];
    // 3.2 billion parameters of modulations, a byte each, are those of the request.
    let of_request = bytes(&component["memory"]["request_weights"]);
    assert!(of_request > 3_200_000_000, "{component}");
    let weights = bytes(&component["memory"]["weights"]);
    assert!(weights < 12_200_000_000, "{component}");
    let [peak, in_steps] =
        ["held_low_memory", "steps_low_memory"].map(|name| bytes(&component[name]));
    assert!(in_steps < peak && peak <= 16_000_000_000, "{component}");
}

#[test]
fn people_get_a_table() {
    let bench = Bench::new("dev");
    let ran = dry_run(&bench, &["--model", "model", "--backend", "cpu"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    for part in [
        "model on cpu in f32",
        "transformer     step",
        "not needed",
        "all operations run on the backend",
        "--low-memory",
        "most at once",
    ] {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }
}

#[test]
fn wrong_use_is_told() {
    let bench = Bench::new("dev");
    let cases: [(&[&str], i32, &str); 5] = [
        (
            &["inspect", "--model", "model", "--height", "64"],
            2,
            "--dry-run",
        ),
        (
            &["inspect", "--dry-run", "--program", "step"],
            2,
            "--program",
        ),
        (
            &["inspect", "--dry-run", "--height", "8", "--model", "model"],
            1,
            "16 to 16384",
        ),
        (
            &["inspect", "--dry-run", "--model", "flux-pro"],
            1,
            "`flux-pro`",
        ),
        (
            &["inspect", "--dry-run", "--plans", "out"],
            1,
            "out/pipeline.json",
        ),
    ];
    for (arguments, status, says) in cases {
        let ran = bench.run(arguments);
        assert_eq!(ran.status, Some(status), "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{arguments:?}: {}", ran.stderr);
    }
}
