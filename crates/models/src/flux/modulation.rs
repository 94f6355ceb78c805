//! Scales, shifts and gates of the blocks, computed for all steps at once.
//!
//! A block's modulation `[steps, batch, n·inner]` does not depend on the latents,
//! so it is of the request stage; the step gathers one row of it.
//!
//! ```ignore
//! let [shift, scale, gate] = conditioning.modulation(&mut b, "single_transformer_blocks.0.norm.linear");
//! ```

use tintype_ir::{Dim, GraphBuilder, UnaryOp, Value};
use tintype_tensor::DType;

use crate::build::last_size;

/// What every block reads beside its stream.
#[derive(Debug, Clone, Copy)]
pub struct Conditioning {
    silu_temb: Value,
    step_index: Value,
    rotary_table: Value,
}

impl Conditioning {
    /// From `temb: f32[steps, batch, inner]`, `step_index: i64[]` and the rotary table
    /// of all tokens, for blocks computed in `dtype`.
    pub fn new(
        b: &mut GraphBuilder,
        temb: Value,
        step_index: Value,
        rotary_table: Value,
        dtype: DType,
    ) -> Self {
        let silu_temb = b.labelled("time_text_embed", |b| {
            let activated = b.unary(UnaryOp::Silu, temb);
            b.cast(activated, dtype)
        });
        Self {
            silu_temb,
            step_index,
            rotary_table,
        }
    }

    /// The `N` parts of the linear layer `module` for this step, each `[batch, 1, inner]`.
    pub fn modulation<const N: usize>(&self, b: &mut GraphBuilder, module: &str) -> [Value; N] {
        let width = last_size(b, self.silu_temb);
        let all_steps = b.linear_named(module, self.silu_temb, N * width, width, true);
        b.labelled(module, |b| {
            let row = b.gather(all_steps, self.step_index, 0);
            let batch = b.type_of(row).dims[0].clone();
            let row = b.reshape(row, [batch, Dim::from(1), Dim::from(N * width)]);
            std::array::from_fn(|part| b.slice(row, 2, part * width, (part + 1) * width))
        })
    }

    /// Turns `x: [batch, tokens, heads, head_dim]` by the rotary table.
    pub(super) fn turn(&self, b: &mut GraphBuilder, x: Value) -> Value {
        b.rotary(x, self.rotary_table)
    }
}
