//! The model inside the program: it is the default, it is its folder to the bit, its tensors
//! stay where they are. What a build without it says is in `without_model.rs`.
#![cfg(feature = "shapes")]
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

mod common;

use common::{Bench, Ran};

/// Runs and expects success.
fn run(bench: &Bench, arguments: &[&str]) -> Ran {
    let ran = bench.run(arguments);
    assert_eq!(ran.status, Some(0), "{arguments:?}: {}", ran.stderr);
    ran
}

/// A PNG of two steps, with seed 1, and whatever else `arguments` say.
fn picture(bench: &Bench, arguments: &[&str]) -> Vec<u8> {
    let mut all = vec!["generate", "a red circle above a blue square"];
    all.extend(["--steps", "2", "--seed", "1", "--output", "out/out.png"]);
    all.extend(arguments);
    run(bench, &all);
    bench.read("out/out.png")
}

/// The folder that the model in the program was made from.
fn folder() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../shapes/model").to_owned()
}

/// The names of the LoRAs that come with the model.
fn loras() -> Vec<String> {
    let files = tintype::built_in::files().unwrap();
    let pipeline = tintype::FluxPipeline::from_files(files).unwrap();
    pipeline.defaults().loras.keys().cloned().collect()
}

#[test]
fn it_is_the_default_and_equals_its_folder() {
    let bench = Bench::new("dev");
    let first = picture(&bench, &[]);
    assert!(first == picture(&bench, &["--model", "shapes"]));
    assert!(first == picture(&bench, &["--model", &folder()]));
    for dtype in ["bf16", "f16"] {
        let inside = picture(&bench, &["--dtype", dtype]);
        assert!(inside == picture(&bench, &["--dtype", dtype, "--model", &folder()]));
    }
}

#[test]
fn a_folder_of_its_name_needs_a_path() {
    let bench = Bench::new("dev");
    std::fs::rename(bench.path("model"), bench.path("shapes")).unwrap();
    let size = ["--height", "32", "--width", "32"];
    let of = |model: &'static str| picture(&bench, &[&size[..], &["--model", model]].concat());
    assert!(of("shapes") == picture(&bench, &size));
    assert!(of("./shapes") != of("shapes"));
}

#[test]
fn its_loras_go_by_name() {
    let bench = Bench::new("dev");
    let without = picture(&bench, &[]);
    let names = loras();
    assert!(!names.is_empty());
    for name in &names {
        let whole = picture(&bench, &["--lora", name]);
        assert!(whole != without, "{name}");
        assert!(picture(&bench, &["--lora", &format!("{name}=0")]) == without);
        let path = format!("{}/loras/{name}.safetensors", folder());
        assert!(picture(&bench, &["--lora", &path]) == whole, "{name}");
    }
    let ran = bench.run(&["generate", "fox", "--lora", "nein"]);
    assert_eq!(ran.status, Some(1));
    let names = names.join(", ");
    let expected = format!("lora: expected a file, or one of the model's own: {names}, found nein");
    assert!(ran.stderr.contains(&expected), "{}", ran.stderr);
}

#[test]
fn both_forms_of_a_lora_draw_the_same() {
    let bench = Bench::new("dev");
    let pixels = |file: &str| {
        picture(&bench, &["--lora", &format!("{}/{file}", folder())]);
        let image = tintype::Image::read_png(&bench.path("out/out.png")).unwrap();
        image.rgb8().to_vec()
    };
    for (kohya, _) in tintype_shapes::FILES {
        let Some(name) = kohya.strip_suffix("-kohya.safetensors") else {
            continue;
        };
        let [one, other] = [pixels(&format!("{name}.safetensors")), pixels(kohya)];
        let differences = one.iter().zip(&other).map(|(a, b)| a.abs_diff(*b));
        assert!(differences.max() <= Some(1), "{name}");
    }
}

#[test]
fn a_file_comes_before_a_lora_of_its_name() {
    let bench = Bench::new("dev");
    let names = loras();
    bench.write(&names[0], "no LoRA");
    let ran = bench.run(&["generate", "fox", "--lora", &names[0]]);
    assert_eq!(ran.status, Some(1));
    assert!(ran.stderr.contains(&names[0]), "{}", ran.stderr);
}

#[test]
fn every_command_takes_it_and_says_what_was_used() {
    let bench = Bench::new("dev");
    let line = |arguments: &[&str]| -> serde_json::Value {
        serde_json::from_str(&run(&bench, arguments).stdout).unwrap()
    };
    let files = tintype::built_in::files().unwrap();
    let pipeline = tintype::FluxPipeline::from_files(files).unwrap();
    let defaults = pipeline.defaults();
    let made = line(&["generate", "fox", "--json", "--output", "out/out.png"]);
    assert_eq!(made["model"], "shapes (built in)");
    let used = &made["request"];
    assert_eq!(used["height"], defaults.height);
    assert_eq!(used["steps"], defaults.steps);
    assert_eq!(used["guidance_scale"], defaults.guidance_scale);
    assert_eq!(used["max_sequence_length"], defaults.max_sequence_length);
    let timed = line(&["bench", "--runs", "1", "--json"]);
    assert_eq!(timed["model"], "shapes (built in)");
    assert_eq!(timed["height"], defaults.height);
    assert_eq!(timed["max_sequence_length"], defaults.max_sequence_length);
    let shown = run(&bench, &["inspect"]).stdout;
    assert!(
        shown.starts_with("shapes (built in)\n  defaults: "),
        "{shown}"
    );
    for name in loras() {
        assert!(shown.contains(&format!("lora {name}: ")), "{shown}");
    }
    let doctor = run(&bench, &["doctor"]).stdout;
    assert!(doctor.contains("built in: shapes"), "{doctor}");
}

#[test]
fn its_tensors_are_read_where_they_lie() {
    let files = tintype::built_in::files().unwrap();
    let mut count = 0;
    for (name, bytes) in tintype_shapes::FILES {
        if !name.ends_with(".safetensors") {
            continue;
        }
        let inside = bytes.as_ptr_range();
        let file = files.safetensors(name).unwrap();
        for (tensor, _) in file.entries() {
            let lies = file.tensor(tensor).unwrap();
            let lies = lies.bytes().as_ptr_range();
            assert!(
                inside.start <= lies.start && lies.end <= inside.end,
                "{name} {tensor}"
            );
            // At another address a bf16 would be copied to be read.
            assert_eq!(lies.start.addr() % 2, 0, "{name} {tensor}");
            count += 1;
        }
    }
    assert!(count > 0);
}
