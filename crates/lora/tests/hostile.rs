//! Files that are broken, lie, or are for another model: errors that say so, never a panic.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use proptest::prelude::*;
use tintype_ir::{Graph, GraphBuilder, TensorType};
use tintype_lora::{Adapter, Component, Error, LoraFile, overlays};
use tintype_tensor::{DType, Tensor};
use tintype_weights::Parameters;

fn parameters(tensors: &[(&str, &[usize])]) -> Parameters {
    let mut builder = Parameters::builder();
    for (name, shape) in tensors {
        let values = vec![0.5; shape.iter().product()];
        builder = builder.tensor(*name, Tensor::from_f32(shape.to_vec(), values).unwrap());
    }
    builder.build().unwrap()
}

fn read(tensors: &[(&str, &[usize])]) -> Result<LoraFile, Error> {
    LoraFile::from_parameters(&parameters(tensors))
}

fn refusal(tensors: &[(&str, &[usize])]) -> String {
    read(tensors).unwrap_err().to_string()
}

/// A graph with the given parameters.
fn model(tensors: &[(&str, &[usize])]) -> Graph {
    let mut b = GraphBuilder::new("model");
    for (name, shape) in tensors {
        let value = b.parameter(name, TensorType::new(DType::BF16, shape.to_vec()));
        b.output(name, value);
    }
    b.finish().unwrap()
}

fn bind(tensors: &[(&str, &[usize])], graph: &Graph) -> Result<tintype_lora::LoraOverlays, Error> {
    let adapter = Adapter::new("a", read(tensors)?, 1.0);
    overlays(Component::Transformer, graph, &[adapter])
}

const A: &str = "transformer.proj_out.lora_A.weight";
const B: &str = "transformer.proj_out.lora_B.weight";

#[test]
fn a_missing_partner_is_named() {
    assert_eq!(
        refusal(&[(A, &[2, 8])]),
        format!(
            "memory: tensor `{A}`: expected a partner (lora_B or lora_up) of the same module, found none"
        )
    );
    assert!(refusal(&[(B, &[8, 2])]).contains("lora_A or lora_down"));
    let hada = "lycoris_proj_out.hada_w1_a";
    assert!(refusal(&[(hada, &[8, 2])]).contains("hada_w1_b"));
    assert!(refusal(&[("lycoris_proj_out.lokr_w1", &[2, 2])]).contains("lokr_w2"));
    assert!(refusal(&[("lycoris_proj_out.dora_scale", &[2, 1])]).contains("one update"));
    let bias = "transformer.proj_out.lora_B.bias";
    assert!(refusal(&[(bias, &[8])]).contains("lora_B or lora_up"));
}

#[test]
fn ranks_must_agree() {
    assert_eq!(
        refusal(&[(A, &[2, 8]), (B, &[8, 3])]),
        format!("memory: tensor `{B}`: expected rank 2 as `{A}` has, found shape [8, 3]")
    );
    assert!(refusal(&[(A, &[0, 8]), (B, &[8, 0])]).contains("at least one element"));
    assert!(refusal(&[(A, &[8]), (B, &[8, 1])]).contains("two axes"));
    assert!(refusal(&[(A, &[2, 8, 3, 3]), (B, &[8, 2, 1, 1])]).contains("two axes"));
}

#[test]
fn pointwise_convolutions_are_matrices() {
    let file = read(&[(A, &[2, 8, 1, 1]), (B, &[4, 2, 1, 1])]).unwrap();
    assert_eq!(file.targets()[0].shape()[..], [4, 8]);
    let graph = model(&[("proj_out.weight", &[4, 8])]);
    let bound = overlays(
        Component::Transformer,
        &graph,
        &[Adapter::new("a", file, 1.0)],
    )
    .unwrap();
    let up = bound.parameters.get("lora.a.proj_out.weight.B").unwrap();
    assert_eq!(up.shape()[..], [4, 2]);
}

#[test]
fn fused_rows_must_divide() {
    let down = "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight";
    let up = "lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight";
    assert!(refusal(&[(down, &[2, 8]), (up, &[25, 2])]).contains("found 25 rows"));
    let down = "lora_unet_single_blocks_0_linear1.lora_down.weight";
    let up = "lora_unet_single_blocks_0_linear1.lora_up.weight";
    let message = refusal(&[(down, &[2, 8]), (up, &[24, 2])]);
    assert!(
        message.contains("single_transformer_blocks.0.proj_mlp"),
        "{message}"
    );
}

#[test]
fn an_alpha_is_one_finite_number() {
    let alpha = "transformer.proj_out.alpha";
    assert!(refusal(&[(A, &[2, 8]), (B, &[8, 2]), (alpha, &[2])]).contains("one finite number"));
    for (value, expected) in [(f32::NAN, None), (f32::INFINITY, None), (4.0, Some(2.0))] {
        let all = Parameters::builder()
            .parameters(&parameters(&[(A, &[2, 8]), (B, &[8, 2])]))
            .tensor(alpha, Tensor::scalar(value));
        let file = LoraFile::from_parameters(&all.build().unwrap());
        assert_eq!(file.ok().map(|file| file.targets()[0].factor), expected);
    }
    let whole = Parameters::builder()
        .parameters(&parameters(&[(A, &[2, 8]), (B, &[8, 2])]))
        .tensor(alpha, Tensor::new([1], vec![6i64]).unwrap());
    let file = LoraFile::from_parameters(&whole.build().unwrap()).unwrap();
    assert_eq!(file.targets()[0].factor, 3.0);
}

#[test]
fn values_that_are_not_finite_are_named_with_their_place() {
    let mut values = vec![0.5; 16];
    values[9] = f32::INFINITY;
    let broken = Parameters::builder()
        .parameters(&parameters(&[(A, &[2, 8])]))
        .tensor(B, Tensor::from_f32([8, 2], values).unwrap());
    let file = LoraFile::from_parameters(&broken.build().unwrap()).unwrap();
    let graph = model(&[("proj_out.weight", &[8, 8])]);
    let adapter = Adapter::new("a", file, 1.0);
    let error = overlays(Component::Transformer, &graph, &[adapter]).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("memory: tensor `{B}`: expected finite values, found inf at position 9")
    );
}

#[test]
fn a_lora_for_another_width_is_refused() {
    let graph = model(&[("proj_out.weight", &[4, 8])]);
    let error = bind(&[(A, &[2, 16]), (B, &[4, 2])], &graph).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "memory: tensor `{A}`: expected 8 columns for `proj_out.weight` [4, 8], found 16 in shape [2, 16]"
        )
    );
    let error = bind(&[(A, &[2, 8]), (B, &[5, 2])], &graph).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "memory: tensor `{B}`: expected values for `proj_out.weight` [4, 8], found [5, 8] from shape [5, 2]"
        )
    );
    // Fewer columns are filled up for the input alone.
    assert!(bind(&[(A, &[2, 4]), (B, &[4, 2])], &graph).is_err());
}

#[test]
fn what_is_not_understood_is_listed() {
    let file = read(&[
        (A, &[2, 8]),
        (B, &[4, 2]),
        ("lora_unet_input_blocks_1.lora_down.weight", &[1, 1]),
        ("transformer.x_embedder.alpha", &[1]),
        ("step", &[1]),
    ])
    .unwrap();
    let unknown = [
        "lora_unet_input_blocks_1.lora_down.weight",
        "step",
        "transformer.x_embedder.alpha",
    ];
    assert_eq!(file.unknown_keys(), unknown);
    let graph = model(&[("proj_out.weight", &[4, 8])]);
    let bound = overlays(
        Component::Transformer,
        &graph,
        &[Adapter::new("a", file, 1.0)],
    )
    .unwrap();
    assert_eq!(bound.report.adapters[0].unknown_keys, unknown);
    assert!(
        bound
            .report
            .to_string()
            .contains("not understood: `lora_unet_input_blocks_1")
    );
}

#[test]
fn keys_for_what_the_model_lacks_are_listed() {
    let guidance = [
        "diffusion_model.guidance_in.in_layer.lora_A.weight",
        "diffusion_model.guidance_in.in_layer.lora_B.weight",
    ];
    let text = [
        "text_encoder_2.shared.lora_A.weight",
        "text_encoder_2.shared.lora_B.weight",
    ];
    let all: [(&str, &[usize]); 6] = [
        (A, &[2, 8]),
        (B, &[4, 2]),
        (guidance[0], &[2, 8]),
        (guidance[1], &[4, 2]),
        (text[0], &[2, 8]),
        (text[1], &[4, 2]),
    ];
    let bound = bind(&all, &model(&[("proj_out.weight", &[4, 8])])).unwrap();
    assert_eq!(bound.report.adapters[0].unmatched_keys, guidance);
    assert_eq!(bound.report.adapters[0].applied, 1);
    let file = read(&all).unwrap();
    assert_eq!(file.keys_outside(&[Component::Transformer]), text);
}

#[test]
fn a_file_without_any_lora_is_refused() {
    assert_eq!(
        refusal(&[]),
        "no parameters: expected the tensors of a LoRA, found no tensors"
    );
    let message = refusal(&[("model.weight", &[2, 2])]);
    assert_eq!(
        message,
        "memory: expected the tensors of a LoRA, found tensors such as `model.weight`"
    );
}

#[test]
fn kinds_that_cannot_be_merged_are_named() {
    let message = refusal(&[("lycoris_proj_out.oft_blocks", &[2, 2])]);
    assert!(
        message.contains("OFT) is not supported: `lycoris_proj_out.oft_blocks`"),
        "{message}"
    );
    assert!(refusal(&[("lycoris_proj_out.lokr_t2", &[2, 2])]).contains("Tucker"));
}

#[test]
fn two_names_of_one_tensor_are_refused() {
    let other = "transformer.proj_out.lora_down.weight";
    let message = refusal(&[(A, &[2, 8]), (B, &[8, 2]), (other, &[2, 8])]);
    assert!(message.contains("one tensor of its kind"), "{message}");
}

#[test]
fn one_parameter_under_two_names_gets_both_updates() {
    let bound = bind(
        &[
            (A, &[2, 8]),
            (B, &[4, 2]),
            ("lora_unet_final_layer_linear.lora_down.weight", &[3, 8]),
            ("lora_unet_final_layer_linear.lora_up.weight", &[4, 3]),
        ],
        &model(&[("proj_out.weight", &[4, 8])]),
    )
    .unwrap();
    assert_eq!(bound.overlays.len(), 1);
    assert!(bound.parameters.contains("lora.a.proj_out.weight.1.A"));
    assert!(bound.overlays[0].fragment().to_string().contains("concat"));
}

#[test]
fn names_and_scales_of_adapters_are_checked() {
    let file = read(&[(A, &[2, 8]), (B, &[4, 2])]).unwrap();
    let graph = model(&[("proj_out.weight", &[4, 8])]);
    let of = |adapters: &[Adapter]| overlays(Component::Transformer, &graph, adapters);
    let adapter = |name: &str, scale| Adapter::new(name, file.clone(), scale);
    assert!(of(&[adapter("a", 1.0), adapter("a", 2.0)]).is_err());
    assert!(of(&[adapter("", 1.0)]).is_err());
    assert!(of(&[adapter("a", f32::NAN)]).is_err());
    let mut bound = of(&[adapter("a", 1.0), adapter("a b/ü", -2.0)]).unwrap();
    assert!(bound.set_scale("c", 1.0).is_err());
    assert!(bound.set_scale("a", f32::INFINITY).is_err());
    assert_eq!(bound.adapters()[0].scale(), 1.0);
    let text = bound.overlays[0].fragment().to_string();
    assert_eq!(tintype_ir::parse(&text).unwrap().to_string(), text);
}

#[test]
fn huge_kronecker_products_are_refused() {
    let side = 1 << 20;
    let tensors: [(&str, &[usize]); 4] = [
        ("lycoris_proj_out.lokr_w1_a", &[side, 1]),
        ("lycoris_proj_out.lokr_w1_b", &[1, side]),
        ("lycoris_proj_out.lokr_w2_a", &[side, 1]),
        ("lycoris_proj_out.lokr_w2_b", &[1, side]),
    ];
    assert!(refusal(&tensors).contains("fits in memory"));
}

#[test]
fn truncated_and_lying_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lora.safetensors");
    let bytes: Vec<u8> = [0.5f32; 16]
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let view = |shape: [usize; 2]| {
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.into(), &bytes).unwrap()
    };
    let tensors = [(A, view([2, 8])), (B, view([8, 2]))];
    let whole = safetensors::serialize(tensors, None).unwrap();
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(LoraFile::open(&path).unwrap().targets().len(), 1);
    assert_eq!(LoraFile::open(folder.path()).unwrap().targets().len(), 1);
    for length in [0, 7, 8, 40, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let message = LoraFile::open(&path).unwrap_err().to_string();
        assert!(message.contains("lora.safetensors"), "{message}");
    }
    assert!(LoraFile::open(folder.path().join("none.safetensors")).is_err());
}

#[test]
fn settings_beside_the_tensors_count() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = [0u8; 64];
    let view = |shape: [usize; 2]| {
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.into(), &bytes).unwrap()
    };
    let tensors = || [(A, view([2, 8])), (B, view([8, 2]))];
    let path = folder.path().join("adapter_model.safetensors");
    std::fs::write(&path, safetensors::serialize(tensors(), None).unwrap()).unwrap();
    std::fs::write(
        folder.path().join("adapter_config.json"),
        r#"{"lora_alpha": 3}"#,
    )
    .unwrap();
    assert_eq!(
        LoraFile::open(folder.path()).unwrap().targets()[0].factor,
        1.5
    );
    let settings = r#"{"transformer.lora_alpha": 8}"#.to_owned();
    let metadata = [("lora_adapter_metadata".to_owned(), settings)];
    let bytes = safetensors::serialize(tensors(), Some(metadata.into())).unwrap();
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(LoraFile::open(&path).unwrap().targets()[0].factor, 4.0);
}

proptest! {
    /// Names are put together from real parts, so that most of the reader is reached.
    #[test]
    fn no_combination_of_names_and_shapes_panics(
        tensors in prop::collection::vec((0..PREFIXES.len(), 0..MODULES.len(), 0..ENDS.len(), prop::collection::vec(0usize..7, 0..5)), 0..12)
    ) {
        let mut builder = Parameters::builder();
        for (prefix, module, end, shape) in tensors {
            let name = format!("{}{}{}", PREFIXES[prefix], MODULES[module], ENDS[end]);
            let values = vec![1.0; shape.iter().product()];
            builder = builder.tensor(name, Tensor::from_f32(shape, values).unwrap());
        }
        let graph = model(&[("proj_out.weight", &[4, 3]), ("transformer_blocks.0.attn.to_q.weight", &[2, 2])]);
        if let Ok(file) = LoraFile::from_parameters(&builder.build().unwrap()) {
            let _ = overlays(Component::Transformer, &graph, &[Adapter::new("a", file, 1.0)]);
        }
    }
}

const PREFIXES: [&str; 6] = [
    "transformer.",
    "lora_unet_",
    "",
    "base_model.model.",
    "lycoris_",
    "lora_te1_",
];
const MODULES: [&str; 9] = [
    "proj_out",
    "double_blocks.0.img_attn.qkv",
    "double_blocks_0_img_attn_qkv",
    "single_blocks_0_linear1",
    "final_layer_adaLN_modulation_1",
    "double_blocks.0.processor.qkv_lora1",
    "double_blocks.0.img_attn.norm.query_norm",
    "transformer_blocks_0_attn_to_q",
    "",
];
const ENDS: [&str; 18] = [
    ".lora_A.weight",
    ".lora_B.weight",
    ".lora_B.bias",
    ".lora_down.weight",
    ".lora_up.weight",
    ".down.weight",
    ".up.weight",
    ".alpha",
    ".scale",
    ".dora_scale",
    ".hada_w1_a",
    ".hada_w1_b",
    ".hada_w2_a",
    ".hada_w2_b",
    ".lokr_w1",
    ".lokr_w2",
    ".diff",
    ".diff_b",
];
