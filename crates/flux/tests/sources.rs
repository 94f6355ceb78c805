//! Where a model comes from and what it says of itself: files inside the program give what
//! a folder gives, `tintype.json` fills in what a request leaves unset.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use std::path::{Path, PathBuf};

use tintype_cpu::CpuBackend;
use tintype_flux::image::Image;
use tintype_flux::{EmbeddedFile, FluxPipeline, ModelFiles, Output, Request};

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../conformance/fixtures")
}

/// The files below a folder as a program would hold them.
fn table(folder: &Path) -> Vec<EmbeddedFile> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(inner) = folders.pop() {
        for entry in std::fs::read_dir(inner).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(folder).unwrap().to_str().unwrap();
            let bytes: &'static [u8] = std::fs::read(&path).unwrap().leak();
            files.push((&*name.replace('\\', "/").leak(), bytes));
        }
    }
    files
}

/// A small pipeline in memory with further files beside its own.
fn embedded(pipeline: &str, further: &[EmbeddedFile]) -> ModelFiles {
    let mut files = table(&fixtures().join("pipelines").join(pipeline));
    files.extend(further);
    ModelFiles::embedded("small (built in)", files.leak())
}

fn open(files: ModelFiles) -> FluxPipeline {
    FluxPipeline::from_files(files)
        .unwrap()
        .backend(CpuBackend::new())
}

fn made(pipeline: &FluxPipeline) -> Output {
    let request = Request::new("a red circle above a blue square");
    let request = request.size(32, 48).steps(2).guidance_scale(3.5);
    pipeline
        .generate(&request.max_sequence_length(16).seed(7))
        .unwrap()
}

fn pixels(output: &Output) -> Vec<u8> {
    output.pixels.as_ref().unwrap().bytes().to_vec()
}

const DEFAULTS: &[u8] = br#"{"height": 32, "width": 48, "num_inference_steps": 2,
    "guidance_scale": 2.5, "max_sequence_length": 24, "loras": {"style": "loras/one.safetensors"}}"#;

#[test]
fn files_in_the_program_give_what_a_folder_gives() {
    // One has shards and tokenizer.json, the other single files and spiece.model.
    for name in ["dev", "schnell"] {
        let folder = fixtures().join("pipelines").join(name);
        let from_folder = made(&open(ModelFiles::folder(folder)));
        let from_program = made(&open(embedded(name, &[])));
        let [one, other] = [&from_folder, &from_program].map(|output| output.latents.bytes());
        assert!(one == other, "{name}");
        assert!(pixels(&from_folder) == pixels(&from_program), "{name}");
    }
}

#[test]
fn errors_name_files_in_the_program() {
    let only = |names: &[&str]| {
        let mut files = table(&fixtures().join("pipelines/dev"));
        files.retain(|(name, _)| names.iter().any(|kept| name.starts_with(kept)));
        let files = ModelFiles::embedded("small (built in)", files.leak());
        FluxPipeline::from_files(files).err().unwrap().to_string()
    };
    assert_eq!(
        only(&[]),
        "small (built in)/model_index.json: expected a file, found nothing"
    );
    let message = only(&["model_index.json"]);
    assert!(
        message.starts_with("small (built in)/scheduler: "),
        "{message}"
    );
    let parts = [
        "model_index",
        "scheduler",
        "text",
        "tok",
        "transformer",
        "vae/d",
    ];
    assert_eq!(
        only(&parts),
        "small (built in)/vae/config.json: expected a file, found nothing"
    );
    let mut files = table(&fixtures().join("pipelines/dev"));
    files.retain(|(name, _)| *name != "text_encoder/model.safetensors");
    let pipeline = open(ModelFiles::embedded("small (built in)", files.leak()));
    let error = pipeline
        .generate(&Request::new("fox"))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("small (built in)/text_encoder: "),
        "{error}"
    );
}

#[test]
fn a_request_gets_the_defaults_of_the_model() {
    let pipeline = open(embedded("dev", &[("tintype.json", DEFAULTS)]));
    let request = Request::new("fox").seed(1);
    let used = pipeline.generate(&request).unwrap().request;
    assert_eq!((used.height, used.width), (Some(32), Some(48)));
    assert_eq!((used.steps, used.guidance_scale), (Some(2), Some(2.5)));
    assert_eq!(used.max_sequence_length, Some(24));
    // What a request says wins, also above what the model is made for.
    let asked = request.clone().size(16, 16).steps(1).guidance_scale(4.0);
    let used = pipeline.generate(&asked.max_sequence_length(30)).unwrap();
    let used = used.request;
    assert_eq!(
        (used.height, used.width, used.steps),
        (Some(16), Some(16), Some(1))
    );
    assert_eq!(
        (used.guidance_scale, used.max_sequence_length),
        (Some(4.0), Some(30))
    );
    let sigmas = request.clone().sigmas([1.0, 0.7, 0.2]);
    assert_eq!(pipeline.generate(&sigmas).unwrap().request.steps, Some(3));
    let image = Image::read_png(&fixtures().join("cases/dev.png")).unwrap();
    let used = pipeline
        .generate(&request.image(image, 1.0))
        .unwrap()
        .request;
    assert_eq!(used.guidance_scale, Some(2.5));
}

#[test]
fn without_a_file_the_defaults_are_those_of_flux() {
    let pipeline = open(embedded("dev", &[]));
    let defaults = pipeline.defaults();
    assert_eq!(
        (defaults.height, defaults.width, defaults.steps),
        (1024, 1024, 28)
    );
    assert_eq!(defaults.guidance_scale, 3.5);
    assert_eq!(defaults.guidance_scale_with_image, 7.0);
    assert_eq!(defaults.max_sequence_length, 512);
    assert!(defaults.loras.is_empty());
}

#[test]
fn clip_may_be_made_for_fewer_tokens() {
    let name = "tokenizer/tokenizer_config.json";
    let mut files = table(&fixtures().join("pipelines/dev"));
    let file = files.iter_mut().find(|file| file.0 == name).unwrap();
    let text = std::str::from_utf8(file.1).unwrap();
    let short = text.replace("\"model_max_length\": 77", "\"model_max_length\": 48");
    assert_ne!(text, short);
    file.1 = short.leak().as_bytes();
    let short = open(ModelFiles::embedded("short", files.leak()));
    let usual = open(embedded("dev", &[]));
    // CLIP looks back alone, so padding behind a prompt does not change its pooled state.
    let [short, usual] = [&short, &usual].map(made);
    let pooled = [&short, &usual].map(|output| output.pooled_prompt_embeds.to_f32_vec().unwrap());
    let difference = pooled[0].iter().zip(&pooled[1]).map(|(a, b)| (a - b).abs());
    assert!(difference.fold(0.0, f32::max) < 1e-5);
}

#[test]
fn a_folder_has_its_defaults_and_loras_too() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in table(&fixtures().join("pipelines/dev")) {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    std::fs::write(folder.path().join("tintype.json"), DEFAULTS).unwrap();
    let lora = std::fs::read(fixtures().join("loras/peft_all.safetensors")).unwrap();
    std::fs::create_dir(folder.path().join("loras")).unwrap();
    std::fs::write(folder.path().join("loras/one.safetensors"), &lora).unwrap();
    let further: [EmbeddedFile; 2] = [
        ("tintype.json", DEFAULTS),
        ("loras/one.safetensors", lora.leak()),
    ];
    let by_path = open(ModelFiles::folder(fixtures().join("pipelines/dev")));
    let path = fixtures().join("loras/peft_all.safetensors");
    let report = by_path.load_lora(path, "x").unwrap();
    for files in [ModelFiles::folder(folder.path()), embedded("dev", &further)] {
        let pipeline = open(files);
        assert_eq!(pipeline.defaults().height, 32);
        let without = pixels(&made(&pipeline));
        let own = pipeline.load_lora("style", "x").unwrap();
        assert_eq!(own.applied, report.applied);
        let with = pixels(&made(&pipeline));
        assert!(with != without);
        assert!(with == pixels(&made(&by_path)));
        pipeline.unload_lora("x").unwrap();
        assert!(pixels(&made(&pipeline)) == without);
    }
}

#[test]
fn unknown_loras_are_told_with_those_there_are() {
    let pipeline = open(embedded("dev", &[("tintype.json", DEFAULTS)]));
    let error = pipeline.load_lora("stile", "x").unwrap_err().to_string();
    assert_eq!(
        error,
        "lora: expected a file, or one of the model's own: style, found stile"
    );
    // The file says that there is one, and there is not.
    let error = pipeline.load_lora("style", "x").unwrap_err().to_string();
    assert!(
        error.contains("before it: small (built in)/loras/one.safetensors: "),
        "{error}"
    );
    let error = open(embedded("dev", &[])).load_lora("style", "x");
    assert_eq!(
        error.unwrap_err().to_string(),
        "the change was refused, and all weights are those before it: style: opening failed"
    );
}
