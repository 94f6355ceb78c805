//! Files that lie. Each row is a file and what the error must say.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;

use common::{counting, folder, write, write_raw};
use tintype_weights::{Checkpoint, Error, Parameters, SafetensorsFile};

/// Header, bytes of data, what the message must contain.
const HEADERS: [(&str, usize, &[&str]); 24] = [
    (
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#,
        8,
        &["JSON header", "EOF"],
    ),
    ("", 0, &["JSON header"]),
    ("[]", 0, &["JSON header", "expected a map"]),
    (r#"{"a":5}"#, 0, &["`a`"]),
    (
        r#"{"a":{"dtype":"F32","shape":[2]}}"#,
        0,
        &["`a`", "data_offsets"],
    ),
    (
        r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}}"#,
        0,
        &["`a`", "-1"],
    ),
    (
        r#"{"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}"#,
        8,
        &["`a`", "a dtype", "`F33`"],
    ),
    (
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
        4,
        &["`a`", "4 bytes of data", "0..8"],
    ),
    (
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#,
        8,
        &["`a`", "in order", "8..0"],
    ),
    (
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615]}}"#,
        8,
        &["`a`", "18446744073709551615"],
    ),
    (
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551616]}}"#,
        8,
        &["`a`"],
    ),
    (
        r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#,
        8,
        &["`a`", "12 bytes", "found 8"],
    ),
    (
        r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}"#,
        2,
        &["`a`", "F4[3]"],
    ),
    (
        r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#,
        0,
        &["`a`", "fits in memory"],
    ),
    (
        r#"{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}}"#,
        0,
        &["`a`", "fits in memory"],
    ),
    (
        r#"{"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}}"#,
        1,
        &["`a`", "33 axes"],
    ),
    (
        r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#,
        6,
        &["`b`", "offset 4", "found 2 (overlaps)"],
    ),
    (
        r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#,
        4,
        &["`b`", "overlaps"],
    ),
    (
        r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[1],"data_offsets":[5,6]}}"#,
        6,
        &["`b`", "hole"],
    ),
    (
        r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[1,5]}}"#,
        5,
        &["`a`", "hole"],
    ),
    (
        r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#,
        9,
        &["4 bytes", "`a`", "found 9"],
    ),
    (
        r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#,
        8,
        &["two entries `a`"],
    ),
    (
        r#"{"__metadata__":{"x":"1"},"__metadata__":{"x":"2"}}"#,
        0,
        &["two entries `__metadata__`"],
    ),
    (r#"{"__metadata__":{"x":1}}"#, 0, &["JSON header"]),
];

#[test]
fn lying_headers_are_named() {
    let folder = folder();
    for (header, data, expected) in HEADERS {
        let path = write_raw(folder.path(), "lying.safetensors", header.as_bytes(), data);
        let message = SafetensorsFile::open(&path).unwrap_err().to_string();
        assert!(message.contains("lying.safetensors"), "{message}");
        for part in expected {
            assert!(
                message.contains(part),
                "{header}\n  {message}\n  lacks {part}"
            );
        }
    }
}

#[test]
fn truncated_files_are_refused_at_every_length() {
    let folder = folder();
    let path = write(
        folder.path(),
        "whole.safetensors",
        &[counting("a", &[3], 0.0), counting("b", &[2, 2], 5.0)],
    );
    let bytes = fs::read(&path).unwrap();
    let cut = folder.path().join("cut.safetensors");
    for len in 0..bytes.len() {
        fs::write(&cut, &bytes[..len]).unwrap();
        let message = SafetensorsFile::open(&cut).unwrap_err().to_string();
        assert!(message.contains("cut.safetensors"), "{len}: {message}");
    }
    SafetensorsFile::open(&path).unwrap();
}

#[test]
fn flipped_bits_never_panic() {
    let folder = folder();
    let path = write(
        folder.path(),
        "whole.safetensors",
        &[counting("a", &[3], 0.0), counting("b", &[2, 2], 5.0)],
    );
    let bytes = fs::read(&path).unwrap();
    let flipped = folder.path().join("flipped.safetensors");
    for index in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[index / 8] ^= 1 << (index % 8);
        fs::write(&flipped, bytes).unwrap();
        if let Ok(parameters) = Parameters::open(&flipped) {
            for name in parameters.names() {
                let _ = parameters.get(name);
            }
        }
    }
}

#[test]
fn header_lengths_are_limited() {
    let folder = folder();
    let path = folder.path().join("huge.safetensors");
    for length in [100_000_001, u64::MAX, u64::MAX - 7] {
        fs::write(&path, length.to_le_bytes()).unwrap();
        let message = SafetensorsFile::open(&path).unwrap_err().to_string();
        assert!(message.contains("at most 100000000 bytes"), "{message}");
    }
    fs::write(&path, 90_000_000u64.to_le_bytes()).unwrap();
    let message = SafetensorsFile::open(&path).unwrap_err().to_string();
    assert!(
        message.contains("90000000 bytes, found 0 bytes (truncated)"),
        "{message}"
    );
}

#[test]
fn headers_must_be_utf8() {
    let folder = folder();
    let path = write_raw(folder.path(), "latin.safetensors", b"{\"\xe9\":{}}", 0);
    let message = SafetensorsFile::open(path).unwrap_err().to_string();
    assert!(message.contains("UTF-8"), "{message}");
}

#[test]
fn names_in_messages_stay_short() {
    let folder = folder();
    let name = "é".repeat(1_000_000);
    let header = format!(r#"{{"{name}":{{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}}}"#);
    let path = write_raw(folder.path(), "long.safetensors", header.as_bytes(), 8);
    assert!(SafetensorsFile::open(path).unwrap_err().to_string().len() < 2000);
}

#[test]
fn unsupported_dtypes_matter_only_when_read() {
    let folder = folder();
    let header = r#"{"a":{"dtype":"F8_E5M2","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[1],"data_offsets":[4,5]}}"#;
    let path = write_raw(folder.path(), "mixed.safetensors", header.as_bytes(), 5);
    let parameters = Parameters::open(path).unwrap();
    assert_eq!(parameters.get("b").unwrap().bytes(), [0]);
    assert_eq!(parameters.shape("a").unwrap()[..], [4]);
    let message = parameters.get("a").unwrap_err().to_string();
    assert!(
        message.contains("`a`: expected a supported dtype, found F8_E5M2"),
        "{message}"
    );
    assert!(matches!(
        parameters.info("a"),
        Err(Error::UnsupportedDType { .. })
    ));
}

#[test]
fn missing_files_and_folders_are_named() {
    let folder = folder();
    for path in [
        "absent.safetensors",
        "absent.safetensors.index.json",
        "absent",
    ] {
        let message = Checkpoint::open(folder.path().join(path))
            .unwrap_err()
            .to_string();
        assert!(message.contains(path), "{message}");
    }
    let message = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(message.contains("`model.safetensors`"), "{message}");
}

/// Index, what the message must contain. `one` holds a; `two` holds b and c.
const INDEXES: [(&str, &[&str]); 10] = [
    (
        r#"{"weight_map":{"a":"../one.safetensors"}}"#,
        &["`a`", "`../one.safetensors`"],
    ),
    (
        r#"{"weight_map":{"a":"/etc/passwd"}}"#,
        &["`a`", "`/etc/passwd`"],
    ),
    (
        r#"{"weight_map":{"a":"x/one.safetensors"}}"#,
        &["same folder"],
    ),
    (r#"{"weight_map":{"a":""}}"#, &["same folder"]),
    (
        r#"{"weight_map":{"a":"one.safetensors","b":"three.safetensors"}}"#,
        &["a shard `three.safetensors`"],
    ),
    (
        r#"{"weight_map":{"a":"one.safetensors","d":"one.safetensors"}}"#,
        &["one.safetensors", "`d`"],
    ),
    (
        r#"{"weight_map":{"a":"one.safetensors","b":"two.safetensors"}}"#,
        &["two.safetensors", "only tensors", "`c`"],
    ),
    (
        r#"{"weight_map":{"a":"one.safetensors","a":"two.safetensors"}}"#,
        &["two entries `a`"],
    ),
    (r#"{"weight_map":{}}"#, &["an empty one"]),
    (r#"{"weight_map":"#, &["JSON index"]),
];

#[test]
fn lying_indexes_are_named() {
    let folder = folder();
    write(
        folder.path(),
        "one.safetensors",
        &[counting("a", &[2], 0.0)],
    );
    write(
        folder.path(),
        "two.safetensors",
        &[counting("b", &[2], 0.0), counting("c", &[1], 0.0)],
    );
    let path = folder.path().join("model.safetensors.index.json");
    for (index, expected) in INDEXES {
        fs::write(&path, index).unwrap();
        let message = Checkpoint::open(folder.path()).unwrap_err().to_string();
        for part in expected {
            assert!(
                message.contains(part),
                "{index}\n  {message}\n  lacks {part}"
            );
        }
    }
    fs::write(&path, r#"{"metadata":{"total_size":20},"weight_map":{"a":"one.safetensors","b":"two.safetensors","c":"two.safetensors"}}"#).unwrap();
    let parameters = Parameters::open(folder.path()).unwrap();
    assert_eq!(parameters.names().collect::<Vec<_>>(), ["a", "b", "c"]);
}

#[test]
fn extra_shards_of_the_series_are_refused() {
    let folder = folder();
    let shard = |number: usize, name: &str| {
        write(
            folder.path(),
            &format!("model-0000{number}-of-00002.safetensors"),
            &[counting(name, &[2], 0.0)],
        )
    };
    shard(1, "a");
    shard(2, "b");
    let index = r#"{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#;
    fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    // Another variant in the same folder is no extra shard.
    write(
        folder.path(),
        "model-00001-of-00002.fp16.safetensors",
        &[counting("a", &[2], 0.0)],
    );
    Checkpoint::open(folder.path()).unwrap();
    shard(3, "c");
    let message = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(
        message.contains("also `model-00003-of-00002.safetensors`"),
        "{message}"
    );
}

#[test]
fn a_file_that_shrinks_or_changes_is_noticed() {
    let folder = folder();
    let path = write(
        folder.path(),
        "a.safetensors",
        &[counting("a", &[4096], 0.0)],
    );
    let checkpoint = Checkpoint::open(&path).unwrap();
    checkpoint.verify().unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(100).unwrap();
    let message = checkpoint.verify().unwrap_err().to_string();
    assert!(
        message.contains("as when it was opened, found 100"),
        "{message}"
    );
}

#[test]
fn a_file_that_is_replaced_by_renaming_stays_whole() {
    let folder = folder();
    let path = write(folder.path(), "a.safetensors", &[counting("a", &[2], 1.0)]);
    let parameters = Parameters::open(&path).unwrap();
    let other = write(folder.path(), "b.safetensors", &[counting("a", &[2], 7.0)]);
    fs::rename(other, &path).unwrap();
    assert_eq!(
        parameters.get("a").unwrap().to_f32_vec().unwrap(),
        [1.0, 2.0]
    );
}
