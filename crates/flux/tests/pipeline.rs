//! What a pipeline promises beyond the pictures themselves, which the conformance crate
//! compares: LoRAs come and go without a trace, low memory changes no bit, errors leave
//! everything as it was.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use std::path::PathBuf;

use tintype_cpu::CpuBackend;
use tintype_flux::{Error, FluxPipeline, Observer, Output, Part, Request, Seed, StepEnd};
use tintype_tensor::{DType, Tensor};

/// What a callback does.
type Change = fn(&mut StepEnd);

fn fixture(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../conformance/fixtures")
        .join(path)
}

fn lora(name: &str) -> PathBuf {
    fixture(&format!("loras/{name}.safetensors"))
}

fn pipeline() -> FluxPipeline {
    let folder = fixture("pipelines/dev");
    FluxPipeline::from_pretrained(folder)
        .unwrap()
        .backend(CpuBackend::new())
}

fn request() -> Request {
    let request = Request::new("a red circle above a blue square");
    request
        .size(32, 48)
        .steps(2)
        .max_sequence_length(16)
        .seed(7)
}

/// Latents and pixels to the bit.
fn bits(output: &Output) -> (Vec<u8>, Vec<u8>) {
    let pixels = output.pixels.as_ref().unwrap();
    (output.latents.bytes().to_vec(), pixels.bytes().to_vec())
}

fn made(pipeline: &FluxPipeline) -> (Vec<u8>, Vec<u8>) {
    bits(&pipeline.generate(&request()).unwrap())
}

#[test]
fn a_lora_comes_and_goes_without_a_trace() {
    for name in ["peft_all", "kohya_unet_and_te1", "xlabs"] {
        let pipeline = pipeline();
        let before = made(&pipeline);
        pipeline.load_lora(lora(name), "one").unwrap();
        let with = made(&pipeline);
        assert_ne!(with, before, "{name}");
        pipeline.unload_lora("one").unwrap();
        assert_eq!(made(&pipeline), before, "{name}");
        // Loaded before the models are, it gives what it gives afterwards.
        let early = self::pipeline();
        early.load_lora(lora(name), "one").unwrap();
        assert_eq!(made(&early), with, "{name}");
    }
}

#[test]
fn adapters_that_are_not_named_are_off() {
    let pipeline = pipeline();
    let before = made(&pipeline);
    pipeline.load_lora(lora("peft_all"), "one").unwrap();
    let one = made(&pipeline);
    pipeline.load_lora(lora("xlabs"), "two").unwrap();
    let both = made(&pipeline);
    pipeline.set_adapters(&[("one", 1.0)]).unwrap();
    assert_eq!(made(&pipeline), one);
    pipeline.set_adapters::<f32>(&[]).unwrap();
    assert_eq!(made(&pipeline), before);
    pipeline
        .set_adapters(&[("two", 1.0), ("one", 1.0)])
        .unwrap();
    assert_eq!(made(&pipeline), both);
    let mut scaled = request();
    scaled.lora_scale = Some(0.0);
    assert_eq!(bits(&pipeline.generate(&scaled).unwrap()), before);
    assert_eq!(made(&pipeline), both);
}

#[test]
fn a_lora_that_is_refused_changes_nothing() {
    let pipeline = pipeline();
    pipeline.load_lora(lora("peft_all"), "one").unwrap();
    let before = made(&pipeline);
    // Made for a transformer of another width.
    let other = fixture("modules/dev.transformer.safetensors");
    for (path, name, expected) in [
        (
            lora("xlabs"),
            "one",
            "name: expected a name that no LoRA has yet, found one",
        ),
        (fixture("loras/none.safetensors"), "two", "none.safetensors"),
        (
            fixture("pipelines/dev/model_index.json"),
            "two",
            "model_index.json",
        ),
    ] {
        let error = pipeline.load_lora(path, name).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(made(&pipeline), before);
    }
    if let Ok(report) = pipeline.load_lora(other, "two") {
        assert!(
            report.applied.iter().all(|(_, count)| *count == 0),
            "{report:?}"
        );
        pipeline.unload_lora("two").unwrap();
    }
    assert_eq!(made(&pipeline), before);
    for result in [
        pipeline.set_adapters(&[("one", 0.5), ("three", 1.0)]),
        pipeline.set_adapters(&[("one", f32::NAN)]),
        pipeline.unload_lora("three"),
    ] {
        assert!(matches!(result, Err(Error::Argument { .. })), "{result:?}");
    }
    assert_eq!(made(&pipeline), before);
}

#[test]
fn low_memory_changes_no_bit() {
    let mut request = request().negative_prompt("nothing green", 2.0);
    request.num_images = Some(2);
    let plain = pipeline();
    plain.load_lora(lora("kohya_unet_and_te1"), "one").unwrap();
    let small = pipeline().low_memory(true);
    small.load_lora(lora("kohya_unet_and_te1"), "one").unwrap();
    let expected = bits(&plain.generate(&request).unwrap());
    for _ in 0..2 {
        let mut loads = Loads::default();
        let output = small.generate_with(&request, &mut loads).unwrap();
        assert_eq!(bits(&output), expected);
        // Each model comes once in every request, though both prompts need the encoders.
        assert_eq!(
            loads.0,
            ["text_encoder", "text_encoder_2", "transformer", "vae"]
        );
    }
    let mut loads = Loads::default();
    plain.generate_with(&request, &mut loads).unwrap();
    assert!(loads.0.is_empty());
}

/// The models that were loaded.
#[derive(Default)]
struct Loads(Vec<&'static str>);

impl Observer for Loads {
    fn begin(&mut self, part: Part, _steps: usize) {
        if let Part::Load(model) = part {
            self.0.push(model);
        }
    }
}

#[test]
fn a_replacement_of_another_shape_is_refused() {
    let pipeline = pipeline().low_memory(true);
    let before = made(&pipeline);
    let wrong: [(&str, Change); 4] = [
        ("latents: expected floats of shape [1, 6, 64]", |step| {
            step.latents = Tensor::scalar(1.0f32);
        }),
        ("latents: expected floats of shape [1, 6, 64]", |step| {
            step.latents = Tensor::new([1, 6, 64], vec![1i64; 384]).unwrap();
        }),
        ("prompt_embeds: expected floats of shape", |step| {
            step.prompt_embeds = Tensor::from_f32([0], Vec::new()).unwrap();
        }),
        ("prompt_embeds: expected floats of shape", |step| {
            step.prompt_embeds = step.latents.clone();
        }),
    ];
    for (expected, change) in wrong {
        let result = pipeline.generate_with(&request(), &mut |step: &mut StepEnd| change(step));
        let error = result.unwrap_err().to_string();
        let unpadded = expected.replace("64]", "");
        assert!(error.starts_with(&unpadded), "{error}");
        assert_eq!(made(&pipeline), before);
    }
}

#[test]
fn replacements_that_are_the_same_change_nothing() {
    let pipeline = pipeline();
    let before = made(&pipeline);
    let mut same = |step: &mut StepEnd| {
        let copy = |tensor: &Tensor| {
            Tensor::from_f32(tensor.shape().clone(), tensor.to_f32_vec().unwrap()).unwrap()
        };
        (step.latents, step.prompt_embeds) = (copy(&step.latents), copy(&step.prompt_embeds));
    };
    let output = pipeline.generate_with(&request(), &mut same).unwrap();
    assert_eq!(bits(&output), before);
}

#[test]
fn latents_that_are_no_numbers_do_no_harm() {
    let pipeline = pipeline();
    let output = pipeline.generate_with(&request(), &mut |step: &mut StepEnd| {
        let count = step.latents.element_count();
        step.latents =
            Tensor::from_f32(step.latents.shape().clone(), vec![f32::NAN; count]).unwrap();
    });
    assert_eq!(output.unwrap().images().unwrap().len(), 1);
}

#[test]
fn a_random_seed_is_told() {
    let pipeline = pipeline();
    let mut random = request();
    random.seed = Seed::Random;
    let output = pipeline.generate(&random).unwrap();
    assert!(matches!(output.request.seed, Seed::One(_)));
    let again = pipeline.generate(&output.request).unwrap();
    assert_eq!(bits(&again), bits(&output));
}

#[test]
fn files_in_the_original_layout_give_the_same_bits() {
    let before = made(&pipeline());
    let original = pipeline()
        .transformer_file(fixture("single/flux1-dev-tiny.safetensors"))
        .vae_file(fixture("single/ae-tiny.safetensors"));
    assert_eq!(made(&original), before);
}

#[test]
fn a_request_that_contradicts_itself_is_refused_before_anything_is_loaded() {
    let pipeline = pipeline();
    let embeds = |shape: &[usize]| {
        let count = shape.iter().product();
        Tensor::from_f32(shape.to_vec(), vec![0.0; count]).unwrap()
    };
    let mut counts = Request::with_prompts(["a", "b", "c"]).size(32, 32).steps(1);
    counts.negative_prompt = Some(vec!["x".into(); 3]);
    counts.true_cfg_scale = Some(2.0);
    // Two for three used to read past the second row.
    counts.negative_prompt_2 = Some(vec!["y".into(); 2]);
    let mut sizes = request();
    sizes.height = Some(0);
    let cases = [
        (
            counts,
            "negative_prompt_2: expected 1 or 3 prompts, found 2",
        ),
        (sizes, "height: expected 16 to 16384 pixels, found 0"),
        (
            Request::with_embeds(embeds(&[]), embeds(&[])),
            "prompt_embeds: expected [prompts, tokens, width], found []",
        ),
        (
            Request::with_embeds(embeds(&[1, 0, 8]), embeds(&[1, 8])),
            "prompt_embeds: expected [prompts, tokens, width], found [1, 0, 8]",
        ),
        (
            request().num_images(0),
            "num_images: expected 1 to 64 pictures in all, found 0",
        ),
        (
            request().num_images(usize::MAX),
            "num_images: expected 1 to 64 pictures in all",
        ),
        (
            request().guidance_scale(f32::NAN),
            "guidance_scale: expected a finite number, found NaN",
        ),
        (
            request().max_sequence_length(513),
            "max_sequence_length: expected 1 to 512, found 513",
        ),
        (request().pixels(embeds(&[1]), f64::NAN), "strength"),
    ];
    for (request, expected) in cases {
        let mut loads = Loads::default();
        let error = pipeline
            .generate_with(&request, &mut loads)
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(expected), "{error}");
        assert!(loads.0.is_empty());
    }
    let whole = pipeline.dtype(DType::I64);
    let error = whole.generate(&request()).unwrap_err().to_string();
    assert_eq!(error, "dtype: expected f32, bf16 or f16, found i64");
}

#[test]
fn without_a_backend_nothing_runs() {
    let pipeline = FluxPipeline::from_pretrained(fixture("pipelines/dev")).unwrap();
    assert!(matches!(
        pipeline.generate(&request()),
        Err(Error::NoBackend)
    ));
}

#[test]
fn several_pictures_are_numbered() {
    let pipeline = pipeline();
    let output = pipeline.generate(&request().num_images(2)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let written = output.save(folder.path().join("fox.png")).unwrap();
    let names: Vec<_> = written
        .iter()
        .map(|path| path.file_name().unwrap())
        .collect();
    assert_eq!(names, ["fox-1.png", "fox-2.png"]);
    let mut wrong = output.clone();
    wrong.pixels = Some(Tensor::scalar(0.0f32));
    assert!(wrong.save(folder.path().join("wrong.png")).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}
