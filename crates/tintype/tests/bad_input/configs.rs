//! Configurations: broken JSON, unknown classes, fields of the wrong kind or size,
//! parts of a pipeline that are not there.

use serde_json::json;

use super::{Bench, Case, asked, broken};

const PIPELINE: &str = "model/model_index.json";
const SCHEDULER: &str = "model/scheduler/scheduler_config.json";
const CLIP: &str = "model/text_encoder/config.json";
const T5: &str = "model/text_encoder_2/config.json";
const TRANSFORMER: &str = "model/transformer/config.json";
const VAE: &str = "model/vae/config.json";

pub(crate) const CASES: &[Case] = &[
    broken(
        "model_index_cut",
        |bench| bench.truncate(PIPELINE, 60),
        &[PIPELINE, "JSON", "line"],
    ),
    broken(
        "scheduler_cut",
        |bench| bench.truncate(SCHEDULER, 60),
        &[SCHEDULER, "JSON", "line"],
    ),
    broken(
        "clip_cut",
        |bench| bench.truncate(CLIP, 60),
        &[CLIP, "JSON", "line"],
    ),
    broken(
        "t5_cut",
        |bench| bench.truncate(T5, 60),
        &[T5, "JSON", "line"],
    ),
    broken(
        "transformer_cut",
        |bench| bench.truncate(TRANSFORMER, 60),
        &[TRANSFORMER, "JSON", "line"],
    ),
    broken(
        "vae_cut",
        |bench| bench.truncate(VAE, 60),
        &[VAE, "JSON", "line"],
    ),
    broken(
        "model_index_a_list",
        |bench| bench.write(PIPELINE, "[]"),
        &[PIPELINE, "JSON"],
    ),
    broken(
        "transformer_not_utf8",
        |bench| bench.write(TRANSFORMER, b"{\"\xff\": 1}"),
        &[TRANSFORMER, "expected", "UTF-8"],
    ),
    broken(
        "json_nested_deeply",
        |bench| bench.write(TRANSFORMER, "[".repeat(1 << 20)),
        &[TRANSFORMER, "JSON"],
    ),
    broken(
        "pipeline_class_unknown",
        |bench| {
            bench.edit_json(PIPELINE, |index| {
                index["_class_name"] = json!("StableDiffusionPipeline");
            });
        },
        &[
            PIPELINE,
            "_class_name",
            "expected",
            "FluxPipeline",
            "found StableDiffusionPipeline",
        ],
    ),
    broken(
        "pipeline_class_missing",
        |bench| bench.edit_json(PIPELINE, |index| index["_class_name"] = json!(null)),
        &[PIPELINE, "_class_name", "expected", "found none"],
    ),
    broken(
        "component_class_unknown",
        |bench| {
            bench.edit_json(PIPELINE, |index| {
                index["transformer"][1] = json!("SD3Transformer2DModel");
            });
        },
        &[
            PIPELINE,
            "transformer",
            "expected",
            "FluxTransformer2DModel",
            "found SD3Transformer2DModel",
        ],
    ),
    broken(
        "component_not_listed",
        |bench| {
            bench.edit_json(PIPELINE, |index| {
                index.as_object_mut().unwrap().remove("vae");
            });
        },
        &[PIPELINE, "vae", "expected AutoencoderKL", "found nothing"],
    ),
    broken(
        "config_class_unknown",
        |bench| {
            bench.edit_json(TRANSFORMER, |config| {
                config["_class_name"] = json!("UNet2DConditionModel");
            });
        },
        &[
            TRANSFORMER,
            "_class_name",
            "expected",
            "FluxTransformer2DModel",
            "UNet2DConditionModel",
        ],
    ),
    broken(
        "vae_class_unknown",
        |bench| {
            bench.edit_json(VAE, |config| {
                config["_class_name"] = json!("AutoencoderTiny");
            });
        },
        &[
            VAE,
            "_class_name",
            "expected",
            "AutoencoderKL",
            "AutoencoderTiny",
        ],
    ),
    broken(
        "scheduler_class_unknown",
        |bench| {
            bench.edit_json(SCHEDULER, |config| {
                config["_class_name"] = json!("DDIMScheduler");
            });
        },
        &[
            SCHEDULER,
            "_class_name",
            "expected",
            "FlowMatchEulerDiscreteScheduler",
            "DDIMScheduler",
        ],
    ),
    broken(
        "clip_model_type_unknown",
        |bench| bench.edit_json(CLIP, |config| config["model_type"] = json!("bert")),
        &[CLIP, "model_type", "expected", "clip_text_model", "bert"],
    ),
    broken(
        "t5_model_type_unknown",
        |bench| bench.edit_json(T5, |config| config["model_type"] = json!("bert")),
        &[T5, "model_type", "expected", "t5", "bert"],
    ),
    broken(
        "field_of_the_wrong_kind",
        |bench| bench.edit_json(TRANSFORMER, |config| config["num_layers"] = json!("two")),
        &[TRANSFORMER, "two", "expected"],
    ),
    broken(
        "no_heads",
        |bench| {
            bench.edit_json(TRANSFORMER, |config| {
                config["num_attention_heads"] = json!(0);
            });
        },
        &[TRANSFORMER, "num_attention_heads", "expected", "found 0"],
    ),
    broken(
        "layers_without_end",
        |bench| {
            bench.edit_json(TRANSFORMER, |config| {
                config["num_layers"] = json!(4_000_000_000_u64);
            });
        },
        &[TRANSFORMER, "num_layers", "expected", "4000000000"],
    ),
    broken(
        "width_overflows",
        |bench| {
            bench.edit_json(TRANSFORMER, |config| {
                config["attention_head_dim"] = json!(u64::MAX);
            });
        },
        &[TRANSFORMER, "attention_head_dim"],
    ),
    broken(
        "rotary_axes_do_not_fit",
        |bench| {
            bench.edit_json(TRANSFORMER, |config| {
                config["axes_dims_rope"] = json!([4, 6, 8]);
            });
        },
        &[TRANSFORMER, "axes_dims_rope", "expected", "found"],
    ),
    broken(
        "encoder_of_another_width",
        |bench| bench.edit_json(T5, |config| config["d_model"] = json!(64)),
        &[
            TRANSFORMER,
            "joint_attention_dim",
            "expected 64",
            "found 32",
        ],
    ),
    broken(
        "vae_groups_do_not_divide",
        |bench| bench.edit_json(VAE, |config| config["norm_num_groups"] = json!(3)),
        &[VAE, "norm_num_groups", "expected", "3"],
    ),
    broken(
        "vae_scale_zero",
        |bench| bench.edit_json(VAE, |config| config["scaling_factor"] = json!(0.0)),
        &[VAE, "scaling_factor", "expected", "found 0"],
    ),
    broken(
        "scheduler_field_out_of_range",
        |bench| bench.edit_json(SCHEDULER, |config| config["shift"] = json!(-3.0)),
        &[SCHEDULER, "shift", "expected", "found -3"],
    ),
    broken(
        "config_missing",
        |bench| bench.remove(VAE),
        &[VAE, "expected", "found nothing"],
    ),
    broken(
        "model_index_missing",
        |bench| bench.remove(PIPELINE),
        &[PIPELINE, "expected", "found nothing"],
    ),
    broken(
        "component_folder_missing",
        remove_vae,
        &["model/vae", "expected", "AutoencoderKL", "found nothing"],
    ),
    asked(
        "model_missing",
        &["fox", "--model", "./nowhere"],
        1,
        &["no such file or folder: ./nowhere", "org/name"],
    ),
    asked(
        "model_is_a_file",
        &["fox", "--model", "model/model_index.json"],
        1,
        &["model/model_index.json"],
    ),
    asked(
        "transformer_file_missing",
        &["fox", "--transformer", "none.safetensors"],
        1,
        &["none.safetensors", "No such file"],
    ),
    asked(
        "transformer_file_is_a_vae",
        &[
            "fox",
            "--transformer",
            "model/vae/diffusion_pytorch_model.safetensors",
        ],
        1,
        &[
            "model/vae/diffusion_pytorch_model.safetensors",
            "expected",
            "transformer",
            "found",
        ],
    ),
    asked(
        "vae_file_is_a_transformer",
        &["fox", "--vae", "model/transformer"],
        1,
        &["model/transformer", "expected", "autoencoder", "found"],
    ),
];

fn remove_vae(bench: &Bench) {
    std::fs::remove_dir_all(bench.path("model/vae")).unwrap();
}
