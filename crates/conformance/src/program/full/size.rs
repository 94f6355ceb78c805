//! What is computed: the transformer, its sizes, and its inputs.

use tintype_backend::{Backend, Tensors, programs_for};
use tintype_ir::{Graph, StagedGraph};
use tintype_models::{FluxTransformerConfig, FluxTransformerOptions};
use tintype_tensor::{DType, Tensor};
use tintype_weights::Parameters;

use super::super::flux::inputs::image_ids;
use super::super::{Arguments, Result};
use super::precision::Precision;
use super::random::noise;

/// A transformer with the sizes of a request.
#[derive(Debug, Clone)]
pub(super) struct Size {
    pub(super) config: FluxTransformerConfig,
    pub(super) precision: Precision,
    pub(super) dtype: DType,
    pub(super) batch: usize,
    pub(super) steps: usize,
    pub(super) image_tokens: usize,
    pub(super) text_tokens: usize,
}

impl Size {
    pub(super) fn new(arguments: &Arguments) -> Self {
        let options = &arguments.full;
        let dev = FluxTransformerConfig::dev();
        let mut config = if options.small {
            FluxTransformerConfig {
                num_layers: 2,
                num_single_layers: 2,
                num_attention_heads: 2,
                joint_attention_dim: 64,
                pooled_projection_dim: 32,
                ..dev
            }
        } else {
            dev
        };
        if let Some(layers) = options.layers {
            (config.num_layers, config.num_single_layers) = layers;
        }
        let (image_tokens, text_tokens) = if options.small {
            (64, 16)
        } else {
            (arguments.flux_tokens, 512)
        };
        Self {
            config,
            precision: options.dtype,
            dtype: options.dtype.values,
            batch: options.batch,
            steps: options.steps,
            image_tokens,
            text_tokens,
        }
    }

    /// The graph before any pass but that which quantizes.
    pub(super) fn graph(&self) -> Result<Graph> {
        let plain = self.plain()?;
        let quantized = self.precision.quantized(&plain)?;
        Ok(quantized.map_or(plain, |quantized| quantized.graph))
    }

    /// The scales that the graph reads beside the model's own parameters.
    pub(super) fn scales(&self) -> Result<Parameters> {
        match self.precision.quantized(&self.plain()?)? {
            Some(quantized) => Ok(quantized.parameters),
            None => Ok(Parameters::builder().build()?),
        }
    }

    /// The graph with nothing quantized.
    pub(super) fn plain(&self) -> Result<Graph> {
        let exactly = |size: usize| size..=size;
        Ok(self.config.graph(&FluxTransformerOptions {
            dtype: self.dtype,
            batch: exactly(self.batch),
            steps: exactly(self.steps),
            image_tokens: exactly(self.image_tokens),
            text_tokens: exactly(self.text_tokens),
            ..FluxTransformerOptions::default()
        })?)
    }

    /// The programs, as a pipeline has them compiled.
    pub(super) fn staged(&self, backend: &dyn Backend) -> Result<StagedGraph> {
        Ok(programs_for(backend, &self.graph()?)?)
    }

    /// Inputs of a request. Timestep and guidance are numbers that bf16 has after they were
    /// multiplied by 1000: peers round them there.
    pub(super) fn request(&self, seed: usize) -> Result<Tensors> {
        let mut inputs = Tensors::new()
            .with("timesteps", vector(self.steps, 0.5)?)
            .with("guidance", vector(self.batch, 4.0)?)
            .with(
                "text_ids",
                Tensor::from_f32([self.text_tokens, 3], vec![0.0; 3 * self.text_tokens])?,
            )
            .with(
                "image_ids",
                Tensor::from_f32([self.image_tokens, 3], image_ids(self.image_tokens))?,
            );
        let pooled = [self.batch, self.config.pooled_projection_dim];
        let prompt = [
            self.batch,
            self.text_tokens,
            self.config.joint_attention_dim,
        ];
        inputs.insert(
            "pooled",
            noise(&format!("pooled.{seed}"), self.dtype, pooled)?,
        );
        inputs.insert(
            "prompt_embeds",
            noise(&format!("prompt_embeds.{seed}"), self.dtype, prompt)?,
        );
        Ok(inputs)
    }

    /// The latents of a step.
    pub(super) fn latents(&self, seed: usize) -> Result<Tensor> {
        let shape = [self.batch, self.image_tokens, self.config.in_channels];
        noise(&format!("hidden_states.{seed}"), self.dtype, shape)
    }
}

fn vector(count: usize, value: f32) -> Result<Tensor> {
    Ok(Tensor::from_f32([count], vec![value; count])?)
}
