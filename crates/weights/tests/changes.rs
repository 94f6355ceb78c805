//! Changes are exact, checked whole, and told apart from rewrites of the same.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{counting, f32s, folder, write};
use tintype_tensor::{DType, Tensor};
use tintype_weights::{ChangeOptions, Parameters, View};

fn tensor(values: &[f32]) -> Tensor {
    Tensor::from_f32([values.len()], values.to_vec()).unwrap()
}

fn parameters() -> Parameters {
    Parameters::builder()
        .tensor("a", tensor(&[1.0, 2.0]))
        .tensor("b", tensor(&[3.0, 4.0, 5.0, 6.0]))
        .tensor("ids", Tensor::new([2], vec![1i64, 2]).unwrap())
        .build()
        .unwrap()
}

const FINITE: ChangeOptions = ChangeOptions {
    finite: true,
    compare_content: false,
};
const COMPARE: ChangeOptions = ChangeOptions {
    finite: false,
    compare_content: true,
};

#[test]
fn a_set_changes_that_name_alone() {
    let mut parameters = parameters();
    let (before, old) = (parameters.snapshot(), parameters.clone());
    parameters.set("a", tensor(&[7.0, 8.0])).unwrap();
    let changes = parameters.changes_since(&before);
    assert_eq!(changes.names().collect::<Vec<_>>(), ["a"]);
    assert_eq!(changes, parameters.changes_from(&old));
    assert!(parameters.generation("a").unwrap() > old.generation("a").unwrap());
    assert_eq!(old.get("a").unwrap().to_f32_vec().unwrap(), [1.0, 2.0]);
    assert!(parameters.changes_since(&parameters.snapshot()).is_empty());
}

#[test]
fn equal_content_is_noticed_where_asked() {
    let mut parameters = parameters();
    let without = parameters.snapshot();
    assert!(without.hash("a").is_none());
    let before = parameters.snapshot_with_content().unwrap();
    // The cell is shared: what was hashed later is known to the earlier one.
    assert_eq!(without.hash("a"), before.hash("a"));
    let changes = parameters
        .set_with("a", tensor(&[1.0, 2.0]), COMPARE)
        .unwrap();
    assert!(changes.is_empty());
    assert!(parameters.changes_since(&before).is_empty());
    parameters.set("a", tensor(&[1.0, 2.0])).unwrap();
    assert!(parameters.changes_since(&before).contains("a"));
    assert!(
        parameters
            .content_changes_since(&before)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn hashes_tell_dtype_and_shape_apart() {
    let parameters = Parameters::builder()
        .tensor("a", Tensor::from_bytes(DType::U8, [4], vec![0; 4]).unwrap())
        .tensor(
            "b",
            Tensor::from_bytes(DType::U8, [2, 2], vec![0; 4]).unwrap(),
        )
        .tensor(
            "c",
            Tensor::from_bytes(DType::F32, [1], vec![0; 4]).unwrap(),
        )
        .build()
        .unwrap();
    let hash = |name| parameters.hash(name).unwrap();
    assert!(hash("a") != hash("b") && hash("a") != hash("c"));
    assert_eq!(hash("a").to_string().len(), 64);
}

#[test]
fn refused_changes_leave_everything() {
    let mut parameters = parameters();
    let before = parameters.snapshot();
    for (name, tensor, part) in [
        ("a", tensor(&[1.0]), "expected shape [2], found [1]"),
        ("ids", tensor(&[1.0, 2.0]), "converts to i64, found f32"),
        ("c", tensor(&[1.0]), "expected a tensor `c`"),
    ] {
        let message = parameters.set(name, tensor).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
    let error = parameters
        .set_with("a", tensor(&[f32::NAN, 1.0]), FINITE)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("tensor `a`: expected finite values, found NaN"),
        "{error}"
    );
    let spoil = |values: &mut [f32]| values[0] = f32::INFINITY;
    assert!(parameters.edit_with("a", spoil, FINITE).is_err());
    assert!(parameters.edit("ids", |_| ()).is_err());
    assert!(parameters.changes_since(&before).is_empty());
}

#[test]
fn a_file_replaces_all_or_nothing() {
    let folder = folder();
    let good = write(
        folder.path(),
        "good.safetensors",
        &[
            counting("a", &[2], 5.0),
            f32s("b", &[4], &[3.0, 4.0, 5.0, 6.0]),
        ],
    );
    let bad = write(
        folder.path(),
        "bad.safetensors",
        &[counting("a", &[2], 8.0), counting("b", &[3], 0.0)],
    );
    let mut parameters = parameters();
    let before = parameters.snapshot();
    let message = parameters
        .replace_from(&bad, ChangeOptions::default())
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("bad.safetensors: tensor `b`: expected shape [4], found [3]"),
        "{message}"
    );
    assert!(parameters.changes_since(&before).is_empty());
    let changes = parameters.replace_from(&good, COMPARE).unwrap();
    assert_eq!(changes.names().collect::<Vec<_>>(), ["a"]);
    assert_eq!(parameters.changes_since(&before), changes);
    assert_eq!(
        parameters.get("a").unwrap().to_f32_vec().unwrap(),
        [5.0, 6.0]
    );
}

#[test]
fn edits_keep_the_dtype_and_the_file() {
    let folder = folder();
    let path = write(folder.path(), "a.safetensors", &[counting("a", &[2], 1.0)]);
    let mut parameters = Parameters::open(&path).unwrap();
    let half = parameters.read_as("a", DType::BF16).unwrap();
    parameters.set("a", half).unwrap();
    parameters.edit("a", |values| values[1] = 1.003).unwrap();
    assert_eq!(parameters.get("a").unwrap().dtype(), DType::BF16);
    assert_eq!(
        parameters.get("a").unwrap().to_f32_vec().unwrap(),
        [1.0, 1.0]
    );
    let again = Parameters::open(&path).unwrap();
    assert_eq!(again.get("a").unwrap().to_f32_vec().unwrap(), [1.0, 2.0]);
}

#[test]
fn two_openings_differ_by_generation_only() {
    let folder = folder();
    let path = write(folder.path(), "a.safetensors", &[counting("a", &[2], 1.0)]);
    let (first, second) = (
        Parameters::open(&path).unwrap(),
        Parameters::open(&path).unwrap(),
    );
    assert!(second.changes_from(&first).contains("a"));
    assert!(second.content_changes_from(&first).unwrap().is_empty());
}

#[test]
fn added_and_removed_names_are_told() {
    let mut parameters = parameters();
    let before = parameters.snapshot();
    parameters.insert("c", tensor(&[1.0])).unwrap();
    assert!(parameters.insert("c", tensor(&[1.0])).is_err());
    let fewer = parameters
        .renamed(|name| (name != "a").then(|| name.to_owned()))
        .unwrap();
    let changes = fewer.changes_since(&before);
    assert_eq!(changes.added.iter().collect::<Vec<_>>(), ["c"]);
    assert_eq!(changes.removed.iter().collect::<Vec<_>>(), ["a"]);
    assert!(changes.changed.is_empty());
}

#[test]
fn views_compose_and_are_checked_when_made() {
    let view = |view: View| {
        Parameters::builder()
            .parameters(&parameters())
            .view("v", "b", view)
            .build()
    };
    let read = |shown: View| view(shown).unwrap().get("v").unwrap();
    assert_eq!(
        read(View::Rows { start: 1, end: 3 }).to_f32_vec().unwrap(),
        [4.0, 5.0]
    );
    assert_eq!(
        read(View::SwapHalves).to_f32_vec().unwrap(),
        [5.0, 6.0, 3.0, 4.0]
    );
    assert_eq!(read(View::Reshape([2, 2].into())).shape()[..], [2, 2]);
    for wrong in [
        View::Rows { start: 3, end: 2 },
        View::Rows { start: 0, end: 5 },
        View::Reshape([3].into()),
        View::Reshape([usize::MAX, 2].into()),
    ] {
        let message = view(wrong).unwrap_err().to_string();
        assert!(message.contains("tensor `b`"), "{message}");
    }
    let both = Parameters::builder()
        .parameters(&parameters())
        .view("swapped", "b", View::SwapHalves)
        .view("v", "swapped", View::Rows { start: 0, end: 1 })
        .build()
        .unwrap();
    assert_eq!(both.get("v").unwrap().to_f32_vec().unwrap(), [5.0]);
}

#[test]
fn views_of_one_tensor_are_told_apart() {
    let part = |start: usize| {
        let end = start + 2;
        View::Rows { start, end }
    };
    let base = parameters();
    let with = |start| {
        let builder = Parameters::builder().parameters(&base);
        builder.view("v", "b", part(start)).build().unwrap()
    };
    let (first, mut again, second) = (with(0), with(0), with(2));
    assert!(again.changes_from(&first).is_empty());
    assert!(second.changes_from(&first).contains("v"));
    let changes = again
        .replace_with(&second, ChangeOptions::default())
        .unwrap();
    assert_eq!(changes.names().collect::<Vec<_>>(), ["v"]);
    assert_eq!(again.get("v").unwrap().to_f32_vec().unwrap(), [5.0, 6.0]);
    assert!(again.generation("v").unwrap() > second.generation("v").unwrap());
}

#[test]
fn identities_are_those_of_versions_and_views() {
    let rows = |start, end| View::Rows { start, end };
    let mut parameters = Parameters::builder()
        .tensor("whole", tensor(&[1.0, 1.0, 2.0, 2.0]))
        .tensor("equal", tensor(&[1.0, 1.0, 2.0, 2.0]))
        .view("first", "whole", rows(0, 2))
        .view("second", "whole", rows(2, 4))
        .view("again", "whole", rows(0, 2))
        .build()
        .unwrap();
    let of = |parameters: &Parameters, name: &str| parameters.identity_of(name).unwrap();
    assert_ne!(of(&parameters, "whole"), of(&parameters, "equal"));
    assert_ne!(of(&parameters, "first"), of(&parameters, "second"));
    assert_ne!(of(&parameters, "first"), of(&parameters, "whole"));
    assert_eq!(of(&parameters, "first"), of(&parameters, "again"));
    let before = parameters.clone();
    parameters.set("first", tensor(&[1.0, 1.0])).unwrap();
    assert_ne!(of(&parameters, "first"), of(&before, "first"));
    assert_eq!(of(&parameters, "second"), of(&before, "second"));
    assert!(parameters.identity_of("none").is_err());
}
