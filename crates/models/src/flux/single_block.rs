//! The single block: attention and feed-forward side by side on the joined stream.
//!
//! ```ignore
//! let hidden_states = single_block(&mut b, &config, 0, hidden_states, &conditioning);
//! ```

use tintype_ir::{GraphBuilder, UnaryOp, Value};

use super::double_block::attend;
use super::{Conditioning, EPSILON, FluxTransformerConfig, MLP_RATIO};
use crate::build::{clamp_f16, heads_of};

/// The block `single_transformer_blocks.{index}` on text and image tokens together:
/// `[batch, text + image, inner]`.
pub fn single_block(
    b: &mut GraphBuilder,
    config: &FluxTransformerConfig,
    index: usize,
    hidden_states: Value,
    conditioning: &Conditioning,
) -> Value {
    let module = format!("single_transformer_blocks.{index}");
    let norm = format!("{module}.norm");
    let [shift, scale, gate] = conditioning.modulation(b, &format!("{norm}.linear"));
    let normed = b.labelled(&norm, |b| {
        let normed = b.layer_norm(hidden_states, EPSILON);
        b.modulate(normed, scale, shift)
    });
    let (width, inner) = (config.inner_dim(), MLP_RATIO * config.inner_dim());
    let mlp = b.linear_named(&format!("{module}.proj_mlp"), normed, inner, width, true);
    let mlp = b.labelled(&format!("{module}.act_mlp"), |b| {
        b.unary(UnaryOp::GeluTanh, mlp)
    });
    let attended = self_attention(b, config, &format!("{module}.attn"), normed, conditioning);
    let both = b.labelled(&module, |b| b.concat(2, &[attended, mlp]));
    let output = b.linear_named(
        &format!("{module}.proj_out"),
        both,
        width,
        width + inner,
        true,
    );
    b.labelled(&module, |b| {
        let hidden_states = b.gated_residual(hidden_states, gate, output);
        clamp_f16(b, hidden_states)
    })
}

fn self_attention(
    b: &mut GraphBuilder,
    config: &FluxTransformerConfig,
    module: &str,
    x: Value,
    conditioning: &Conditioning,
) -> Value {
    let mut turned_heads = |projection: &str, norm: &str| {
        let x = heads_of(
            b,
            &format!("{module}.{projection}"),
            x,
            config.heads(),
            true,
        );
        let size = config.attention_head_dim;
        let x = b.rms_norm_named(&format!("{module}.{norm}"), x, size, EPSILON);
        b.labelled(module, |b| conditioning.turn(b, x))
    };
    let query = turned_heads("to_q", "norm_q");
    let key = turned_heads("to_k", "norm_k");
    let value = heads_of(b, &format!("{module}.to_v"), x, config.heads(), true);
    b.labelled(module, |b| attend(b, config, [query, key, value]))
}
