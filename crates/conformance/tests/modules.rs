//! Every module of the models against what diffusers and transformers computed
//! from the same weights and inputs (f32, CPU), within 1e-5 relative.
//!
//! The recordings are `fixtures/modules`, made by `tools/fixtures/record_modules.py`.

#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use std::path::{Path, PathBuf};

use tintype_ir::{Dim, Graph, GraphBuilder, Stage, TensorType, Value};
use tintype_models::flux::{
    Conditioning, Streams, TimeTextInputs, double_block, rotary_table, single_block,
    time_text_embedding,
};
use tintype_models::{
    AutoencoderKlConfig, ClipTextConfig, ClipTextOptions, DecoderOptions, EncoderOptions,
    FluxTransformerConfig, FluxTransformerOptions, T5EncoderConfig, T5EncoderOptions,
};
use tintype_tensor::{DType, Tensor, relative_error};
use tintype_weights::Parameters;

const TOLERANCE: f64 = 1e-5;
const PIPELINES: [&str; 2] = ["dev", "schnell"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// What was recorded of one module.
fn recorded(name: &str) -> Parameters {
    Parameters::open(fixtures().join(format!("modules/{name}.safetensors"))).unwrap()
}

/// The weights and the configuration of one model.
fn model(pipeline: &str, name: &str) -> (Parameters, String) {
    let folder = fixtures().join("pipelines").join(pipeline).join(name);
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    (Parameters::open(&folder).unwrap(), config)
}

fn flux(pipeline: &str) -> (Parameters, FluxTransformerConfig) {
    let (weights, text) = model(pipeline, "transformer");
    (
        weights,
        FluxTransformerConfig::from_json("config.json", &text).unwrap(),
    )
}

fn assert_close(what: &str, found: &[f32], expected: &Tensor) {
    let error = relative_error(found, &expected.to_f32_vec().unwrap());
    assert!(error <= TOLERANCE, "{what}: relative error {error:e}");
}

/// Executes a graph and compares its outputs, by name, with recorded tensors.
fn check(
    what: &str,
    graph: &Graph,
    weights: &Parameters,
    inputs: &[(&str, Tensor)],
    expected: &[(&str, Tensor)],
) {
    let outputs = tintype_cpu::run(graph, weights, inputs).unwrap();
    for (name, expected) in expected {
        let found = outputs.host(name).unwrap();
        assert_eq!(found.shape(), expected.shape(), "{what}: {name}");
        assert_close(
            &format!("{what}: {name}"),
            &found.to_f32_vec().unwrap(),
            expected,
        );
    }
}

/// A builder with inputs shaped like tensors, to test a part of a model alone.
struct Bench {
    b: GraphBuilder,
    inputs: Vec<(&'static str, Tensor)>,
}

impl Bench {
    fn new() -> Self {
        Self {
            b: GraphBuilder::new("part"),
            inputs: Vec::new(),
        }
    }

    fn input(&mut self, name: &'static str, tensor: Tensor) -> Value {
        let dims = tensor.shape().iter().copied();
        let ty = TensorType::new(tensor.dtype(), dims);
        self.inputs.push((name, tensor));
        self.b.input(name, Stage::Request, ty)
    }

    fn check(self, what: &str, weights: &Parameters, expected: &[(&str, Tensor)]) {
        let graph = self.b.finish().unwrap();
        check(what, &graph, weights, &self.inputs, expected);
    }
}

/// Tables recorded as cosines and sines of each dimension, in the form `[tokens, d/2, 2]`.
fn interleaved(cosines: &Tensor, sines: &Tensor) -> Tensor {
    let (cosines, sines) = (cosines.to_f32_vec().unwrap(), sines.to_f32_vec().unwrap());
    let pairs = cosines.iter().zip(&sines).step_by(2);
    let values: Vec<f32> = pairs.flat_map(|(&cosine, &sine)| [cosine, sine]).collect();
    Tensor::from_f32([values.len()], values).unwrap()
}

#[test]
fn time_and_text_embeddings() {
    for pipeline in PIPELINES {
        let (weights, config) = flux(pipeline);
        let expected = recorded(&format!("{pipeline}.temb"));
        let mut bench = Bench::new();
        let inputs = TimeTextInputs {
            timesteps: bench.input("timesteps", expected.get("timestep").unwrap()),
            guidance: config
                .guidance_embeds
                .then(|| bench.input("guidance", expected.get("guidance").unwrap())),
            pooled: bench.input("pooled", expected.get("pooled_projections").unwrap()),
        };
        let temb = time_text_embedding(&mut bench.b, &config, &inputs);
        bench.b.output("temb", temb);
        let graph = bench.b.finish().unwrap();
        let outputs = tintype_cpu::run(&graph, &weights, &bench.inputs).unwrap();
        let found = outputs.host("temb").unwrap().to_f32_vec().unwrap();
        // Ours is of every step with every row of the batch, theirs of each step with its row.
        let (rows, width) = (6, config.inner_dim());
        let diagonal: Vec<f32> = (0..rows)
            .flat_map(|row| found[(row * rows + row) * width..][..width].to_vec())
            .collect();
        assert_close(pipeline, &diagonal, &expected.get("temb").unwrap());
    }
}

#[test]
fn rotary_tables() {
    let expected = recorded("rope");
    for (case, axes) in [("tiny", vec![4, 6, 6]), ("real", vec![16, 56, 56])] {
        let config = FluxTransformerConfig {
            attention_head_dim: axes.iter().sum(),
            axes_dims_rope: axes,
            ..FluxTransformerConfig::dev()
        };
        let get = |name: &str| expected.get(&format!("{case}.{name}")).unwrap();
        let ids = get("ids");
        let rows = ids.shape()[0];
        let mut bench = Bench::new();
        let text = bench.input("text_ids", ids.rows(0, 3).unwrap());
        let image = bench.input("image_ids", ids.rows(3, rows).unwrap());
        let table = rotary_table(&mut bench.b, &config, text, image);
        let flat = bench.b.reshape(table, [rows * config.attention_head_dim]);
        bench.b.output("table", flat);
        let table = interleaved(&get("cos"), &get("sin"));
        bench.check(case, &Parameters::default(), &[("table", table)]);
    }
}

/// Inputs of one block and what it made of them.
struct Block<'a> {
    recorded: &'a Parameters,
    scope: String,
}

impl Block<'_> {
    fn get(&self, name: &str) -> Tensor {
        self.recorded
            .get(&format!("{}.{name}", self.scope))
            .unwrap()
    }

    fn conditioning(&self, bench: &mut Bench) -> Conditioning {
        let temb = self.get("temb");
        let [batch, width] = [temb.shape()[0], temb.shape()[1]];
        let temb = bench.input("temb", temb.reshape([1, batch, width]).unwrap());
        let index = bench.input("step_index", Tensor::scalar(0i64));
        let cosines = self.recorded.get("rope.cos").unwrap();
        let table = interleaved(&cosines, &self.recorded.get("rope.sin").unwrap());
        let [tokens, size] = [cosines.shape()[0], cosines.shape()[1]];
        let table = bench.input("table", table.reshape([tokens, size / 2, 2]).unwrap());
        Conditioning::new(&mut bench.b, temb, index, table, DType::F32)
    }

    fn streams(&self, bench: &mut Bench) -> Streams {
        Streams {
            image: bench.input("image", self.get("hidden_states")),
            text: bench.input("text", self.get("encoder_hidden_states")),
        }
    }

    fn check(&self, mut bench: Bench, streams: Streams, weights: &Parameters) {
        bench.b.output("image_out", streams.image);
        bench.b.output("text_out", streams.text);
        let expected = [
            ("image_out", self.get("out.hidden_states")),
            ("text_out", self.get("out.encoder_hidden_states")),
        ];
        bench.check(&self.scope, weights, &expected);
    }
}

#[test]
fn double_blocks() {
    for pipeline in PIPELINES {
        let (weights, config) = flux(pipeline);
        let recorded = recorded(&format!("{pipeline}.blocks"));
        for index in 0..config.num_layers {
            let block = Block {
                recorded: &recorded,
                scope: format!("double.{index}"),
            };
            let mut bench = Bench::new();
            let conditioning = block.conditioning(&mut bench);
            let streams = block.streams(&mut bench);
            let streams = double_block(&mut bench.b, &config, index, streams, &conditioning);
            block.check(bench, streams, &weights);
        }
    }
}

#[test]
fn single_blocks() {
    for pipeline in PIPELINES {
        let (weights, config) = flux(pipeline);
        let recorded = recorded(&format!("{pipeline}.blocks"));
        for index in 0..config.num_single_layers {
            let block = Block {
                recorded: &recorded,
                scope: format!("single.{index}"),
            };
            let mut bench = Bench::new();
            let conditioning = block.conditioning(&mut bench);
            let streams = block.streams(&mut bench);
            let text_tokens = bench.b.type_of(streams.text).dims[1].clone();
            let joined = streams.join(&mut bench.b);
            let joined = single_block(&mut bench.b, &config, index, joined, &conditioning);
            let all_tokens = bench.b.type_of(joined).dims[1].clone();
            let streams = Streams {
                text: bench.b.slice(joined, 1, Dim::from(0), text_tokens.clone()),
                image: bench.b.slice(joined, 1, text_tokens, all_tokens),
            };
            block.check(bench, streams, &weights);
        }
    }
}

#[test]
fn transformers() {
    for pipeline in PIPELINES {
        let (weights, config) = flux(pipeline);
        let graph = config.graph(&FluxTransformerOptions::default()).unwrap();
        let recorded = recorded(&format!("{pipeline}.transformer"));
        let get = |name: &str| recorded.get(name).unwrap();
        let guidance = get("guidance").to_f32_vec().unwrap()[0];
        let mut inputs = vec![
            ("timesteps", get("timesteps")),
            ("pooled", get("pooled_projections")),
            ("prompt_embeds", get("encoder_hidden_states")),
            ("text_ids", get("txt_ids")),
            ("image_ids", get("img_ids")),
        ];
        if config.guidance_embeds {
            inputs.push((
                "guidance",
                Tensor::from_f32([2], vec![guidance; 2]).unwrap(),
            ));
        }
        for step in 0..2 {
            let mut inputs = inputs.clone();
            inputs.push(("step_index", Tensor::scalar(i64::from(step))));
            inputs.push(("hidden_states", get(&format!("step.{step}.hidden_states"))));
            let expected = [("sample", get(&format!("step.{step}.output")))];
            check(
                &format!("{pipeline}, step {step}"),
                &graph,
                &weights,
                &inputs,
                &expected,
            );
        }
    }
}

#[test]
fn clip_encoders() {
    for pipeline in PIPELINES {
        let (weights, text) = model(pipeline, "text_encoder");
        let config = ClipTextConfig::from_json("config.json", &text).unwrap();
        let weights = weights.renamed(ClipTextConfig::canonical_name).unwrap();
        let recorded = recorded(&format!("{pipeline}.clip"));
        let get = |name: &str| recorded.get(name).unwrap();
        let expected = [
            ("hidden_states", get("last_hidden_state")),
            ("pooled", get("pooled")),
        ];
        for tokens in [77..=77, 1..=77] {
            let options = ClipTextOptions {
                tokens,
                ..ClipTextOptions::default()
            };
            let graph = config.graph(&options).unwrap();
            check(
                pipeline,
                &graph,
                &weights,
                &[("input_ids", get("input_ids"))],
                &expected,
            );
        }
    }
}

#[test]
fn t5_encoders() {
    for pipeline in PIPELINES {
        let (weights, text) = model(pipeline, "text_encoder_2");
        let config = T5EncoderConfig::from_json("config.json", &text).unwrap();
        let weights = weights
            .renamed(|name| T5EncoderConfig::canonical_name(name, |other| weights.contains(other)))
            .unwrap();
        let recorded = recorded(&format!("{pipeline}.t5"));
        for (length, tokens) in [(16, 1..=512), (77, 1..=512), (77, 77..=77)] {
            let options = T5EncoderOptions {
                tokens,
                ..T5EncoderOptions::default()
            };
            let graph = config.graph(&options).unwrap();
            let get = |name: &str| recorded.get(&format!("{length}.{name}")).unwrap();
            let inputs = [("input_ids", get("input_ids"))];
            let expected = [("hidden_states", get("last_hidden_state"))];
            check(
                &format!("{pipeline}, {length} tokens"),
                &graph,
                &weights,
                &inputs,
                &expected,
            );
        }
    }
}

fn autoencoder(pipeline: &str) -> (Parameters, AutoencoderKlConfig) {
    let (weights, text) = model(pipeline, "vae");
    (
        weights,
        AutoencoderKlConfig::from_json("config.json", &text).unwrap(),
    )
}

#[test]
fn autoencoder_decoders() {
    for pipeline in PIPELINES {
        let (weights, config) = autoencoder(pipeline);
        let recorded = recorded(&format!("{pipeline}.vae"));
        let latents = recorded.get("decode.latents").unwrap();
        let image = recorded.get("decode.image").unwrap();
        let plain = DecoderOptions {
            unscale_latents: false,
            unit_range: false,
            ..DecoderOptions::default()
        };
        let graph = config.decoder(&plain).unwrap();
        let inputs = [("latents", latents.clone())];
        check(
            pipeline,
            &graph,
            &weights,
            &inputs,
            &[("image", image.clone())],
        );

        let mapped = |tensor: &Tensor, f: &dyn Fn(f32) -> f32| {
            let values = tensor.to_f32_vec().unwrap().into_iter().map(f).collect();
            Tensor::from_f32(tensor.shape().clone(), values).unwrap()
        };
        let scaled = mapped(&latents, &|z| {
            (z - config.shift_factor) * config.scaling_factor
        });
        let image = mapped(&image, &|x| (x * 0.5 + 0.5).clamp(0.0, 1.0));
        let graph = config.decoder(&DecoderOptions::default()).unwrap();
        check(
            pipeline,
            &graph,
            &weights,
            &[("latents", scaled)],
            &[("image", image)],
        );
    }
}

#[test]
fn autoencoder_encoders() {
    for pipeline in PIPELINES {
        let (weights, config) = autoencoder(pipeline);
        let recorded = recorded(&format!("{pipeline}.vae"));
        let image = recorded.get("encode.image").unwrap();
        let blocks = [1, 3, image.shape()[2] / 8, 8, image.shape()[3] / 8, 8];
        let image = image.reshape(blocks).unwrap();
        let parameters = recorded.get("encode.parameters").unwrap();
        let [_, both, height, width] = *parameters.shape().as_ref() else {
            panic!("expected four axes")
        };
        let halves = parameters.reshape([2, both / 2, height, width]).unwrap();
        let log_variance = halves.rows(1, 2).unwrap();
        let expected = [
            ("mean", recorded.get("encode.mean").unwrap()),
            ("log_variance", log_variance),
        ];
        let graph = config.encoder(&EncoderOptions::default()).unwrap();
        check(pipeline, &graph, &weights, &[("image", image)], &expected);
    }
}
