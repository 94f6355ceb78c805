//! From prompts to embeddings.

use std::path::{Path, PathBuf};
use std::time::Instant;

use tintype_backend::Tensors;
use tintype_refit::Signature;
use tintype_tensor::Tensor;

use super::FluxPipeline;
use super::check::Run;
use super::drawing::Drawing;
use super::modules::ModelKind;
use crate::model_index::Component;
use crate::tokenizer::Encoding;
use crate::{Error, Part, Result};

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

/// What embeddings are made from: the prompts of both encoders, or given tensors.
enum Source {
    Text { clip: Vec<String>, t5: Vec<String> },
    Given { prompt: Tensor, pooled: Tensor },
}

impl Source {
    /// The positive one, then the negative one if it takes effect.
    fn all(run: &Run) -> Vec<Self> {
        let (request, tensors) = (&run.request, &run.request.tensors);
        let positive = Self::new(
            Some(&request.prompt),
            request.prompt_2.as_ref(),
            (&tensors.prompt_embeds, &tensors.pooled_prompt_embeds),
        );
        let negative = run.true_cfg_scale.map(|_| {
            Self::new(
                request.negative_prompt.as_ref(),
                request.negative_prompt_2.as_ref(),
                (
                    &tensors.negative_prompt_embeds,
                    &tensors.negative_pooled_prompt_embeds,
                ),
            )
        });
        [positive].into_iter().chain(negative).collect()
    }

    fn new(
        prompts: Option<&Vec<String>>,
        prompts_2: Option<&Vec<String>>,
        given: (&Option<Tensor>, &Option<Tensor>),
    ) -> Self {
        if let (Some(prompt), Some(pooled)) = given {
            return Self::Given {
                prompt: prompt.clone(),
                pooled: pooled.clone(),
            };
        }
        let prompts = prompts.map_or(&[][..], Vec::as_slice);
        Self::Text {
            clip: prompts.to_vec(),
            t5: prompts_of_t5(prompts, prompts_2).to_vec(),
        }
    }
}

impl Run {
    /// Whether something is given as text.
    pub(super) fn has_text(&self) -> bool {
        let mut sources = Source::all(self).into_iter();
        sources.any(|source| matches!(source, Source::Text { .. }))
    }
}

impl Drawing<'_> {
    /// Encodes what the request gives as text: all of it by CLIP, then all of it by T5, so
    /// that one encoder can go before the other comes.
    pub(super) fn encode_prompts(&mut self) -> Result<Prompts> {
        let sources = Source::all(&self.run);
        let mut pooled = Vec::new();
        for source in &sources {
            pooled.push(match source {
                Source::Given { pooled, .. } => pooled.clone(),
                Source::Text { clip, .. } => self.clip(clip)?,
            });
        }
        self.release(ModelKind::Clip);
        let mut embeddings = Vec::new();
        for (source, pooled) in sources.iter().zip(&pooled) {
            let prompt = match source {
                Source::Given { prompt, .. } => prompt.clone(),
                Source::Text { t5, .. } => self.t5(t5)?,
            };
            embeddings.push(Embeddings {
                prompt: self.for_pictures(&prompt)?,
                pooled: self.for_pictures(pooled)?,
            });
        }
        self.release(ModelKind::T5);
        let mut embeddings = embeddings.into_iter();
        Ok(Prompts {
            positive: embeddings.next().expect("the positive source comes first"),
            negative: embeddings.next(),
        })
    }

    /// A row for each picture, in the pipeline's dtype.
    fn for_pictures(&self, tensor: &Tensor) -> Result<Tensor> {
        let rows = repeat_rows(tensor, self.run.prompts, self.run.num_images)?;
        Ok(rows.to_dtype(self.pipeline.dtype)?)
    }

    fn clip(&mut self, prompts: &[String]) -> Result<Tensor> {
        let ids = self.pipeline.clip_ids(prompts)?;
        Ok(self.encode(ModelKind::Clip, ids)?.host("pooled")?)
    }

    fn t5(&mut self, prompts: &[String]) -> Result<Tensor> {
        let ids = self
            .pipeline
            .t5_ids(prompts, self.run.max_sequence_length)?;
        Ok(self.encode(ModelKind::T5, ids)?.host("hidden_states")?)
    }

    fn encode(&mut self, kind: ModelKind, ids: Tensor) -> Result<Tensors> {
        let inputs = Tensors::new().with("input_ids", ids);
        self.load(kind, &Signature::of(&inputs))?;
        self.observer.begin(Part::Encode, 0);
        let (start, loaded) = (Instant::now(), self.run.timings.load);
        let outputs = self.call(kind, &inputs)?;
        self.run.timings.encode += self.run.timings.since(start, loaded);
        Ok(outputs)
    }
}

impl FluxPipeline {
    fn clip_ids(&self, prompts: &[String]) -> Result<Tensor> {
        let length = self.clip_tokens();
        let encodings: Result<Vec<Encoding>> = prompts
            .iter()
            .map(|prompt| self.tokenizers.clip.encode(prompt, length))
            .collect();
        let embedding = Embedding {
            encoder: "CLIP",
            vocabulary: self.tokenizers.clip.path(),
            config: self.config_path(Component::TextEncoder),
            rows: self.configs.clip.vocab_size,
        };
        token_ids(&embedding, &encodings?, length)
    }

    fn t5_ids(&self, prompts: &[String], length: usize) -> Result<Tensor> {
        let encodings: Result<Vec<Encoding>> = prompts
            .iter()
            .map(|prompt| self.tokenizers.t5.encode(prompt, length))
            .collect();
        let embedding = Embedding {
            encoder: "T5",
            vocabulary: self.tokenizers.t5.path(),
            config: self.config_path(Component::TextEncoder2),
            rows: self.configs.t5.vocab_size,
        };
        token_ids(&embedding, &encodings?, length)
    }
}

/// The second prompts if there are any. A single empty one is none: where diffusers is
/// given a string, it takes the empty one for no answer.
fn prompts_of_t5<'a>(prompts: &'a [String], prompts_2: Option<&'a Vec<String>>) -> &'a [String] {
    match prompts_2.map(Vec::as_slice) {
        None => prompts,
        Some([only]) if only.is_empty() => prompts,
        Some(prompts_2) => prompts_2,
    }
}

/// Where the ids of a tokenizer are looked up.
struct Embedding<'a> {
    /// How messages call the encoder.
    encoder: &'static str,
    /// The file that the ids come from.
    vocabulary: &'a Path,
    /// The file that says how many rows there are.
    config: PathBuf,
    rows: usize,
}

impl Embedding<'_> {
    /// Tokenizers may know more tokens than a text names, so ids are checked as they come.
    fn check(&self, encoding: &Encoding) -> Result<()> {
        let outside = |id: &&i64| usize::try_from(**id).map_or(true, |id| id >= self.rows);
        let Some(id) = encoding.ids.iter().find(outside) else {
            return Ok(());
        };
        let expected = format!(
            "less than {}, the rows of the embedding by `vocab_size` of {}",
            self.rows,
            self.config.display()
        );
        Err(Error::invalid(
            self.vocabulary,
            "a token's id",
            expected,
            id,
        ))
    }
}

fn token_ids(embedding: &Embedding, encodings: &[Encoding], length: usize) -> Result<Tensor> {
    for encoding in encodings {
        embedding.check(encoding)?;
        if let Some(cut) = &encoding.truncated {
            let encoder = embedding.encoder;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_empty_second_prompt_is_none() {
        let list = |texts: &[&str]| {
            texts
                .iter()
                .map(|&text| text.to_owned())
                .collect::<Vec<_>>()
        };
        let prompts = list(&["a", "b"]);
        assert_eq!(prompts_of_t5(&prompts, None), ["a", "b"]);
        assert_eq!(prompts_of_t5(&prompts, Some(&list(&[""]))), ["a", "b"]);
        assert_eq!(prompts_of_t5(&prompts, Some(&list(&[" "]))), [" "]);
        assert_eq!(prompts_of_t5(&prompts, Some(&list(&["", "c"]))), ["", "c"]);
    }
}
