//! The modules of the models that a LoRA is made for, under every name they go by.
//!
//! Data only. `{}` stands for a block's number.

use super::Split;

/// Black Forest Labs' names, and those of XLabs' processors, → diffusers'.
pub(super) const ORIGINAL: &[(&str, &[&str], Split)] = &[
    ("img_in", &["x_embedder"], Split::Whole),
    ("txt_in", &["context_embedder"], Split::Whole),
    (
        "time_in.in_layer",
        &["time_text_embed.timestep_embedder.linear_1"],
        Split::Whole,
    ),
    (
        "time_in.out_layer",
        &["time_text_embed.timestep_embedder.linear_2"],
        Split::Whole,
    ),
    (
        "vector_in.in_layer",
        &["time_text_embed.text_embedder.linear_1"],
        Split::Whole,
    ),
    (
        "vector_in.out_layer",
        &["time_text_embed.text_embedder.linear_2"],
        Split::Whole,
    ),
    (
        "guidance_in.in_layer",
        &["time_text_embed.guidance_embedder.linear_1"],
        Split::Whole,
    ),
    (
        "guidance_in.out_layer",
        &["time_text_embed.guidance_embedder.linear_2"],
        Split::Whole,
    ),
    ("final_layer.linear", &["proj_out"], Split::Whole),
    // Stored as (shift, scale) there, as (scale, shift) here.
    (
        "final_layer.adaLN_modulation.1",
        &["norm_out.linear"],
        Split::SwappedHalves,
    ),
    (
        "double_blocks.{}.img_mod.lin",
        &["transformer_blocks.{}.norm1.linear"],
        Split::Whole,
    ),
    (
        "double_blocks.{}.txt_mod.lin",
        &["transformer_blocks.{}.norm1_context.linear"],
        Split::Whole,
    ),
    ("double_blocks.{}.img_attn.qkv", IMAGE_QKV, Split::Thirds),
    ("double_blocks.{}.txt_attn.qkv", TEXT_QKV, Split::Thirds),
    (
        "double_blocks.{}.img_attn.proj",
        &["transformer_blocks.{}.attn.to_out.0"],
        Split::Whole,
    ),
    (
        "double_blocks.{}.txt_attn.proj",
        &["transformer_blocks.{}.attn.to_add_out"],
        Split::Whole,
    ),
    (
        "double_blocks.{}.img_mlp.0",
        &["transformer_blocks.{}.ff.net.0.proj"],
        Split::Whole,
    ),
    (
        "double_blocks.{}.img_mlp.2",
        &["transformer_blocks.{}.ff.net.2"],
        Split::Whole,
    ),
    (
        "double_blocks.{}.txt_mlp.0",
        &["transformer_blocks.{}.ff_context.net.0.proj"],
        Split::Whole,
    ),
    (
        "double_blocks.{}.txt_mlp.2",
        &["transformer_blocks.{}.ff_context.net.2"],
        Split::Whole,
    ),
    (
        "double_blocks.{}.img_attn.norm.query_norm",
        &["transformer_blocks.{}.attn.norm_q"],
        Split::Whole,
    ),
    (
        "double_blocks.{}.img_attn.norm.key_norm",
        &["transformer_blocks.{}.attn.norm_k"],
        Split::Whole,
    ),
    (
        "double_blocks.{}.txt_attn.norm.query_norm",
        &["transformer_blocks.{}.attn.norm_added_q"],
        Split::Whole,
    ),
    (
        "double_blocks.{}.txt_attn.norm.key_norm",
        &["transformer_blocks.{}.attn.norm_added_k"],
        Split::Whole,
    ),
    (
        "single_blocks.{}.linear1",
        SINGLE_QKV_MLP,
        Split::ThirdsAndRest,
    ),
    (
        "single_blocks.{}.linear2",
        &["single_transformer_blocks.{}.proj_out"],
        Split::Whole,
    ),
    (
        "single_blocks.{}.modulation.lin",
        &["single_transformer_blocks.{}.norm.linear"],
        Split::Whole,
    ),
    (
        "single_blocks.{}.norm.query_norm",
        &["single_transformer_blocks.{}.attn.norm_q"],
        Split::Whole,
    ),
    (
        "single_blocks.{}.norm.key_norm",
        &["single_transformer_blocks.{}.attn.norm_k"],
        Split::Whole,
    ),
    // XLabs: 1 is the image stream, 2 the text stream.
    (
        "double_blocks.{}.processor.qkv_lora1",
        IMAGE_QKV,
        Split::Thirds,
    ),
    (
        "double_blocks.{}.processor.qkv_lora2",
        TEXT_QKV,
        Split::Thirds,
    ),
    (
        "double_blocks.{}.processor.proj_lora1",
        &["transformer_blocks.{}.attn.to_out.0"],
        Split::Whole,
    ),
    (
        "double_blocks.{}.processor.proj_lora2",
        &["transformer_blocks.{}.attn.to_add_out"],
        Split::Whole,
    ),
    (
        "single_blocks.{}.processor.qkv_lora",
        SINGLE_QKV,
        Split::Thirds,
    ),
    (
        "single_blocks.{}.processor.proj_lora",
        &["single_transformer_blocks.{}.proj_out"],
        Split::Whole,
    ),
    // diffusers' own fused projections.
    (
        "transformer_blocks.{}.attn.to_qkv",
        IMAGE_QKV,
        Split::Thirds,
    ),
    (
        "transformer_blocks.{}.attn.to_added_qkv",
        TEXT_QKV,
        Split::Thirds,
    ),
    (
        "single_transformer_blocks.{}.attn.to_qkv",
        SINGLE_QKV,
        Split::Thirds,
    ),
];

const IMAGE_QKV: &[&str] = &[
    "transformer_blocks.{}.attn.to_q",
    "transformer_blocks.{}.attn.to_k",
    "transformer_blocks.{}.attn.to_v",
];
const TEXT_QKV: &[&str] = &[
    "transformer_blocks.{}.attn.add_q_proj",
    "transformer_blocks.{}.attn.add_k_proj",
    "transformer_blocks.{}.attn.add_v_proj",
];
const SINGLE_QKV: &[&str] = &[
    "single_transformer_blocks.{}.attn.to_q",
    "single_transformer_blocks.{}.attn.to_k",
    "single_transformer_blocks.{}.attn.to_v",
];
const SINGLE_QKV_MLP: &[&str] = &[
    "single_transformer_blocks.{}.attn.to_q",
    "single_transformer_blocks.{}.attn.to_k",
    "single_transformer_blocks.{}.attn.to_v",
    "single_transformer_blocks.{}.proj_mlp",
];

/// diffusers' FLUX transformer.
pub(super) const TRANSFORMER: &[&str] = &[
    "x_embedder",
    "context_embedder",
    "time_text_embed.timestep_embedder.linear_{}",
    "time_text_embed.text_embedder.linear_{}",
    "time_text_embed.guidance_embedder.linear_{}",
    "norm_out.linear",
    "proj_out",
    "transformer_blocks.{}.norm1.linear",
    "transformer_blocks.{}.norm1_context.linear",
    "transformer_blocks.{}.attn.to_q",
    "transformer_blocks.{}.attn.to_k",
    "transformer_blocks.{}.attn.to_v",
    "transformer_blocks.{}.attn.add_q_proj",
    "transformer_blocks.{}.attn.add_k_proj",
    "transformer_blocks.{}.attn.add_v_proj",
    "transformer_blocks.{}.attn.to_out.0",
    "transformer_blocks.{}.attn.to_add_out",
    "transformer_blocks.{}.attn.norm_q",
    "transformer_blocks.{}.attn.norm_k",
    "transformer_blocks.{}.attn.norm_added_q",
    "transformer_blocks.{}.attn.norm_added_k",
    "transformer_blocks.{}.ff.net.0.proj",
    "transformer_blocks.{}.ff.net.2",
    "transformer_blocks.{}.ff_context.net.0.proj",
    "transformer_blocks.{}.ff_context.net.2",
    "single_transformer_blocks.{}.norm.linear",
    "single_transformer_blocks.{}.attn.to_q",
    "single_transformer_blocks.{}.attn.to_k",
    "single_transformer_blocks.{}.attn.to_v",
    "single_transformer_blocks.{}.attn.norm_q",
    "single_transformer_blocks.{}.attn.norm_k",
    "single_transformer_blocks.{}.proj_mlp",
    "single_transformer_blocks.{}.proj_out",
];

/// transformers' CLIP text encoder.
pub(super) const CLIP: &[&str] = &[
    "text_model.encoder.layers.{}.self_attn.q_proj",
    "text_model.encoder.layers.{}.self_attn.k_proj",
    "text_model.encoder.layers.{}.self_attn.v_proj",
    "text_model.encoder.layers.{}.self_attn.out_proj",
    "text_model.encoder.layers.{}.mlp.fc1",
    "text_model.encoder.layers.{}.mlp.fc2",
    "text_model.encoder.layers.{}.layer_norm1",
    "text_model.encoder.layers.{}.layer_norm2",
    "text_model.embeddings.token_embedding",
    "text_model.embeddings.position_embedding",
    "text_model.final_layer_norm",
];

/// transformers' T5 encoder.
pub(super) const T5: &[&str] = &[
    "encoder.block.{}.layer.0.SelfAttention.q",
    "encoder.block.{}.layer.0.SelfAttention.k",
    "encoder.block.{}.layer.0.SelfAttention.v",
    "encoder.block.{}.layer.0.SelfAttention.o",
    "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias",
    "encoder.block.{}.layer.0.layer_norm",
    "encoder.block.{}.layer.1.DenseReluDense.wi_0",
    "encoder.block.{}.layer.1.DenseReluDense.wi_1",
    "encoder.block.{}.layer.1.DenseReluDense.wo",
    "encoder.block.{}.layer.1.layer_norm",
    "encoder.final_layer_norm",
    "shared",
];
