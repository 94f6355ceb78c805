//! `tintype quantize` and `--dtype fp8`: from prompts to scales to a picture, and every wrong file.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

mod common;

use common::{Bench, Ran, fixtures};
use serde_json::Value;

const PROMPTS: &str = "# prompts\na red fox\n\na tea house in a japanese garden\na blue square\n";

/// Runs `tintype quantize` on small pictures of two steps.
fn quantize(bench: &Bench, arguments: &[&str]) -> Ran {
    let mut all = vec![
        "quantize",
        "--model",
        "model",
        "--backend",
        "cpu",
        "--steps",
        "2",
    ];
    all.extend([
        "--height",
        "64",
        "--width",
        "64",
        "--max-sequence-length",
        "16",
    ]);
    all.extend(["--prompts", "prompts.txt"]);
    all.extend(arguments);
    bench.run(&all)
}

fn bench() -> Bench {
    let bench = Bench::new("dev");
    std::fs::write(bench.path("prompts.txt"), PROMPTS).unwrap();
    bench
}

fn fails(ran: &Ran, message: &str) {
    assert_eq!(ran.status, Some(1), "{}", ran.stdout);
    assert!(ran.stderr.contains(message), "{message}: {}", ran.stderr);
}

#[test]
fn scales_are_measured_and_used() {
    let bench = bench();
    let ran = quantize(
        &bench,
        &["--report", "--json", "--auto", "0.5", "--attention"],
    );
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let line: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&line["examples"], &line["steps"]), (&2.into(), &2.into()));
    assert_eq!(line["pictures"]["count"], 1);
    assert!(
        line["pictures"]["psnr"]["mean"].as_f64().unwrap() > 15.0,
        "{line}"
    );
    assert_eq!(
        line["report"]["outputs"][0]["steps"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let picture = |arguments: &[&str]| {
        let ran = bench.generate(&[&["a red fox", "--backend", "cpu"], arguments].concat());
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        bench.read("out/out.png")
    };
    let narrow = picture(&["--dtype", "fp8", "--scales", "scales.json"]);
    assert!(narrow != picture(&["--dtype", "bf16"]));
    // Among the files of the model they need no argument.
    std::fs::rename(bench.path("scales.json"), bench.path("model/scales.json")).unwrap();
    assert!(narrow == picture(&["--dtype", "fp8"]));
}

#[test]
fn wrong_prompts_are_told_with_their_line() {
    let bench = bench();
    let with = |text: &str, arguments: &[&str]| {
        std::fs::write(bench.path("prompts.txt"), text).unwrap();
        quantize(&bench, arguments)
    };
    let none = "prompts.txt: expected prompts, one a line, found none";
    fails(&with("", &[]), none);
    fails(&with("# only this\n\n", &[]), none);
    let one = "prompts.txt: expected at least two prompts, one of which is held out";
    fails(&with("a fox\n", &["--report"]), one);
    let long = format!("a fox\n{}\n", "a red fox in the snow ".repeat(20));
    fails(
        &with(&long, &[]),
        "prompts.txt: line 2: prompt: expected a text of at most 16 tokens",
    );
    fails(
        &quantize(&bench, &["--held-out", "none.txt"]),
        "none.txt: cannot be read",
    );
    assert_eq!(bench.files("out"), [""; 0]);
    assert!(!bench.path("scales.json").exists());
}

#[test]
fn wrong_recipes_and_bounds_are_told() {
    let bench = bench();
    let with = |recipe: &str| {
        std::fs::write(bench.path("recipe.json"), recipe).unwrap();
        quantize(&bench, &["--recipe", "recipe.json"])
    };
    fails(&with("{"), "recipe.json: recipe: EOF while parsing");
    let lost = r#"{"version": 1, "rules": [{"linears": ["blocks.**"], "format": "e4m3"}]}"#;
    let message = "`blocks.**`: expected names of linears of graph `flux_transformer`, found none";
    fails(&with(lost), message);
    fails(
        &quantize(&bench, &["--auto", "0"]),
        "the bound of the relative error: expected a finite number above 0, found 0",
    );
    fails(
        &quantize(&bench, &["--dtype", "fp8"]),
        "--dtype: scales are measured in f32, bf16 or f16, found fp8",
    );
    let usage = quantize(&bench, &["--method", "101"]);
    assert_eq!(usage.status, Some(2));
}

#[test]
fn wrong_tables_are_told() {
    let bench = bench();
    assert_eq!(quantize(&bench, &["--quiet"]).status, Some(0));
    let fp8 = |arguments: &[&str]| {
        let all = ["a red fox", "--backend", "cpu", "--dtype", "fp8"];
        bench.generate(&[&all[..], arguments].concat())
    };
    fails(
        &fp8(&[]),
        "--dtype fp8: model has no scales.json, and weights that are not in fp8",
    );
    fails(
        &fp8(&["--scales", "none.json"]),
        "none.json: cannot be read",
    );
    let text = std::fs::read_to_string(bench.path("scales.json")).unwrap();
    let damaged = text.replacen("\"scale\": 0.", "\"scale\": 1.", 1);
    std::fs::write(bench.path("damaged.json"), damaged).unwrap();
    fails(
        &fp8(&["--scales", "damaged.json"]),
        "damaged.json: checksum: expected ",
    );
    let zero = text.replacen("\"scale\": 0.", "\"scale\": 0e", 1);
    std::fs::write(bench.path("zero.json"), zero).unwrap();
    fails(
        &fp8(&["--scales", "zero.json"]),
        "expected a finite scale above 0, found 0",
    );
    let other = fixtures().join("pipelines/schnell");
    let other = other.to_str().unwrap();
    let ran = fp8(&["--scales", "scales.json", "--model", other]);
    fails(
        &ran,
        "scales.json: model.graph: expected a table for the model at hand, ",
    );
    let plain = bench.generate(&["a red fox", "--dtype", "bf16", "--scales", "scales.json"]);
    fails(&plain, "--scales: scales are for --dtype fp8, found bf16");
}
