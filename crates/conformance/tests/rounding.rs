//! Models in bf16 and f16 against their own f32: rounding no worse than the reference's.
//!
//! diffusers' errors were recorded by `tools/fixtures/record_bf16.py`, fed the same
//! latents at each step. Where no error of the reference was recorded, a bound
//! that only a wrong dtype would break is held.

#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use std::path::{Path, PathBuf};

use tintype_ir::Graph;
use tintype_models::{
    AutoencoderKlConfig, ClipTextConfig, ClipTextOptions, DecoderOptions, FluxTransformerConfig,
    FluxTransformerOptions, T5EncoderConfig, T5EncoderOptions,
};
use tintype_tensor::{DType, Tensor, relative_error};
use tintype_weights::Parameters;

/// As much worse than diffusers' bf16 as ours may be.
const FACTOR: f64 = 1.05;

/// Errors that rounding alone never reaches in models this small.
const BOUNDS: [(DType, f64); 2] = [(DType::BF16, 2e-2), (DType::F16, 3e-3)];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn model(name: &str) -> (Parameters, String) {
    let folder = fixtures().join("pipelines/dev").join(name);
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    (Parameters::open(&folder).unwrap(), config)
}

fn recorded(path: &str) -> Parameters {
    Parameters::open(fixtures().join(path)).unwrap()
}

fn output(graph: &Graph, weights: &Parameters, inputs: &[(&str, Tensor)]) -> Vec<f32> {
    let outputs = tintype_cpu::run(graph, weights, inputs).unwrap();
    let first = &graph.outputs()[0].name;
    outputs.host(first).unwrap().to_f32_vec().unwrap()
}

fn assert_near(what: &str, bound: f64, found: &[f32], expected: &Tensor) {
    let error = relative_error(found, &expected.to_f32_vec().unwrap());
    assert!(error <= bound, "{what}: relative error {error:e}");
    assert!(error > 0.0, "{what}: nothing was rounded");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The error of each step of one seed in `dtype`, whose inputs are rounded to bf16 already.
fn velocity_errors(seed: usize, dtype: DType, recorded: &Parameters) -> Vec<f64> {
    let (weights, text) = model("transformer");
    let config = FluxTransformerConfig::from_json("config.json", &text).unwrap();
    let options = FluxTransformerOptions {
        dtype,
        ..FluxTransformerOptions::default()
    };
    let graph = config.graph(&options).unwrap();
    let report = std::fs::read_to_string(fixtures().join("bf16/bf16.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let entries = report["entries"].as_array().unwrap().iter();
    let of_seed = entries.filter(|entry| entry["seed"] == seed);
    let get = |name: String| recorded.get(&name).unwrap();
    let ids: Vec<f32> = (0..16)
        .flat_map(|i| [0.0, (i / 4) as f32, (i % 4) as f32])
        .collect();
    let text_tokens = get(format!("{seed}.prompt_embeds")).shape()[1];
    let number = |entry: &serde_json::Value, name: &str| {
        let value = entry[name].as_f64().unwrap() as f32;
        Tensor::from_f32([1], vec![value]).unwrap()
    };
    of_seed
        .map(|entry| {
            let step = &entry["step"];
            let half = |name: String| get(name).to_dtype(dtype).unwrap();
            let inputs = [
                ("timesteps", number(entry, "timestep")),
                ("guidance", number(entry, "guidance")),
                ("pooled", half(format!("{seed}.pooled"))),
                ("prompt_embeds", half(format!("{seed}.prompt_embeds"))),
                (
                    "text_ids",
                    Tensor::from_f32([text_tokens, 3], vec![0.0; text_tokens * 3]).unwrap(),
                ),
                ("image_ids", Tensor::from_f32([16, 3], ids.clone()).unwrap()),
                ("step_index", Tensor::scalar(0i64)),
                ("hidden_states", half(format!("{seed}.{step}.latents"))),
            ];
            let expected = get(format!("{seed}.{step}.f32")).to_f32_vec().unwrap();
            relative_error(&output(&graph, &weights, &inputs), &expected)
        })
        .collect()
}

#[test]
fn transformers_in_bf16_err_no_more_than_the_reference() {
    let recorded = recorded("bf16/bf16.safetensors");
    let report = std::fs::read_to_string(fixtures().join("bf16/bf16.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let reference = report["median_velocity_error_matched"].as_f64().unwrap();
    let of_seeds = (0..5).map(|seed| median(velocity_errors(seed, DType::BF16, &recorded)));
    let error = median(of_seeds.collect());
    assert!(
        error <= FACTOR * reference,
        "{error:e} against {reference:e}"
    );
    assert!(error > 0.1 * reference, "{error:e}: was anything rounded?");
}

#[test]
fn transformers_in_f16_err_less() {
    let recorded = recorded("bf16/bf16.safetensors");
    let error = median(velocity_errors(0, DType::F16, &recorded));
    assert!((1e-5..2e-3).contains(&error), "{error:e}");
}

#[test]
fn text_encoders_in_half_precision() {
    for (dtype, bound) in BOUNDS {
        let (weights, text) = model("text_encoder");
        let config = ClipTextConfig::from_json("config.json", &text).unwrap();
        let graph = config.graph(&ClipTextOptions {
            dtype,
            ..ClipTextOptions::default()
        });
        let weights = weights.renamed(ClipTextConfig::canonical_name).unwrap();
        let clip = recorded("modules/dev.clip.safetensors");
        let inputs = [("input_ids", clip.get("input_ids").unwrap())];
        let found = output(&graph.unwrap(), &weights, &inputs);
        let expected = clip.get("last_hidden_state").unwrap();
        assert_near(&format!("clip {dtype}"), bound, &found, &expected);

        let (weights, text) = model("text_encoder_2");
        let config = T5EncoderConfig::from_json("config.json", &text).unwrap();
        let graph = config.graph(&T5EncoderOptions {
            dtype,
            ..T5EncoderOptions::default()
        });
        let t5 = recorded("modules/dev.t5.safetensors");
        let inputs = [("input_ids", t5.get("77.input_ids").unwrap())];
        let found = output(&graph.unwrap(), &weights, &inputs);
        let expected = t5.get("77.last_hidden_state").unwrap();
        assert_near(&format!("t5 {dtype}"), bound, &found, &expected);
    }
}

#[test]
fn autoencoders_in_half_precision() {
    for (dtype, bound) in BOUNDS {
        let (weights, text) = model("vae");
        let config = AutoencoderKlConfig::from_json("config.json", &text).unwrap();
        let options = DecoderOptions {
            dtype,
            unscale_latents: false,
            unit_range: false,
            ..DecoderOptions::default()
        };
        let graph = config.decoder(&options).unwrap();
        let vae = recorded("modules/dev.vae.safetensors");
        let latents = vae.get("decode.latents").unwrap().to_dtype(dtype).unwrap();
        let found = output(&graph, &weights, &[("latents", latents)]);
        let expected = vae.get("decode.image").unwrap();
        assert_near(&format!("autoencoder {dtype}"), bound, &found, &expected);
    }
}
