//! The T5 encoder: pre-norm transformer with a relative bias and no mask.
//!
//! Padding is attended to like any token, as the FLUX pipelines do, so the number
//! of tokens changes the result.
//!
//! For bf16 and f16 the residual stream and its norms are f32, as the sums of T5
//! outgrow f16 and lose much in bf16; with f16 the last projection of each
//! feed-forward is f32 as well.
//!
//! ```
//! use tintype_models::{T5EncoderConfig, T5EncoderOptions};
//! let graph = T5EncoderConfig::xxl().graph(&T5EncoderOptions::default())?;
//! assert_eq!(graph.parameters().len(), 219);
//! # Ok::<(), tintype_models::Error>(())
//! ```

mod config;

use std::ops::RangeInclusive;

use tintype_ir::{Attention, Graph, GraphBuilder, Op, RelativeBuckets, Stage, TensorType, Value};
use tintype_tensor::DType;

pub use config::T5EncoderConfig;

use crate::Result;
use crate::build::{check_dtype, embedding, finish, heads_of, join_heads, symbol};

/// How the graph of a T5 encoder is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct T5EncoderOptions {
    /// The dtype of parameters and products: f32, bf16 or f16.
    pub dtype: DType,
    /// Prompts at once. As for each range: one size alone is built into the graph.
    pub batch: RangeInclusive<usize>,
    /// Tokens of a prompt, padding included.
    pub tokens: RangeInclusive<usize>,
}

impl Default for T5EncoderOptions {
    /// f32, up to 64 prompts of up to 512 tokens.
    fn default() -> Self {
        Self {
            dtype: DType::F32,
            batch: 1..=64,
            tokens: 1..=512,
        }
    }
}

impl T5EncoderConfig {
    /// The graph of the encoder.
    ///
    /// Request input: `input_ids: i64[batch, tokens]`. Output: `hidden_states:
    /// [batch, tokens, d_model]` after the last norm, of the dtype of the options.
    pub fn graph(&self, options: &T5EncoderOptions) -> Result<Graph> {
        self.validate(crate::fields::IN_MEMORY)?;
        check_dtype(MODEL, options.dtype)?;
        let mut b = GraphBuilder::new("t5_encoder");
        let batch = symbol(&mut b, MODEL, "batch", &options.batch)?;
        let tokens = symbol(&mut b, MODEL, "tokens", &options.tokens)?;
        let ty = TensorType::new(DType::I64, [batch, tokens]);
        let input_ids = b.input("input_ids", Stage::Request, ty);
        let dtype = options.dtype;
        let table_shape = [self.vocab_size, self.d_model];
        let embedded = embedding(&mut b, "shared", dtype, table_shape, input_ids);
        let mut stream = b.labelled("shared", |b| b.cast(embedded, DType::F32));
        let bias = self.position_bias(&mut b, input_ids, dtype);
        for index in 0..self.num_layers {
            stream = self.block(&mut b, index, stream, bias, dtype);
        }
        let hidden_states = self.norm(&mut b, "encoder.final_layer_norm", stream, dtype);
        b.output("hidden_states", hidden_states);
        finish(MODEL, b)
    }

    /// The bias of the scores, shared by all blocks: `[1, heads, tokens, tokens]`.
    fn position_bias(&self, b: &mut GraphBuilder, input_ids: Value, dtype: DType) -> Value {
        let module = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias";
        let tokens = b.type_of(input_ids).dims[1].clone();
        let buckets = b.labelled(module, |b| {
            let attributes = RelativeBuckets {
                buckets: self.relative_attention_num_buckets,
                max_distance: self.relative_attention_max_distance,
                bidirectional: true,
                queries: tokens.clone(),
                keys: tokens.clone(),
            };
            b.op(Op::RelativeBuckets(attributes), &[])
        });
        let shape = [self.relative_attention_num_buckets, self.num_heads];
        let bias = embedding(b, module, dtype, shape, buckets);
        b.labelled(module, |b| {
            let bias = b.transpose(bias, &[2, 0, 1]);
            b.reshape(
                bias,
                [1.into(), self.num_heads.into(), tokens.clone(), tokens],
            )
        })
    }

    /// The block `encoder.block.{index}` on the f32 stream.
    fn block(
        &self,
        b: &mut GraphBuilder,
        index: usize,
        stream: Value,
        bias: Value,
        dtype: DType,
    ) -> Value {
        let layer = format!("encoder.block.{index}.layer.0");
        let normed = self.norm(b, &format!("{layer}.layer_norm"), stream, dtype);
        let attended = self.attention(b, &format!("{layer}.SelfAttention"), normed, bias);
        let stream = add_to_stream(b, &layer, stream, attended);
        let layer = format!("encoder.block.{index}.layer.1");
        let normed = self.norm(b, &format!("{layer}.layer_norm"), stream, dtype);
        let output = self.feed_forward(b, &format!("{layer}.DenseReluDense"), normed);
        add_to_stream(b, &layer, stream, output)
    }

    /// RMSNorm of the f32 stream, rounded once to `dtype`.
    fn norm(&self, b: &mut GraphBuilder, module: &str, stream: Value, dtype: DType) -> Value {
        let ty = TensorType::new(dtype, [self.d_model]);
        let weight = b.parameter(&format!("{module}.weight"), ty);
        let epsilon = self.layer_norm_epsilon;
        b.labelled(module, |b| {
            let weight = b.cast(weight, DType::F32);
            let normed = b.op(Op::RmsNorm { epsilon }, &[stream, weight]);
            b.cast(normed, dtype)
        })
    }

    fn attention(&self, b: &mut GraphBuilder, module: &str, x: Value, bias: Value) -> Value {
        let heads = self.heads();
        let qkv =
            ["q", "k", "v"].map(|part| heads_of(b, &format!("{module}.{part}"), x, heads, false));
        // T5 has its scale in the weights.
        let attributes = Attention {
            scale: 1.0,
            causal: false,
        };
        let attended = b.labelled(module, |b| {
            let attended = b.attention(attributes, qkv, Some(bias));
            join_heads(b, attended, heads)
        });
        b.linear_named(
            &format!("{module}.o"),
            attended,
            self.d_model,
            heads.width(),
            false,
        )
    }

    /// `act(wi_0 x) · (wi_1 x)`, or `act(wi x)`, then `wo`.
    fn feed_forward(&self, b: &mut GraphBuilder, module: &str, x: Value) -> Value {
        let (width, inner) = (self.d_model, self.d_ff);
        let dtype = b.type_of(x).dtype;
        let mut into =
            |part: &str| b.linear_named(&format!("{module}.{part}"), x, inner, width, false);
        let hidden = if self.is_gated {
            let (gate, linear) = (into("wi_0"), into("wi_1"));
            b.labelled(module, |b| {
                let gate = self.activation.apply(b, gate);
                b.mul(gate, linear)
            })
        } else {
            let hidden = into("wi");
            b.labelled(module, |b| self.activation.apply(b, hidden))
        };
        let wo_dtype = if dtype == DType::F16 {
            DType::F32
        } else {
            dtype
        };
        let hidden = b.labelled(module, |b| b.cast(hidden, wo_dtype));
        b.linear_named(&format!("{module}.wo"), hidden, width, inner, false)
    }
}

fn add_to_stream(b: &mut GraphBuilder, module: &str, stream: Value, x: Value) -> Value {
    b.labelled(module, |b| {
        let x = b.cast(x, DType::F32);
        b.add(stream, x)
    })
}

const MODEL: &str = "t5 encoder";
