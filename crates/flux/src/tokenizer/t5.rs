//! T5's tokenizer: pieces of a unigram model, words marked with `▁`.
//!
//! Reads `tokenizer.json`, or `spiece.model` alone; trains nothing. As in
//! transformers, white space only separates words, whatever the sentencepiece
//! model says of it, and unknown characters get id 2.
//!
//! ```no_run
//! use tintype_flux::ModelFiles;
//! use tintype_flux::tokenizer::T5Tokenizer;
//!
//! let tokenizer = T5Tokenizer::from_files(&ModelFiles::folder("flux/tokenizer_2"))?;
//! let encoding = tokenizer.encode("a red fox", 512)?;
//! assert_eq!(encoding.ids[encoding.eos_index], 1);
//! # Ok::<(), tintype_flux::Error>(())
//! ```

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tintype_weights::ModelFiles;
use tokenizers::models::unigram::Unigram;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::{AddedToken, Tokenizer};

use super::backend::{Backend, DefaultToken};
use super::sentencepiece::{PieceKind, SentencePieceModel, UNIGRAM};
use super::settings::{Settings, SettingsFiles, check_content};
use super::{Encoding, charsmap};
use crate::files::{self, CONFIG_LIMIT, TOKENIZER_LIMIT};
use crate::{Error, Result};

/// T5's tokenizer.
pub struct T5Tokenizer {
    backend: Backend,
}

/// The files of a T5 tokenizer, as bytes; all but the vocabulary may lack.
#[derive(Debug, Clone, Copy, Default)]
pub struct T5Files<'a> {
    /// `tokenizer.json`; wins over `spiece.model`.
    pub tokenizer: Option<&'a [u8]>,
    /// `spiece.model`.
    pub spiece: Option<&'a [u8]>,
    /// `tokenizer_config.json`.
    pub config: Option<&'a [u8]>,
    /// `special_tokens_map.json`.
    pub special_tokens_map: Option<&'a [u8]>,
    /// `added_tokens.json`.
    pub added_tokens: Option<&'a [u8]>,
}

impl T5Tokenizer {
    /// Reads the tokenizer in `folder`.
    ///
    /// # Errors
    /// Those of [`Self::parse`], and [`Error::Read`], [`Error::TooLarge`].
    pub fn from_files(folder: &ModelFiles) -> Result<Self> {
        let optional = |name: &str, limit| files::read_optional(folder, name, limit);
        let tokenizer = optional("tokenizer.json", TOKENIZER_LIMIT)?;
        let spiece = match tokenizer {
            Some(_) => None,
            None => optional("spiece.model", TOKENIZER_LIMIT)?,
        };
        let config = optional("tokenizer_config.json", CONFIG_LIMIT)?;
        let special_tokens_map = optional("special_tokens_map.json", CONFIG_LIMIT)?;
        let added_tokens = optional("added_tokens.json", CONFIG_LIMIT)?;
        let files = T5Files {
            tokenizer: tokenizer.as_deref(),
            spiece: spiece.as_deref(),
            config: config.as_deref(),
            special_tokens_map: special_tokens_map.as_deref(),
            added_tokens: added_tokens.as_deref(),
        };
        Self::parse(files, folder.root())
    }

    /// Builds the tokenizer from its files; `folder` is for messages only.
    ///
    /// # Errors
    /// [`Error::Missing`] without a vocabulary, [`Error::Json`] and
    /// [`Error::Invalid`] for a file that makes no sense.
    pub fn parse(files: T5Files<'_>, folder: &Path) -> Result<Self> {
        let json_path = folder.join("tokenizer.json");
        let json = files
            .tokenizer
            .map(|bytes| files::json_object(bytes, &json_path))
            .transpose()?;
        let settings_files = SettingsFiles {
            config: files.config,
            special_tokens_map: files.special_tokens_map,
            added_tokens: files.added_tokens,
        };
        let settings = Settings::parse(settings_files, json.as_ref(), folder)?;
        let extra_ids = extra_ids(&settings, folder)?;
        let model = match (&json, files.spiece) {
            (Some(json), _) => Model::from_json(json, json_path)?,
            (None, Some(spiece)) => {
                Model::from_spiece(spiece, folder.join("spiece.model"), extra_ids)?
            }
            (None, None) => {
                return Err(Error::Missing {
                    path: folder.to_owned(),
                    expected: "tokenizer.json, or spiece.model".into(),
                });
            }
        };
        let sentinels = (0..extra_ids).map(|index| AddedToken::from(sentinel(index), true));
        let extra = match settings.extra_special_tokens(&folder.join("tokenizer_config.json"))? {
            Some(tokens) => tokens,
            None => model.special.iter().cloned().chain(sentinels).collect(),
        };
        let path = model.path.clone();
        let tokenizer = model.build()?;
        Ok(Self {
            backend: Backend::new(tokenizer, &settings, &DEFAULT_TOKENS, &extra, path)?,
        })
    }

    /// The file that holds the vocabulary.
    pub fn path(&self) -> &Path {
        self.backend.path()
    }

    /// One more than the highest id: rows that the encoder's embedding must have.
    ///
    /// Counts the extra ids; a model's embedding is often padded further.
    pub fn id_count(&self) -> usize {
        self.backend.id_count()
    }

    /// Encodes `text` into exactly `max_length` ids: text, end, padding.
    ///
    /// # Errors
    /// [`Error::Argument`] for a length of 0 or beyond reason.
    pub fn encode(&self, text: &str, max_length: usize) -> Result<Encoding> {
        self.backend.encode(text, max_length)
    }
}

/// A unigram vocabulary, from either file.
struct Model {
    vocab: Vec<(String, f64)>,
    charsmap: Vec<u8>,
    /// Control and user-defined pieces, which a text may name.
    special: Vec<AddedToken>,
    path: PathBuf,
}

impl Model {
    fn from_spiece(bytes: &[u8], path: PathBuf, extra_ids: u64) -> Result<Self> {
        let model = SentencePieceModel::parse(bytes, &path)?;
        if model.model_type != UNIGRAM {
            return Err(Error::invalid(
                &path,
                "model_type",
                "1 (unigram)",
                model.model_type,
            ));
        }
        let special = model.pieces.iter().filter_map(|piece| {
            let is_control = match piece.kind {
                PieceKind::Control => true,
                PieceKind::UserDefined => false,
                _ => return None,
            };
            let token = AddedToken::from(piece.text.as_str(), is_control);
            Some(token.normalized(false))
        });
        let special = special.collect();
        let pieces = model.pieces.into_iter();
        let mut vocab: Vec<_> = pieces
            .map(|piece| (piece.text, piece.score.into()))
            .collect();
        // The sentinels follow the pieces, the last one first.
        vocab.extend((0..extra_ids).rev().map(|index| (sentinel(index), 0.0)));
        Ok(Self {
            vocab,
            charsmap: model.precompiled_charsmap,
            special,
            path,
        })
    }

    fn from_json(json: &Map<String, Value>, path: PathBuf) -> Result<Self> {
        let model = json
            .get("model")
            .ok_or_else(|| Error::invalid(&path, "model", "an object", "none"))?;
        if let Some(found) = model
            .get("type")
            .filter(|found| found.as_str() != Some("Unigram"))
        {
            return Err(Error::invalid(&path, "model.type", "Unigram", found));
        }
        let vocab = model
            .get("vocab")
            .and_then(Value::as_array)
            .ok_or_else(|| Error::invalid(&path, "model.vocab", "a list", "none"))?;
        let vocab = vocab
            .iter()
            .enumerate()
            .map(|(id, entry)| json_piece(id, entry, &path));
        let vocab = vocab.collect::<Result<_>>()?;
        Ok(Self {
            vocab,
            charsmap: json_charsmap(json, &path)?,
            special: Vec::new(),
            path,
        })
    }

    fn build(self) -> Result<Tokenizer> {
        let count = self.vocab.len();
        if count <= UNKNOWN_ID {
            let expected = format!("more than {UNKNOWN_ID} pieces");
            return Err(Error::invalid(&self.path, "vocabulary", expected, count));
        }
        let model = Unigram::from(self.vocab, Some(UNKNOWN_ID), false)
            .map_err(|error| Error::invalid(&self.path, "vocabulary", "a unigram model", error))?;
        let mut tokenizer = Tokenizer::new(model);
        if !self.charsmap.is_empty() {
            let normalizer = charsmap::normalizer(&self.charsmap, &self.path)?;
            tokenizer.with_normalizer(Some(normalizer));
        }
        let marks = Metaspace::new('▁', PrependScheme::Always, true);
        tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(vec![
            WhitespaceSplit.into(),
            marks.clone().into(),
        ])));
        tokenizer.with_decoder(Some(marks));
        Ok(tokenizer)
    }
}

/// A piece and its score, `["▁a", -3.2]`.
fn json_piece(id: usize, entry: &Value, path: &Path) -> Result<(String, f64)> {
    let pair = match entry.as_array().map(Vec::as_slice) {
        Some([text, score]) => text.as_str().zip(score.as_f64()),
        _ => None,
    };
    let (text, score) = pair.ok_or_else(|| {
        let what = format!("model.vocab[{id}]");
        Error::invalid(path, what, "a piece and its score", entry)
    })?;
    check_content(text, &format!("model.vocab[{id}]"), path)?;
    Ok((text.to_owned(), score))
}

/// The first precompiled map among the normalisers; empty if there is none.
fn json_charsmap(json: &Map<String, Value>, path: &Path) -> Result<Vec<u8>> {
    let normalizer = json.get("normalizer").unwrap_or(&Value::Null);
    let normalizers = match normalizer.get("normalizers").and_then(Value::as_array) {
        Some(normalizers) => normalizers.as_slice(),
        None => std::slice::from_ref(normalizer),
    };
    let is_map = |value: &&Value| value.get("type").and_then(Value::as_str) == Some("Precompiled");
    let Some(map) = normalizers
        .iter()
        .find(is_map)
        .and_then(|value| value.get("precompiled_charsmap"))
    else {
        return Ok(Vec::new());
    };
    map.as_str().and_then(charsmap::from_base64).ok_or_else(|| {
        Error::invalid(
            path,
            "normalizer.precompiled_charsmap",
            "base64",
            "other text",
        )
    })
}

fn extra_ids(settings: &Settings, folder: &Path) -> Result<u64> {
    let path = folder.join("tokenizer_config.json");
    let count = settings.number("extra_ids", DEFAULT_EXTRA_IDS, &path)?;
    if count <= MAX_EXTRA_IDS {
        return Ok(count);
    }
    let expected = format!("at most {MAX_EXTRA_IDS}");
    Err(Error::invalid(&path, "extra_ids", expected, count))
}

fn sentinel(index: u64) -> String {
    format!("<extra_id_{index}>")
}

/// T5 vocabularies begin with padding, end, unknown; transformers takes that for granted.
const UNKNOWN_ID: usize = 2;
const DEFAULT_EXTRA_IDS: u64 = 100;
const MAX_EXTRA_IDS: u64 = 100_000;
const DEFAULT_TOKENS: [DefaultToken; 3] = [
    ("eos_token", "</s>"),
    ("unk_token", "<unk>"),
    ("pad_token", "<pad>"),
];
