//! From prompts to embeddings.

use std::time::Instant;

use tintype_backend::Tensors;
use tintype_tensor::Tensor;

use super::FluxPipeline;
use super::check::{Run, same_count};
use super::model::{ModelKind, in_dtype};
use crate::tokenizer::Encoding;
use crate::{Observer, Part, Result};

/// What the transformer is told of the prompts, a row for each picture.
pub(super) struct Embeddings {
    pub(super) prompt: Tensor,
    pub(super) pooled: Tensor,
}

/// The prompts of a request, encoded.
pub(super) struct Prompts {
    pub(super) positive: Embeddings,
    pub(super) negative: Option<Embeddings>,
}

impl FluxPipeline {
    /// Encodes what the request gives as text, CLIP first, then T5.
    pub(super) fn encode_prompts(
        &mut self,
        run: &mut Run,
        observer: &mut dyn Observer,
    ) -> Result<Prompts> {
        let request = run.request.clone();
        let tensors = request.tensors;
        let first = request.prompt;
        let given = tensors.prompt_embeds.zip(tensors.pooled_prompt_embeds);
        let positive = self.embeddings(run, &first, request.prompt_2.as_ref(), given, observer)?;
        let negative = if run.true_cfg_scale.is_some() {
            let given = tensors
                .negative_prompt_embeds
                .zip(tensors.negative_pooled_prompt_embeds);
            let prompts = request.negative_prompt.unwrap_or_default();
            if given.is_none() {
                same_count("negative_prompt", run.prompts, Some(&prompts))?;
            }
            Some(self.embeddings(
                run,
                &prompts,
                request.negative_prompt_2.as_ref(),
                given,
                observer,
            )?)
        } else {
            None
        };
        self.release(|models| {
            models.clip = None;
            models.t5 = None;
        });
        Ok(Prompts { positive, negative })
    }

    fn embeddings(
        &mut self,
        run: &mut Run,
        prompts: &[String],
        prompts_2: Option<&Vec<String>>,
        given: Option<(Tensor, Tensor)>,
        observer: &mut dyn Observer,
    ) -> Result<Embeddings> {
        let (prompt, pooled) = match given {
            Some(given) => given,
            None => {
                let pooled = self.clip(run, prompts, observer)?;
                let prompt = self.t5(run, prompts_2.map_or(prompts, Vec::as_slice), observer)?;
                (prompt, pooled)
            }
        };
        let dtype = self.dtype;
        let for_pictures =
            |tensor: &Tensor| in_dtype(&repeat_rows(tensor, run.prompts, run.num_images)?, dtype);
        Ok(Embeddings {
            prompt: for_pictures(&prompt)?,
            pooled: for_pictures(&pooled)?,
        })
    }

    fn clip(
        &mut self,
        run: &mut Run,
        prompts: &[String],
        observer: &mut dyn Observer,
    ) -> Result<Tensor> {
        let length = self
            .configs
            .clip
            .max_position_embeddings
            .min(self.tokenizers.clip.model_max_length());
        let encodings: Result<Vec<Encoding>> = prompts
            .iter()
            .map(|prompt| self.tokenizers.clip.encode(prompt, length))
            .collect();
        let ids = token_ids("CLIP", &encodings?, length)?;
        self.run_encoder(ModelKind::Clip, run, ids, observer)?
            .host("pooled")
            .map_err(Into::into)
    }

    fn t5(
        &mut self,
        run: &mut Run,
        prompts: &[String],
        observer: &mut dyn Observer,
    ) -> Result<Tensor> {
        let length = run.max_sequence_length;
        let encodings: Result<Vec<Encoding>> = prompts
            .iter()
            .map(|prompt| self.tokenizers.t5.encode(prompt, length))
            .collect();
        let ids = token_ids("T5", &encodings?, length)?;
        self.run_encoder(ModelKind::T5, run, ids, observer)?
            .host("hidden_states")
            .map_err(Into::into)
    }

    fn run_encoder(
        &mut self,
        kind: ModelKind,
        run: &mut Run,
        ids: Tensor,
        observer: &mut dyn Observer,
    ) -> Result<Tensors> {
        let model = self.model(kind, run, observer)?;
        observer.begin(Part::Encode, 0);
        let start = Instant::now();
        let outputs = model.run(&Tensors::new().with("input_ids", ids))?;
        run.timings.encode += start.elapsed();
        Ok(outputs)
    }
}

fn token_ids(encoder: &str, encodings: &[Encoding], length: usize) -> Result<Tensor> {
    for encoding in encodings {
        if let Some(cut) = &encoding.truncated {
            tracing::warn!(
                "{encoder} reads {length} tokens; this part of the prompt was cut: {cut}"
            );
        }
    }
    let ids: Vec<i64> = encodings
        .iter()
        .flat_map(|encoding| encoding.ids.iter().copied())
        .collect();
    Ok(Tensor::new([encodings.len(), length], ids)?)
}

/// Each row `copies` times, copies side by side; a single row serves all `prompts`.
fn repeat_rows(tensor: &Tensor, prompts: usize, copies: usize) -> Result<Tensor> {
    let rows = tensor.shape()[0];
    if rows == prompts && copies == 1 {
        return Ok(tensor.clone());
    }
    let row_bytes = tensor.bytes().len() / rows.max(1);
    let mut bytes = Vec::with_capacity(row_bytes * prompts * copies);
    for prompt in 0..prompts {
        let row = if rows == 1 { 0 } else { prompt };
        for _ in 0..copies {
            bytes.extend_from_slice(&tensor.bytes()[row * row_bytes..(row + 1) * row_bytes]);
        }
    }
    let mut shape = tensor.shape().to_vec();
    shape[0] = prompts * copies;
    Ok(Tensor::from_bytes(tensor.dtype(), shape, bytes)?)
}
