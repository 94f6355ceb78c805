//! CLIP's tokenizer: lower-cased text, byte-level BPE with marked word ends.
//!
//! Reads `tokenizer.json`, or `vocab.json` with `merges.txt`; trains nothing.
//!
//! ```
//! use std::path::Path;
//! use tintype_flux::tokenizer::{ClipFiles, ClipTokenizer};
//!
//! let files = ClipFiles {
//!     vocab: Some(br#"{"f</w>": 0, "o": 1, "x</w>": 2, "ox</w>": 3, "f": 4, "fox</w>": 5,
//!         "<|startoftext|>": 6, "<|endoftext|>": 7}"#),
//!     merges: Some(b"#version: 0.2\no x</w>\nf ox</w>\n"),
//!     ..ClipFiles::default()
//! };
//! let tokenizer = ClipTokenizer::parse(files, Path::new("tokenizer"))?;
//! assert_eq!(tokenizer.encode("Fox fox", 5)?.ids, [6, 5, 5, 7, 7]);
//! # Ok::<(), tintype_flux::Error>(())
//! ```

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tintype_weights::ModelFiles;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{SplitDelimiterBehavior, Tokenizer};

use super::Encoding;
use super::backend::{Backend, DefaultToken};
use super::settings::{Settings, SettingsFiles, check_content, kind};
use crate::files::{self, CONFIG_LIMIT, TOKENIZER_LIMIT};
use crate::{Error, Result};

/// CLIP's tokenizer.
pub struct ClipTokenizer {
    backend: Backend,
    model_max_length: usize,
}

/// The files of a CLIP tokenizer, as bytes; all but the vocabulary may lack.
#[derive(Debug, Clone, Copy, Default)]
pub struct ClipFiles<'a> {
    /// `tokenizer.json`; wins over `vocab.json` and `merges.txt`.
    pub tokenizer: Option<&'a [u8]>,
    /// `vocab.json`.
    pub vocab: Option<&'a [u8]>,
    /// `merges.txt`.
    pub merges: Option<&'a [u8]>,
    /// `tokenizer_config.json`.
    pub config: Option<&'a [u8]>,
    /// `special_tokens_map.json`.
    pub special_tokens_map: Option<&'a [u8]>,
    /// `added_tokens.json`.
    pub added_tokens: Option<&'a [u8]>,
}

impl ClipTokenizer {
    /// Reads the tokenizer in `folder`.
    ///
    /// # Errors
    /// Those of [`Self::parse`], and [`Error::Read`], [`Error::TooLarge`].
    pub fn from_files(folder: &ModelFiles) -> Result<Self> {
        let optional = |name: &str, limit| files::read_optional(folder, name, limit);
        let tokenizer = optional("tokenizer.json", TOKENIZER_LIMIT)?;
        let vocab = optional("vocab.json", TOKENIZER_LIMIT)?;
        let merges = optional("merges.txt", TOKENIZER_LIMIT)?;
        let config = optional("tokenizer_config.json", CONFIG_LIMIT)?;
        let special_tokens_map = optional("special_tokens_map.json", CONFIG_LIMIT)?;
        let added_tokens = optional("added_tokens.json", CONFIG_LIMIT)?;
        let files = ClipFiles {
            tokenizer: tokenizer.as_deref(),
            vocab: vocab.as_deref(),
            merges: merges.as_deref(),
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
    pub fn parse(files: ClipFiles<'_>, folder: &Path) -> Result<Self> {
        let json_path = folder.join("tokenizer.json");
        let json = files
            .tokenizer
            .map(|bytes| files::json_object(bytes, &json_path))
            .transpose()?;
        let (path, vocab, merges) = match &json {
            Some(json) => {
                let (vocab, merges) = model_of_json(json, &json_path)?;
                (json_path, vocab, merges)
            }
            None => model_of_files(files, folder)?,
        };
        let settings_files = SettingsFiles {
            config: files.config,
            special_tokens_map: files.special_tokens_map,
            added_tokens: files.added_tokens,
        };
        let settings = Settings::parse(settings_files, json.as_ref(), folder)?;
        let tokenizer = build(vocab, merges, &settings, &path)?;
        Ok(Self {
            backend: Backend::new(tokenizer, &settings, &DEFAULT_TOKENS, &[], path)?,
            model_max_length: settings.model_max_length.unwrap_or(DEFAULT_LENGTH),
        })
    }

    /// The number of ids that the text encoder takes; 77 if the files do not say.
    pub fn model_max_length(&self) -> usize {
        self.model_max_length
    }

    /// The file that holds the vocabulary.
    pub fn path(&self) -> &Path {
        self.backend.path()
    }

    /// One more than the highest id: rows that the encoder's embedding must have.
    pub fn id_count(&self) -> usize {
        self.backend.id_count()
    }

    /// The id of the end token.
    pub fn eos_id(&self) -> i64 {
        self.backend.eos_id().into()
    }

    /// Encodes `text` into exactly `max_length` ids: start, text, end, padding.
    ///
    /// # Errors
    /// [`Error::Argument`] for a length below 2 or beyond reason, and
    /// [`Error::Encode`] where a character is unknown and so is the unknown token.
    pub fn encode(&self, text: &str, max_length: usize) -> Result<Encoding> {
        self.backend.encode(text, max_length)
    }
}

fn build(vocab: Vocab, merges: Merges, settings: &Settings, path: &Path) -> Result<Tokenizer> {
    let unknown = settings.named("unk_token", Some(END_OF_TEXT), path)?;
    let mut model = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .continuing_subword_prefix(String::new())
        .end_of_word_suffix(END_OF_WORD.to_owned());
    if let Some(unknown) = unknown {
        model = model.unk_token(unknown.content);
    }
    let failed = |error| Error::invalid(path, "merges", "tokens of the vocabulary", error);
    let mut tokenizer = Tokenizer::new(model.build().map_err(failed)?);
    let spaces = ReplacePattern::Regex(r"\s+".into());
    let spaces = Replace::new(spaces, " ").map_err(failed)?;
    let words = SplitPattern::Regex(WORDS.into());
    let words = Split::new(words, SplitDelimiterBehavior::Removed, true).map_err(failed)?;
    let bytes = ByteLevel::new(false, true, true);
    tokenizer.with_normalizer(Some(Normalizers::new(vec![
        NFC.into(),
        spaces.into(),
        Lowercase.into(),
    ])));
    tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(vec![words.into(), bytes.into()])));
    tokenizer.with_decoder(Some(bytes));
    Ok(tokenizer)
}

fn model_of_files(files: ClipFiles<'_>, folder: &Path) -> Result<(PathBuf, Vocab, Merges)> {
    let (vocab_path, merges_path) = (folder.join("vocab.json"), folder.join("merges.txt"));
    let missing = |path: &Path, expected: &str| Error::Missing {
        path: path.to_owned(),
        expected: expected.to_owned(),
    };
    let vocab = files
        .vocab
        .ok_or_else(|| missing(folder, "tokenizer.json, or vocab.json and merges.txt"))?;
    let merges = files
        .merges
        .ok_or_else(|| missing(&merges_path, "the merges of vocab.json"))?;
    let vocab = read_vocab(&files::json_object(vocab, &vocab_path)?, &vocab_path)?;
    let merges = read_merges(merges, &merges_path)?;
    Ok((vocab_path, vocab, merges))
}

fn model_of_json(json: &Map<String, Value>, path: &Path) -> Result<(Vocab, Merges)> {
    let model = json
        .get("model")
        .and_then(Value::as_object)
        .ok_or_else(|| Error::invalid(path, "model", "an object", "none"))?;
    // Old files leave the type out.
    if let Some(found) = model
        .get("type")
        .filter(|found| found.as_str() != Some("BPE"))
    {
        return Err(Error::invalid(path, "model.type", "BPE", found));
    }
    let vocab = model
        .get("vocab")
        .and_then(Value::as_object)
        .ok_or_else(|| Error::invalid(path, "model.vocab", "an object", "none"))?;
    let merges = model
        .get("merges")
        .and_then(Value::as_array)
        .ok_or_else(|| Error::invalid(path, "model.merges", "a list", "none"))?;
    let merges = merges.iter().map(|merge| json_merge(merge, path));
    Ok((read_vocab(vocab, path)?, merges.collect::<Result<_>>()?))
}

fn read_vocab(vocab: &Map<String, Value>, path: &Path) -> Result<Vocab> {
    let mut ids = Vocab::default();
    for (token, id) in vocab {
        check_content(token, "vocabulary", path)?;
        let number = id.as_u64().filter(|&id| id <= MAX_ID);
        let number = number.ok_or_else(|| {
            let expected = format!("a whole number up to {MAX_ID}");
            Error::invalid(path, format!("id of token {token:?}"), expected, id)
        })?;
        ids.insert(token.clone(), number as u32);
    }
    Ok(ids)
}

/// A merge as `"a b"`, or as `["a", "b"]`.
fn json_merge(merge: &Value, path: &Path) -> Result<(String, String)> {
    let pair = match merge {
        Value::String(text) => text.split_once(' '),
        Value::Array(pair) => match pair.as_slice() {
            [first, second] => first.as_str().zip(second.as_str()),
            _ => None,
        },
        _ => None,
    };
    pair.map(|(first, second)| (first.to_owned(), second.to_owned()))
        .ok_or_else(|| Error::invalid(path, "model.merges", "pairs of tokens", kind(merge)))
}

fn read_merges(bytes: &[u8], path: &Path) -> Result<Merges> {
    let text =
        std::str::from_utf8(bytes).map_err(|error| Error::invalid(path, "text", "utf-8", error))?;
    let mut merges = Merges::new();
    for (index, line) in text.lines().enumerate() {
        if line.starts_with("#version") {
            continue;
        }
        let pair = line
            .split_once(' ')
            .filter(|(_, second)| !second.contains(' '));
        let (first, second) = pair.ok_or_else(|| {
            let found: String = line.chars().take(40).collect();
            Error::invalid(path, format!("line {}", index + 1), "two tokens", found)
        })?;
        merges.push((first.to_owned(), second.to_owned()));
    }
    Ok(merges)
}

/// The mark at the end of a word's last token.
pub(super) const END_OF_WORD: &str = "</w>";
const END_OF_TEXT: &str = "<|endoftext|>";
const DEFAULT_TOKENS: [DefaultToken; 4] = [
    ("bos_token", "<|startoftext|>"),
    ("eos_token", END_OF_TEXT),
    ("unk_token", END_OF_TEXT),
    ("pad_token", END_OF_TEXT),
];
const DEFAULT_LENGTH: usize = 77;
/// Ids index rows of an embedding; none has as many.
const MAX_ID: u64 = 1 << 28;
/// What a word is: a contraction, letters, one digit, or other signs.
const WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
