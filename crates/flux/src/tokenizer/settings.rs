//! What `tokenizer_config.json` and its companions say: special and added tokens, lengths, sides.
//!
//! The files overlap; which of them wins follows transformers' `_from_pretrained`.
//! The vocabulary itself is read elsewhere.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::files;
use crate::{Error, Result};

/// The optional files beside a vocabulary, as bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SettingsFiles<'a> {
    /// `tokenizer_config.json`.
    pub config: Option<&'a [u8]>,
    /// `special_tokens_map.json`.
    pub special_tokens_map: Option<&'a [u8]>,
    /// `added_tokens.json`.
    pub added_tokens: Option<&'a [u8]>,
}

/// Settings of a tokenizer beyond its vocabulary.
#[derive(Debug, Default)]
pub(super) struct Settings {
    fields: Map<String, Value>,
    /// Added tokens with their ids, by which they are ordered.
    added: Vec<(u64, AddedToken)>,
    /// Longest input that the model takes, if it is stated and believable.
    pub model_max_length: Option<usize>,
    /// Whether padding is put before the text.
    pub pad_left: bool,
    /// Whether a long text loses its start rather than its end.
    pub truncate_left: bool,
    /// Whether special tokens in a text are split like any other text.
    pub split_special_tokens: bool,
}

/// A token as the JSON files write it; which fields may lack is transformers' rule.
#[derive(Deserialize, Default)]
#[serde(default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "the fields are those of the file"
)]
struct TokenFields {
    content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: Option<bool>,
    special: bool,
}

impl Settings {
    /// Reads the settings; `tokenizer_json` is the parsed `tokenizer.json`, if there is one,
    /// and `folder` is for messages only.
    pub(super) fn parse(
        files: SettingsFiles<'_>,
        tokenizer_json: Option<&Map<String, Value>>,
        folder: &Path,
    ) -> Result<Self> {
        let path = folder.join("tokenizer_config.json");
        let mut settings = Self::default();
        if let Some(bytes) = files.config {
            settings.fields = files::json_object(bytes, &path)?;
        }
        if let Some(tokens) = settings.fields.get("added_tokens_decoder").cloned() {
            settings.read_decoder(&tokens, &path)?;
        } else {
            settings.read_legacy(files, tokenizer_json, folder)?;
        }
        settings.added.sort_by_key(|&(id, _)| id);
        settings.read_sides(&path)?;
        settings.model_max_length = settings.read_length();
        Ok(settings)
    }

    /// The named special token; `default` where the files do not name it, and
    /// `None` where they say that there is none.
    pub(super) fn named(
        &self,
        name: &str,
        default: Option<&str>,
        path: &Path,
    ) -> Result<Option<AddedToken>> {
        let token = match self.fields.get(name) {
            Some(Value::Null) => None,
            Some(value) => Some(special_token(value, name, path)?),
            None => default.map(|content| AddedToken::from(content, true)),
        };
        // A token that is described among the added ones is as described there.
        Ok(token.map(|token| {
            let mut known = self.added().filter(|added| added.content == token.content);
            known.next().cloned().unwrap_or(token)
        }))
    }

    /// The tokens that were added to the vocabulary, in the order of their ids.
    pub(super) fn added(&self) -> impl Iterator<Item = &AddedToken> {
        self.added.iter().map(|(_, token)| token)
    }

    /// Further special tokens, if the files list them.
    pub(super) fn extra_special_tokens(&self, path: &Path) -> Result<Option<Vec<AddedToken>>> {
        let named = ["extra_special_tokens", "additional_special_tokens"];
        let Some((name, value)) = named
            .into_iter()
            .find_map(|name| Some((name, self.fields.get(name)?)))
        else {
            return Ok(None);
        };
        let tokens: Vec<&Value> = match value {
            Value::Array(tokens) => tokens.iter().collect(),
            Value::Object(tokens) => tokens.values().collect(),
            Value::Null => return Ok(None),
            other => return Err(Error::invalid(path, name, "a list of tokens", kind(other))),
        };
        let tokens = tokens
            .into_iter()
            .map(|token| special_token(token, name, path));
        tokens.collect::<Result<_>>().map(Some)
    }

    /// A whole number, or `default` where the files do not give it.
    pub(super) fn number(&self, name: &str, default: u64, path: &Path) -> Result<u64> {
        match self.fields.get(name) {
            None => Ok(default),
            Some(value) => value
                .as_u64()
                .ok_or_else(|| Error::invalid(path, name, "a whole number", value)),
        }
    }

    fn read_decoder(&mut self, tokens: &Value, path: &Path) -> Result<()> {
        let what = "added_tokens_decoder";
        let tokens = tokens
            .as_object()
            .ok_or_else(|| Error::invalid(path, what, "an object", kind(tokens)))?;
        for (id, token) in tokens {
            let id = id
                .parse()
                .map_err(|_| Error::invalid(path, what, "ids as keys", id))?;
            let token = described_token(token, what, path)?;
            self.added.push((id, token));
        }
        Ok(())
    }

    fn read_legacy(
        &mut self,
        files: SettingsFiles<'_>,
        tokenizer_json: Option<&Map<String, Value>>,
        folder: &Path,
    ) -> Result<()> {
        if let Some(bytes) = files.special_tokens_map {
            let path = folder.join("special_tokens_map.json");
            self.fields.extend(files::json_object(bytes, &path)?);
        }
        if let Some(bytes) = files.added_tokens {
            self.read_added_tokens(bytes, &folder.join("added_tokens.json"))?;
        }
        let Some(tokens) = tokenizer_json.and_then(|json| json.get("added_tokens")) else {
            return Ok(());
        };
        let (path, what) = (folder.join("tokenizer.json"), "added_tokens");
        let tokens = tokens
            .as_array()
            .ok_or_else(|| Error::invalid(&path, what, "a list", kind(tokens)))?;
        for token in tokens {
            let id = token
                .get("id")
                .and_then(Value::as_u64)
                .ok_or_else(|| Error::invalid(&path, what, "tokens with an id", token))?;
            let token = described_token(token, what, &path)?;
            self.added.push((id, token));
        }
        Ok(())
    }

    fn read_added_tokens(&mut self, bytes: &[u8], path: &Path) -> Result<()> {
        let special: Vec<String> = SPECIAL_NAMES
            .iter()
            .filter_map(|name| special_token(self.fields.get(*name)?, name, path).ok())
            .map(|token| token.content)
            .collect();
        for (content, id) in files::json_object(bytes, path)? {
            let id = id
                .as_u64()
                .ok_or_else(|| Error::invalid(path, content.as_str(), "an id", &id))?;
            check_content(&content, "token", path)?;
            let is_special = special.contains(&content);
            self.added.push((id, AddedToken::from(content, is_special)));
        }
        Ok(())
    }

    fn read_sides(&mut self, path: &Path) -> Result<()> {
        let side = |name: &str| match self.fields.get(name) {
            None => Ok(false),
            Some(value) => match value.as_str() {
                Some("right") => Ok(false),
                Some("left") => Ok(true),
                _ => Err(Error::invalid(path, name, "right or left", value)),
            },
        };
        self.pad_left = side("padding_side")?;
        self.truncate_left = side("truncation_side")?;
        let split = self.fields.get("split_special_tokens");
        self.split_special_tokens = split.and_then(Value::as_bool).unwrap_or(false);
        Ok(())
    }

    fn read_length(&self) -> Option<usize> {
        let stated = self
            .fields
            .get("model_max_length")
            .or_else(|| self.fields.get("max_len"));
        // transformers writes 1e30 where it does not know the length.
        let length = stated?
            .as_u64()
            .and_then(|length| usize::try_from(length).ok())?;
        (1..=MAX_LENGTH).contains(&length).then_some(length)
    }
}

/// A special token written as a string, or as an object.
fn special_token(value: &Value, what: &str, path: &Path) -> Result<AddedToken> {
    if let Some(content) = value.as_str() {
        check_content(content, what, path)?;
        return Ok(AddedToken::from(content, true));
    }
    Ok(described_token(value, what, path)?.special(true))
}

/// A token written as an object.
fn described_token(value: &Value, what: &str, path: &Path) -> Result<AddedToken> {
    let fields = TokenFields::deserialize(value)
        .map_err(|error| Error::invalid(path, what, "a token", error))?;
    check_content(&fields.content, what, path)?;
    Ok(AddedToken::from(fields.content, fields.special)
        .single_word(fields.single_word)
        .lstrip(fields.lstrip)
        .rstrip(fields.rstrip)
        .normalized(fields.normalized.unwrap_or(!fields.special)))
}

/// An empty token would match everywhere, a very long one takes memory without bound.
pub(super) fn check_content(content: &str, what: &str, path: &Path) -> Result<()> {
    if (1..=MAX_TOKEN_BYTES).contains(&content.len()) {
        return Ok(());
    }
    let expected = format!("tokens of 1 to {MAX_TOKEN_BYTES} bytes");
    Err(Error::invalid(
        path,
        what,
        expected,
        format!("{} bytes", content.len()),
    ))
}

/// What a JSON value is, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The names of special tokens, in the order in which transformers adds them.
pub(super) const SPECIAL_NAMES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];
/// Longer than any piece of a real vocabulary, short enough to walk recursively.
pub(super) const MAX_TOKEN_BYTES: usize = 1024;
/// The longest sequence that is taken at its word.
pub(super) const MAX_LENGTH: usize = 1 << 20;
