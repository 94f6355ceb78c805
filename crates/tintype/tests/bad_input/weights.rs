//! Weights: truncated files, lying headers, shards that are missing or too many,
//! tensors of another shape or dtype.

use serde_json::{Value, json};

use super::{Bench, Case, broken};

const SHARD: &str = "model/transformer/diffusion_pytorch_model-00001-of-00002.safetensors";
const SHARD_2: &str = "model/transformer/diffusion_pytorch_model-00002-of-00002.safetensors";
const INDEX: &str = "model/transformer/diffusion_pytorch_model.safetensors.index.json";
const VAE: &str = "model/vae/diffusion_pytorch_model.safetensors";
const CLIP: &str = "model/text_encoder/model.safetensors";
const TENSOR: &str = "context_embedder.weight";

pub(crate) const CASES: &[Case] = &[
    broken(
        "empty_file",
        |bench| bench.write(VAE, ""),
        &["diffusion_pytorch_model.safetensors", "expected", "found"],
    ),
    broken(
        "cut_in_the_length",
        |bench| bench.truncate(VAE, 5),
        &["diffusion_pytorch_model.safetensors", "expected", "found"],
    ),
    broken(
        "cut_in_the_header",
        |bench| bench.truncate(VAE, 300),
        &["diffusion_pytorch_model.safetensors", "expected", "found"],
    ),
    broken(
        "cut_in_the_data",
        |bench| bench.truncate(VAE, 200_000),
        &[
            "diffusion_pytorch_model.safetensors",
            "expected",
            "found",
            "174368 bytes",
        ],
    ),
    broken(
        "bytes_after_the_data",
        |bench| bench.edit_safetensors(VAE, |_, data| data.extend([0; 3])),
        &["diffusion_pytorch_model.safetensors", "expected", "found"],
    ),
    broken(
        "header_length_huge",
        |bench| {
            let mut bytes = bench.read(CLIP);
            bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
            bench.write(CLIP, bytes);
        },
        &[
            "text_encoder/model.safetensors",
            "expected",
            "found",
            "18446744073709551615",
        ],
    ),
    broken(
        "header_no_json",
        |bench| {
            let mut bytes = bench.read(CLIP);
            bytes[8..40].fill(b'x');
            bench.write(CLIP, bytes);
        },
        &["text_encoder/model.safetensors", "JSON"],
    ),
    broken(
        "offset_beyond_the_file",
        |bench| {
            set(
                bench,
                SHARD,
                TENSOR,
                "data_offsets",
                json!([128, 1_u64 << 60]),
            );
        },
        &["00001-of-00002", TENSOR, "expected", "found"],
    ),
    broken(
        "offsets_backwards",
        |bench| set(bench, SHARD, TENSOR, "data_offsets", json!([4224, 128])),
        &["00001-of-00002", TENSOR, "expected", "found"],
    ),
    broken(
        "offsets_overlap",
        |bench| set(bench, SHARD, TENSOR, "data_offsets", json!([64, 4160])),
        &["00001-of-00002", "context_embedder", "expected", "found"],
    ),
    broken(
        "shape_larger_than_the_data",
        |bench| set(bench, SHARD, TENSOR, "shape", json!([64, 32])),
        &["00001-of-00002", TENSOR, "expected", "8192", "4096"],
    ),
    broken(
        "shape_overflows",
        |bench| {
            let side = u64::MAX / 2;
            set(bench, SHARD, TENSOR, "shape", json!([side, side, 16]));
        },
        &["00001-of-00002", TENSOR],
    ),
    broken(
        "shape_of_another_model",
        |bench| set(bench, SHARD, TENSOR, "shape", json!([16, 64])),
        &["00001-of-00002", TENSOR, "expected", "[32, 32]", "[16, 64]"],
    ),
    broken(
        "dtype_of_another_size",
        |bench| set(bench, SHARD, TENSOR, "dtype", json!("F16")),
        &["00001-of-00002", TENSOR, "expected", "2048", "4096"],
    ),
    broken(
        "dtype_unknown",
        |bench| set(bench, SHARD, TENSOR, "dtype", json!("Q4_K")),
        &["00001-of-00002", TENSOR, "Q4_K"],
    ),
    broken(
        "dtype_of_integers",
        |bench| set(bench, SHARD, TENSOR, "dtype", json!("I32")),
        &["00001-of-00002", TENSOR, "expected", "i32"],
    ),
    broken(
        "dtype_of_long_integers",
        |bench| {
            bench.edit_safetensors(SHARD, |header, data| {
                let entry = &mut header[TENSOR];
                entry["dtype"] = json!("I64");
                let end = entry["data_offsets"][1].as_u64().unwrap();
                // Twice the bytes: all behind moves by as many as there were.
                data.splice(end as usize..end as usize, [0; 4 * 32 * 32]);
                for (_, entry) in header
                    .iter_mut()
                    .filter(|(name, _)| *name != "__metadata__")
                {
                    for offset in entry["data_offsets"].as_array_mut().unwrap() {
                        let value = offset.as_u64().unwrap();
                        let moved = if value >= end {
                            value + 4 * 32 * 32
                        } else {
                            value
                        };
                        *offset = json!(moved);
                    }
                }
                header[TENSOR]["data_offsets"][0] = json!(end - 4 * 32 * 32);
            });
        },
        &["00001-of-00002", TENSOR, "expected", "i64"],
    ),
    broken(
        "tensor_missing",
        |bench| {
            rename(
                bench,
                VAE,
                "decoder.conv_in.weight",
                "decoder.conv_out_of.weight",
            );
        },
        &[
            "diffusion_pytorch_model.safetensors",
            "decoder.conv_in.weight",
            "expected",
            "found none",
        ],
    ),
    broken(
        "tensor_missing_in_a_shard",
        |bench| rename(bench, SHARD, TENSOR, "context_embedder.weights"),
        &["00001-of-00002", TENSOR, "expected", "found"],
    ),
    broken(
        "tensor_missing_everywhere",
        |bench| {
            rename(bench, SHARD, TENSOR, "context_embedder.weights");
            bench.edit_json(INDEX, |index| {
                let map = index["weight_map"].as_object_mut().unwrap();
                let file = map.remove(TENSOR).unwrap();
                map.insert("context_embedder.weights".to_owned(), file);
            });
        },
        &["transformer", TENSOR, "expected", "found none"],
    ),
    broken(
        "tensor_in_two_shards",
        |bench| {
            rename(
                bench,
                SHARD_2,
                "norm_out.linear.bias",
                "context_embedder.bias",
            );
        },
        &[
            "norm_out.linear.bias",
            "00002-of-00002",
            "expected",
            "found none",
        ],
    ),
    broken(
        "tensor_not_in_the_index",
        |bench| {
            bench.edit_json(INDEX, |index| {
                index["weight_map"].as_object_mut().unwrap().remove(TENSOR);
            });
        },
        &["00001-of-00002", TENSOR, "expected", "found"],
    ),
    broken(
        "shard_missing",
        |bench| bench.remove(SHARD_2),
        &["00002-of-00002.safetensors", "expected", "found"],
    ),
    broken(
        "shard_too_many",
        |bench| {
            let bytes = bench.read(SHARD_2);
            bench.write(
                "model/transformer/diffusion_pytorch_model-00003-of-00002.safetensors",
                bytes,
            );
        },
        &["00003-of-00002", "expected", "found"],
    ),
    broken(
        "index_missing",
        |bench| bench.remove(INDEX),
        &["transformer", "expected", "index.json", "found"],
    ),
    broken(
        "index_no_json",
        |bench| bench.truncate(INDEX, 100),
        &["index.json", "JSON"],
    ),
    broken(
        "index_without_a_map",
        |bench| bench.write(INDEX, "{\"metadata\": {}}"),
        &["index.json", "weight_map", "expected", "found"],
    ),
    broken(
        "index_points_outside",
        |bench| {
            bench.edit_json(INDEX, |index| {
                index["weight_map"][TENSOR] = json!("../vae/diffusion_pytorch_model.safetensors");
            });
        },
        &["index.json", "../vae", "expected", "found"],
    ),
    broken(
        "index_points_to_the_root",
        |bench| {
            bench.edit_json(INDEX, |index| {
                index["weight_map"][TENSOR] = json!("/etc/passwd");
            });
        },
        &["index.json", "/etc/passwd", "expected", "found"],
    ),
    broken(
        "weights_missing",
        |bench| bench.remove(VAE),
        &["model/vae", "expected", "safetensors", "found"],
    ),
    broken(
        "weights_are_a_folder",
        |bench| {
            bench.remove(VAE);
            std::fs::create_dir(bench.path(VAE)).unwrap();
        },
        &["model/vae"],
    ),
    broken(
        "weights_are_a_pickle",
        |bench| {
            bench.remove(VAE);
            bench.write("model/vae/diffusion_pytorch_model.bin", "PK");
        },
        &["model/vae", "expected", "safetensors", "found"],
    ),
];

/// Changes a field of a tensor's entry in a header.
fn set(bench: &Bench, path: &str, tensor: &str, field: &str, value: Value) {
    bench.edit_safetensors(path, |header, _| header[tensor][field] = value);
}

fn rename(bench: &Bench, path: &str, from: &str, to: &str) {
    bench.edit_safetensors(path, |header, _| {
        let entry = header.remove(from).unwrap();
        header.insert(to.to_owned(), entry);
    });
}
