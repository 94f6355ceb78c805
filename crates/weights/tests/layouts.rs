//! Files of both layouts give the same parameters, and what is left over is named.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeSet;

use common::{counting, f32s, fixtures, folder, write};
use safetensors::tensor::Dtype;
use tintype_weights::layout::{self, Layout};
use tintype_weights::{Error, Parameters};

fn single(name: &str) -> Parameters {
    Parameters::open(fixtures().join("single").join(name)).unwrap()
}

fn part_of_dev(name: &str) -> Parameters {
    Parameters::open(fixtures().join("pipelines/dev").join(name)).unwrap()
}

fn assert_same(found: &Parameters, expected: &Parameters) {
    let names = |parameters: &Parameters| {
        parameters
            .names()
            .map(str::to_owned)
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(names(found), names(expected));
    let changes = found.content_changes_from(expected).unwrap();
    assert!(changes.is_empty(), "{changes:?}");
}

/// The parameters of several sets, each behind a prefix.
fn all_in_one(parts: &[(&str, &Parameters)]) -> Parameters {
    let mut builder = Parameters::builder();
    for (prefix, parameters) in parts {
        let prefixed = parameters
            .renamed(|name| Some(format!("{prefix}{name}")))
            .unwrap();
        builder = builder.parameters(&prefixed);
    }
    builder.build().unwrap()
}

#[test]
fn both_transformer_layouts_are_equal() {
    let (original, diffusers) = (
        single("flux1-dev-tiny.safetensors"),
        part_of_dev("transformer"),
    );
    assert_eq!(
        Layout::detect(&original),
        Layout::FluxOriginal {
            prefix: String::new()
        }
    );
    assert_eq!(Layout::detect(&diffusers), Layout::FluxDiffusers);
    let converted = layout::flux_transformer(&original).unwrap();
    assert!(converted.unknown.is_empty() && converted.ignored.is_empty());
    assert_same(&converted.parameters, &diffusers);
    assert_same(
        &layout::flux_transformer(&diffusers).unwrap().parameters,
        &diffusers,
    );
}

#[test]
fn fused_projections_are_not_copied() {
    let original = single("flux1-dev-tiny.safetensors");
    let converted = layout::flux_transformer(&original).unwrap().parameters;
    let fused = original.get("double_blocks.1.txt_attn.qkv.weight").unwrap();
    let key = converted
        .get("transformer_blocks.1.attn.add_k_proj.weight")
        .unwrap();
    let third = fused.bytes().len() / 3;
    assert_eq!(key.bytes().as_ptr(), fused.bytes()[third..].as_ptr());
}

#[test]
fn both_autoencoder_layouts_are_equal() {
    let (original, diffusers) = (single("ae-tiny.safetensors"), part_of_dev("vae"));
    assert_eq!(
        Layout::detect(&original),
        Layout::AutoencoderOriginal {
            prefix: String::new()
        }
    );
    assert_eq!(Layout::detect(&diffusers), Layout::AutoencoderDiffusers);
    let converted = layout::autoencoder(&original).unwrap();
    assert!(converted.unknown.is_empty(), "{:?}", converted.unknown);
    assert_same(&converted.parameters, &diffusers);
    assert_same(
        &layout::autoencoder(&diffusers).unwrap().parameters,
        &diffusers,
    );
}

#[test]
fn text_encoders_are_detected() {
    assert_eq!(
        Layout::detect(&part_of_dev("text_encoder")),
        Layout::ClipText
    );
    assert_eq!(
        Layout::detect(&part_of_dev("text_encoder_2")),
        Layout::T5Encoder
    );
}

#[test]
fn all_in_one_files_come_apart() {
    let (clip, t5) = (part_of_dev("text_encoder"), part_of_dev("text_encoder_2"));
    let (transformer, autoencoder) = (
        single("flux1-dev-tiny.safetensors"),
        single("ae-tiny.safetensors"),
    );
    let scale = tintype_tensor::Tensor::scalar(1.0f32);
    let extras = Parameters::builder()
        .tensor("text_encoders.clip_l.logit_scale", scale.clone())
        .tensor("strange.weight", scale)
        .build()
        .unwrap();
    for prefix in ["model.diffusion_model.", ""] {
        let file = all_in_one(&[
            (prefix, &transformer),
            ("vae.", &autoencoder),
            ("text_encoders.clip_l.transformer.", &clip),
            ("text_encoders.t5xxl.transformer.", &t5),
            ("", &extras),
        ]);
        assert_eq!(Layout::detect(&file), Layout::AllInOne);
        let components = layout::components(&file).unwrap();
        assert_same(
            &components.transformer.unwrap(),
            &part_of_dev("transformer"),
        );
        assert_same(&components.autoencoder.unwrap(), &part_of_dev("vae"));
        assert_same(&components.clip.unwrap(), &clip);
        assert_same(&components.t5.unwrap(), &t5);
        assert_eq!(components.unknown, ["strange.weight"]);
        assert_eq!(components.ignored, ["text_encoders.clip_l.logit_scale"]);
    }
}

#[test]
fn what_is_not_understood_is_named() {
    let extra = Parameters::builder()
        .tensor(
            "double_blocks.0.img_attn.lora.weight",
            tintype_tensor::Tensor::scalar(1.0f32),
        )
        .tensor("scaled_fp8", tintype_tensor::Tensor::scalar(1.0f32))
        .build()
        .unwrap();
    let file = all_in_one(&[("", &single("flux1-dev-tiny.safetensors")), ("", &extra)]);
    let converted = layout::flux_original_to_diffusers(&file).unwrap();
    assert_eq!(converted.unknown, ["double_blocks.0.img_attn.lora.weight"]);
    assert_eq!(converted.ignored, ["scaled_fp8"]);
}

#[test]
fn missing_and_misshapen_tensors_are_named() {
    let whole = single("flux1-dev-tiny.safetensors");
    for missing in [
        "single_blocks.0.linear2.bias",
        "final_layer.linear.weight",
        "double_blocks.1.txt_mlp.2.weight",
    ] {
        let file = whole
            .renamed(|name| (name != missing).then(|| name.to_owned()))
            .unwrap();
        let message = layout::flux_transformer(&file).unwrap_err().to_string();
        assert!(
            message.contains(&format!(
                "flux1-dev-tiny.safetensors: expected a tensor `{missing}`"
            )),
            "{message}"
        );
    }
    let narrow = Parameters::builder()
        .parameters(&whole)
        .tensor(
            "double_blocks.0.img_attn.qkv.weight",
            tintype_tensor::Tensor::from_f32([5, 1], vec![0.0; 5]).unwrap(),
        )
        .build()
        .unwrap();
    let message = layout::flux_transformer(&narrow).unwrap_err().to_string();
    assert!(
        message.contains("tensor `double_blocks.0.img_attn.qkv.weight`: expected 96 rows, found 5"),
        "{message}"
    );
}

#[test]
fn gaps_and_absurd_numbers_of_blocks_are_refused() {
    let whole = single("flux1-dev-tiny.safetensors");
    for number in ["7", "18446744073709551615"] {
        let file = whole
            .renamed(|name| {
                Some(name.replace("single_blocks.1.", &format!("single_blocks.{number}.")))
            })
            .unwrap();
        let error = layout::flux_transformer(&file).unwrap_err();
        assert!(matches!(error, Error::Missing { .. }), "{error}");
    }
}

#[test]
fn other_files_are_no_transformer() {
    let clip = part_of_dev("text_encoder");
    let message = layout::flux_transformer(&clip).unwrap_err().to_string();
    assert!(
        message.contains("a FLUX transformer, found the CLIP text encoder"),
        "{message}"
    );
    let message = layout::autoencoder(&clip).unwrap_err().to_string();
    assert!(
        message.contains("an autoencoder, found the CLIP text encoder"),
        "{message}"
    );
}

#[test]
fn scaled_fp8_files_are_split_after_scaling() {
    let whole = single("flux1-dev-tiny.safetensors");
    let folder = folder();
    let name = "double_blocks.0.img_attn.qkv.weight";
    let shape = whole.shape(name).unwrap().to_vec();
    let bytes = vec![0x38; shape.iter().product()];
    let path = write(
        folder.path(),
        "scaled.safetensors",
        &[
            (name.to_owned(), Dtype::F8_E4M3, shape, bytes),
            f32s("double_blocks.0.img_attn.qkv.scale_weight", &[], &[0.25]),
            f32s("double_blocks.0.img_attn.qkv.scale_input", &[], &[0.125]),
            f32s("img_in.input_scale", &[], &[0.5]),
            counting("scaled_fp8", &[1], 0.0),
        ],
    );
    let file = Parameters::builder()
        .parameters(&whole)
        .file(path)
        .unwrap()
        .build()
        .unwrap();
    let converted = layout::flux_transformer(&file).unwrap();
    let key = converted
        .parameters
        .get("transformer_blocks.0.attn.to_k.weight")
        .unwrap();
    assert!(key.to_f32_vec().unwrap().iter().all(|&value| value == 0.25));
    // The scales themselves are known, of weights and of what each part reads.
    let found = |name: &str| {
        converted
            .parameters
            .get(name)
            .unwrap()
            .to_f32_vec()
            .unwrap()
    };
    for part in ["to_q", "to_k", "to_v"] {
        let module = format!("transformer_blocks.0.attn.{part}");
        let scale = converted.parameters.f8_scale(&format!("{module}.weight"));
        assert_eq!(scale.unwrap().unwrap().to_f32_vec().unwrap(), [0.25]);
        assert_eq!(found(&format!("{module}.input_scale")), [0.125]);
    }
    assert_eq!(found("x_embedder.input_scale"), [0.5]);
    let other = converted.parameters.f8_scale("x_embedder.weight");
    assert!(other.unwrap().is_none());
    assert_eq!(converted.ignored, ["scaled_fp8"]);
    assert!(converted.unknown.is_empty());
}
