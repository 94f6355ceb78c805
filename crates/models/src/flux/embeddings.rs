//! Embeddings of time, guidance and pooled text, and the rotary table.
//!
//! Sinusoids and their angles are f32 whatever the dtype of the model, since a
//! timestep of 987.17 has no bf16. Everything here is of the request stage.
//!
//! ```ignore
//! let temb = time_text_embedding(&mut b, &config, &inputs); // f32[steps, batch, inner]
//! ```

use tintype_ir::{Constant, GraphBuilder, Op, UnaryOp, Value};
use tintype_tensor::DType;

use super::FluxTransformerConfig;

/// What [`time_text_embedding`] reads.
#[derive(Debug, Clone, Copy)]
pub struct TimeTextInputs {
    /// `f32[steps]` in 0..=1.
    pub timesteps: Value,
    /// `f32[batch]`, for models with `guidance_embeds`.
    pub guidance: Option<Value>,
    /// `[batch, pooled_projection_dim]`; its dtype is that of the computation.
    pub pooled: Value,
}

/// The embedding that modulates every block: `f32[steps, batch, inner]`, the sum
/// over the embeddings of the timestep, of guidance and of the pooled text.
///
/// The two layers of each are computed in the model's dtype, the sum in f32.
pub fn time_text_embedding(
    b: &mut GraphBuilder,
    config: &FluxTransformerConfig,
    inputs: &TimeTextInputs,
) -> Value {
    let dtype = b.type_of(inputs.pooled).dtype;
    let width = config.inner_dim();
    let time = sinusoid(b, inputs.timesteps, dtype);
    let time = mlp(
        b,
        "time_text_embed.timestep_embedder",
        time,
        width,
        SINUSOID,
    );
    let pooled_size = config.pooled_projection_dim;
    let text = mlp(
        b,
        "time_text_embed.text_embedder",
        inputs.pooled,
        width,
        pooled_size,
    );
    let guidance = inputs.guidance.map(|guidance| {
        let guidance = sinusoid(b, guidance, dtype);
        mlp(
            b,
            "time_text_embed.guidance_embedder",
            guidance,
            width,
            SINUSOID,
        )
    });
    b.labelled("time_text_embed", |b| {
        let time = b.cast(time, DType::F32);
        let steps = b.type_of(time).dims[0].clone();
        let time = b.reshape(time, [steps, 1.into(), width.into()]);
        let text = b.cast(text, DType::F32);
        let of_batch = match guidance {
            Some(guidance) => {
                let guidance = b.cast(guidance, DType::F32);
                b.add(guidance, text)
            }
            None => text,
        };
        b.add(time, of_batch)
    })
}

/// The table of cosines and sines for text, then image tokens: `f32[text + image, head_dim/2, 2]`.
pub fn rotary_table(
    b: &mut GraphBuilder,
    config: &FluxTransformerConfig,
    text_ids: Value,
    image_ids: Value,
) -> Value {
    b.labelled("pos_embed", |b| {
        let ids = b.concat(0, &[text_ids, image_ids]);
        let op = Op::RotaryTable {
            theta: THETA,
            dims: config.axes_dims_rope.clone(),
        };
        b.op(op, &[ids])
    })
}

/// `f32[n]` → `[n, 256]`: cosines, then sines, of 1000·x at 128 frequencies.
fn sinusoid(b: &mut GraphBuilder, x: Value, dtype: DType) -> Value {
    b.labelled("time_text_embed.time_proj", |b| {
        let count = b.type_of(x).dims[0].clone();
        let thousand = b.scalar(DType::F32, 1000.0);
        let x = b.mul(x, thousand);
        let x = b.reshape(x, [count, 1.into()]);
        let frequencies = Constant::floats(DType::F32, [1, SINUSOID / 2], frequencies())
            .expect("as many values as the shape holds");
        let frequencies = b.op(Op::Constant(frequencies), &[]);
        let angles = b.mul(x, frequencies);
        let cosines = b.unary(UnaryOp::Cos, angles);
        let sines = b.unary(UnaryOp::Sin, angles);
        let both = b.concat(1, &[cosines, sines]);
        b.cast(both, dtype)
    })
}

/// `10000^(−k/128)` as diffusers computes it in f32 on a CPU, to the bit.
///
/// A guidance of 30 turns the first angles 4775 times round, where the last bit of a
/// frequency shows in the third digit of a cosine, so near enough is not enough: the
/// exponent is rounded where the reference rounds it, and two of the 128 exponentials
/// come out one unit high there with every instruction set (measured with torch 2).
fn frequencies() -> Vec<f32> {
    let half = SINUSOID / 2;
    let logarithm = -(10_000f64.ln()) as f32;
    let frequency = |k: usize| {
        let exponent = logarithm * k as f32 / half as f32;
        let rounded = f64::from(exponent).exp() as f32;
        if ONE_UNIT_HIGH.contains(&k) {
            rounded.next_up()
        } else {
            rounded
        }
    };
    (0..half).map(frequency).collect()
}

/// `linear_1`, SiLU, `linear_2`.
fn mlp(b: &mut GraphBuilder, module: &str, x: Value, width: usize, in_features: usize) -> Value {
    let x = b.linear_named(&format!("{module}.linear_1"), x, width, in_features, true);
    let x = b.labelled(module, |b| b.unary(UnaryOp::Silu, x));
    b.linear_named(&format!("{module}.linear_2"), x, width, width, true)
}

/// Values of a sinusoid.
const SINUSOID: usize = 256;

/// Frequencies that the reference's exponential rounds up.
const ONE_UNIT_HIGH: [usize; 2] = [12, 106];

/// Base of the rotary frequencies.
const THETA: f32 = 10_000.0;
