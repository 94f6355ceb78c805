//! The alphas that PEFT and diffusers store beside the tensors, not among them.
//!
//! diffusers writes them as JSON under `lora_adapter_metadata` in the header of
//! the file, a prefix before each name; PEFT writes `adapter_config.json`.
//!
//! ```text
//! {"transformer.lora_alpha": 16, "transformer.alpha_pattern": {"proj_out": 4}}
//! ```

use serde_json::{Map, Value};

use crate::{Error, Result};

/// The scaling that the training settings ask for.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Settings {
    sections: Vec<Section>,
}

#[derive(Debug, Clone, PartialEq)]
struct Section {
    prefix: String,
    alpha: Option<f64>,
    patterns: Vec<(String, f64)>,
    root_of_rank: bool,
}

impl Settings {
    /// The settings in diffusers' or PEFT's JSON; `origin` is named in errors.
    pub(crate) fn parse(origin: &str, text: &str) -> Result<Self> {
        let refused = |found: String| Error::Settings {
            file: origin.to_owned(),
            expected: "a JSON object of adapter settings".to_owned(),
            found,
        };
        let value: Value =
            serde_json::from_str(text).map_err(|error| refused(error.to_string()))?;
        let Value::Object(object) = value else {
            return Err(refused("other JSON".to_owned()));
        };
        let prefixes = object.keys().filter_map(|key| {
            let prefix = key.strip_suffix("lora_alpha")?;
            (prefix.is_empty() || prefix.ends_with('.')).then_some(prefix)
        });
        let sections = prefixes.map(|prefix| Section::read(origin, &object, prefix));
        Ok(Self {
            sections: sections.collect::<Result<_>>()?,
        })
    }

    /// alpha / rank for a module, named as in the file; 1 where nothing is said.
    pub(crate) fn factor(&self, module: &str, rank: usize) -> f64 {
        let section = self
            .sections
            .iter()
            .filter(|section| module.starts_with(&section.prefix))
            .max_by_key(|section| section.prefix.len());
        let Some(section) = section else { return 1.0 };
        let inner = module[section.prefix.len()..].trim_start_matches("base_model.model.");
        let is_meant = |pattern: &str| {
            // The anchor of PEFT's regular expressions: the whole name is meant.
            if let Some(whole) = pattern.strip_prefix('^') {
                return inner == whole;
            }
            let rest = inner.strip_suffix(pattern);
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let pattern = section.patterns.iter().find(|row| is_meant(&row.0));
        let alpha = pattern.map(|row| row.1).or(section.alpha);
        let rank = rank as f64;
        let divisor = if section.root_of_rank {
            rank.sqrt()
        } else {
            rank
        };
        alpha.map_or(1.0, |alpha| alpha / divisor)
    }
}

impl Section {
    fn read(origin: &str, object: &Map<String, Value>, prefix: &str) -> Result<Self> {
        let get = |name: &str| object.get(&format!("{prefix}{name}"));
        let number = |name: &str, value: &Value| {
            let found = value.as_f64().filter(|number| number.is_finite());
            found.ok_or_else(|| Error::Settings {
                file: origin.to_owned(),
                expected: format!("a number as `{prefix}{name}`"),
                found: crate::error::shown(&value.to_string()),
            })
        };
        let alpha = match get("lora_alpha") {
            None | Some(Value::Null) => None,
            Some(value) => Some(number("lora_alpha", value)?),
        };
        let mut patterns = Vec::new();
        if let Some(Value::Object(pattern)) = get("alpha_pattern") {
            for (name, value) in pattern {
                patterns.push((name.clone(), number("alpha_pattern", value)?));
            }
        }
        Ok(Self {
            prefix: prefix.to_owned(),
            alpha,
            patterns,
            root_of_rank: get("use_rslora") == Some(&Value::Bool(true)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alphas_by_prefix_and_pattern() {
        let text = r#"{"transformer.lora_alpha": 8, "transformer.r": 4,
            "transformer.alpha_pattern": {"proj_out": 2.0, "^x.y": 12},
            "text_encoder.lora_alpha": 6, "text_encoder.use_rslora": true}"#;
        let settings = Settings::parse("f", text).unwrap();
        assert_eq!(settings.factor("transformer.x_embedder", 4), 2.0);
        assert_eq!(settings.factor("transformer.proj_out", 4), 0.5);
        assert_eq!(settings.factor("transformer.a.proj_out", 4), 0.5);
        assert_eq!(settings.factor("transformer.a.xproj_out", 4), 2.0);
        assert_eq!(settings.factor("transformer.x.y", 4), 3.0);
        assert_eq!(settings.factor("transformer.a.x.y", 4), 2.0);
        assert_eq!(settings.factor("text_encoder.a", 4), 3.0);
        assert_eq!(settings.factor("text_encoder_2.a", 4), 1.0);
        let settings = Settings::parse("f", r#"{"lora_alpha": 8}"#).unwrap();
        assert_eq!(settings.factor("base_model.model.a", 4), 2.0);
        assert_eq!(Settings::default().factor("a", 4), 1.0);
    }

    #[test]
    fn broken_settings_are_refused() {
        for text in [
            "",
            "[]",
            "{",
            r#"{"lora_alpha": "8"}"#,
            r#"{"lora_alpha": 1, "alpha_pattern": {"a": []}}"#,
        ] {
            let error = Settings::parse("f.json", text).unwrap_err();
            assert!(error.to_string().starts_with("f.json: expected"), "{error}");
        }
    }
}
