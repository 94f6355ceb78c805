//! What both tokenizers share once their model stands: special ids, cutting, padding.
//!
//! Knows nothing of files; [`super::ClipTokenizer`] and [`super::T5Tokenizer`]
//! read them and give a model and a normaliser.

use std::path::{Path, PathBuf};

use tokenizers::normalizer::NormalizedString;
use tokenizers::{AddedToken, Normalizer, Tokenizer};

use super::Encoding;
use super::settings::{MAX_LENGTH, SPECIAL_NAMES, Settings};
use crate::{Error, Result};

/// A `tokenizers` tokenizer with the ids that a text encoder wants around a text.
pub(super) struct Backend {
    tokenizer: Tokenizer,
    bos: Option<u32>,
    eos: u32,
    pad: u32,
    pad_left: bool,
    truncate_left: bool,
    path: PathBuf,
}

/// A special token of a model: its name in the files, and its default.
pub(super) type DefaultToken = (&'static str, &'static str);

impl Backend {
    /// Adds the special tokens to a tokenizer whose model and normaliser are set.
    ///
    /// `defaults` are the special tokens of this kind of tokenizer, `extra`
    /// those that stand in no file; `path` is the file of the vocabulary.
    pub(super) fn new(
        mut tokenizer: Tokenizer,
        settings: &Settings,
        defaults: &[DefaultToken],
        extra: &[AddedToken],
        path: PathBuf,
    ) -> Result<Self> {
        let named = named_tokens(settings, defaults, &path)?;
        let mut tokens: Vec<AddedToken> = settings.added().cloned().collect();
        for token in named.iter().map(|(_, token)| token).chain(extra) {
            if !tokens.iter().any(|known| known.content == token.content) {
                tokens.push(token.clone());
            }
        }
        check_normalized(&tokenizer, &tokens, &path)?;
        let in_files: Vec<&str> = settings
            .added()
            .map(|token| token.content.as_str())
            .collect();
        let find = |name: &str| {
            let Some((_, token)) = named.iter().find(|(known, _)| *known == name) else {
                return Err(Error::invalid(&path, name, "a token", "none"));
            };
            let content = token.content.as_str();
            if tokenizer.token_to_id(content).is_some() || in_files.contains(&content) {
                return Ok(content.to_owned());
            }
            let what = format!("{name} {content:?}");
            Err(Error::invalid(
                &path,
                what,
                "a token of the vocabulary",
                "none",
            ))
        };
        let has_bos = defaults.iter().any(|(name, _)| *name == "bos_token");
        let bos = has_bos.then(|| find("bos_token")).transpose()?;
        let (eos, pad) = (find("eos_token")?, find("pad_token")?);
        tokenizer.add_tokens(&tokens);
        tokenizer.set_encode_special_tokens(settings.split_special_tokens);
        let id = |content: &str| {
            tokenizer
                .token_to_id(content)
                .ok_or_else(|| Error::invalid(&path, content, "an id", "none"))
        };
        Ok(Self {
            bos: bos.as_deref().map(id).transpose()?,
            eos: id(&eos)?,
            pad: id(&pad)?,
            pad_left: settings.pad_left,
            truncate_left: settings.truncate_left,
            path,
            tokenizer,
        })
    }

    /// The file that holds the vocabulary.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// One more than the highest id: rows that the embedding of the encoder must have.
    pub(super) fn id_count(&self) -> usize {
        let vocab = self.tokenizer.get_vocab(true);
        vocab.into_values().max().map_or(0, |id| id as usize + 1)
    }

    /// The id of the end token.
    pub(super) fn eos_id(&self) -> u32 {
        self.eos
    }

    /// Encodes `text` into exactly `max_length` ids.
    pub(super) fn encode(&self, text: &str, max_length: usize) -> Result<Encoding> {
        let around = 1 + usize::from(self.bos.is_some());
        if !(around..=MAX_LENGTH).contains(&max_length) {
            let expected = format!("{around} to {MAX_LENGTH} tokens");
            return Err(Error::argument("max_length", expected, max_length));
        }
        let encoded = self
            .tokenizer
            .encode(text, false)
            .map_err(|error| self.failed(&error))?;
        let (kept, cut) = self.split(encoded.get_ids(), max_length - around);
        let mut ids = Vec::with_capacity(max_length);
        let padding = std::iter::repeat_n(self.pad, max_length - around - kept.len());
        if self.pad_left {
            ids.extend(padding.clone());
        }
        ids.extend(self.bos);
        ids.extend(kept);
        ids.push(self.eos);
        if !self.pad_left {
            ids.extend(padding);
        }
        Ok(Encoding {
            eos_index: ids.iter().position(|&id| id == self.eos).unwrap_or(0),
            ids: ids.into_iter().map(i64::from).collect(),
            token_count: kept.len() + around,
            truncated: (!cut.is_empty()).then(|| self.decode(cut)).transpose()?,
        })
    }

    /// The ids that fit and those that do not.
    fn split<'ids>(&self, ids: &'ids [u32], room: usize) -> (&'ids [u32], &'ids [u32]) {
        let excess = ids.len().saturating_sub(room);
        if self.truncate_left {
            let (cut, kept) = ids.split_at(excess);
            (kept, cut)
        } else {
            ids.split_at(ids.len() - excess)
        }
    }

    fn decode(&self, ids: &[u32]) -> Result<String> {
        let text = self
            .tokenizer
            .decode(ids, false)
            .map_err(|error| self.failed(&error))?;
        // CLIP marks the end of a word inside its tokens; no T5 piece holds the mark.
        Ok(text
            .replace(super::clip::END_OF_WORD, " ")
            .trim()
            .to_owned())
    }

    fn failed(&self, error: &tokenizers::Error) -> Error {
        Error::Encode {
            path: self.path.clone(),
            reason: error.to_string(),
        }
    }
}

/// The named special tokens of the files, with defaults where they name none.
fn named_tokens(
    settings: &Settings,
    defaults: &[DefaultToken],
    path: &Path,
) -> Result<Vec<(&'static str, AddedToken)>> {
    let mut tokens = Vec::new();
    for name in SPECIAL_NAMES {
        let default = defaults.iter().find(|(known, _)| *known == name);
        let default = default.map(|(_, content)| *content);
        if let Some(token) = settings.named(name, default, path)? {
            tokens.push((name, token));
        }
    }
    Ok(tokens)
}

/// A token that normalises to nothing would match between any two bytes.
fn check_normalized(tokenizer: &Tokenizer, tokens: &[AddedToken], path: &Path) -> Result<()> {
    let Some(normalizer) = tokenizer.get_normalizer() else {
        return Ok(());
    };
    for token in tokens.iter().filter(|token| token.normalized) {
        let mut content = NormalizedString::from(token.content.as_str());
        let done = normalizer.normalize(&mut content);
        if done.is_err() || content.get().is_empty() {
            let what = format!("token {:?}", token.content);
            return Err(Error::invalid(path, what, "some normalised text", "none"));
        }
    }
    Ok(())
}
