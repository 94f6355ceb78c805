//! The autoencoder: the original names → diffusers' `AutoencoderKL`.
//!
//! Levels of the decoder are numbered from the other end there. The projections
//! of its attention are 1×1 convolutions there and linears here: another shape
//! of the same bytes.
//!
//! ```no_run
//! # fn main() -> Result<(), tintype_weights::Error> {
//! use tintype_weights::{Parameters, layout};
//! let converted = layout::autoencoder(&Parameters::open("ae.safetensors")?)?;
//! assert!(converted.parameters.contains("decoder.conv_in.weight"));
//! # Ok(())
//! # }
//! ```

use super::rules::Conversion;
use super::{Converted, Layout, ORIGINAL_AUTOENCODER, prefix_of};
use crate::{Error, Parameters, Result, View};

/// The autoencoder's parameters under diffusers' names, whichever layout they
/// come in.
pub fn autoencoder(parameters: &Parameters) -> Result<Converted> {
    if Layout::detect(parameters) == Layout::AutoencoderDiffusers {
        return Ok(Converted {
            parameters: parameters.clone(),
            ..Converted::default()
        });
    }
    autoencoder_original_to_diffusers(parameters)
}

/// The original names, behind any prefix, to diffusers'. Tensors without that
/// prefix count as not understood. A file of a decoder alone is accepted.
pub fn autoencoder_original_to_diffusers(parameters: &Parameters) -> Result<Converted> {
    let Some(prefix) = prefix_of(parameters, ORIGINAL_AUTOENCODER) else {
        return Err(Error::Layout {
            origin: parameters.origin(),
            expected: "an autoencoder",
            found: Layout::detect(parameters).to_string(),
        });
    };
    let stripped = parameters.subset(&prefix);
    let mut conversion = Conversion::new(&stripped);
    let levels = conversion.count("decoder.up.")?;
    for old in stripped.names() {
        let Some(new) = diffusers_name(old, levels) else {
            continue;
        };
        let shape = stripped.shape(old)?;
        if is_attention(&new) && shape.len() > 2 && shape[2..].iter().all(|&size| size == 1) {
            let matrix = View::Reshape(shape[..2].into());
            conversion.view(old, &new, matrix)?;
        } else {
            conversion.rename(old, &new)?;
        }
    }
    let mut converted = conversion.finish();
    let whole = |name: &mut String| *name = format!("{prefix}{name}");
    converted.ignored.iter_mut().for_each(whole);
    converted.unknown.iter_mut().for_each(whole);
    let others = parameters.names().filter(|name| !name.starts_with(&prefix));
    converted.unknown.extend(others.map(str::to_owned));
    Ok(converted)
}

/// The new name of `old`; `None` if it is not understood.
fn diffusers_name(old: &str, levels: usize) -> Option<String> {
    let (module, part) = old.rsplit_once('.')?;
    if !matches!(part, "weight" | "bias") {
        return None;
    }
    if matches!(module, "quant_conv" | "post_quant_conv") {
        return Some(old.to_owned());
    }
    let (side, rest) = module.split_once('.')?;
    let path: Vec<&str> = rest.split('.').collect();
    let rest = match (side, path.as_slice()) {
        ("encoder" | "decoder", [conv @ ("conv_in" | "conv_out")]) => (*conv).to_owned(),
        ("encoder" | "decoder", ["norm_out"]) => "conv_norm_out".to_owned(),
        ("encoder" | "decoder", ["mid", "attn_1", layer]) => {
            format!("mid_block.attentions.0.{}", attention_layer(layer)?)
        }
        ("encoder" | "decoder", ["mid", block, layer]) => {
            let number: usize = block.strip_prefix("block_")?.parse().ok()?;
            let layer = resnet_layer(layer)?;
            format!("mid_block.resnets.{}.{layer}", number.checked_sub(1)?)
        }
        ("encoder", ["down", level, "downsample", "conv"]) => {
            format!(
                "down_blocks.{}.downsamplers.0.conv",
                level.parse::<usize>().ok()?
            )
        }
        ("encoder", ["down", level, "block", block, layer]) => {
            let (level, block): (usize, usize) = (level.parse().ok()?, block.parse().ok()?);
            format!(
                "down_blocks.{level}.resnets.{block}.{}",
                resnet_layer(layer)?
            )
        }
        ("decoder", ["up", level, "upsample", "conv"]) => {
            format!(
                "up_blocks.{}.upsamplers.0.conv",
                from_the_end(level, levels)?
            )
        }
        ("decoder", ["up", level, "block", block, layer]) => {
            let (level, block) = (from_the_end(level, levels)?, block.parse::<usize>().ok()?);
            format!("up_blocks.{level}.resnets.{block}.{}", resnet_layer(layer)?)
        }
        _ => return None,
    };
    Some(format!("{side}.{rest}.{part}"))
}

fn from_the_end(level: &str, levels: usize) -> Option<usize> {
    levels.checked_sub(level.parse::<usize>().ok()?.checked_add(1)?)
}

fn resnet_layer(layer: &str) -> Option<&str> {
    match layer {
        "norm1" | "conv1" | "norm2" | "conv2" => Some(layer),
        "nin_shortcut" | "conv_shortcut" => Some("conv_shortcut"),
        _ => None,
    }
}

fn attention_layer(layer: &str) -> Option<&'static str> {
    match layer {
        "norm" => Some("group_norm"),
        "q" => Some("to_q"),
        "k" => Some("to_k"),
        "v" => Some("to_v"),
        "proj_out" => Some("to_out.0"),
        _ => None,
    }
}

fn is_attention(new: &str) -> bool {
    new.contains(".attentions.0.to_") && new.ends_with(".weight")
}
