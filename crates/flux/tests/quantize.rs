//! A pipeline measured and quantized: measuring changes nothing, quantizing changes little, LoRAs
//! come and go on it, and taking it back gives the same bits.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use std::path::PathBuf;

use tintype_cpu::CpuBackend;
use tintype_flux::{FluxPipeline, Output, PromptFeed, Request};
use tintype_quant::{Method, Recipe, Scales, calibrate, compare};
use tintype_tensor::relative_error;

fn fixture(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../conformance/fixtures")
        .join(path)
}

fn pipeline() -> FluxPipeline {
    let pipeline = FluxPipeline::from_pretrained(fixture("pipelines/dev")).unwrap();
    pipeline.backend(CpuBackend::new())
}

fn request() -> Request {
    let request = Request::new("a red circle above a blue square").size(32, 48);
    request.steps(2).max_sequence_length(16).seed(7)
}

fn latents(output: &Output) -> Vec<f32> {
    output.latents.to_f32_vec().unwrap()
}

fn measured(pipeline: &mut FluxPipeline, recipe: &Recipe) -> Scales {
    let mut feed = PromptFeed::new(pipeline, [request(), request().seed(8)]);
    let calibration = calibrate(&mut feed, recipe, Method::Max).unwrap();
    assert_eq!((calibration.examples, calibration.steps), (2, 2));
    calibration.scales().unwrap()
}

#[test]
fn quantizing_changes_little_and_is_taken_back() {
    let mut pipeline = pipeline();
    let before = latents(&pipeline.generate(&request()).unwrap());
    let recipe = Recipe::flux();
    let scales = measured(&mut pipeline, &recipe);
    assert_eq!(latents(&pipeline.generate(&request()).unwrap()), before);
    let mut feed = PromptFeed::new(&mut pipeline, [request()]);
    let report = compare(&mut feed, &recipe, &scales).unwrap();
    assert_eq!(report.outputs[0].steps.len(), 2);
    assert!((1e-4..0.2).contains(&report.worst()), "{report}");
    pipeline.quantize(&recipe, &scales).unwrap();
    let narrow = latents(&pipeline.generate(&request()).unwrap());
    let error = relative_error(&narrow, &before);
    assert!((1e-4..0.2).contains(&error), "{error}");
    // A LoRA is merged before the weight is quantized, and leaves no trace.
    let lora = fixture("loras/peft_all.safetensors");
    pipeline.load_lora(&lora, "one").unwrap();
    let with = latents(&pipeline.generate(&request()).unwrap());
    assert!(relative_error(&with, &narrow) > error);
    pipeline.unload_lora("one").unwrap();
    assert_eq!(latents(&pipeline.generate(&request()).unwrap()), narrow);
    pipeline.rewrite_transformer(None);
    assert_eq!(latents(&pipeline.generate(&request()).unwrap()), before);
}

#[test]
fn guidance_by_a_negative_prompt_is_measured_too() {
    let mut pipeline = pipeline();
    let recipe = Recipe::flux();
    let mut seen = |request: Request| {
        let mut feed = PromptFeed::new(&mut pipeline, [request.steps(1)]);
        calibrate(&mut feed, &recipe, Method::Max).unwrap().values
    };
    // At the first step the latents are the same, so a second forward can only add.
    let plain = seen(request());
    let both = seen(request().negative_prompt("low quality, blurry", 2.0));
    let more = plain.iter().filter(|(name, plain)| {
        assert!(both[*name].amax >= plain.amax, "{name}");
        both[*name].amax > plain.amax
    });
    assert!(more.count() > 0);
}

#[test]
fn the_identity_is_that_of_the_weights_and_not_of_their_layout() {
    let folder = pipeline().transformer_identity().unwrap();
    let single = fixture("single/flux1-dev-tiny.safetensors");
    let file = pipeline().transformer_file(single);
    assert_eq!(file.transformer_identity().unwrap(), folder);
    let other = FluxPipeline::from_pretrained(fixture("pipelines/schnell")).unwrap();
    let other = other.transformer_identity().unwrap();
    assert!(other.weights != folder.weights && other.graph != folder.graph);
}

#[test]
fn what_a_recipe_or_a_prompt_lacks_is_told_ahead() {
    let mut pipeline = pipeline();
    let error = pipeline
        .quantize(&Recipe::flux(), &Scales::new())
        .unwrap_err();
    let message = error.to_string();
    assert!(
        message.ends_with(".input: expected one scale, found none"),
        "{message}"
    );
    pipeline.expect_whole("a fox", 16).unwrap();
    let error = pipeline.expect_whole(&"a fox ".repeat(40), 16).unwrap_err();
    let message = error.to_string();
    assert!(
        message.starts_with("prompt: expected a text of at most 16 tokens, found more: "),
        "{message}"
    );
}
