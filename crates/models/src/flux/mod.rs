//! The FLUX transformer.
//!
//! [`FluxTransformerConfig::graph`] builds the whole; the functions of this module
//! build its parts, so that one block can be tested or reused alone. The rotary
//! table, the text projection and the modulation of every block for all steps are
//! of the request stage; a step reads its row by `step_index`.
//!
//! ```
//! use tintype_ir::{Stage, StagedGraph};
//! use tintype_models::{FluxTransformerConfig, FluxTransformerOptions};
//!
//! let config = FluxTransformerConfig { num_layers: 1, num_single_layers: 1, ..FluxTransformerConfig::dev() };
//! let graph = config.graph(&FluxTransformerOptions::default())?;
//! let staged = StagedGraph::split(&graph).expect("the graph is verified");
//! assert!(staged.request.parameter("transformer_blocks.0.norm1.linear.weight").is_some());
//! assert!(staged.step.parameter("transformer_blocks.0.norm1.linear.weight").is_none());
//! # Ok::<(), tintype_models::Error>(())
//! ```

mod config;
mod double_block;
mod embeddings;
mod modulation;
mod single_block;

use std::ops::RangeInclusive;

use tintype_ir::{Dim, Graph, GraphBuilder, Stage, TensorType, Value};
use tintype_tensor::DType;

pub use config::FluxTransformerConfig;
pub use double_block::{Streams, double_block};
pub use embeddings::{TimeTextInputs, rotary_table, time_text_embedding};
pub use modulation::Conditioning;
pub use single_block::single_block;

use crate::Result;
use crate::build::{check_dtype, finish, symbol};

/// How the graph of a FLUX transformer is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FluxTransformerOptions {
    /// The dtype of parameters and activations: f32, bf16 or f16.
    pub dtype: DType,
    /// Pictures at once. As for each range: one size alone is built into the graph.
    pub batch: RangeInclusive<usize>,
    /// Number of steps.
    pub steps: RangeInclusive<usize>,
    /// Image tokens: `height/16 · width/16` for text-to-image.
    pub image_tokens: RangeInclusive<usize>,
    /// Text tokens.
    pub text_tokens: RangeInclusive<usize>,
    /// Whether the step of the Euler method belongs to the graph, so that latents need not leave
    /// a device between steps.
    pub euler_step: bool,
}

impl Default for FluxTransformerOptions {
    /// f32 and ranges that cover every use of FLUX.
    fn default() -> Self {
        Self {
            dtype: DType::F32,
            batch: 1..=64,
            steps: 1..=1024,
            image_tokens: 1..=1 << 16,
            text_tokens: 1..=4096,
            euler_step: false,
        }
    }
}

impl FluxTransformerConfig {
    /// The graph of the transformer.
    ///
    /// Request inputs:
    /// - `timesteps: f32[steps]` in 0..=1, as diffusers' pipeline passes them to the
    ///   module (its scheduler's timesteps over 1000); multiplied by 1000 here, in f32;
    /// - `guidance: f32[batch]`, the scale as the user gives it, only with `guidance_embeds`;
    /// - `pooled: [batch, pooled_projection_dim]`;
    /// - `prompt_embeds: [batch, text_tokens, joint_attention_dim]`;
    /// - `text_ids: f32[text_tokens, axes]`, `image_ids: f32[image_tokens, axes]`.
    ///
    /// Step inputs: `step_index: i64[]` and `hidden_states: [batch, image_tokens, in_channels]`.
    /// Output: `sample: [batch, image_tokens, out_channels]`. Types without a dtype have that
    /// of the options.
    ///
    /// With `euler_step` there is also the request input `step_lengths: [steps]`, differences of
    /// noise levels `sigma_next − sigma`, and the output `latents: [batch, image_tokens,
    /// in_channels]`, which is `hidden_states + step_length · sample`.
    ///
    /// # Errors
    /// A configuration of which no graph can be made; `euler_step` where the model gives other
    /// channels than it takes.
    pub fn graph(&self, options: &FluxTransformerOptions) -> Result<Graph> {
        self.validate(crate::fields::IN_MEMORY)?;
        check_dtype(MODEL, options.dtype)?;
        let mut b = GraphBuilder::new("flux_transformer");
        let inputs = Inputs::declare(&mut b, self, options)?;
        self.body(&mut b, &inputs);
        finish(MODEL, b)
    }

    fn body(&self, b: &mut GraphBuilder, inputs: &Inputs) {
        let temb = time_text_embedding(b, self, &inputs.time_text);
        let table = rotary_table(b, self, inputs.text_ids, inputs.image_ids);
        let conditioning = Conditioning::new(b, temb, inputs.step_index, table, inputs.dtype);
        let width = self.inner_dim();
        let text = b.linear_named(
            "context_embedder",
            inputs.prompt_embeds,
            width,
            self.joint_attention_dim,
            true,
        );
        let image = b.linear_named(
            "x_embedder",
            inputs.hidden_states,
            width,
            self.in_channels,
            true,
        );
        let mut streams = Streams { image, text };
        for index in 0..self.num_layers {
            streams = double_block(b, self, index, streams, &conditioning);
        }
        let image = self.single_blocks(b, streams, &conditioning);
        let sample = final_layer(b, self, image, &conditioning);
        b.output("sample", sample);
        if let Some(step_lengths) = inputs.step_lengths {
            let latents = b.labelled("euler_step", |b| {
                let length = b.gather(step_lengths, inputs.step_index, 0);
                let change = b.mul(sample, length);
                b.add(inputs.hidden_states, change)
            });
            b.output("latents", latents);
        }
    }

    /// All single blocks on the joined streams; gives the image tokens.
    fn single_blocks(
        &self,
        b: &mut GraphBuilder,
        streams: Streams,
        conditioning: &Conditioning,
    ) -> Value {
        if self.num_single_layers == 0 {
            return streams.image;
        }
        let text_tokens = b.type_of(streams.text).dims[1].clone();
        let module = "single_transformer_blocks";
        let mut hidden_states = b.labelled(module, |b| streams.join(b));
        for index in 0..self.num_single_layers {
            hidden_states = single_block(b, self, index, hidden_states, conditioning);
        }
        let all_tokens = b.type_of(hidden_states).dims[1].clone();
        b.labelled(module, |b| {
            b.slice(hidden_states, 1, text_tokens, all_tokens)
        })
    }
}

/// The modulated norm and the projection at the end: `[b, s, inner]` → `[b, s, out_channels]`.
pub fn final_layer(
    b: &mut GraphBuilder,
    config: &FluxTransformerConfig,
    hidden_states: Value,
    conditioning: &Conditioning,
) -> Value {
    // The scale comes first here, unlike in the blocks.
    let [scale, shift] = conditioning.modulation(b, "norm_out.linear");
    let normed = b.labelled("norm_out", |b| {
        let normed = b.layer_norm(hidden_states, EPSILON);
        b.modulate(normed, scale, shift)
    });
    let (width, out_channels) = (config.inner_dim(), config.out_channels);
    b.linear_named("proj_out", normed, out_channels, width, true)
}

/// The inputs of the whole graph.
struct Inputs {
    dtype: DType,
    time_text: TimeTextInputs,
    prompt_embeds: Value,
    text_ids: Value,
    image_ids: Value,
    step_index: Value,
    hidden_states: Value,
    /// Only with `euler_step`.
    step_lengths: Option<Value>,
}

impl Inputs {
    fn declare(
        b: &mut GraphBuilder,
        config: &FluxTransformerConfig,
        options: &FluxTransformerOptions,
    ) -> Result<Self> {
        let dtype = options.dtype;
        let batch = symbol(b, MODEL, "batch", &options.batch)?;
        let steps = symbol(b, MODEL, "steps", &options.steps)?;
        let image_tokens = symbol(b, MODEL, "image_tokens", &options.image_tokens)?;
        let text_tokens = symbol(b, MODEL, "text_tokens", &options.text_tokens)?;
        let axes = Dim::from(config.axes_dims_rope.len());
        let mut request = |name: &str, dtype: DType, dims: &[Dim]| {
            b.input(
                name,
                Stage::Request,
                TensorType::new(dtype, dims.iter().cloned()),
            )
        };
        let time_text = TimeTextInputs {
            timesteps: request("timesteps", DType::F32, std::slice::from_ref(&steps)),
            guidance: config
                .guidance_embeds
                .then(|| request("guidance", DType::F32, std::slice::from_ref(&batch))),
            pooled: request(
                "pooled",
                dtype,
                &[batch.clone(), config.pooled_projection_dim.into()],
            ),
        };
        let prompt_dims = [
            batch.clone(),
            text_tokens.clone(),
            config.joint_attention_dim.into(),
        ];
        let prompt_embeds = request("prompt_embeds", dtype, &prompt_dims);
        let text_ids = request("text_ids", DType::F32, &[text_tokens, axes.clone()]);
        let image_ids = request("image_ids", DType::F32, &[image_tokens.clone(), axes]);
        let step_lengths = options
            .euler_step
            .then(|| request("step_lengths", dtype, &[steps]));
        let hidden_dims = [batch, image_tokens, config.in_channels.into()];
        let step_type = TensorType::new(DType::I64, [0usize; 0]);
        Ok(Self {
            dtype,
            time_text,
            prompt_embeds,
            text_ids,
            image_ids,
            step_index: b.input("step_index", Stage::Step, step_type),
            hidden_states: b.input(
                "hidden_states",
                Stage::Step,
                TensorType::new(dtype, hidden_dims),
            ),
            step_lengths,
        })
    }
}

const MODEL: &str = "flux transformer";

/// Width of the feed-forwards over that of the streams.
const MLP_RATIO: usize = 4;

/// Of every LayerNorm and RMSNorm of the model.
const EPSILON: f32 = 1e-6;
