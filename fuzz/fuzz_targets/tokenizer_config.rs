//! Any bytes as the files of a tokenizer or a scheduler, or as a model's defaults: built and used, or refused with an error.
//!
//! The first byte chooses which files the rest stands for; several files are divided by bytes
//! 255, which no UTF-8 text contains.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use tintype_flux::ModelDefaults;
use tintype_flux::scheduler::{FlowMatchEulerConfig, Schedule, ScheduleRequest};
use tintype_flux::tokenizer::{ClipFiles, ClipTokenizer, T5Files, T5Tokenizer};

const VOCAB: &[u8] = br#"{"f</w>": 0, "o": 1, "x</w>": 2, "ox</w>": 3, "f": 4, "fox</w>": 5,
    "<|startoftext|>": 6, "<|endoftext|>": 7}"#;
const MERGES: &[u8] = b"#version: 0.2\no x</w>\nf ox</w>\n";
const TEXTS: [&str; 4] = [
    "",
    "a fox, a FOX\u{301}!",
    "<|endoftext|> </s> <extra_id_0>",
    "東京 \u{0} 🦊",
];

fuzz_target!(|input: &[u8]| {
    let Some((&choice, rest)) = input.split_first() else {
        return;
    };
    let mut parts = rest.split(|byte| *byte == 255);
    let mut next = || parts.next().filter(|part| !part.is_empty());
    match choice % 7 {
        0 => clip(ClipFiles {
            tokenizer: Some(rest),
            ..ClipFiles::default()
        }),
        1 => clip(ClipFiles {
            vocab: next(),
            merges: next(),
            ..ClipFiles::default()
        }),
        2 => clip(ClipFiles {
            vocab: Some(VOCAB),
            merges: Some(MERGES),
            config: next(),
            special_tokens_map: next(),
            added_tokens: next(),
            ..ClipFiles::default()
        }),
        3 => t5(T5Files {
            tokenizer: next(),
            config: next(),
            special_tokens_map: next(),
            added_tokens: next(),
            ..T5Files::default()
        }),
        4 => t5(T5Files {
            spiece: Some(rest),
            ..T5Files::default()
        }),
        5 => schedule(rest),
        _ => defaults(rest),
    }
});

fn clip(files: ClipFiles<'_>) {
    let Ok(tokenizer) = ClipTokenizer::parse(files, Path::new("tokenizer")) else {
        return;
    };
    for text in TEXTS {
        if let Ok(encoding) = tokenizer.encode(text, 16) {
            assert_eq!(encoding.ids.len(), 16);
        }
    }
}

fn t5(files: T5Files<'_>) {
    let Ok(tokenizer) = T5Tokenizer::parse(files, Path::new("tokenizer_2")) else {
        return;
    };
    for text in TEXTS {
        if let Ok(encoding) = tokenizer.encode(text, 16) {
            assert_eq!(encoding.ids.len(), 16);
        }
    }
}

fn schedule(bytes: &[u8]) {
    let Ok(config) = FlowMatchEulerConfig::parse(bytes, Path::new("scheduler_config.json")) else {
        return;
    };
    for steps in [1, 4] {
        let _ = Schedule::new(&config, &ScheduleRequest::with_steps(steps, 64));
    }
}

fn defaults(bytes: &[u8]) {
    let Ok(defaults) = ModelDefaults::parse(bytes, Path::new("tintype.json")) else {
        return;
    };
    assert!(defaults.height % 16 == 0 && defaults.width % 16 == 0);
    assert!(defaults.steps > 0 && (1..=512).contains(&defaults.max_sequence_length));
    assert!(defaults.guidance_scale.is_finite());
}
