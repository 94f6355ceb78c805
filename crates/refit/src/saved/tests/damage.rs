//! Folders that are damaged or hostile.

use std::fs;

use proptest::prelude::*;
use serde_json::{Value, json};
use tintype_tensor::Tensor;
use tintype_weights::Parameters;

use super::super::manifest::sealed;
use super::support::{Bench, addition, input, run, values};

/// A folder with something of everything.
fn saved() -> Bench {
    let bench = Bench::new();
    let module = bench.module();
    let delta = Tensor::from_f32([4, 4], values(16)).unwrap();
    let own = Parameters::builder()
        .tensor("delta", delta)
        .build()
        .unwrap();
    let overlaid = module.change(|change| {
        change.set_overlays([addition()], own);
        Ok(())
    });
    overlaid.unwrap();
    module.edit().edit("b", |values| values[0] = 1.0).unwrap();
    run(&module, &input(2));
    module.save(bench.path("saved")).unwrap();
    bench
}

fn module_of(bench: &Bench) -> Value {
    let list: Value = serde_json::from_str(&bench.list("saved")).unwrap();
    list["module"].clone()
}

/// Writes another list with a checksum that is right.
fn reseal(bench: &Bench, module: &Value) {
    write(bench, sealed(&module.to_string()).as_bytes());
}

fn write(bench: &Bench, bytes: &[u8]) {
    fs::write(bench.path("saved/module.json"), bytes).unwrap();
}

fn told(bench: &Bench) -> String {
    bench.load("saved").map(|_| ()).unwrap_err().to_string()
}

#[test]
fn lists_of_others_and_of_later_versions_are_told_and_not_replaced() {
    let bench = saved();
    let list = bench.list("saved");
    let later = list.replacen("\"version\": 1", "\"version\": 2, \"more\": []", 1);
    let other = list.replacen("tintype module", "module", 1);
    let cases = [
        (later, "expected version 1, found 2"),
        (other, "expected format `tintype module`, found `module`"),
        (
            "{\"name\": \"left-pad\"}".to_owned(),
            "the list of a saved module",
        ),
    ];
    for (text, expected) in cases {
        write(&bench, text.as_bytes());
        let told = told(&bench);
        assert!(
            told.contains("saved/module.json") && told.contains(expected),
            "{told}"
        );
        assert!(bench.module().save(bench.path("saved")).is_err());
        assert_eq!(bench.list("saved"), text);
    }
    // One that is ours and damaged is replaced.
    write(&bench, &list.as_bytes()[..list.len() / 2]);
    assert!(told(&bench).contains("the list of a saved module"));
    bench.module().save(bench.path("saved")).unwrap();
    bench.load("saved").unwrap();
    fs::write(bench.path("file"), "").unwrap();
    let error = bench
        .module()
        .save(bench.path("file"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("expected a folder, found a file"), "{error}");
    let error = bench.load("nowhere").unwrap_err().to_string();
    assert!(
        error.contains("nowhere/module.json: reading failed"),
        "{error}"
    );
}

/// Where, what, and what is told then.
#[allow(clippy::too_many_lines, reason = "a table")]
fn cases() -> Vec<(&'static str, Value, &'static str)> {
    let long = "x".repeat(100_000);
    vec![
        (
            "/graphs/0/file",
            json!("../graph.txt"),
            "a plain name of a file, found `../graph.txt`",
        ),
        (
            "/graphs/0/file",
            json!("/etc/passwd"),
            "a plain name of a file",
        ),
        ("/graphs/0/file", json!(long), "a plain name of a file"),
        ("/graphs/0/hash", json!("00"), "a graph of hash `00`"),
        ("/graphs", json!([]), "one graph, or some"),
        (
            "/weights/files/0/path",
            json!("../../w"),
            "in or beside the folder, found `../../w`",
        ),
        (
            "/weights/files/0/path",
            json!("a/../../w"),
            "in or beside the folder",
        ),
        (
            "/weights/files/1/path",
            json!("../weights.safetensors"),
            "one file of the folder",
        ),
        (
            "/weights/files/1/size",
            json!(7),
            "the size: expected 7 bytes",
        ),
        (
            "/weights/files/0/is_own",
            json!(true),
            "one file of the folder",
        ),
        (
            "/weights/parameters/a/tensor/file",
            json!(9),
            "one of 2 files, found number 9",
        ),
        (
            "/weights/parameters/a/tensor/name",
            json!("z"),
            "tensor `z`",
        ),
        (
            "/weights/parameters/a/tensor/shape",
            json!([9, 9]),
            "found shape [8, 4]",
        ),
        (
            "/weights/parameters/a/views",
            json!([{"rows": [4, 99]}]),
            "`fused`",
        ),
        (
            "/weights/parameters/a/views",
            json!([{"rows": [4, 2]}]),
            "`fused`",
        ),
        (
            "/weights/parameters/a/views",
            json!([{"reshape": [usize::MAX, usize::MAX, 2]}]),
            "`fused`",
        ),
        (
            "/weights/parameters/a/views",
            json!([{"run": "rm"}]),
            "unknown variant `run`",
        ),
        (
            "/weights/overlays/0/fragment",
            json!("graph g {"),
            "the text form of an overlay",
        ),
        ("/weights/own/delta/tensor/file", json!(-1), "invalid value"),
        (
            "/engines/0/graph",
            json!("ff"),
            "an engine of one of the graphs",
        ),
        (
            "/engines/0/ranges/n",
            json!([0, 1u64 << 60]),
            "ranges within those of the graph",
        ),
        (
            "/engines/0/ranges/n",
            json!([9, 2]),
            "ranges within those of the graph",
        ),
        ("/latest/x/dtype", json!("f33"), "a dtype, found `f33`"),
        ("/latest/x/shape", json!([usize::MAX, 4]), "x"),
        ("/keep_weights", json!("tape"), "where weights are kept"),
        (
            "/compiled",
            json!([{"backend": "cpu", "file": "../x", "size": 0, "hash": ""}]),
            "plain",
        ),
    ]
}

#[test]
fn what_a_list_must_not_say_is_told() {
    let bench = saved();
    let whole = module_of(&bench);
    for (pointer, value, expected) in cases() {
        let mut module = whole.clone();
        *module.pointer_mut(pointer).expect(pointer) = value;
        reseal(&bench, &module);
        let told = told(&bench);
        assert!(told.contains(expected), "{pointer}: {told}");
        assert!(told.len() < 2000, "{pointer}: {} bytes", told.len());
    }
    reseal(&bench, &whole);
    bench.load("saved").unwrap();
}

#[test]
fn files_that_are_missing_or_others_are_told() {
    for prefix in ["graph-", "changed-"] {
        let bench = saved();
        let names = bench.names("saved");
        let name = names.iter().find(|name| name.starts_with(prefix)).unwrap();
        let path = bench.path("saved").join(name);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
        assert!(told(&bench).contains(name.as_str()), "{}", told(&bench));
        fs::write(&path, [0xff; 64]).unwrap();
        assert!(told(&bench).contains(name.as_str()), "{}", told(&bench));
        fs::remove_file(&path).unwrap();
        assert!(told(&bench).contains(name.as_str()), "{}", told(&bench));
        fs::create_dir(&path).unwrap();
        assert!(told(&bench).contains(name.as_str()), "{}", told(&bench));
    }
}

#[test]
fn a_graph_that_was_edited_is_no_longer_that_of_the_list() {
    let bench = saved();
    let names = bench.names("saved");
    let name = names
        .iter()
        .find(|name| name.starts_with("graph-"))
        .unwrap();
    let path = bench.path("saved").join(name);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("mul %2", "add %2", 1)).unwrap();
    assert!(
        told(&bench).contains("expected a graph of hash"),
        "{}",
        told(&bench)
    );
}

/// Every value of a list with the way to it.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                pointers(item, &format!("{at}/{index}"), found);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                pointers(field, &format!("{at}/{name}"), found);
            }
        }
        _ => {}
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (0u64..9).prop_map(Value::from),
        "[a-z/.]{0,12}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!([1, 2])),
        Just(json!([{"rows": [0, 1]}])),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever bytes of a list differ, it is refused.
    #[test]
    fn a_list_with_other_bytes_is_refused(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        thread_local!(static BENCH: (Bench, Vec<u8>) = {
            let bench = saved();
            let list = bench.list("saved").into_bytes();
            (bench, list)
        });
        BENCH.with(|(bench, whole)| {
            let mut bytes = whole.clone();
            for (index, change) in flips {
                bytes[index.index(whole.len())] ^= change;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(whole.len()));
            }
            if bytes != *whole {
                write(bench, &bytes);
                // Blanks around the module are no part of it.
                let is_same = serde_json::from_slice::<Value>(&bytes).ok()
                    == serde_json::from_slice(whole).ok();
                prop_assert!(is_same || bench.load("saved").is_err());
            }
            Ok(())
        })?;
    }

    /// Whatever a list says, loading gives a module or an error.
    #[test]
    fn a_list_that_says_anything_does_no_harm(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any_value()), 1..4),
    ) {
        thread_local!(static BENCH: (Bench, Value, Vec<String>) = {
            let bench = saved();
            let module = module_of(&bench);
            let mut found = Vec::new();
            pointers(&module, "", &mut found);
            (bench, module, found)
        });
        BENCH.with(|(bench, whole, pointers)| {
            let mut module = whole.clone();
            for (index, value) in changes {
                if let Some(place) = module.pointer_mut(index.get::<String>(pointers)) {
                    *place = value;
                }
            }
            reseal(bench, &module);
            if let Ok(loaded) = bench.load("saved") {
                // It may lack what a call needs; it must not panic.
                let _ = loaded.module.call(&tintype_backend::Tensors::new(), &input(2));
                let _ = loaded.module.state();
            }
        });
    }
}
