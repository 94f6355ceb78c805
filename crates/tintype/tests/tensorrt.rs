//! `compile`, and what other commands do with plans: real ones, built on the CPU where the library
//! has been fetched.
//!
//! `cargo xtask test` fetches it (`cargo xtask fetch tensorrt` by hand). Where it is not there,
//! each test that needs it is reported as ignored, by its name, and the reason is printed.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]
#![allow(clippy::unnecessary_wraps, reason = "all tests have one type")]

mod common;
#[path = "../../tensorrt-sys/tests/support/fetched.rs"]
mod fetched;

use std::path::Path;

use common::{Bench, Ran};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};
use tintype::backends::Options;
use tintype::{DType, ModelKind, Request, Sizes};
use tintype_refit::SavedModule;
use tintype_tensorrt::{Newer, Tensorrt, backend};

type Test = (&'static str, fn(&Path) -> Result<(), Failed>);

/// What needs the library.
const TESTS: &[Test] = &[
    (
        "the model inside is compiled for one architecture, once",
        once,
    ),
    (
        "one component is compiled for two architectures",
        two_architectures,
    ),
    ("fp8 is compiled without scales, for all scales", fp8),
    (
        "what generate needs is what compile built",
        found_by_generate,
    ),
    ("a plan that is damaged is built again", damaged),
    ("a dry run tells which plans are there", dry_run),
    ("bad input of compile is told", bad_input),
    ("doctor tells the library", doctor),
];

/// What needs none.
const WITHOUT: &[Test] = &[
    ("without a library compile says where it looked", no_library),
    ("plans are for the backend that has them", other_backend),
    ("a folder that holds no plans is refused", no_folder),
    ("networks and weights are told without the library", inspect),
];

fn main() {
    let arguments = Arguments::from_args();
    let library = fetched::find_for(TESTS.len());
    let is_missing = library.is_none();
    let with = TESTS.iter().map(|&(name, test)| {
        let path = library.clone();
        let run = move || test(&path.ok_or("the library was not fetched")?);
        Trial::test(name, run).with_ignored_flag(is_missing)
    });
    let without = WITHOUT
        .iter()
        .map(|&(name, test)| Trial::test(name, move || test(Path::new("/nowhere"))));
    libtest_mimic::run(&arguments, with.chain(without).collect()).exit();
}

fn compile(bench: &Bench, library: &Path, arguments: &[&str]) -> Ran {
    let arguments = [&["compile"], arguments].concat();
    bench.run_with(&[("TINTYPE_TENSORRT", library)], &arguments)
}

/// Lines of the table: component, program, target, MiB, seconds, weights.
fn rows(ran: &Ran) -> Vec<Vec<String>> {
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let lines = ran.stdout.lines().skip(1);
    let cells = lines.map(|line| line.split_whitespace().map(str::to_owned).collect());
    cells
        .filter(|cells: &Vec<String>| cells.len() == 6)
        .collect()
}

fn list(bench: &Bench, folder: &str) -> Value {
    serde_json::from_slice(&bench.read(&format!("{folder}/pipeline.json"))).unwrap()
}

/// All files of compiled forms, each with its component.
fn compiled(bench: &Bench, folder: &str) -> Vec<String> {
    let mut names = Vec::new();
    for kind in ModelKind::ALL {
        let folder = format!("{folder}/{}/compiled", kind.name());
        if bench.path(&folder).exists() {
            let files = bench.files(&folder).into_iter();
            names.extend(files.map(|file| format!("{folder}/{file}")));
        }
    }
    names
}

fn once(library: &Path) -> Result<(), Failed> {
    let bench = Bench::new("dev");
    let arguments = ["--target", "sm89", "-o", "plans"];
    let first = rows(&compile(&bench, library, &arguments));
    let programs: Vec<_> = first
        .iter()
        .map(|row| format!("{} {}", row[0], row[1]))
        .collect();
    let expected = [
        "text_encoder request",
        "text_encoder_2 request",
        "transformer request",
        "transformer step",
        "vae_decoder request",
    ];
    assert_eq!(programs, expected);
    assert!(first.iter().all(|row| row[4] != "found"), "{first:?}");
    let names = compiled(&bench, "plans");
    assert_eq!(names.len(), first.len(), "{names:?}");
    let before = list(&bench, "plans");
    assert_eq!(before["plans"].as_array().unwrap().len(), first.len());
    assert_eq!(
        before["sizes"]["heights"],
        json!({"start": 128, "end": 128})
    );
    let second = rows(&compile(&bench, library, &arguments));
    assert!(second.iter().all(|row| row[4] == "found"), "{second:?}");
    let listed = |list: &Value| {
        let plans = list["plans"].as_array().unwrap().iter();
        let mut plans: Vec<_> = plans.map(Value::to_string).collect();
        plans.sort();
        plans
    };
    assert_eq!(listed(&before), listed(&list(&bench, "plans")));
    assert_eq!(names, compiled(&bench, "plans"));
    let saved = SavedModule::open(bench.path("plans/transformer"))?;
    assert_eq!(saved.verify()?.compiled, 2);
    assert!(!saved.has_weights(), "the model inside has no files");
    Ok(())
}

/// Scales are weights: a table that is measured later needs no other plans.
fn fp8(library: &Path) -> Result<(), Failed> {
    let bench = Bench::new("dev");
    let words = |line: &'static str| line.split(' ').collect::<Vec<_>>();
    let common = "--model model --target sm89 --component transformer -o plans";
    let build = |arguments: &'static str| {
        let all = [words(common), words(arguments)].concat();
        compile(&bench, library, &all)
    };
    let first = rows(&build("--dtype fp8"));
    assert!(first.iter().all(|row| row[4] != "found"), "{first:?}");
    assert_eq!(list(&bench, "plans")["dtype"], "fp8");
    std::fs::write(bench.path("prompts.txt"), "a red fox\n")?;
    let ran = bench.run(&words(
        "quantize --model model --backend cpu --steps 1 --height 64 --width 64 \
         --max-sequence-length 16 --prompts prompts.txt -o scales.json",
    ));
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let second = rows(&build("--dtype fp8 --scales scales.json"));
    assert!(second.iter().all(|row| row[4] == "found"), "{second:?}");
    let other = build("--dtype bf16").stderr;
    assert!(other.contains("in fp8, expected bf16"), "{other}");
    Ok(())
}

fn two_architectures(library: &Path) -> Result<(), Failed> {
    let bench = Bench::new("dev");
    let arguments = [
        "--target",
        "sm80,sm120,sm80",
        "--component",
        "transformer",
        "--dtype",
        "bf16",
        "--height",
        "64..128",
        "-o",
        "plans",
    ];
    let rows = rows(&compile(&bench, library, &arguments));
    let told: Vec<_> = rows
        .iter()
        .map(|row| format!("{} {}", row[1], row[2]))
        .collect();
    assert_eq!(
        told,
        ["request sm80", "step sm80", "request sm120", "step sm120"]
    );
    let inspected = bench.run(&["inspect", "--plans", "plans"]);
    assert_eq!(inspected.status, Some(0), "{}", inspected.stderr);
    assert!(
        inspected
            .stdout
            .contains("shapes in bf16, 128 by 64..128 pixels"),
        "{}",
        inspected.stdout
    );
    assert_eq!(
        inspected
            .stdout
            .matches("  transformer step for sm")
            .count(),
        2
    );
    Ok(())
}

/// No GPU is here to generate on, but the plans that it would ask for can be asked for.
fn found_by_generate(library: &Path) -> Result<(), Failed> {
    let bench = Bench::new("dev");
    let arguments = [
        "--target",
        "sm89",
        "--component",
        "transformer,text_encoder",
        "-o",
        "plans",
    ];
    rows(&compile(&bench, library, &arguments));
    let sizes: Sizes = serde_json::from_value(list(&bench, "plans")["sizes"].clone())?;
    let pipeline = tintype::shapes()?;
    let request = Request::new("a red circle");
    assert_eq!(sizes, Sizes::of_request(&request, pipeline.defaults()));
    let architecture = pipeline
        .architecture()
        .for_backend(&backend::capabilities());
    let tensorrt = Tensorrt::open(library, Newer::Refuse)?;
    for kind in [ModelKind::Clip, ModelKind::Transformer] {
        let folder = SavedModule::compiled_folder(bench.path("plans").join(kind.name()));
        let options = Options::default().with_plans(folder);
        let graph = architecture.graph(kind, DType::F32, &sizes)?;
        let programs = tintype::tensorrt::programs(&graph)?;
        let plans = tintype::tensorrt::build(&tensorrt, &programs, "sm89".parse()?, &options)?;
        assert!(
            !plans.is_empty() && plans.iter().all(|plan| !plan.is_new),
            "{plans:?}"
        );
    }
    Ok(())
}

fn damaged(library: &Path) -> Result<(), Failed> {
    let bench = Bench::new("dev");
    let arguments = [
        "--target",
        "sm89",
        "--component",
        "text_encoder",
        "-o",
        "plans",
    ];
    rows(&compile(&bench, library, &arguments));
    let names = compiled(&bench, "plans");
    bench.truncate(&names[0], 1000);
    let ran = compile(&bench, library, &arguments);
    assert!(ran.stderr.contains("damaged"), "{}", ran.stderr);
    assert_ne!(rows(&ran)[0][4], "found");
    assert_eq!(names, compiled(&bench, "plans"));
    Ok(())
}

fn dry_run(library: &Path) -> Result<(), Failed> {
    let bench = Bench::new("dev");
    let arguments = [
        "--target",
        "sm89",
        "--component",
        "transformer",
        "-o",
        "plans",
    ];
    rows(&compile(&bench, library, &arguments));
    let arguments = [
        "inspect",
        "--dry-run",
        "--target",
        "sm89,sm120",
        "--component",
        "transformer",
        "--plans",
        "plans",
        "--json",
    ];
    let ran = bench.run_with(&[("TINTYPE_TENSORRT", library)], &arguments);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let reports: Value = serde_json::from_str(&ran.stdout)?;
    for (index, target, is_there) in [(0, "sm89", true), (1, "sm120", false)] {
        let report = &reports[index];
        assert_eq!(report["target"], target);
        let programs = report["components"][0]["programs"].as_array().unwrap();
        let found = |name: &str| {
            let mut programs = programs.iter();
            let program = programs.find(|program| program["program"] == name);
            program.unwrap()["is_compiled"].clone()
        };
        assert_eq!(
            (found("request"), found("step")),
            (json!(is_there), json!(is_there))
        );
        assert_eq!(found("weight"), Value::Null);
    }
    Ok(())
}

/// Arguments, exit status, and what is told.
type Bad = (&'static [&'static str], i32, &'static [&'static str]);

const BAD: &[Bad] = &[
    (&["-o", "plans"], 1, &["no GPU", "--target", "sm120"]),
    (&["--target", "sm89"], 2, &["--output"]),
    (
        &["--target", "sm90", "-o", "plans"],
        1,
        &["--target", "sm89, sm120", "found sm90"],
    ),
    (
        &["--target", "hopper", "-o", "plans"],
        2,
        &["hopper", "sm89"],
    ),
    (
        &["--target", "sm89", "--backend", "cpu", "-o", "plans"],
        1,
        &["--target", "only the backend tensorrt", "--backend cpu"],
    ),
    (
        &["--target", "sm89", "--backend", "abacus", "-o", "plans"],
        2,
        &["--backend"],
    ),
    (
        &["--target", "sm89,sm86", "--dtype", "fp8", "-o", "plans"],
        1,
        &["sm86 has no products of fp8", "sm89, sm120, sm121", "bf16"],
    ),
    (
        &["--target", "sm89", "--scales", "scales.json", "-o", "plans"],
        1,
        &["--scales", "--dtype fp8", "found f32"],
    ),
    (
        &["--target", "sm89", "--component", "unet", "-o", "plans"],
        2,
        &["unet", "transformer"],
    ),
    (
        &["--target", "sm89", "--model", "flux-pro", "-o", "plans"],
        1,
        &["flux-dev", "`flux-pro`"],
    ),
    (
        &["--target", "sm89", "--model", "out", "-o", "plans"],
        1,
        &["model_index.json"],
    ),
    (
        &["--target", "sm89", "--height", "8", "-o", "plans"],
        1,
        &["height", "16 to 16384", "8"],
    ),
    (
        &["--target", "sm89", "--height", "256..128", "-o", "plans"],
        2,
        &["--height", "smaller"],
    ),
    (
        &["--target", "sm89", "--width", "wide", "-o", "plans"],
        2,
        &["--width", "`wide`"],
    ),
    (
        &["--target", "sm89", "--batch", "0", "-o", "plans"],
        1,
        &["pictures", "1 to 64"],
    ),
    (
        &["--target", "sm89", "-o", "model"],
        1,
        &["model", "new or empty folder"],
    ),
    (
        &["--target", "sm89", "-o", "model/model_index.json"],
        1,
        &["expected a folder"],
    ),
    (
        &["--target", "sm89", "-o", "other"],
        1,
        &["32 by 32 pixels", "another folder"],
    ),
    (
        &["--target", "sm89", "-o", "broken"],
        1,
        &["broken/pipeline.json"],
    ),
    (
        &["--target", "sm89", "--dtype", "bf16", "-o", "half"],
        1,
        &["what is there is in f16, expected bf16", "another folder"],
    ),
];

const OTHER: &str = r#"{"version": 1, "model": {"hub": "org/name"}, "dtype": "f32",
    "sizes": {"pictures": {"start": 1, "end": 1},
    "prompts": {"start": 1, "end": 1}, "heights": {"start": 32, "end": 32},
    "widths": {"start": 32, "end": 32}, "text_tokens": {"start": 48, "end": 48},
    "tiles": false}, "components": [{"component": "transformer", "backend": "tensorrt"}],
    "plans": []}"#;

fn bad_input(library: &Path) -> Result<(), Failed> {
    let bench = Bench::new("dev");
    // The sizes that `compile` takes for this model if none are given.
    let half = OTHER.replace("f32", "f16").replace("32", "128");
    for (folder, text) in [
        ("other", OTHER),
        ("broken", "{\"version\": 1"),
        ("half", &half),
    ] {
        std::fs::create_dir(bench.path(folder))?;
        bench.write(&format!("{folder}/pipeline.json"), text);
    }
    for (arguments, status, says) in BAD {
        let ran = compile(&bench, library, arguments);
        let told = format!("{arguments:?}: status {:?}, {}", ran.status, ran.stderr);
        assert_eq!(ran.status, Some(*status), "{told}");
        assert!(!ran.stderr.contains("panicked"), "{told}");
        for part in *says {
            assert!(ran.stderr.contains(part), "expected `{part}`; {told}");
        }
        assert!(!bench.path("plans").exists(), "{told}");
    }
    Ok(())
}

fn doctor(library: &Path) -> Result<(), Failed> {
    let ran = Bench::new("dev").run_with(&[("TINTYPE_TENSORRT", library)], &["doctor"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    for part in ["library: TensorRT-RTX 1.", "ABI line", "sm80", "GPU"] {
        assert!(ran.stdout.contains(part), "{}", ran.stdout);
    }
    Ok(())
}

fn no_library(nowhere: &Path) -> Result<(), Failed> {
    let bench = Bench::new("dev");
    let ran = compile(&bench, nowhere, &["--target", "sm89", "-o", "plans"]);
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("/nowhere"), "{}", ran.stderr);
    assert!(!bench.path("plans").exists());
    let ran = bench.run_with(&[("TINTYPE_TENSORRT", nowhere)], &["doctor"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    assert!(
        ran.stdout.contains("library: cannot load /nowhere"),
        "{}",
        ran.stdout
    );
    Ok(())
}

fn other_backend(_library: &Path) -> Result<(), Failed> {
    let bench = Bench::new("dev");
    bench.write("out/pipeline.json", OTHER);
    let ran = bench.generate(&["fox", "--backend", "cpu", "--plans", "out"]);
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("out: expected models compiled for cpu, found tensorrt"),
        "{}",
        ran.stderr
    );
    // The variable is for whoever has a use for it.
    let arguments = [
        "bench",
        "--model",
        "model",
        "--backend",
        "cpu",
        "--steps",
        "1",
    ];
    let arguments = [
        &arguments[..],
        &["--runs", "1", "--height", "32", "--width", "32"],
    ]
    .concat();
    let ran = bench.run_with(&[("TINTYPE_PLANS", Path::new("nothing"))], &arguments);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    Ok(())
}

fn no_folder(_library: &Path) -> Result<(), Failed> {
    let bench = Bench::new("dev");
    for folder in ["out", "nothing"] {
        let ran = bench.generate(&["fox", "--plans", folder]);
        assert_eq!(ran.status, Some(1), "{}", ran.stderr);
        assert!(
            ran.stderr.contains(&format!("{folder}/pipeline.json")),
            "{}",
            ran.stderr
        );
        let ran = bench.run(&["inspect", "--plans", folder]);
        assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    }
    for (from, to, says) in [
        ("\"version\": 1", "\"version\": 9", "found 9"),
        ("\"end\": 32", "\"end\": 40", "multiples of 16"),
        ("\"end\": 48", "\"end\": 0", "max_sequence_length"),
        ("\"tiles\"", "\"tile\"", "tile"),
        ("\"transformer\"", "\"../out\"", "`../out` is no component"),
        ("\"plans\": []", "\"plans\": [], \"run\": 1", "run"),
    ] {
        bench.write("out/pipeline.json", OTHER.replacen(from, to, 1));
        let ran = bench.run(&["inspect", "--plans", "out"]);
        assert_eq!(ran.status, Some(1), "{says}: {}", ran.stdout);
        assert!(ran.stderr.contains(says), "{says}: {}", ran.stderr);
    }
    Ok(())
}

fn inspect(_library: &Path) -> Result<(), Failed> {
    let bench = Bench::new("dev");
    let inspect = |arguments: &[&str]| {
        let all = [
            &["inspect", "--model", "model", "--component", "transformer"],
            arguments,
        ];
        bench.run(&all.concat())
    };
    let ran = inspect(&["--program", "step", "--lowered"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    for part in [
        "network \"flux_transformer.step\"",
        "matrix_multiply",
        "output sample",
    ] {
        assert!(ran.stdout.contains(part), "{}", ran.stdout);
    }
    let ran = inspect(&["--program", "step", "--lowered", "--dtype", "fp8"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    for part in [" = quantize ", " = dequantize ", ".weight: f8e4m3["] {
        assert!(ran.stdout.contains(part), "{}", ran.stdout);
    }
    let ran = inspect(&["--weights"]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let joined = ran.stdout.lines().find(|line| line.contains("= concat of"));
    assert!(
        joined.is_some_and(|line| line.matches('@').count() == 3),
        "{}",
        ran.stdout
    );
    for program in ["weight", "graph"] {
        let ran = inspect(&["--program", program, "--lowered"]);
        assert_eq!(ran.status, Some(1), "{}", ran.stdout);
        assert!(ran.stderr.contains("request or step"), "{}", ran.stderr);
    }
    let ran = inspect(&["--lowered"]);
    assert_eq!(ran.status, Some(2), "{}", ran.stderr);
    Ok(())
}
