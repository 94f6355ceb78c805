//! What the program does when all is well: the files it writes and what is in them,
//! what it prints, and which choices must not change a picture.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

mod common;

use common::{Bench, Ran, fixtures};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use tintype::Image;

/// Runs, and expects success.
fn generate(bench: &Bench, arguments: &[&str]) -> Ran {
    let ran = bench.generate(arguments);
    assert_eq!(ran.status, Some(0), "{arguments:?}: {}", ran.stderr);
    ran
}

/// The pixels of the picture that a run makes.
fn picture(bench: &Bench, arguments: &[&str]) -> Image {
    generate(bench, arguments);
    Image::read_png(&bench.path("out/out.png")).unwrap()
}

/// The values of a text chunk of a PNG.
fn text_of(bench: &Bench, path: &str, keyword: &str) -> String {
    let bytes = bench.read(path);
    let reader = png::Decoder::new(std::io::Cursor::new(bytes))
        .read_info()
        .unwrap();
    let chunk = reader.info().utf8_text.iter();
    let chunk = chunk.clone().find(|chunk| chunk.keyword == keyword);
    chunk.unwrap().get_text().unwrap()
}

fn request_in(bench: &Bench, path: &str) -> Value {
    serde_json::from_str(&text_of(bench, path, "tintype")).unwrap()
}

#[test]
fn a_picture_is_written_and_its_path_printed() {
    let bench = Bench::new("dev");
    let ran = generate(&bench, &["fox"]);
    assert_eq!(ran.stdout, "out/out.png\n");
    assert_eq!(ran.stderr, "");
    assert_eq!(bench.files("out"), ["out.png"]);
    let image = Image::read_png(&bench.path("out/out.png")).unwrap();
    assert_eq!((image.width(), image.height()), (64, 64));
}

#[test]
fn the_picture_is_the_one_recorded() {
    let bench = Bench::new("dev");
    let cases: Value =
        serde_json::from_slice(&std::fs::read(fixtures().join("cases/cases.json")).unwrap())
            .unwrap();
    let case = cases.as_array().unwrap().iter();
    let case = case.clone().find(|case| case["name"] == "dev").unwrap();
    let request = &case["request"];
    let argument = |name: &str| request[name].to_string();
    let image = picture(
        &bench,
        &[
            request["prompt"][0].as_str().unwrap(),
            "--steps",
            &argument("steps"),
            "--seed",
            &argument("seed"),
            "--height",
            &argument("height"),
            "--width",
            &argument("width"),
            "--max-sequence-length",
            &argument("max_sequence_length"),
        ],
    );
    let recorded = Image::read_png(&fixtures().join("cases/dev.png")).unwrap();
    let pairs = image.rgb8().iter().zip(recorded.rgb8());
    let furthest = pairs
        .map(|(found, expected)| found.abs_diff(*expected))
        .max();
    assert!(furthest <= Some(1), "{furthest:?}");
}

#[test]
fn the_metadata_hold_the_request_with_its_defaults() {
    let bench = Bench::new("dev");
    generate(
        &bench,
        &[
            "ein \"Fuchs\" 狐",
            "--steps",
            "2",
            "--height",
            "72",
            "--seed",
            "18446744073709551615",
        ],
    );
    assert_eq!(
        request_in(&bench, "out/out.png"),
        json!({
            "prompt": ["ein \"Fuchs\" 狐"],
            "true_cfg_scale": 1.0,
            "height": 64,
            "width": 64,
            "steps": 2,
            "guidance_scale": 3.5,
            "num_images": 1,
            "seed": 18446744073709551615_u64,
            "max_sequence_length": 16,
            "lora_scale": 1.0,
            "vae_tiling": false,
        })
    );
    assert_eq!(
        text_of(&bench, "out/out.png", "parameters"),
        "ein \"Fuchs\" 狐\nseed: 18446744073709551615, size: 64x64, steps: 2, guidance: 3.5"
    );
}

#[test]
fn a_random_seed_is_told_and_makes_the_picture_again() {
    let bench = Bench::new("dev");
    let arguments = [
        "generate", "fox", "--model", "model", "--height", "32", "--width", "32",
    ];
    let mut arguments = arguments.to_vec();
    arguments.extend([
        "--steps",
        "1",
        "--max-sequence-length",
        "8",
        "--output",
        "out/out.png",
    ]);
    assert_eq!(bench.run(&arguments).status, Some(0));
    let first = Image::read_png(&bench.path("out/out.png")).unwrap();
    let seed = request_in(&bench, "out/out.png")["seed"].to_string();
    arguments.extend(["--seed", &seed]);
    assert_eq!(bench.run(&arguments).status, Some(0));
    let second = Image::read_png(&bench.path("out/out.png")).unwrap();
    assert_eq!(first.rgb8(), second.rgb8());
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let bench = Bench::new("dev");
    generate(&bench, &["fox"]);
    let first = bench.read("out/out.png");
    generate(&bench, &["fox"]);
    assert!(first == bench.read("out/out.png"));
    generate(&bench, &["fox", "--seed", "2"]);
    assert!(first != bench.read("out/out.png"));
}

#[test]
fn two_pictures_get_numbers_and_the_first_is_that_of_one() {
    let bench = Bench::new("dev");
    let one = picture(&bench, &["fox"]);
    bench.remove("out/out.png");
    let ran = generate(&bench, &["fox", "--num-images", "2"]);
    assert_eq!(ran.stdout, "out/out-1.png\nout/out-2.png\n");
    assert_eq!(bench.files("out"), ["out-1.png", "out-2.png"]);
    let [first, second] = [1, 2]
        .map(|number| Image::read_png(&bench.path(&format!("out/out-{number}.png"))).unwrap());
    let differences = first.rgb8().iter().zip(one.rgb8());
    let furthest = differences.map(|(a, b)| a.abs_diff(*b)).max();
    assert!(furthest <= Some(1), "{furthest:?}");
    assert!(first.rgb8() != second.rgb8());
    assert_eq!(request_in(&bench, "out/out-2.png")["num_images"], 2);
}

#[test]
fn a_size_between_multiples_of_16_is_floored_with_a_warning() {
    let bench = Bench::new("dev");
    let ran = generate(&bench, &["fox", "--height", "57", "--width", "72"]);
    assert!(ran.stderr.contains("WARN"), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("72×57 is floored to 64×48"),
        "{}",
        ran.stderr
    );
    let image = Image::read_png(&bench.path("out/out.png")).unwrap();
    assert_eq!((image.width(), image.height()), (64, 48));
}

#[test]
fn a_prompt_that_is_too_long_is_cut_with_a_warning() {
    let bench = Bench::new("dev");
    let prompt = "a red fox and a blue bird ".repeat(1000) + "at the end";
    let ran = generate(&bench, &[&prompt]);
    assert!(
        ran.stderr.contains("CLIP reads 77 tokens"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("T5 reads 16 tokens"), "{}", ran.stderr);
    assert!(ran.stderr.contains("at the end"), "what was cut is told");
}

#[test]
fn an_empty_prompt_and_strange_characters_are_prompts() {
    let bench = Bench::new("dev");
    for prompt in [
        "",
        " ",
        "\u{202e}\u{fffd}🦊\u{1f3fd}\t\n",
        "<|endoftext|></s><pad>",
    ] {
        generate(&bench, &[prompt]);
    }
}

#[test]
fn quiet_prints_nothing() {
    let bench = Bench::new("dev");
    let ran = generate(&bench, &["fox", "--quiet", "--height", "72"]);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
    let ran = bench.generate(&["fox", "--quiet", "--height", "0"]);
    assert_eq!(ran.status, Some(1));
    assert!(
        ran.stderr.starts_with("error: height"),
        "errors are told all the same"
    );
}

#[test]
fn json_is_one_line() {
    let bench = Bench::new("dev");
    let ran = generate(&bench, &["fox", "--json", "--steps", "3"]);
    assert_eq!(ran.stdout.lines().count(), 1);
    let line: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(line["outputs"], json!(["out/out.png"]));
    assert_eq!(line["request"]["seed"], 1);
    assert_eq!(line["seconds"]["steps"].as_array().unwrap().len(), 3);
    for part in ["load", "encode", "prepare", "decode", "total"] {
        assert!(line["seconds"][part].as_f64().unwrap() > 0.0, "{part}");
    }
}

#[test]
fn tensors_are_saved_in_f32() {
    let bench = Bench::new("dev");
    for dtype in ["f32", "bf16", "f16"] {
        generate(
            &bench,
            &[
                "fox",
                "--num-images",
                "2",
                "--dtype",
                dtype,
                "--width",
                "48",
                "--save-tensors",
                "out/tensors.safetensors",
            ],
        );
        let bytes = bench.read("out/tensors.safetensors");
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let expected: [(&str, &[usize]); 4] = [
            ("latents", &[2, 12, 64]),
            ("images", &[2, 3, 64, 48]),
            ("prompt_embeds", &[2, 16, 32]),
            ("pooled", &[2, 24]),
        ];
        assert_eq!(tensors.len(), expected.len());
        for (name, shape) in expected {
            let tensor = tensors.tensor(name).unwrap();
            assert_eq!(
                (tensor.dtype(), tensor.shape()),
                (Dtype::F32, shape),
                "{name}"
            );
        }
        let pixels = tensors.tensor("images").unwrap();
        let mut pixels = pixels.data().as_chunks::<4>().0.iter();
        assert!(pixels.all(|bytes| (0.0..=1.0).contains(&f32::from_le_bytes(*bytes))));
    }
}

#[test]
fn original_single_files_give_the_same_picture() {
    let bench = Bench::new("dev");
    let expected = picture(&bench, &["fox"]);
    bench.copy("single/flux1-dev-tiny.safetensors", "flux1-dev.safetensors");
    bench.copy("single/ae-tiny.safetensors", "ae.safetensors");
    let arguments = [
        "fox",
        "--transformer",
        "flux1-dev.safetensors",
        "--vae",
        "ae.safetensors",
    ];
    assert_eq!(picture(&bench, &arguments).rgb8(), expected.rgb8());
}

#[test]
fn low_memory_gives_the_same_picture() {
    let bench = Bench::new("schnell");
    let expected = picture(&bench, &["fox"]);
    assert_eq!(
        picture(&bench, &["fox", "--low-memory"]).rgb8(),
        expected.rgb8()
    );
}

#[test]
fn a_lora_has_a_scale() {
    let bench = Bench::new("dev");
    bench.copy("loras/peft_all.safetensors", "style.safetensors");
    bench.copy("loras/peft_all.safetensors", "a=b.safetensors");
    let without = picture(&bench, &["fox"]);
    let half = picture(&bench, &["fox", "--lora", "style.safetensors=0.5"]);
    let whole = picture(&bench, &["fox", "--lora", "style.safetensors"]);
    assert!(half.rgb8() != without.rgb8() && half.rgb8() != whole.rgb8());
    let none = picture(&bench, &["fox", "--lora", "style.safetensors=0"]);
    assert_eq!(none.rgb8(), without.rgb8());
    let named = picture(&bench, &["fox", "--lora", "a=b.safetensors"]);
    assert_eq!(named.rgb8(), whole.rgb8());
    let negative = [
        "fox",
        "--lora",
        "style.safetensors=1",
        "--lora",
        "a=b.safetensors=-1",
    ];
    generate(&bench, &negative);
}

#[test]
fn every_option_is_taken() {
    let bench = Bench::new("dev");
    bench.copy("cases/dev.png", "fox.png");
    let arguments = [
        "fox",
        "--backend",
        "cpu",
        "--prompt-2",
        "a fox in the snow",
        "--negative-prompt",
        "blur",
        "--negative-prompt-2",
        "text",
        "--true-cfg-scale",
        "2",
        "--steps",
        "2",
        "--guidance",
        "7.5",
        "--image",
        "fox.png",
        "--strength",
        "0.9",
        "--vae-tiling",
    ];
    generate(&bench, &arguments);
    let request = request_in(&bench, "out/out.png");
    assert_eq!(request["prompt_2"], json!(["a fox in the snow"]));
    assert_eq!(request["negative_prompt_2"], json!(["text"]));
    assert_eq!(request["true_cfg_scale"], 2.0);
    assert_eq!(request["guidance_scale"], 7.5);
    assert_eq!(request["vae_tiling"], true);
    generate(&bench, &["fox", "--sigmas", "1,0.7,0.2"]);
    assert_eq!(request_in(&bench, "out/out.png")["steps"], 3);
}

#[test]
fn weights_that_are_not_finite_are_told() {
    let bench = Bench::new("dev");
    let path = "model/transformer/diffusion_pytorch_model-00001-of-00002.safetensors";
    bench.edit_safetensors(path, |_, data| {
        data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    let ran = generate(&bench, &["fox"]);
    assert!(
        ran.stderr.contains("the latents are not finite"),
        "{}",
        ran.stderr
    );
}

#[test]
fn an_output_is_replaced_whole() {
    let bench = Bench::new("dev");
    bench.write("out/out.png", "an old picture");
    let ran = bench.generate(&["fox", "--lora", "none.safetensors"]);
    assert_eq!(ran.status, Some(1));
    assert_eq!(bench.read("out/out.png"), b"an old picture");
    picture(&bench, &["fox"]);
    assert_eq!(bench.files("out"), ["out.png"]);
}

#[test]
fn other_commands_run() {
    let bench = Bench::new("dev");
    let doctor = bench.run(&["doctor"]);
    assert_eq!(doctor.status, Some(0));
    for backend in ["cpu", "cuda", "tensorrt"] {
        assert!(doctor.stdout.contains(backend), "{}", doctor.stdout);
    }
    let inspect = bench.run(&["inspect", "--model", "model"]);
    assert_eq!(inspect.status, Some(0), "{}", inspect.stderr);
    assert!(inspect.stdout.contains("transformer"));
    let arguments = [
        "inspect",
        "--model",
        "model",
        "--component",
        "text_encoder",
        "--program",
        "request",
    ];
    let graph = bench.run(&arguments);
    assert_eq!(graph.status, Some(0), "{}", graph.stderr);
    assert!(graph.stdout.contains("layer_norm"));
    let arguments = [
        "bench", "--model", "model", "--height", "32", "--width", "32", "--steps", "1", "--runs",
        "1", "--json",
    ];
    let timed = bench.run(&arguments);
    assert_eq!(timed.status, Some(0), "{}", timed.stderr);
    let line: Value = serde_json::from_str(&timed.stdout).unwrap();
    assert!(line["median_seconds"]["step"].as_f64().unwrap() > 0.0);
    assert_eq!(bench.run(&["--version"]).status, Some(0));
    assert_eq!(bench.run(&["--help"]).status, Some(0));
    assert_eq!(bench.run(&[]).status, Some(2));
}
