//! `compile` for the CPU: folders that name a model and how it is compiled, and `generate` of
//! them.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{Bench, Ran};
use serde_json::Value;
use tintype_cpu::CpuBackend;
use tintype_refit::{LoadOptions, SavedModule};

const SIZES: [&str; 6] = [
    "--height",
    "64",
    "--width",
    "64",
    "--max-sequence-length",
    "16",
];

fn compile(bench: &Bench, arguments: &[&str]) -> Ran {
    bench.run(&[&["compile", "--backend", "cpu"], &SIZES[..], arguments].concat())
}

fn list(bench: &Bench) -> Value {
    serde_json::from_slice(&bench.read("folder/pipeline.json")).unwrap()
}

/// `generate` with exactly these arguments after the prompt.
fn generate(bench: &Bench, arguments: &[&str]) -> Ran {
    let common = ["generate", "fox", "--steps", "1", "--seed", "1"];
    bench.run(&[&common[..], &SIZES[..], arguments].concat())
}

#[test]
fn a_folder_names_its_model_and_generates_the_same() {
    let bench = Bench::new("dev");
    let ran = compile(&bench, &["--model", "model", "-o", "folder"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert_eq!(list(&bench)["model"]["path"], "../model");
    let without = generate(&bench, &["--model", "model", "-o", "out/a.png", "-q"]);
    assert_eq!(without.status, Some(0), "{}", without.stderr);
    // Both may move together.
    std::fs::create_dir(bench.path("elsewhere")).unwrap();
    for name in ["folder", "model"] {
        std::fs::rename(bench.path(name), bench.path("elsewhere").join(name)).unwrap();
    }
    let with = generate(&bench, &["--plans", "elsewhere/folder", "-o", "out/b.png"]);
    assert_eq!(with.status, Some(0), "{}", with.stderr);
    assert_eq!(with.stderr, "");
    assert_eq!(bench.read("out/a.png"), bench.read("out/b.png"));
    let other = ["--plans", "elsewhere/folder", "--dtype", "bf16"];
    let ran = generate(&bench, &other);
    assert_eq!(ran.status, Some(1));
    assert!(ran.stderr.contains("give --dtype"), "{}", ran.stderr);
    let inspected = bench.run(&["inspect", "--plans", "elsewhere/folder"]);
    assert!(
        inspected.stdout.contains("transformer for cpu"),
        "{}",
        inspected.stdout
    );
}

#[test]
fn each_component_is_a_module_that_can_be_loaded() {
    let bench = Bench::new("dev");
    let ran = compile(&bench, &["--model", "model", "-o", "folder", "--img2img"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let kinds = tintype::ModelKind::ALL;
    for kind in kinds {
        let saved = SavedModule::open(bench.path("folder").join(kind.name())).unwrap();
        assert!(saved.has_weights());
        let module = saved.load(Arc::new(CpuBackend::new()), LoadOptions::default());
        let weights = module.unwrap().module.weights();
        let parameters = saved.graphs().next().unwrap().0.parameters().len();
        assert!(weights.parameters.len() >= parameters);
    }
    let size = |path: &Path| std::fs::metadata(path).unwrap().len();
    let items = walk(&bench.path("folder"));
    let bytes: u64 = items.iter().map(|path| size(path)).sum();
    let names = items
        .iter()
        .any(|path| path.extension().is_some_and(|kind| kind == "safetensors"));
    assert!(!names, "no weights are copied: {items:?}");
    assert!(bytes < 4 << 20, "{bytes} bytes");
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for item in std::fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[test]
fn several_may_compile_into_one_folder_at_once() {
    let bench = Bench::new("dev");
    let components = [
        "text_encoder",
        "text_encoder_2",
        "transformer",
        "vae_decoder",
    ];
    std::thread::scope(|scope| {
        for component in components {
            let bench = &bench;
            scope.spawn(move || {
                let arguments = ["--model", "model", "-o", "folder", "--component", component];
                let ran = compile(bench, &arguments);
                assert_eq!(ran.status, Some(0), "{}", ran.stderr);
            });
        }
    });
    let list = list(&bench);
    let listed = list["components"].as_array().unwrap().iter();
    let listed: Vec<_> = listed
        .map(|record| record["component"].as_str().unwrap())
        .collect();
    assert_eq!(listed, components);
}

#[test]
fn a_folder_of_something_else_is_refused() {
    let bench = Bench::new("dev");
    let refused = |arguments: &[&str], says: &str| {
        let ran = compile(&bench, arguments);
        assert_eq!(ran.status, Some(1), "{arguments:?}: {}", ran.stdout);
        assert!(ran.stderr.contains(says), "{says}: {}", ran.stderr);
    };
    let made = compile(&bench, &["--model", "model", "-o", "folder"]);
    assert_eq!(made.status, Some(0), "{}", made.stderr);
    let half = ["--model", "model", "-o", "folder", "--dtype", "bf16"];
    refused(&half, "what is there is in f32, expected bf16");
    refused(
        &["--model", "model", "-o", "folder", "--vae-tiling"],
        "give another folder",
    );
    refused(&["--model", "model", "-o", "model"], "new or empty folder");
    #[cfg(feature = "shapes")]
    refused(&["-o", "folder"], "computes something else");
    // By name there is no model to go back to.
    let ran = bench.run(&[
        "compile",
        "--backend",
        "cpu",
        "--model",
        "flux-schnell",
        "--dtype",
        "bf16",
        "-o",
        "named",
        "--component",
        "text_encoder",
    ]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let ran = bench.run(&["generate", "fox", "--plans", "named", "--dtype", "bf16"]);
    assert_eq!(ran.status, Some(1));
    assert!(ran.stderr.contains("give --model"), "{}", ran.stderr);
}
