//! Configurations with any field replaced by anything: an error or a graph, never a panic.

#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use serde_json::{Map, Value, json};
use tintype_models::{
    AutoencoderKlConfig, ClipTextConfig, ClipTextOptions, DecoderOptions, EncoderOptions, Error,
    FluxTransformerConfig, FluxTransformerOptions, T5EncoderConfig, T5EncoderOptions,
};

type Build = fn(&str) -> Result<(), Error>;

/// A model of the fixtures and what reads and builds it.
const MODELS: [(&str, Build); 4] = [
    ("transformer", |text| {
        let config = FluxTransformerConfig::from_json("config.json", text)?;
        config.graph(&FluxTransformerOptions::default()).map(drop)
    }),
    ("text_encoder", |text| {
        let config = ClipTextConfig::from_json("config.json", text)?;
        config.graph(&ClipTextOptions::default()).map(drop)
    }),
    ("text_encoder_2", |text| {
        let config = T5EncoderConfig::from_json("config.json", text)?;
        config.graph(&T5EncoderOptions::default()).map(drop)
    }),
    ("vae", |text| {
        let config = AutoencoderKlConfig::from_json("config.json", text)?;
        config.decoder(&DecoderOptions::default())?;
        config.encoder(&EncoderOptions::default()).map(drop)
    }),
];

fn odd_values() -> Vec<Value> {
    vec![
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(1),
        json!(3),
        json!(0.5),
        json!(1e300),
        json!(1 << 20),
        json!(u64::MAX),
        json!("x"),
        json!([]),
        json!([1]),
        json!([4, 6, -6]),
        json!([1 << 20, 1 << 20]),
        json!([null, "x", {}]),
        json!({"a": 1}),
    ]
}

fn fixture(model: &str) -> Map<String, Value> {
    let manifest = env!("CARGO_MANIFEST_DIR");
    let path = format!("{manifest}/../conformance/fixtures/pipelines/dev/{model}/config.json");
    let text = std::fs::read_to_string(path).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn any_field_may_hold_anything() {
    for (model, build) in MODELS {
        let config = fixture(model);
        build(&Value::from(config.clone()).to_string()).unwrap();
        for field in config.keys() {
            for value in odd_values() {
                let mut changed = config.clone();
                changed.insert(field.clone(), value);
                match build(&Value::from(changed).to_string()) {
                    Ok(()) | Err(Error::Config { .. }) => {}
                    Err(error) => panic!("{model}, `{field}`: {error}"),
                }
            }
            let mut changed = config.clone();
            changed.remove(field);
            let absent = build(&Value::from(changed).to_string());
            assert!(
                matches!(absent, Ok(()) | Err(Error::Config { .. })),
                "{model}, `{field}`"
            );
        }
    }
}

#[test]
fn cut_files_are_errors_that_name_the_file() {
    for (model, build) in MODELS {
        let text = Value::from(fixture(model)).to_string();
        for length in (0..text.len()).step_by(7) {
            let message = build(&text[..length]).unwrap_err().to_string();
            assert_eq!(message, "config.json: not the expected JSON", "{model}");
        }
    }
}
