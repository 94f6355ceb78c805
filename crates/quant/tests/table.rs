//! Scale tables from outside: what is wrong is told with file, entry, expected and found.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use tintype_quant::{
    Calibrated, Calibration, Granularity, Method, ModelIdentity, Recipe, Rule, ScaleTable,
};

fn table(values: BTreeMap<String, Calibrated>, method: Method) -> ScaleTable {
    let model = ModelIdentity {
        weights: "ab".into(),
        graph: "cd".into(),
    };
    let recipe = Recipe::new([Rule::linears(["a.**"], Granularity::PerChannel)]);
    let mut calibration = Calibration::default();
    calibration.values = values;
    (calibration.examples, calibration.steps) = (3, 20);
    ScaleTable::new(model, recipe, method, calibration)
}

fn small() -> ScaleTable {
    let value = |amax: f32, steps: &[f32]| Calibrated {
        amax,
        scale: amax / 448.0,
        steps: steps.to_vec(),
    };
    let values = [
        ("a.input".to_owned(), value(11.5, &[])),
        ("b.query".to_owned(), value(0.3, &[0.1, 0.3])),
    ];
    table(values.into(), Method::Percentile(99.9))
}

fn message(text: &str) -> String {
    let error = ScaleTable::from_json("scales.json", text).unwrap_err();
    error.to_string()
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        values in proptest::collection::btree_map(
            "[a-z0-9._\" ]{1,12}",
            (1e-30f32..1e30, 1e-30f32..1e30, proptest::collection::vec(0f32..1e30, 0..4)),
            0..8,
        ),
    ) {
        let calibrated = values.into_iter().map(|(name, (amax, scale, steps))| {
            (name, Calibrated { amax, scale, steps })
        });
        let table = table(calibrated.collect(), Method::MeanSquaredError);
        let read = ScaleTable::from_json("memory", &table.to_json());
        prop_assert_eq!(read.unwrap(), table);
    }

    #[test]
    fn no_changed_byte_goes_unnoticed(place in 0usize..2000, byte in 0x20u8..0x7f) {
        let table = small();
        let mut text = table.to_json().into_bytes();
        let place = place % text.len();
        text[place] = byte;
        let text = String::from_utf8(text).unwrap();
        // Either it is refused, or what was changed says nothing: a blank, a zero at the end.
        if let Ok(read) = ScaleTable::from_json("memory", &text) {
            prop_assert_eq!(read, table);
        }
    }
}

#[test]
fn damage_is_told_with_its_place() {
    let text = small().to_json();
    for (from, to, expected) in [
        (
            "tintype-scales",
            "other",
            "scales.json: format: expected tintype-scales, found other",
        ),
        (
            "\"version\": 1,\n  \"model\"",
            "\"version\": 7,\n  \"model\"",
            "scales.json: version: expected 1, found 7",
        ),
        (
            "\"scale\": 0.025669644",
            "\"scale\": 0.0",
            "scales.json: a.input: expected a finite scale above 0, found 0",
        ),
        (
            "\"scale\": 0.025669644",
            "\"scale\": -1",
            "scales.json: a.input: expected a finite scale above 0, found -1",
        ),
        (
            "\"scale\": 0.025669644",
            "\"scale\": 1e39",
            "scales.json: a.input: expected a finite scale above 0, found inf",
        ),
        (
            "\"scale\": 0.025669644",
            "\"scale\": null",
            "scales.json: a.input: expected numbers `amax` and `scale`, found invalid type: null, expected f32",
        ),
        (
            "\"amax\": 11.5",
            "\"amax\": -11.5",
            "scales.json: a.input: expected a finite amax of at least 0, found -11.5",
        ),
        (
            "\"amax\": 11.5,",
            "",
            "scales.json: a.input: expected numbers `amax` and `scale`, found missing field `amax`",
        ),
    ] {
        assert!(text.contains(from), "{from} in {text}");
        assert_eq!(message(&text.replace(from, to)), expected);
    }
    let changed = message(&text.replace("\"amax\": 11.5", "\"amax\": 12.5"));
    assert!(
        changed.starts_with("scales.json: checksum: expected "),
        "{changed}"
    );
    let unknown = message(&text.replace("\"examples\"", "\"prompts\""));
    assert!(
        unknown.contains(
            "the text: expected a table of scales in JSON, found unknown field `prompts`"
        ),
        "{unknown}"
    );
    assert!(message("{}").starts_with("scales.json: checksum: expected a text, found nothing"));
    assert!(message("nan").starts_with("scales.json: the text: expected a table"));
    let without = text.replace("\"scales\"", "\"other\"");
    assert!(
        message(&without).starts_with("scales.json: scales: expected an object, found nothing")
    );
}

#[test]
fn a_table_is_written_whole_and_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scales.json");
    small().write(&path).unwrap();
    assert_eq!(ScaleTable::read(&path).unwrap(), small());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let nowhere = folder.path().join("none/scales.json");
    let error = small().write(&nowhere).unwrap_err().to_string();
    assert!(error.starts_with(&nowhere.display().to_string()), "{error}");
    let error = ScaleTable::read(&nowhere).unwrap_err().to_string();
    assert!(error.starts_with(&nowhere.display().to_string()), "{error}");
}
