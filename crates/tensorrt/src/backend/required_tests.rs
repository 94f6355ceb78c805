//! What an engine, its manifest and the weight program must agree on.

use super::super::manifest::ManifestWeight;
use super::*;

const PROGRAM: &str = r#"graph "weights" {
  param @a: bf16[4, 2]
  param @b: f32[3]
  output block.weight = @a
  output block.bias = @b
}"#;

fn manifest() -> Manifest {
    let weight = |name: &str, dtype: &str, count, literal: Option<&str>| ManifestWeight {
        name: name.to_owned(),
        dtype: dtype.to_owned(),
        count,
        literal: literal.map(str::to_owned),
    };
    Manifest {
        inputs: Vec::new(),
        outputs: Vec::new(),
        weights: vec![
            weight("block.weight", "bf16", 8, None),
            weight("block.bias", "f32", 3, None),
            weight("literal.0", "f32", 1, Some("0000803f")),
            weight("literal.1", "f32", 1, Some("00000040")),
        ],
    }
}

const OFFERED: [(&str, DType, usize); 3] = [
    ("block.bias", DType::F32, 3),
    ("block.weight", DType::BF16, 8),
    ("literal.1", DType::F32, 1),
];

fn required(offered: &[(&'static str, DType, usize)]) -> Result<Required> {
    Required::new(&manifest(), offered.iter().copied())
}

#[test]
fn an_engine_and_its_manifest_have_the_same_weights() {
    let required = required(&OFFERED).unwrap();
    let names: Vec<&str> = required.names().collect();
    assert_eq!(names, ["block.bias", "block.weight"]);
    // The other literal is in the kernels.
    let [(name, tensor)] = required.literals() else {
        panic!("one literal, found {:?}", required.literals());
    };
    assert_eq!(
        (name.as_str(), tensor.to_f32_vec().unwrap()),
        ("literal.1", vec![2.0])
    );
    required
        .check(&tintype_ir::parse(PROGRAM).unwrap())
        .unwrap();
}

#[test]
fn a_weight_that_the_engine_does_not_take_is_an_error() {
    let error = required(&OFFERED[..1]).unwrap_err().to_string();
    assert_eq!(
        error,
        "the engine has no weights `block.weight`, it has `block.bias`"
    );
}

#[test]
fn a_constant_that_nobody_named_is_an_error() {
    let unnamed = ("(Unnamed Layer* 7) [Constant]", DType::F32, 1);
    let error = required(&[OFFERED.as_slice(), &[unnamed]].concat()).unwrap_err();
    assert!(error.to_string().contains("(Unnamed Layer* 7)"), "{error}");
}

#[test]
fn another_dtype_or_count_is_an_error() {
    for found in [(DType::F16, 8), (DType::BF16, 7)] {
        let mut offered = OFFERED;
        offered[1] = ("block.weight", found.0, found.1);
        let error = required(&offered).unwrap_err().to_string();
        assert!(error.ends_with("found 8 elements of bf16"), "{error}");
    }
    let required = required(&OFFERED).unwrap();
    for (from, to) in [
        ("f32[3]", "f32[2]"),
        ("f32[3]", "bf16[3]"),
        ("block.bias", "other"),
    ] {
        let program = tintype_ir::parse(&PROGRAM.replace(from, to)).unwrap();
        let error = required.check(&program).unwrap_err().to_string();
        assert!(error.contains("`block.bias`"), "{error}");
    }
}

#[test]
fn what_was_never_set_is_told_by_name() {
    let mut required = required(&OFFERED).unwrap();
    let missing = |required: &Required, names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        match required.expect_complete("model", &names) {
            Err(Error::Missing { names, .. }) => names,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        missing(&required, &["block.weight"]),
        ["block.bias", "literal.1"]
    );
    assert!(required.lacks_literals());
    required.give(["literal.1".to_owned(), "block.bias".to_owned()]);
    assert!(!required.lacks_literals());
    assert_eq!(missing(&required, &[]), ["block.weight"]);
    required
        .expect_complete("model", &["block.weight".to_owned()].into())
        .unwrap();
    required.give(["block.weight".to_owned()]);
    required.expect_complete("model", &BTreeSet::new()).unwrap();
}
