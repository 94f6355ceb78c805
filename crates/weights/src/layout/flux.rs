//! The FLUX transformer: Black Forest Labs' names → diffusers'.
//!
//! Fused projections become row views without a copy. The final modulation is
//! stored as (shift, scale) there and as (scale, shift) here, so its halves
//! change places when it is read.
//!
//! ```no_run
//! # fn main() -> Result<(), tintype_weights::Error> {
//! use tintype_weights::{Parameters, layout};
//! let converted = layout::flux_original_to_diffusers(&Parameters::open("flux1-dev.safetensors")?)?;
//! for name in &converted.unknown {
//!     eprintln!("not understood: {name}");
//! }
//! # Ok(())
//! # }
//! ```

use super::rules::Conversion;
use super::{Converted, Layout, ORIGINAL_TRANSFORMER, prefix_of};
use crate::{Error, Parameters, Result, View};

/// The transformer's parameters under diffusers' names, whichever layout they
/// come in.
pub fn flux_transformer(parameters: &Parameters) -> Result<Converted> {
    match Layout::detect(parameters) {
        Layout::FluxDiffusers => Ok(Converted {
            parameters: parameters.clone(),
            ..Converted::default()
        }),
        Layout::FluxOriginal { .. } | Layout::AllInOne => flux_original_to_diffusers(parameters),
        found => Err(wrong_layout(parameters, &found)),
    }
}

/// The original names, behind any prefix, to diffusers'. Tensors without that
/// prefix count as not understood.
pub fn flux_original_to_diffusers(parameters: &Parameters) -> Result<Converted> {
    let Some(prefix) = prefix_of(parameters, ORIGINAL_TRANSFORMER) else {
        return Err(wrong_layout(parameters, &Layout::detect(parameters)));
    };
    let stripped = parameters.subset(&prefix);
    let mut conversion = Conversion::new(&stripped);
    convert(&stripped, &mut conversion)?;
    let mut converted = conversion.finish();
    let whole = |name: &mut String| *name = format!("{prefix}{name}");
    converted.ignored.iter_mut().for_each(whole);
    converted.unknown.iter_mut().for_each(whole);
    let others = parameters.names().filter(|name| !name.starts_with(&prefix));
    converted.unknown.extend(others.map(str::to_owned));
    Ok(converted)
}

fn convert(from: &Parameters, conversion: &mut Conversion<'_>) -> Result<()> {
    for (old, new) in MODULES {
        conversion.rename_module(old, new)?;
    }
    if from.names().any(|name| name.starts_with("guidance_in.")) {
        for (old, new) in GUIDANCE {
            conversion.rename_module(old, new)?;
        }
    }
    for part in ["weight", "bias"] {
        let old = format!("final_layer.adaLN_modulation.1.{part}");
        conversion.view(&old, &format!("norm_out.linear.{part}"), View::SwapHalves)?;
    }
    let hidden_size = conversion.rows("img_in.weight")?;
    for index in 0..conversion.count("double_blocks.")? {
        double_block(conversion, index, hidden_size)?;
    }
    for index in 0..conversion.count("single_blocks.")? {
        single_block(conversion, index, hidden_size)?;
    }
    Ok(())
}

fn double_block(conversion: &mut Conversion<'_>, index: usize, hidden_size: usize) -> Result<()> {
    let (from, to) = (
        format!("double_blocks.{index}"),
        format!("transformer_blocks.{index}"),
    );
    for (old, new) in DOUBLE_MODULES {
        conversion.rename_module(&format!("{from}.{old}"), &format!("{to}.{new}"))?;
    }
    for (old, new) in DOUBLE_NORMS {
        conversion.rename(
            &format!("{from}.{old}.scale"),
            &format!("{to}.{new}.weight"),
        )?;
    }
    for (old, new) in DOUBLE_FUSED {
        let names = new.map(|name| format!("{to}.attn.{name}"));
        let parts = names.each_ref().map(|name| (name.as_str(), hidden_size));
        conversion.split_module(&format!("{from}.{old}"), &parts)?;
    }
    Ok(())
}

fn single_block(conversion: &mut Conversion<'_>, index: usize, hidden_size: usize) -> Result<()> {
    let from = format!("single_blocks.{index}");
    let to = format!("single_transformer_blocks.{index}");
    conversion.rename_module(
        &format!("{from}.modulation.lin"),
        &format!("{to}.norm.linear"),
    )?;
    conversion.rename_module(&format!("{from}.linear2"), &format!("{to}.proj_out"))?;
    for part in ["query", "key"] {
        let new = format!("{to}.attn.norm_{}.weight", &part[..1]);
        conversion.rename(&format!("{from}.norm.{part}_norm.scale"), &new)?;
    }
    let rows = conversion.rows(&format!("{from}.linear1.weight"))?;
    // What is left after q, k and v; too few rows are refused by the split.
    let mlp_size = rows.saturating_sub(3 * hidden_size);
    let names =
        ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"].map(|name| format!("{to}.{name}"));
    let [q, k, v, mlp] = names.each_ref().map(String::as_str);
    let parts = [
        (q, hidden_size),
        (k, hidden_size),
        (v, hidden_size),
        (mlp, mlp_size),
    ];
    conversion.split_module(&format!("{from}.linear1"), &parts)
}

fn wrong_layout(parameters: &Parameters, found: &Layout) -> Error {
    Error::Layout {
        origin: parameters.origin(),
        expected: "a FLUX transformer",
        found: found.to_string(),
    }
}

const MODULES: [(&str, &str); 7] = [
    ("img_in", "x_embedder"),
    ("txt_in", "context_embedder"),
    (
        "time_in.in_layer",
        "time_text_embed.timestep_embedder.linear_1",
    ),
    (
        "time_in.out_layer",
        "time_text_embed.timestep_embedder.linear_2",
    ),
    (
        "vector_in.in_layer",
        "time_text_embed.text_embedder.linear_1",
    ),
    (
        "vector_in.out_layer",
        "time_text_embed.text_embedder.linear_2",
    ),
    ("final_layer.linear", "proj_out"),
];
const GUIDANCE: [(&str, &str); 2] = [
    (
        "guidance_in.in_layer",
        "time_text_embed.guidance_embedder.linear_1",
    ),
    (
        "guidance_in.out_layer",
        "time_text_embed.guidance_embedder.linear_2",
    ),
];
const DOUBLE_MODULES: [(&str, &str); 8] = [
    ("img_mod.lin", "norm1.linear"),
    ("txt_mod.lin", "norm1_context.linear"),
    ("img_attn.proj", "attn.to_out.0"),
    ("txt_attn.proj", "attn.to_add_out"),
    ("img_mlp.0", "ff.net.0.proj"),
    ("img_mlp.2", "ff.net.2"),
    ("txt_mlp.0", "ff_context.net.0.proj"),
    ("txt_mlp.2", "ff_context.net.2"),
];
const DOUBLE_NORMS: [(&str, &str); 4] = [
    ("img_attn.norm.query_norm", "attn.norm_q"),
    ("img_attn.norm.key_norm", "attn.norm_k"),
    ("txt_attn.norm.query_norm", "attn.norm_added_q"),
    ("txt_attn.norm.key_norm", "attn.norm_added_k"),
];
const DOUBLE_FUSED: [(&str, [&str; 3]); 2] = [
    ("img_attn.qkv", ["to_q", "to_k", "to_v"]),
    ("txt_attn.qkv", ["add_q_proj", "add_k_proj", "add_v_proj"]),
];
