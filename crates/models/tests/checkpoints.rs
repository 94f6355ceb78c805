//! Parameters of the graphs against checkpoints: names, shapes and numbers.

#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tintype_ir::Graph;
use tintype_models::{
    AutoencoderKlConfig, ClipTextConfig, ClipTextOptions, DecoderOptions, EncoderOptions,
    FluxTransformerConfig, FluxTransformerOptions, T5EncoderConfig, T5EncoderOptions,
};

type Shapes = BTreeMap<String, Vec<usize>>;

fn folder(pipeline: &str, model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../conformance/fixtures/pipelines")
        .join(pipeline)
        .join(model)
}

/// Names and shapes of all safetensors files of a model, from their headers.
fn checkpoint(folder: &Path) -> Shapes {
    let mut shapes = Shapes::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|end| end != "safetensors") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        for (name, entry) in header {
            if name != "__metadata__" {
                let shape = entry["shape"].as_array().unwrap().iter();
                shapes.insert(name, shape.map(|s| s.as_u64().unwrap() as usize).collect());
            }
        }
    }
    assert!(!shapes.is_empty(), "{} holds no tensors", folder.display());
    shapes
}

fn config(folder: &Path) -> (String, String) {
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    (path.display().to_string(), text)
}

fn parameters<'g>(graphs: impl IntoIterator<Item = &'g Graph>) -> Shapes {
    let all = graphs.into_iter().flat_map(Graph::parameters);
    all.map(|parameter| {
        let shape = parameter.ty.static_shape().unwrap();
        (parameter.name.clone(), shape.to_vec())
    })
    .collect()
}

fn renamed(shapes: Shapes, name_of: impl Fn(&str) -> Option<String>) -> Shapes {
    let renamed = shapes.into_iter();
    renamed
        .filter_map(|(name, shape)| Some((name_of(&name)?, shape)))
        .collect()
}

#[test]
fn transformers_have_the_parameters_of_their_files() {
    for pipeline in ["dev", "schnell"] {
        let folder = folder(pipeline, "transformer");
        let (file, text) = config(&folder);
        let config = FluxTransformerConfig::from_json(&file, &text).unwrap();
        let graph = config.graph(&FluxTransformerOptions::default()).unwrap();
        assert_eq!(parameters([&graph]), checkpoint(&folder), "{pipeline}");
    }
}

#[test]
fn clip_encoders_have_the_parameters_of_their_files() {
    for pipeline in ["dev", "schnell"] {
        let folder = folder(pipeline, "text_encoder");
        let (file, text) = config(&folder);
        let config = ClipTextConfig::from_json(&file, &text).unwrap();
        let graph = config.graph(&ClipTextOptions::default()).unwrap();
        let expected = renamed(checkpoint(&folder), ClipTextConfig::canonical_name);
        assert_eq!(parameters([&graph]), expected, "{pipeline}");
    }
}

#[test]
fn t5_encoders_have_the_parameters_of_their_files() {
    for pipeline in ["dev", "schnell"] {
        let folder = folder(pipeline, "text_encoder_2");
        let (file, text) = config(&folder);
        let config = T5EncoderConfig::from_json(&file, &text).unwrap();
        let graph = config.graph(&T5EncoderOptions::default()).unwrap();
        let expected = renamed(checkpoint(&folder), |name| {
            T5EncoderConfig::canonical_name(name, |_| true)
        });
        assert_eq!(parameters([&graph]), expected, "{pipeline}");
    }
}

#[test]
fn autoencoders_have_the_parameters_of_their_files() {
    for pipeline in ["dev", "schnell"] {
        let folder = folder(pipeline, "vae");
        let (file, text) = config(&folder);
        let config = AutoencoderKlConfig::from_json(&file, &text).unwrap();
        let decoder = config.decoder(&DecoderOptions::default()).unwrap();
        let encoder = config.encoder(&EncoderOptions::default()).unwrap();
        let expected = checkpoint(&folder);
        assert_eq!(parameters([&decoder, &encoder]), expected, "{pipeline}");
        let both = decoder.parameters().len() + encoder.parameters().len();
        assert_eq!(both, expected.len());
    }
}

/// Tensors and elements of all parameters.
fn count(graph: &Graph) -> (usize, usize) {
    let shapes = parameters([graph]);
    let elements = shapes.values().map(|shape| shape.iter().product::<usize>());
    (shapes.len(), elements.sum())
}

#[test]
fn published_models_have_their_numbers_of_parameters() {
    let options = FluxTransformerOptions::default();
    let dev = FluxTransformerConfig::dev().graph(&options).unwrap();
    assert_eq!(count(&dev), (1160, 11_901_408_320));
    let schnell = FluxTransformerConfig::schnell().graph(&options).unwrap();
    assert_eq!(count(&schnell), (1156, 11_891_178_560));
    let clip = ClipTextConfig::large().graph(&ClipTextOptions::default());
    assert_eq!(count(&clip.unwrap()), (196, 123_060_480));
    let t5 = T5EncoderConfig::xxl().graph(&T5EncoderOptions::default());
    assert_eq!(count(&t5.unwrap()), (219, 4_762_310_656));
    let autoencoder = AutoencoderKlConfig::flux();
    let decoder = autoencoder.decoder(&DecoderOptions::default()).unwrap();
    let encoder = autoencoder.encoder(&EncoderOptions::default()).unwrap();
    assert_eq!(count(&decoder).0, 138);
    assert_eq!(count(&decoder).1 + count(&encoder).1, 83_819_683);
    assert_eq!(count(&decoder).0 + count(&encoder).0, 244);
}
