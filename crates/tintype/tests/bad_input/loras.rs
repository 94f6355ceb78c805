//! LoRA files: broken, of another model, or understood in part.

use serde_json::json;

use super::{Bench, Case, asked};

const LORA: &str = "lora.safetensors";
const A: &str = "transformer.context_embedder.lora_A.weight";
const B: &str = "transformer.context_embedder.lora_B.weight";

/// A LoRA file is broken.
const fn lora(
    name: &'static str,
    breaks: fn(&Bench),
    status: i32,
    says: &'static [&'static str],
) -> Case {
    Case {
        name,
        breaks,
        arguments: &["fox", "--lora", LORA],
        status,
        says,
    }
}

pub(crate) const CASES: &[Case] = &[
    lora("missing", |_| {}, 1, &[LORA, "No such file"]),
    lora(
        "empty",
        |bench| bench.write(LORA, ""),
        1,
        &[LORA, "expected", "found"],
    ),
    lora(
        "cut",
        |bench| {
            whole(bench);
            bench.truncate(LORA, 20_000);
        },
        1,
        &[LORA, "expected", "7720 bytes"],
    ),
    lora(
        "of_another_width",
        |bench| {
            whole(bench);
            set_shape(bench, A, [4, 16]);
            set_shape(bench, B, [16, 4]);
        },
        1,
        &[LORA, "context_embedder", "expected", "32", "16"],
    ),
    lora(
        "ranks_differ",
        |bench| {
            whole(bench);
            set_shape(bench, A, [1, 64]);
        },
        1,
        &[LORA, "context_embedder", "expected", "found"],
    ),
    lora(
        "half_of_a_pair",
        |bench| {
            whole(bench);
            rename(bench, B, "transformer.context_embedder.lora_C.weight");
        },
        1,
        &[LORA, "context_embedder", "expected", "found"],
    ),
    lora(
        "of_integers",
        |bench| {
            whole(bench);
            bench.edit_safetensors(LORA, |header, _| header[A]["dtype"] = json!("I32"));
        },
        1,
        &[LORA, A, "expected", "i32"],
    ),
    lora(
        "not_finite",
        |bench| {
            whole(bench);
            bench.edit_safetensors(LORA, |_, data| {
                data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
            });
        },
        1,
        &[LORA, A, "expected", "NaN"],
    ),
    lora(
        "no_key_known",
        |bench| {
            whole(bench);
            bench.edit_safetensors(LORA, |header, _| {
                *header = std::mem::take(header)
                    .into_iter()
                    .map(|(key, entry)| (format!("unet.{key}"), entry))
                    .collect();
            });
        },
        1,
        &[LORA, "expected", "found"],
    ),
    lora(
        "is_a_checkpoint",
        |bench| bench.copy("single/ae-tiny.safetensors", LORA),
        1,
        &[LORA, "expected", "found"],
    ),
    lora(
        "some_keys_unknown",
        |bench| {
            whole(bench);
            rename(bench, A, "something.else.weight");
            rename(bench, B, "something.else.bias");
        },
        0,
        &["WARN", LORA, "something.else.weight", "something.else.bias"],
    ),
    lora(
        "for_more_blocks",
        |bench| {
            whole(bench);
            rename(
                bench,
                A,
                "transformer.transformer_blocks.9.attn.to_q.lora_A.weight",
            );
            rename(
                bench,
                B,
                "transformer.transformer_blocks.9.attn.to_q.lora_B.weight",
            );
        },
        0,
        &["WARN", LORA, "transformer_blocks.9.attn.to_q"],
    ),
    asked(
        "scale_not_finite",
        &["fox", "--lora", "lora.safetensors=nan"],
        2,
        &["--lora", "expected", "NaN"],
    ),
    asked(
        "scale_infinite",
        &["fox", "--lora", "lora.safetensors=1e999"],
        2,
        &["--lora", "expected", "inf"],
    ),
];

/// A LoRA that fits.
fn whole(bench: &Bench) {
    bench.copy("loras/peft_all.safetensors", LORA);
}

fn set_shape(bench: &Bench, tensor: &str, shape: [usize; 2]) {
    bench.edit_safetensors(LORA, |header, _| header[tensor]["shape"] = json!(shape));
}

fn rename(bench: &Bench, from: &str, to: &str) {
    bench.edit_safetensors(LORA, |header, _| {
        let entry = header.remove(from).unwrap();
        header.insert(to.to_owned(), entry);
    });
}
