//! The CLIP text encoder: causal transformer, hidden states and the pooled vector.
//!
//! There is no projection to the joint space of text and images; FLUX uses none.
//!
//! ```
//! use tintype_models::{ClipTextConfig, ClipTextOptions};
//! let graph = ClipTextConfig::large().graph(&ClipTextOptions::default())?;
//! assert_eq!(graph.parameters().len(), 196);
//! # Ok::<(), tintype_models::Error>(())
//! ```

mod config;

use std::ops::RangeInclusive;

use tintype_ir::{
    Attention, BinaryOp, Constant, Dim, Graph, GraphBuilder, Op, Stage, TensorType, Value,
};
use tintype_tensor::DType;

pub use config::ClipTextConfig;

use crate::Result;
use crate::build::{check_dtype, embedding, finish, heads_of, join_heads, symbol};

/// How the graph of a CLIP text encoder is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClipTextOptions {
    /// The dtype of parameters and activations: f32, bf16 or f16.
    pub dtype: DType,
    /// Prompts at once. As for each range: one size alone is built into the graph.
    pub batch: RangeInclusive<usize>,
    /// Tokens of a prompt, at most `max_position_embeddings`; pipelines pad to 77.
    pub tokens: RangeInclusive<usize>,
}

impl Default for ClipTextOptions {
    /// f32, up to 64 prompts of 77 tokens.
    fn default() -> Self {
        Self {
            dtype: DType::F32,
            batch: 1..=64,
            tokens: 77..=77,
        }
    }
}

impl ClipTextConfig {
    /// The graph of the encoder.
    ///
    /// Request input: `input_ids: i64[batch, tokens]`. Outputs, of the dtype of the options:
    /// `hidden_states: [batch, tokens, hidden_size]` after the last norm, and
    /// `pooled: [batch, hidden_size]`, its row at the end token.
    pub fn graph(&self, options: &ClipTextOptions) -> Result<Graph> {
        self.validate(crate::fields::IN_MEMORY)?;
        check_dtype(MODEL, options.dtype)?;
        crate::fields::ensure(
            *options.tokens.end() <= self.max_position_embeddings,
            crate::fields::IN_MEMORY,
            "max_position_embeddings",
            &format!("positions for {} tokens", options.tokens.end()),
            self.max_position_embeddings,
        )?;
        let mut b = GraphBuilder::new("clip_text");
        let batch = symbol(&mut b, MODEL, "batch", &options.batch)?;
        let tokens = symbol(&mut b, MODEL, "tokens", &options.tokens)?;
        let ty = TensorType::new(DType::I64, [batch, tokens]);
        let input_ids = b.input("input_ids", Stage::Request, ty);
        let mut hidden_states = self.embeddings(&mut b, input_ids, options.dtype);
        for index in 0..self.num_hidden_layers {
            hidden_states = self.layer(&mut b, index, hidden_states);
        }
        let norm = "text_model.final_layer_norm";
        let hidden_states = self.norm(&mut b, norm, hidden_states);
        let end = self.end_positions(&mut b, input_ids);
        let pooled = b.labelled("text_model", |b| {
            b.op(Op::GatherRows, &[hidden_states, end])
        });
        b.output("hidden_states", hidden_states);
        b.output("pooled", pooled);
        finish(MODEL, b)
    }

    /// Embeddings of tokens and positions, added.
    fn embeddings(&self, b: &mut GraphBuilder, input_ids: Value, dtype: DType) -> Value {
        let module = "text_model.embeddings";
        let token_shape = [self.vocab_size, self.hidden_size];
        let token_module = format!("{module}.token_embedding");
        let tokens = embedding(b, &token_module, dtype, token_shape, input_ids);
        let count: Dim = b.type_of(input_ids).dims[1].clone();
        let position_module = format!("{module}.position_embedding");
        let positions = b.labelled(&position_module, |b| {
            let ty = TensorType::new(DType::I64, [count]);
            b.op(Op::Iota { ty, axis: 0 }, &[])
        });
        let position_shape = [self.max_position_embeddings, self.hidden_size];
        let positions = embedding(b, &position_module, dtype, position_shape, positions);
        b.labelled(module, |b| b.add(tokens, positions))
    }

    /// The layer `text_model.encoder.layers.{index}`.
    fn layer(&self, b: &mut GraphBuilder, index: usize, hidden_states: Value) -> Value {
        let module = format!("text_model.encoder.layers.{index}");
        let normed = self.norm(b, &format!("{module}.layer_norm1"), hidden_states);
        let attended = self.attention(b, &format!("{module}.self_attn"), normed);
        let hidden_states = b.labelled(&module, |b| b.add(hidden_states, attended));
        let normed = self.norm(b, &format!("{module}.layer_norm2"), hidden_states);
        let output = self.mlp(b, &format!("{module}.mlp"), normed);
        b.labelled(&module, |b| b.add(hidden_states, output))
    }

    fn norm(&self, b: &mut GraphBuilder, module: &str, x: Value) -> Value {
        b.layer_norm_named(module, x, self.hidden_size, self.layer_norm_eps)
    }

    fn attention(&self, b: &mut GraphBuilder, module: &str, x: Value) -> Value {
        let heads = self.heads();
        let qkv = ["q_proj", "k_proj", "v_proj"]
            .map(|part| heads_of(b, &format!("{module}.{part}"), x, heads, true));
        let attributes = Attention {
            scale: heads.scale(),
            causal: true,
        };
        let attended = b.labelled(module, |b| {
            let attended = b.attention(attributes, qkv, None);
            join_heads(b, attended, heads)
        });
        let width = self.hidden_size;
        b.linear_named(&format!("{module}.out_proj"), attended, width, width, true)
    }

    fn mlp(&self, b: &mut GraphBuilder, module: &str, x: Value) -> Value {
        let (width, inner) = (self.hidden_size, self.intermediate_size);
        let x = b.linear_named(&format!("{module}.fc1"), x, inner, width, true);
        let x = b.labelled(module, |b| self.hidden_act.apply(b, x));
        b.linear_named(&format!("{module}.fc2"), x, width, inner, true)
    }

    /// The position of the first end token of each row, 0 where there is none: `i64[batch]`.
    fn end_positions(&self, b: &mut GraphBuilder, input_ids: Value) -> Value {
        b.labelled("text_model", |b| {
            // Old configurations say 2 whatever the vocabulary; there the end token is
            // the greatest id.
            if self.eos_token_id == 2 {
                return b.op(Op::ArgMax, &[input_ids]);
            }
            let eos = Constant::integers(DType::I64, [], vec![self.eos_token_id])
                .expect("one value without axes");
            let eos = b.op(Op::Constant(eos), &[]);
            let is_end = b.binary(BinaryOp::Equal, input_ids, eos);
            let is_end = b.cast(is_end, DType::I64);
            b.op(Op::ArgMax, &[is_end])
        })
    }
}

const MODEL: &str = "clip text encoder";
