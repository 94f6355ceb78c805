//! Reads the fields of a `config.json`, strictly where they matter.
//!
//! Each model asks for the fields that change what it computes; others are not
//! looked at. Absent fields and `null` give the default of the reference
//! implementation. It reads no files and knows no model.
//!
//! ```ignore
//! let fields = Fields::parse("vae/config.json", text)?;
//! let layers = fields.size("layers_per_block", Some(1), 1..=64)?;
//! ```

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::{Error, Result};

/// The fields of one configuration file.
pub(crate) struct Fields<'a> {
    file: &'a str,
    map: Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// Parses the text of `file`, a name for messages.
    pub(crate) fn parse(file: &'a str, text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).map_err(|source| Error::Json {
            file: file.to_owned(),
            source,
        })?;
        match value {
            Value::Object(map) => Ok(Self { file, map }),
            other => Err(invalid(file, "(top level)", "an object", &shown(&other))),
        }
    }

    /// A whole number within `range`.
    pub(crate) fn size(
        &self,
        field: &str,
        default: Option<usize>,
        range: RangeInclusive<usize>,
    ) -> Result<usize> {
        let found = self.get(field).map(|value| whole(value, &range));
        match (found, default) {
            (Some(Some(size)), _) | (None, Some(size)) => Ok(size),
            _ => Err(self.wrong(
                field,
                &format!("a whole number in {}..={}", range.start(), range.end()),
            )),
        }
    }

    /// A list of whole numbers within `range`.
    pub(crate) fn sizes(
        &self,
        field: &str,
        default: &[usize],
        range: RangeInclusive<usize>,
    ) -> Result<Vec<usize>> {
        let Some(value) = self.get(field) else {
            return Ok(default.to_vec());
        };
        let sizes: Option<Vec<usize>> = value
            .as_array()
            .and_then(|items| items.iter().map(|item| whole(item, &range)).collect());
        sizes.ok_or_else(|| {
            let expected = format!(
                "a list of whole numbers in {}..={}",
                range.start(),
                range.end()
            );
            self.wrong(field, &expected)
        })
    }

    /// A finite number.
    pub(crate) fn number(&self, field: &str, default: f32) -> Result<f32> {
        let Some(value) = self.get(field) else {
            return Ok(default);
        };
        let number = value.as_f64().map(|number| number as f32);
        number
            .filter(|number| number.is_finite())
            .ok_or_else(|| self.wrong(field, "a finite number"))
    }

    /// A truth value.
    pub(crate) fn flag(&self, field: &str, default: bool) -> Result<bool> {
        match self.get(field) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.wrong(field, "true or false")),
        }
    }

    /// What the table says for the field's text.
    pub(crate) fn choice<T: Copy>(
        &self,
        field: &str,
        default: &str,
        choices: &[(&str, T)],
    ) -> Result<T> {
        let text = self
            .get(field)
            .map_or(Some(default), |value| value.as_str());
        let found = text.and_then(|text| choices.iter().find(|(name, _)| *name == text));
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            self.wrong(field, &one_of(&names))
        })
    }

    /// Refuses any value of the field but those given; absent is as well as the first.
    pub(crate) fn only(&self, field: &str, expected: &[Value]) -> Result<()> {
        match self.get(field) {
            Some(value) if !expected.contains(value) => {
                let expected: Vec<_> = expected.iter().map(shown).collect();
                Err(self.wrong(field, &expected.join(" or ")))
            }
            _ => Ok(()),
        }
    }

    /// Refuses the field if it has a value: its meaning is not implemented.
    pub(crate) fn absent(&self, field: &str) -> Result<()> {
        match self.get(field) {
            Some(_) => Err(self.wrong(field, "nothing (not supported)")),
            None => Ok(()),
        }
    }

    /// Refuses a list in which another text than `expected` occurs; gives its length.
    pub(crate) fn all(&self, field: &str, expected: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        let count = value.as_array().and_then(|items| {
            let fits = items.iter().all(|item| item.as_str() == Some(expected));
            fits.then_some(items.len())
        });
        count
            .map(Some)
            .ok_or_else(|| self.wrong(field, &format!("a list of \"{expected}\"")))
    }

    /// Refuses a diffusers configuration of another class.
    pub(crate) fn class(&self, expected: &str) -> Result<()> {
        self.only("_class_name", &[Value::from(expected)])?;
        if self.is_fp8() {
            return Ok(());
        }
        self.absent("quantization_config")
    }

    /// Whether the weights are those of `ModelOpt`'s FP8: the same model, with scales beside it.
    fn is_fp8(&self) -> bool {
        let Some(settings) = self.get("quantization_config") else {
            return false;
        };
        let says = |field: &str, text: &str| {
            let value = settings.get(field).and_then(Value::as_str);
            value.is_some_and(|value| value.eq_ignore_ascii_case(text))
        };
        let is_fp8 = says("quant_algo", "FP8") || says("quant_type", "FP8");
        says("quant_method", "modelopt") && is_fp8
    }

    /// Refuses a transformers configuration of other architectures or another type.
    pub(crate) fn architecture(&self, architectures: &[&str], types: &[&str]) -> Result<()> {
        if let Some(value) = self.get("architectures") {
            let known = |item: &Value| item.as_str().is_some_and(|a| architectures.contains(&a));
            let fits = value
                .as_array()
                .is_some_and(|items| !items.is_empty() && items.iter().all(known));
            if !fits {
                return Err(self.wrong("architectures", &one_of(architectures)));
            }
        }
        let types: Vec<_> = types.iter().map(|&name| Value::from(name)).collect();
        self.only("model_type", &types)?;
        self.absent("quantization_config")
    }

    /// The value of a field, if it is there and not null.
    pub(crate) fn get(&self, field: &str) -> Option<&Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    /// An error about a field of this file.
    pub(crate) fn wrong(&self, field: &str, expected: &str) -> Error {
        let found = self.get(field).map_or_else(|| "nothing".to_owned(), shown);
        invalid(self.file, field, expected, &found)
    }
}

/// An error about a field of `file`.
pub(crate) fn invalid(file: &str, field: &str, expected: &str, found: &str) -> Error {
    Error::Config {
        file: file.to_owned(),
        field: field.to_owned(),
        expected: expected.to_owned(),
        found: found.to_owned(),
    }
}

/// `Ok` where the condition holds, else an error about a field of `file`.
pub(crate) fn ensure(
    holds: bool,
    file: &str,
    field: &str,
    expected: &str,
    found: impl std::fmt::Debug,
) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(invalid(file, field, expected, &format!("{found:?}")))
    }
}

fn whole(value: &Value, range: &RangeInclusive<usize>) -> Option<usize> {
    let size = usize::try_from(value.as_u64()?).ok()?;
    range.contains(&size).then_some(size)
}

fn one_of(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("\"{name}\"")).collect();
    quoted.join(" or ")
}

/// JSON text of a value, cut where a hostile file would fill the screen.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// What stands for the file in errors about configurations made by a program.
pub(crate) const IN_MEMORY: &str = "configuration";

/// Largest width, vocabulary or the like. Products of three such sizes stay within i64.
pub(crate) const MAX_SIZE: usize = 1 << 20;

/// Most layers of one kind.
pub(crate) const MAX_LAYERS: usize = 1024;

const MAX_SHOWN: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields<'_> {
        Fields::parse("config.json", text).unwrap()
    }

    fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn broken_json_names_the_file() {
        let error = Fields::parse("vae/config.json", "{\"a\": ").err().unwrap();
        assert_eq!(error.to_string(), "vae/config.json: not the expected JSON");
        let error = Fields::parse("config.json", "[1]").err().unwrap();
        assert_eq!(
            error.to_string(),
            "config.json: `(top level)`: expected an object, found [1]"
        );
    }

    #[test]
    fn wrong_values_name_field_expected_and_found() {
        let fields = fields(r#"{"a": -1, "b": "x", "c": 3, "d": [4, "e"], "n": null}"#);
        assert_eq!(
            message(fields.size("a", Some(1), 1..=9)),
            "config.json: `a`: expected a whole number in 1..=9, found -1"
        );
        assert_eq!(
            message(fields.size("n", None, 1..=9)),
            "config.json: `n`: expected a whole number in 1..=9, found nothing"
        );
        assert_eq!(fields.size("n", Some(7), 1..=9).unwrap(), 7);
        assert!(message(fields.flag("b", true)).ends_with("expected true or false, found \"x\""));
        assert!(message(fields.number("b", 0.0)).contains("a finite number"));
        assert!(message(fields.sizes("d", &[], 1..=9)).ends_with("found [4,\"e\"]"));
        assert!(message(fields.all("d", "x")).contains("a list of \"x\""));
        assert!(message(fields.absent("c")).contains("not supported"));
        assert!(message(fields.choice("c", "x", &[("x", 1), ("y", 2)])).contains("\"x\" or \"y\""));
    }

    #[test]
    fn long_values_are_cut() {
        let text = format!("{{\"a\": \"{}\"}}", "ä".repeat(10_000));
        let fields = fields(&text);
        assert!(message(fields.flag("a", true)).len() < 300);
    }
}
