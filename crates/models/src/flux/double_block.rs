//! The double block: text and image have weights of their own and attend jointly.
//!
//! ```ignore
//! let streams = double_block(&mut b, &config, 0, streams, &conditioning);
//! ```

use tintype_ir::{Attention, GraphBuilder, UnaryOp, Value};

use super::{Conditioning, EPSILON, FluxTransformerConfig};
use crate::build::{clamp_f16, heads_of, join_heads};

/// The two streams between double blocks: `[batch, tokens, inner]` each.
#[derive(Debug, Clone, Copy)]
pub struct Streams {
    /// Image tokens.
    pub image: Value,
    /// Text tokens.
    pub text: Value,
}

impl Streams {
    /// Text, then image tokens, as one stream.
    pub fn join(self, b: &mut GraphBuilder) -> Value {
        b.concat(1, &[self.text, self.image])
    }
}

/// The block `transformer_blocks.{index}`.
pub fn double_block(
    b: &mut GraphBuilder,
    config: &FluxTransformerConfig,
    index: usize,
    streams: Streams,
    conditioning: &Conditioning,
) -> Streams {
    let module = format!("transformer_blocks.{index}");
    let image = Side::enter(b, &module, &IMAGE, streams.image, conditioning);
    let text = Side::enter(b, &module, &TEXT, streams.text, conditioning);
    let attended = joint_attention(b, config, &module, [&text, &image], conditioning);
    let image = image.leave(b, attended.image);
    let text = text.leave(b, attended.text);
    Streams {
        image,
        text: b.labelled(&module, |b| clamp_f16(b, text)),
    }
}

/// Names of the modules of one side.
struct Names {
    norm1: &'static str,
    norm2: &'static str,
    feed_forward: &'static str,
    query: [&'static str; 2],
    key: [&'static str; 2],
    value: &'static str,
    out: &'static str,
}

const IMAGE: Names = Names {
    norm1: "norm1",
    norm2: "norm2",
    feed_forward: "ff",
    query: ["to_q", "norm_q"],
    key: ["to_k", "norm_k"],
    value: "to_v",
    out: "to_out.0",
};

const TEXT: Names = Names {
    norm1: "norm1_context",
    norm2: "norm2_context",
    feed_forward: "ff_context",
    query: ["add_q_proj", "norm_added_q"],
    key: ["add_k_proj", "norm_added_k"],
    value: "add_v_proj",
    out: "to_add_out",
};

/// One stream inside of the block.
struct Side<'a> {
    module: &'a str,
    names: &'static Names,
    residual: Value,
    normed: Value,
    attention_gate: Value,
    mlp: [Value; 3],
}

impl<'a> Side<'a> {
    /// The modulated norm before attention.
    fn enter(
        b: &mut GraphBuilder,
        module: &'a str,
        names: &'static Names,
        residual: Value,
        conditioning: &Conditioning,
    ) -> Self {
        let norm1 = format!("{module}.{}", names.norm1);
        let [shift, scale, attention_gate, mlp_shift, mlp_scale, mlp_gate] =
            conditioning.modulation(b, &format!("{norm1}.linear"));
        let normed = b.labelled(&norm1, |b| {
            let normed = b.layer_norm(residual, EPSILON);
            b.modulate(normed, scale, shift)
        });
        Self {
            module,
            names,
            residual,
            normed,
            attention_gate,
            mlp: [mlp_shift, mlp_scale, mlp_gate],
        }
    }

    /// Query, key and value in heads: `[batch, tokens, heads, head_dim]`.
    fn query_key_value(&self, b: &mut GraphBuilder, config: &FluxTransformerConfig) -> [Value; 3] {
        let Names {
            query, key, value, ..
        } = self.names;
        let name = |part: &str| format!("{}.attn.{part}", self.module);
        let normed_heads = |b: &mut GraphBuilder, [projection, norm]: [&str; 2]| {
            let x = heads_of(b, &name(projection), self.normed, config.heads(), true);
            b.rms_norm_named(&name(norm), x, config.attention_head_dim, EPSILON)
        };
        let query = normed_heads(b, *query);
        let key = normed_heads(b, *key);
        let value = heads_of(b, &name(value), self.normed, config.heads(), true);
        [query, key, value]
    }

    /// What follows attention: its gated residual, then the feed-forward with its own.
    fn leave(self, b: &mut GraphBuilder, attended: Value) -> Value {
        let [shift, scale, gate] = self.mlp;
        let module = self.module;
        let residual = b.labelled(module, |b| {
            b.gated_residual(self.residual, self.attention_gate, attended)
        });
        let normed = b.labelled(&format!("{module}.{}", self.names.norm2), |b| {
            let normed = b.layer_norm(residual, EPSILON);
            b.modulate(normed, scale, shift)
        });
        let output = feed_forward(b, &format!("{module}.{}", self.names.feed_forward), normed);
        b.labelled(module, |b| b.gated_residual(residual, gate, output))
    }
}

/// Attention over text and image tokens together, and the projection of each part.
fn joint_attention(
    b: &mut GraphBuilder,
    config: &FluxTransformerConfig,
    module: &str,
    sides: [&Side<'_>; 2],
    conditioning: &Conditioning,
) -> Streams {
    let attn = format!("{module}.attn");
    let [text, image] = sides.map(|side| side.query_key_value(b, config));
    let attended = b.labelled(&attn, |b| {
        let [query, key, value] =
            std::array::from_fn(|part| b.concat(1, &[text[part], image[part]]));
        let query = conditioning.turn(b, query);
        let key = conditioning.turn(b, key);
        attend(b, config, [query, key, value])
    });
    let [text, image] = sides;
    let text_tokens = b.type_of(text.normed).dims[1].clone();
    let all_tokens = b.type_of(attended).dims[1].clone();
    let (of_text, of_image) = b.labelled(&attn, |b| {
        let of_text = b.slice(attended, 1, 0, text_tokens.clone());
        (of_text, b.slice(attended, 1, text_tokens, all_tokens))
    });
    let width = config.inner_dim();
    let mut project = |side: &Side, x| {
        b.linear_named(&format!("{attn}.{}", side.names.out), x, width, width, true)
    };
    Streams {
        image: project(image, of_image),
        text: project(text, of_text),
    }
}

/// `softmax(q·kᵀ/√head_dim)·v` with its heads joined: `[batch, tokens, inner]`.
pub(super) fn attend(
    b: &mut GraphBuilder,
    config: &FluxTransformerConfig,
    query_key_value: [Value; 3],
) -> Value {
    let attributes = Attention {
        scale: config.heads().scale(),
        causal: false,
    };
    let attended = b.attention(attributes, query_key_value, None);
    join_heads(b, attended, config.heads())
}

/// Linear to four times the width, GELU (tanh), linear back.
fn feed_forward(b: &mut GraphBuilder, module: &str, x: Value) -> Value {
    let width = crate::build::last_size(b, x);
    let inner = super::MLP_RATIO * width;
    let x = b.linear_named(&format!("{module}.net.0.proj"), x, inner, width, true);
    let x = b.labelled(&format!("{module}.net.0"), |b| {
        b.unary(UnaryOp::GeluTanh, x)
    });
    b.linear_named(&format!("{module}.net.2"), x, width, inner, true)
}
