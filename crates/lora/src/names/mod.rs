//! Which module of which model a name in a LoRA file means.
//!
//! Names only: shapes are checked where tensors are known. No number of blocks
//! is assumed.
//!
//! ```text
//! lora_unet_double_blocks_3_img_attn_qkv → transformer: to_q, to_k, to_v of block 3, a third each
//! ```

mod tables;
mod template;

use crate::{Component, Format};

/// How the rows of one stored matrix fall to the modules of diffusers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Split {
    /// One module has all rows.
    Whole,
    /// One module has all rows, the second half first.
    SwappedHalves,
    /// Three modules, as many rows each.
    Thirds,
    /// Three square modules, then one with the rest of the rows.
    ThirdsAndRest,
}

/// What a module's name in a file means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meaning {
    pub(crate) component: Component,
    /// diffusers' names, in the order of the rows.
    pub(crate) modules: Vec<String>,
    pub(crate) split: Split,
    /// What the prefix says of the format, if anything.
    pub(crate) format: Option<Format>,
}

/// The meaning of a module's name with all its prefixes; `None` if it has none.
pub(crate) fn meaning(name: &str) -> Option<Meaning> {
    for &(prefix, component, format) in FLAT_PREFIXES {
        if let Some(rest) = name.strip_prefix(prefix) {
            let (modules, split) = known(component, rest, true)?;
            return Some(Meaning {
                component,
                modules,
                split,
                format: Some(format),
            });
        }
    }
    let mut rest = name;
    let mut component = None;
    // PEFT's wrapper may stand before or behind the component.
    for _ in 0..2 {
        rest = WRAPPERS
            .iter()
            .find_map(|prefix| rest.strip_prefix(prefix))
            .unwrap_or(rest);
        let found = PREFIXES
            .iter()
            .find_map(|&(prefix, found)| Some((rest.strip_prefix(prefix)?, found)));
        if let (None, Some((stripped, found))) = (component, found) {
            (rest, component) = (stripped, Some(found));
        }
    }
    dotted(rest, component)
}

fn dotted(name: &str, component: Option<Component>) -> Option<Meaning> {
    let meaning = |component, (modules, split)| Meaning {
        component,
        modules,
        split,
        format: None,
    };
    let Some(component) = component else {
        let mut components = Component::ALL.iter();
        return components.find_map(|&one| Some(meaning(one, known(one, name, false)?)));
    };
    // A prefix says whose module it is; whether the model has it is seen later.
    let itself = || (vec![name.to_owned()], Split::Whole);
    let found = known(component, name, false).unwrap_or_else(itself);
    (!name.is_empty()).then(|| meaning(component, found))
}

fn known(component: Component, name: &str, flat: bool) -> Option<(Vec<String>, Split)> {
    if component == Component::Transformer {
        for &(original, modules, split) in tables::ORIGINAL {
            if let Some(numbers) = template::numbers(original, name, flat) {
                let filled = modules
                    .iter()
                    .map(|module| template::filled(module, &numbers));
                return Some((filled.collect(), split));
            }
        }
    }
    let modules = match component {
        Component::Transformer => tables::TRANSFORMER,
        Component::TextEncoder => tables::CLIP,
        Component::TextEncoder2 => tables::T5,
    };
    modules.iter().find_map(|module| {
        let numbers = template::numbers(module, name, flat)?;
        Some((vec![template::filled(module, &numbers)], Split::Whole))
    })
}

/// Prefixes of flattened names; longer ones before those that they begin with.
const FLAT_PREFIXES: &[(&str, Component, Format)] = &[
    ("lora_unet_", Component::Transformer, Format::Kohya),
    (
        "lora_transformer_",
        Component::Transformer,
        Format::FlatTransformer,
    ),
    ("lycoris_", Component::Transformer, Format::Lycoris),
    ("lora_te1_", Component::TextEncoder, Format::Kohya),
    ("lora_te2_", Component::TextEncoder2, Format::Kohya),
    ("lora_te3_", Component::TextEncoder2, Format::Kohya),
    ("lora_te_", Component::TextEncoder, Format::Kohya),
];

const WRAPPERS: &[&str] = &["base_model.model.", "base_model."];

const PREFIXES: &[(&str, Component)] = &[
    ("model.diffusion_model.", Component::Transformer),
    ("diffusion_model.", Component::Transformer),
    ("transformer.", Component::Transformer),
    ("unet.", Component::Transformer),
    ("text_encoders.clip_l.transformer.", Component::TextEncoder),
    ("text_encoders.t5xxl.transformer.", Component::TextEncoder2),
    ("clip_l.transformer.", Component::TextEncoder),
    ("t5xxl.transformer.", Component::TextEncoder2),
    ("text_encoders.clip_l.", Component::TextEncoder),
    ("text_encoders.t5xxl.", Component::TextEncoder2),
    ("text_encoder_2.", Component::TextEncoder2),
    ("text_encoder.", Component::TextEncoder),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn modules(name: &str) -> Option<(Component, Vec<String>)> {
        meaning(name).map(|meaning| (meaning.component, meaning.modules))
    }

    #[test]
    fn names_of_every_format() {
        use Component::{TextEncoder, TextEncoder2, Transformer};
        for (name, component, module) in [
            ("lora_unet_img_in", Transformer, "x_embedder"),
            (
                "lora_unet_final_layer_adaLN_modulation_1",
                Transformer,
                "norm_out.linear",
            ),
            (
                "lora_unet_double_blocks_18_txt_mlp_2",
                Transformer,
                "transformer_blocks.18.ff_context.net.2",
            ),
            (
                "lora_unet_single_blocks_37_modulation_lin",
                Transformer,
                "single_transformer_blocks.37.norm.linear",
            ),
            (
                "lora_transformer_single_transformer_blocks_7_proj_out",
                Transformer,
                "single_transformer_blocks.7.proj_out",
            ),
            ("lora_transformer_proj_out", Transformer, "proj_out"),
            (
                "lora_transformer_transformer_blocks_0_norm1_context_linear",
                Transformer,
                "transformer_blocks.0.norm1_context.linear",
            ),
            (
                "lora_transformer_time_text_embed_text_embedder_linear_1",
                Transformer,
                "time_text_embed.text_embedder.linear_1",
            ),
            (
                "lycoris_transformer_blocks_2_attn_to_out_0",
                Transformer,
                "transformer_blocks.2.attn.to_out.0",
            ),
            (
                "lora_te1_text_model_encoder_layers_3_self_attn_q_proj",
                TextEncoder,
                "text_model.encoder.layers.3.self_attn.q_proj",
            ),
            (
                "lora_te3_encoder_block_23_layer_1_DenseReluDense_wi_0",
                TextEncoder2,
                "encoder.block.23.layer.1.DenseReluDense.wi_0",
            ),
            ("transformer.proj_out", Transformer, "proj_out"),
            (
                "transformer.single_blocks.1.linear2",
                Transformer,
                "single_transformer_blocks.1.proj_out",
            ),
            (
                "base_model.model.transformer.x_embedder",
                Transformer,
                "x_embedder",
            ),
            ("base_model.model.txt_in", Transformer, "context_embedder"),
            (
                "text_encoder.base_model.model.text_model.final_layer_norm",
                TextEncoder,
                "text_model.final_layer_norm",
            ),
            (
                "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q",
                TextEncoder2,
                "encoder.block.0.layer.0.SelfAttention.q",
            ),
            ("transformer.a_new_module", Transformer, "a_new_module"),
            (
                "encoder.block.0.layer.0.SelfAttention.q",
                TextEncoder2,
                "encoder.block.0.layer.0.SelfAttention.q",
            ),
        ] {
            assert_eq!(
                modules(name),
                Some((component, vec![module.to_owned()])),
                "{name}"
            );
        }
    }

    #[test]
    fn fused_names_mean_several_modules() {
        let found = meaning("lora_unet_single_blocks_4_linear1").unwrap();
        assert_eq!(found.split, Split::ThirdsAndRest);
        assert_eq!(found.modules[3], "single_transformer_blocks.4.proj_mlp");
        let found = meaning("double_blocks.1.processor.qkv_lora2").unwrap();
        assert_eq!(found.split, Split::Thirds);
        assert_eq!(found.modules[1], "transformer_blocks.1.attn.add_k_proj");
    }

    #[test]
    fn names_without_meaning() {
        for name in [
            "lora_unet_down_blocks_0_attentions_0_proj_in",
            "lora_te2_text_model_encoder_layers_0_mlp_fc1",
            "lora_unet_",
            "transformer.",
            "a.b.c",
            "",
        ] {
            assert_eq!(modules(name), None, "{name}");
        }
    }

    #[test]
    fn every_module_of_diffusers_is_known_with_and_without_dots() {
        for (component, modules) in [
            (Component::Transformer, tables::TRANSFORMER),
            (Component::TextEncoder, tables::CLIP),
            (Component::TextEncoder2, tables::T5),
        ] {
            for module in modules {
                let name = template::filled(module, &["12"]);
                let expected = Some((vec![name.clone()], Split::Whole));
                assert_eq!(known(component, &name, false), expected);
                assert_eq!(known(component, &name.replace('.', "_"), true), expected);
            }
        }
    }

    #[test]
    fn original_names_mean_modules_of_diffusers() {
        for (_, modules, split) in tables::ORIGINAL {
            assert!(
                modules
                    .iter()
                    .all(|module| tables::TRANSFORMER.contains(module)
                        || module.starts_with("time_text_embed."))
            );
            let count = match split {
                Split::Whole | Split::SwappedHalves => 1,
                Split::Thirds => 3,
                Split::ThirdsAndRest => 4,
            };
            assert_eq!(modules.len(), count);
        }
    }
}
