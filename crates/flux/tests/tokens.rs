//! Ids recorded from transformers, for every kind of file.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::path::{Path, PathBuf};

use serde::Deserialize;
use tintype_flux::ModelFiles;
use tintype_flux::tokenizer::{ClipFiles, ClipTokenizer, Encoding, T5Tokenizer};

#[derive(Deserialize)]
struct Case {
    prompt: String,
    clip: Vec<i64>,
    clip_77: Vec<i64>,
    t5: Vec<i64>,
    t5_64: Vec<i64>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/fixtures")
}

fn cases() -> Vec<Case> {
    let bytes = std::fs::read(fixtures().join("modules/tokens.json")).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn folder(pipeline: &str, name: &str) -> PathBuf {
    fixtures().join("pipelines").join(pipeline).join(name)
}

fn files(pipeline: &str, name: &str) -> ModelFiles {
    ModelFiles::folder(folder(pipeline, name))
}

fn check(encode: impl Fn(usize) -> Encoding, whole: &[i64], cut: &[i64], case: &Case) {
    let encoding = encode(whole.len());
    assert_eq!(encoding.ids, whole, "{:?}", case.prompt);
    assert_eq!(encoding.truncated, None, "{:?}", case.prompt);
    assert_eq!(encoding.token_count, whole.len());
    let encoding = encode(cut.len());
    assert_eq!(encoding.ids, cut, "{:?}", case.prompt);
    assert_eq!(encoding.truncated.is_some(), whole.len() > cut.len());
}

#[test]
fn clip_ids_are_those_of_transformers() {
    for pipeline in ["dev", "schnell"] {
        let tokenizer = ClipTokenizer::from_files(&files(pipeline, "tokenizer")).unwrap();
        assert_eq!(tokenizer.model_max_length(), 77);
        for case in cases() {
            let encode = |length| tokenizer.encode(&case.prompt, length).unwrap();
            check(encode, &case.clip, &case.clip_77, &case);
        }
    }
}

#[test]
fn t5_ids_are_those_of_transformers() {
    // One pipeline has a tokenizer.json, the other spiece.model alone.
    for pipeline in ["dev", "schnell"] {
        let tokenizer = T5Tokenizer::from_files(&files(pipeline, "tokenizer_2")).unwrap();
        for case in cases() {
            let encode = |length| tokenizer.encode(&case.prompt, length).unwrap();
            check(encode, &case.t5, &case.t5_64, &case);
        }
    }
}

#[test]
fn the_cut_text_is_named() {
    let tokenizer = ClipTokenizer::from_files(&files("dev", "tokenizer")).unwrap();
    let long = format!("{}lighthouse", "fox ".repeat(80));
    let encoding = tokenizer.encode(&long, 77).unwrap();
    let truncated = encoding.truncated.unwrap();
    assert!(truncated.ends_with("fox lighthouse"), "{truncated}");
    assert_eq!(encoding.eos_index, 76);
    let tokenizer = T5Tokenizer::from_files(&files("schnell", "tokenizer_2")).unwrap();
    let truncated = tokenizer.encode(&long, 32).unwrap().truncated.unwrap();
    assert!(truncated.ends_with("fox lighthouse"), "{truncated}");
}

#[test]
fn a_damaged_spiece_model_is_an_error() {
    let bytes = std::fs::read(folder("schnell", "tokenizer_2").join("spiece.model")).unwrap();
    let parse = |bytes: &[u8]| {
        let files = tintype_flux::tokenizer::T5Files {
            spiece: Some(bytes),
            ..Default::default()
        };
        T5Tokenizer::parse(files, Path::new("tokenizer_2"))
    };
    assert!(parse(&bytes).is_ok());
    for length in (0..bytes.len()).step_by(bytes.len() / 97) {
        let message = parse(&bytes[..length])
            .err()
            .expect("a cut file is refused")
            .to_string();
        assert!(
            message.starts_with("tokenizer_2/spiece.model: "),
            "{message}"
        );
    }
    // What a flipped bit does to the model is open, but it must not panic.
    for place in (0..bytes.len()).step_by(bytes.len() / 61) {
        let mut damaged = bytes.clone();
        damaged[place] ^= 0x10;
        if let Ok(tokenizer) = parse(&damaged) {
            let _ = tokenizer.encode("a ﬁne ｆｏｘ\u{0}, 漢字 <extra_id_0>", 16);
        }
    }
}

#[test]
fn a_vocabulary_without_its_end_token_is_an_error() {
    let files = ClipFiles {
        vocab: Some(br#"{"a</w>": 0, "<|startoftext|>": 1}"#),
        merges: Some(b""),
        ..ClipFiles::default()
    };
    let error = ClipTokenizer::parse(files, Path::new("tokenizer"))
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        "tokenizer/vocab.json: eos_token \"<|endoftext|>\": expected a token of the vocabulary, found none"
    );
}

#[test]
fn broken_clip_files_are_errors() {
    let vocab = br#"{"a": 0, "b": 1, "<|startoftext|>": 2, "<|endoftext|>": 3}"#;
    let broken: [(&[u8], &[u8], &str); 7] = [
        (b"{", b"", "vocab.json"),
        (b"[]", b"", "vocab.json"),
        (br#"{"a": -1}"#, b"", "vocab.json"),
        (br#"{"a": 99999999999}"#, b"", "vocab.json"),
        (br#"{"": 1}"#, b"", "vocab.json"),
        (vocab, b"a b c", "merges.txt"),
        (vocab, b"a \xff", "merges.txt"),
    ];
    for (vocab, merges, name) in broken {
        let files = ClipFiles {
            vocab: Some(vocab),
            merges: Some(merges),
            ..ClipFiles::default()
        };
        let message = ClipTokenizer::parse(files, Path::new("x"))
            .err()
            .unwrap()
            .to_string();
        assert!(message.contains(name), "{message}");
    }
    // The merge gives a token that is not in the vocabulary.
    let files = ClipFiles {
        vocab: Some(vocab),
        merges: Some(b"a b"),
        ..ClipFiles::default()
    };
    assert!(ClipTokenizer::parse(files, Path::new("x")).is_err());
    let files = ClipFiles {
        tokenizer: Some(br#"{"model": {"type": "WordPiece"}}"#),
        ..ClipFiles::default()
    };
    assert!(ClipTokenizer::parse(files, Path::new("x")).is_err());
    assert!(ClipTokenizer::parse(ClipFiles::default(), Path::new("x")).is_err());
}
