//! What encoder and decoder are made of: residual blocks, attention, convolutions.
//!
//! ```ignore
//! let x = residual_block(&mut b, "decoder.mid_block.resnets.0", x, 512, 32);
//! ```

use tintype_ir::{Attention, Conv2d, Dim, GraphBuilder, UnaryOp, Value};

use super::AutoencoderKlConfig;
use crate::build::{Heads, join_heads};

/// Norm, SiLU, convolution, twice, and the shortcut: `[b, c, h, w]` → `[b, out_channels, h, w]`.
pub(super) fn residual_block(
    b: &mut GraphBuilder,
    config: &AutoencoderKlConfig,
    module: &str,
    x: Value,
    out_channels: usize,
) -> Value {
    let in_channels = channels(b, x);
    let hidden = norm_silu(b, config, &format!("{module}.norm1"), x);
    let hidden = convolution(b, &format!("{module}.conv1"), hidden, out_channels, SAME);
    let hidden = norm_silu(b, config, &format!("{module}.norm2"), hidden);
    let hidden = convolution(b, &format!("{module}.conv2"), hidden, out_channels, SAME);
    let shortcut = if in_channels == out_channels {
        x
    } else {
        convolution(
            b,
            &format!("{module}.conv_shortcut"),
            x,
            out_channels,
            POINT,
        )
    };
    b.labelled(module, |b| b.add(shortcut, hidden))
}

/// Two residual blocks with attention between, where the configuration has it.
pub(super) fn mid_block(
    b: &mut GraphBuilder,
    config: &AutoencoderKlConfig,
    module: &str,
    x: Value,
) -> Value {
    let width = config.innermost();
    let x = residual_block(b, config, &format!("{module}.resnets.0"), x, width);
    let x = if config.mid_block_add_attention {
        attention(b, config, &format!("{module}.attentions.0"), x)
    } else {
        x
    };
    residual_block(b, config, &format!("{module}.resnets.1"), x, width)
}

/// GroupNorm, then SiLU.
pub(super) fn norm_silu(
    b: &mut GraphBuilder,
    config: &AutoencoderKlConfig,
    module: &str,
    x: Value,
) -> Value {
    let normed = norm(b, config, module, x);
    b.labelled(module, |b| b.unary(UnaryOp::Silu, normed))
}

/// A convolution to `out_channels`.
pub(super) fn convolution(
    b: &mut GraphBuilder,
    module: &str,
    x: Value,
    out_channels: usize,
    kind: Kernel,
) -> Value {
    let in_channels = channels(b, x);
    let attributes = Conv2d {
        stride: [kind.stride; 2],
        padding: kind.padding,
        groups: 1,
    };
    b.conv2d_named(
        module,
        x,
        (out_channels, in_channels),
        kind.size,
        attributes,
    )
}

/// Attention of one head over all positions, added to its input.
fn attention(b: &mut GraphBuilder, config: &AutoencoderKlConfig, module: &str, x: Value) -> Value {
    let width = config.innermost();
    let image_dims = b.type_of(x).dims.clone();
    let normed = norm(b, config, &format!("{module}.group_norm"), x);
    let heads = Heads {
        count: 1,
        size: width,
    };
    let tokens = b.labelled(module, |b| to_tokens(b, normed));
    let qkv = ["to_q", "to_k", "to_v"]
        .map(|part| crate::build::heads_of(b, &format!("{module}.{part}"), tokens, heads, true));
    let attributes = Attention {
        scale: heads.scale(),
        causal: false,
    };
    let attended = b.labelled(module, |b| {
        let attended = b.attention(attributes, qkv, None);
        join_heads(b, attended, heads)
    });
    let output = b.linear_named(&format!("{module}.to_out.0"), attended, width, width, true);
    b.labelled(module, |b| {
        let output = b.transpose(output, &[0, 2, 1]);
        let output = b.reshape(output, image_dims);
        b.add(x, output)
    })
}

/// `[b, c, h, w]` → `[b, h·w, c]`.
fn to_tokens(b: &mut GraphBuilder, x: Value) -> Value {
    let [batch, channels, height, width] = <[Dim; 4]>::try_from(b.type_of(x).dims.clone())
        .expect("images have four axes: a convolution made this one");
    // Sizes have at most 20 bits each, symbols and their factors together.
    let flat = b.reshape(x, [batch, channels, height * width]);
    b.transpose(flat, &[0, 2, 1])
}

fn norm(b: &mut GraphBuilder, config: &AutoencoderKlConfig, module: &str, x: Value) -> Value {
    let count = channels(b, x);
    b.group_norm_named(module, x, count, config.norm_num_groups, EPSILON)
}

fn channels(b: &GraphBuilder, x: Value) -> usize {
    let count = b.type_of(x).dims.get(1).and_then(Dim::as_constant);
    count
        .and_then(|count| usize::try_from(count).ok())
        .unwrap_or(0)
}

/// Size, stride and padding of a square convolution.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kernel {
    size: usize,
    stride: usize,
    /// Top, bottom, left, right.
    padding: [usize; 4],
}

/// 3×3 that keeps the size.
pub(super) const SAME: Kernel = Kernel {
    size: 3,
    stride: 1,
    padding: [1; 4],
};

/// 1×1.
pub(super) const POINT: Kernel = Kernel {
    size: 1,
    stride: 1,
    padding: [0; 4],
};

/// 3×3 that halves the size; it pads at the bottom and right only.
pub(super) const HALVE: Kernel = Kernel {
    size: 3,
    stride: 2,
    padding: [0, 1, 0, 1],
};

/// Of every GroupNorm.
const EPSILON: f32 = 1e-6;
