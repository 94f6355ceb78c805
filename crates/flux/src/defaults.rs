//! `tintype.json`: what a model is best asked for, where a request does not say.
//!
//! It lies beside `model_index.json`. Every field is optional, and so is the file:
//! what lacks is as in diffusers' FluxPipeline. Unknown fields are named in a warning
//! and otherwise ignored, so that files of later versions still open. A request
//! always wins over the file, also where it asks for more than the model was made for.
//! It reads no LoRA, and checks only that their paths stay below the model.
//!
//! ```
//! use std::path::Path;
//! use tintype_flux::ModelDefaults;
//!
//! let text = br#"{"height": 128, "loras": {"neon": "loras/neon.safetensors"}}"#;
//! let defaults = ModelDefaults::parse(text, Path::new("tintype.json"))?;
//! assert_eq!((defaults.height, defaults.width), (128, 1024));
//! assert_eq!(defaults.loras["neon"], Path::new("loras/neon.safetensors"));
//! # Ok::<(), tintype_flux::Error>(())
//! ```

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};
use tintype_weights::ModelFiles;

use crate::files::{self, CONFIG_LIMIT};
use crate::latents::{MAX_SIDE, PIXELS_PER_TOKEN};
use crate::scheduler::MAX_STEPS;
use crate::{Error, Result};

/// What a [`Request`](crate::Request) gets for what it leaves unset.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ModelDefaults {
    /// Height in pixels, a multiple of 16. FLUX: 1024.
    pub height: usize,
    /// Width in pixels, a multiple of 16. FLUX: 1024.
    pub width: usize,
    /// Number of steps, `num_inference_steps` in the file. FLUX: 28.
    pub steps: usize,
    /// Guidance without an image. FLUX: 3.5.
    pub guidance_scale: f32,
    /// Guidance with an image; a file that gives one guidance gives it for both. FLUX: 7.
    pub guidance_scale_with_image: f32,
    /// The number of tokens that T5 sees, 1 to 512. FLUX: 512.
    pub max_sequence_length: usize,
    /// The model's own LoRAs by name: paths below the model, with `/`. FLUX: none.
    pub loras: BTreeMap<String, PathBuf>,
}

impl Default for ModelDefaults {
    /// Those of diffusers' FluxPipeline and FluxImg2ImgPipeline.
    fn default() -> Self {
        Self {
            height: 1024,
            width: 1024,
            steps: 28,
            guidance_scale: 3.5,
            guidance_scale_with_image: 7.0,
            max_sequence_length: MAX_SEQUENCE_LENGTH,
            loras: BTreeMap::new(),
        }
    }
}

impl ModelDefaults {
    /// Reads `tintype.json`, if the model has one.
    ///
    /// # Errors
    /// Those of [`Self::parse`], and [`Error::Read`], [`Error::TooLarge`].
    pub fn from_files(files: &ModelFiles) -> Result<Self> {
        match files::read_optional(files, FILE, CONFIG_LIMIT)? {
            Some(bytes) => Self::parse(&bytes, &files.path(FILE)),
            None => Ok(Self::default()),
        }
    }

    /// Reads the bytes of a `tintype.json`; `path` is for messages only.
    ///
    /// # Errors
    /// [`Error::Json`], and [`Error::Invalid`] for a field of the wrong kind or out
    /// of range, and for a LoRA outside the model's folder.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let fields = Fields {
            fields: files::json_object(bytes, path)?,
            path,
        };
        fields.warn_of_unknown();
        let mut defaults = Self::default();
        if let Some(height) = fields.side("height")? {
            defaults.height = height;
        }
        if let Some(width) = fields.side("width")? {
            defaults.width = width;
        }
        if let Some(steps) = fields.number("num_inference_steps", 1, MAX_STEPS)? {
            defaults.steps = steps;
        }
        if let Some(scale) = fields.scale("guidance_scale")? {
            defaults.guidance_scale = scale;
            defaults.guidance_scale_with_image = scale;
        }
        if let Some(tokens) = fields.number("max_sequence_length", 1, MAX_SEQUENCE_LENGTH)? {
            defaults.max_sequence_length = tokens;
        }
        defaults.loras = fields.loras()?;
        Ok(defaults)
    }

    /// The names of the model's own LoRAs, separated by commas.
    pub(crate) fn lora_names(&self) -> String {
        let names: Vec<&str> = self.loras.keys().map(String::as_str).collect();
        names.join(", ")
    }
}

/// The fields of one file.
struct Fields<'path> {
    fields: Map<String, Value>,
    path: &'path Path,
}

impl Fields<'_> {
    fn warn_of_unknown(&self) {
        let is_known = |name: &String| KNOWN_FIELDS.contains(&name.as_str());
        for name in self.fields.keys().filter(|name| !is_known(name)) {
            tracing::warn!(file = %self.path.display(), field = name.as_str(), "unknown field ignored");
        }
    }

    /// A whole number from `least` to `most`; `null` counts as absent.
    fn number(&self, name: &str, least: usize, most: usize) -> Result<Option<usize>> {
        let Some(value) = self.present(name) else {
            return Ok(None);
        };
        let number = value.as_u64().and_then(|value| usize::try_from(value).ok());
        match number.filter(|number| (least..=most).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(name, format!("a whole number, {least} to {most}"), value)),
        }
    }

    fn side(&self, name: &str) -> Result<Option<usize>> {
        let side = self.number(name, PIXELS_PER_TOKEN, MAX_SIDE)?;
        match side {
            Some(side) if side % PIXELS_PER_TOKEN != 0 => {
                let expected = format!("a multiple of {PIXELS_PER_TOKEN}");
                Err(self.wrong(name, expected, &side.into()))
            }
            side => Ok(side),
        }
    }

    fn scale(&self, name: &str) -> Result<Option<f32>> {
        let Some(value) = self.present(name) else {
            return Ok(None);
        };
        // 1e39 is a number in JSON and infinite in f32.
        match value.as_f64().map(|scale| scale as f32) {
            Some(scale) if scale.is_finite() => Ok(Some(scale)),
            _ => Err(self.wrong(name, "a finite number", value)),
        }
    }

    fn loras(&self) -> Result<BTreeMap<String, PathBuf>> {
        let Some(value) = self.present("loras") else {
            return Ok(BTreeMap::new());
        };
        let Some(entries) = value.as_object() else {
            return Err(self.wrong("loras", "an object of names and paths", value));
        };
        let mut loras = BTreeMap::new();
        for (name, value) in entries {
            let path = value.as_str().filter(|path| is_below(path));
            let Some(path) = path else {
                let field = format!("loras.{name}");
                return Err(self.wrong(&field, "a relative path below the model", value));
            };
            loras.insert(name.clone(), PathBuf::from(path));
        }
        Ok(loras)
    }

    fn present(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    fn wrong(&self, name: &str, expected: impl Into<String>, found: &Value) -> Error {
        // A value of a hostile file may fill megabytes.
        let found: String = found.to_string().chars().take(LONGEST_SHOWN).collect();
        Error::invalid(self.path, name, expected, found)
    }
}

/// Whether a path names something below the folder that it is relative to, on any system.
fn is_below(path: &str) -> bool {
    let mut components = Path::new(path).components();
    !path.is_empty()
        && !path.contains(['\\', ':', '\0'])
        && components.all(|part| matches!(part, Component::Normal(_)))
}

/// The sequence length up to which FLUX was trained, and diffusers allows.
pub(crate) const MAX_SEQUENCE_LENGTH: usize = 512;
const LONGEST_SHOWN: usize = 60;
const FILE: &str = "tintype.json";
const KNOWN_FIELDS: [&str; 6] = [
    "height",
    "width",
    "num_inference_steps",
    "guidance_scale",
    "max_sequence_length",
    "loras",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ModelDefaults> {
        ModelDefaults::parse(text.as_bytes(), Path::new("tintype.json"))
    }

    #[test]
    fn a_file_of_nothing_is_as_none() {
        assert_eq!(parse("{}").unwrap(), ModelDefaults::default());
        let nulls = r#"{"height": null, "guidance_scale": null, "loras": null, "new": [1]}"#;
        assert_eq!(parse(nulls).unwrap(), ModelDefaults::default());
    }

    #[test]
    fn every_field_is_taken() {
        let defaults = parse(
            r#"{"height": 128, "width": 144, "num_inference_steps": 20, "guidance_scale": 3,
            "max_sequence_length": 48, "loras": {"b": "loras/b.safetensors", "a": "a"}}"#,
        )
        .unwrap();
        assert_eq!((defaults.height, defaults.width), (128, 144));
        assert_eq!((defaults.steps, defaults.max_sequence_length), (20, 48));
        assert_eq!(defaults.guidance_scale, 3.0);
        assert_eq!(defaults.guidance_scale_with_image, 3.0);
        assert_eq!(defaults.lora_names(), "a, b");
    }

    #[test]
    fn wrong_values_are_told_with_their_field() {
        for (text, expected) in [
            (
                r#"{"height": 120}"#,
                "height: expected a multiple of 16, found 120",
            ),
            (
                r#"{"width": 0}"#,
                "width: expected a whole number, 16 to 16384, found 0",
            ),
            (
                r#"{"width": "9"}"#,
                "width: expected a whole number, 16 to 16384, found \"9\"",
            ),
            (
                r#"{"num_inference_steps": 2.5}"#,
                "num_inference_steps: expected a whole number, 1 to 100000, found 2.5",
            ),
            (
                r#"{"guidance_scale": 1e39}"#,
                "guidance_scale: expected a finite number, found 1e+39",
            ),
            (
                r#"{"max_sequence_length": 513}"#,
                "max_sequence_length: expected a whole number, 1 to 512, found 513",
            ),
            (
                r#"{"loras": []}"#,
                "loras: expected an object of names and paths, found []",
            ),
            (
                r#"{"loras": {"a": "../a"}}"#,
                "loras.a: expected a relative path below the model, found \"../a\"",
            ),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert_eq!(message, format!("tintype.json: {expected}"));
        }
        assert!(parse("[]").is_err());
    }

    #[test]
    fn paths_stay_below_the_model() {
        for path in ["", ".", "/a", "a/../b", "..", "./a", "c:a", "a\\b", "a\0"] {
            assert!(!is_below(path), "{path:?}");
        }
        assert!(is_below("loras/neon.safetensors") && is_below("a"));
    }
}
