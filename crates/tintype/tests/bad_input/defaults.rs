//! `tintype.json`: broken, with values out of range, or naming what is not there.

use super::{Bench, Case, broken};

const DEFAULTS: &str = "model/tintype.json";

/// The file says this, and nothing else is broken.
macro_rules! says {
    ($name:literal, $text:expr, $says:expr) => {
        broken($name, |bench| bench.write(DEFAULTS, $text), $says)
    };
}

pub(crate) const CASES: &[Case] = &[
    says!("empty", "", &[DEFAULTS, "JSON"]),
    says!("cut", "{\"height\": 12", &[DEFAULTS, "JSON", "line"]),
    says!("a_list", "[128]", &[DEFAULTS, "JSON"]),
    says!("not_utf8", b"{\"\xff\": 1}", &[DEFAULTS, "JSON"]),
    says!("nested_deeply", "[".repeat(1 << 20), &[DEFAULTS, "JSON"]),
    says!(
        "height_0",
        r#"{"height": 0}"#,
        &[
            DEFAULTS,
            "height: expected a whole number, 16 to 16384, found 0"
        ]
    ),
    says!(
        "height_between",
        r#"{"height": 120}"#,
        &[DEFAULTS, "height: expected a multiple of 16, found 120"]
    ),
    says!(
        "width_negative",
        r#"{"width": -16}"#,
        &[DEFAULTS, "width: expected a whole number", "found -16"]
    ),
    says!(
        "width_a_string",
        r#"{"width": "128"}"#,
        &[DEFAULTS, "width: expected a whole number", "found \"128\""]
    ),
    says!(
        "steps_0",
        r#"{"num_inference_steps": 0}"#,
        &[
            DEFAULTS,
            "num_inference_steps: expected a whole number, 1 to",
            "found 0"
        ]
    ),
    says!(
        "steps_a_fraction",
        r#"{"num_inference_steps": 2.5}"#,
        &[
            DEFAULTS,
            "num_inference_steps: expected a whole number",
            "found 2.5"
        ]
    ),
    says!(
        "guidance_beyond_f32",
        r#"{"guidance_scale": 1e39}"#,
        &[
            DEFAULTS,
            "guidance_scale: expected a finite number, found 1e+39"
        ]
    ),
    says!(
        "guidance_a_list",
        r#"{"guidance_scale": [3.5]}"#,
        &[
            DEFAULTS,
            "guidance_scale: expected a finite number, found [3.5]"
        ]
    ),
    says!(
        "sequence_513",
        r#"{"max_sequence_length": 513}"#,
        &[
            DEFAULTS,
            "max_sequence_length: expected a whole number, 1 to 512, found 513"
        ]
    ),
    says!(
        "loras_a_list",
        r#"{"loras": ["neon"]}"#,
        &[
            DEFAULTS,
            "loras: expected an object of names and paths",
            "found [\"neon\"]"
        ]
    ),
    says!(
        "lora_without_a_path",
        r#"{"loras": {"neon": 1}}"#,
        &[
            DEFAULTS,
            "loras.neon: expected a relative path below the model, found 1"
        ]
    ),
    says!(
        "lora_above_the_model",
        r#"{"loras": {"neon": "../neon.safetensors"}}"#,
        &[
            DEFAULTS,
            "loras.neon: expected a relative path below the model",
            "found \"../neon"
        ]
    ),
    says!(
        "lora_anywhere",
        r#"{"loras": {"neon": "/etc/neon.safetensors"}}"#,
        &[
            DEFAULTS,
            "loras.neon: expected a relative path below the model",
            "found \"/etc"
        ]
    ),
    lora(
        "lora_unknown",
        &["fox", "--lora", "chalk"],
        &["lora", "neon", "found chalk"],
    ),
    lora(
        "lora_not_there",
        &["fox", "--lora", "neon=0.5"],
        &["model/loras/neon.safetensors", "No such file"],
    ),
    Case {
        name: "a_field_of_a_later_version",
        breaks: |bench| bench.write(DEFAULTS, r#"{"sampler": {"kind": "heun"}}"#),
        arguments: super::FOX,
        status: 0,
        says: &["WARN", "unknown field ignored", DEFAULTS, "sampler"],
    },
];

/// A LoRA is asked for of a model that names one `neon`, and does not have its file.
const fn lora(
    name: &'static str,
    arguments: &'static [&'static str],
    says: &'static [&'static str],
) -> Case {
    let breaks: fn(&Bench) = |bench| {
        bench.write(DEFAULTS, r#"{"loras": {"neon": "loras/neon.safetensors"}}"#);
    };
    Case {
        arguments,
        ..broken(name, breaks, says)
    }
}
