//! `model_index.json`: which pipeline a folder holds, and of which parts.
//!
//! Checks that every part is of a class that is known here and has its folder.
//! It opens no part.
//!
//! ```
//! use std::path::Path;
//! use tintype_flux::model_index::{ModelIndex, PipelineKind};
//!
//! let text = br#"{
//!     "_class_name": "FluxPipeline",
//!     "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
//!     "text_encoder": ["transformers", "CLIPTextModel"],
//!     "text_encoder_2": ["transformers", "T5EncoderModel"],
//!     "tokenizer": ["transformers", "CLIPTokenizer"],
//!     "tokenizer_2": ["transformers", "T5TokenizerFast"],
//!     "transformer": ["diffusers", "FluxTransformer2DModel"],
//!     "vae": ["diffusers", "AutoencoderKL"]
//! }"#;
//! let index = ModelIndex::parse(text, Path::new("model_index.json"))?;
//! assert_eq!(index.pipeline, PipelineKind::TextToImage);
//! # Ok::<(), tintype_flux::Error>(())
//! ```

use std::path::Path;

use serde_json::{Map, Value};
use tintype_weights::ModelFiles;

use crate::files::{self, CONFIG_LIMIT};
use crate::{Error, Result};

/// What `model_index.json` says of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelIndex {
    /// The kind of pipeline.
    pub pipeline: PipelineKind,
    /// Its parts, in the order of [`Component::ALL`]; none lacks.
    pub components: Vec<(Component, String)>,
}

/// The pipelines that can be run; both can be made from the same folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PipelineKind {
    /// `FluxPipeline`.
    TextToImage,
    /// `FluxImg2ImgPipeline`.
    ImageToImage,
}

/// A part of a FLUX pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Component {
    /// The noise levels.
    Scheduler,
    /// CLIP.
    TextEncoder,
    /// T5.
    TextEncoder2,
    /// CLIP's tokenizer.
    Tokenizer,
    /// T5's tokenizer.
    Tokenizer2,
    /// The model that removes the noise.
    Transformer,
    /// The model between latents and pixels.
    Vae,
}

impl ModelIndex {
    /// Reads `model_index.json`, and checks that the parts have folders.
    ///
    /// # Errors
    /// Those of [`Self::parse`], [`Error::Read`], and [`Error::Missing`] for the
    /// file or the folder of a part.
    pub fn from_files(files: &ModelFiles) -> Result<Self> {
        let bytes = files::read(files, FILE, CONFIG_LIMIT)?;
        let index = Self::parse(&bytes, &files.path(FILE))?;
        for (component, class) in &index.components {
            if !files.subfolder(component.name()).exists() {
                let path = files.path(component.name());
                let expected = format!("the folder of a {class}");
                return Err(Error::Missing { path, expected });
            }
        }
        Ok(index)
    }

    /// Reads the bytes of a `model_index.json`; `path` is for messages only.
    ///
    /// Further parts, such as an image encoder, are ignored with a warning.
    ///
    /// # Errors
    /// [`Error::Json`], [`Error::UnknownClass`] for a pipeline or a part of a
    /// class that is not supported, [`Error::Invalid`] for a part that lacks.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let fields = files::json_object(bytes, path)?;
        let pipeline = pipeline_kind(&fields, path)?;
        warn_of_others(&fields, path);
        let components = Component::ALL.into_iter().map(|component| {
            let class = component_class(&fields, component, path)?;
            Ok((component, class))
        });
        Ok(Self {
            pipeline,
            components: components.collect::<Result<_>>()?,
        })
    }

    /// The class of a part, as the file names it.
    pub fn class(&self, component: Component) -> &str {
        let found = self
            .components
            .iter()
            .find(|(known, _)| *known == component);
        found.map_or("", |(_, class)| class)
    }
}

impl Component {
    /// Every part, in the order of the file.
    pub const ALL: [Self; 7] = [
        Self::Scheduler,
        Self::TextEncoder,
        Self::TextEncoder2,
        Self::Tokenizer,
        Self::Tokenizer2,
        Self::Transformer,
        Self::Vae,
    ];

    /// The name of the part: its field in the file, and its folder.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scheduler => "scheduler",
            Self::TextEncoder => "text_encoder",
            Self::TextEncoder2 => "text_encoder_2",
            Self::Tokenizer => "tokenizer",
            Self::Tokenizer2 => "tokenizer_2",
            Self::Transformer => "transformer",
            Self::Vae => "vae",
        }
    }

    /// The classes that can be read.
    pub const fn classes(self) -> &'static [&'static str] {
        match self {
            Self::Scheduler => &["FlowMatchEulerDiscreteScheduler"],
            Self::TextEncoder => &["CLIPTextModel"],
            Self::TextEncoder2 => &["T5EncoderModel"],
            Self::Tokenizer => &["CLIPTokenizer", "CLIPTokenizerFast"],
            Self::Tokenizer2 => &["T5TokenizerFast", "T5Tokenizer"],
            Self::Transformer => &["FluxTransformer2DModel"],
            Self::Vae => &["AutoencoderKL"],
        }
    }
}

fn pipeline_kind(fields: &Map<String, Value>, path: &Path) -> Result<PipelineKind> {
    let found = fields.get("_class_name").unwrap_or(&Value::Null);
    let kind = PIPELINES
        .iter()
        .find(|(name, _)| found.as_str() == Some(name));
    kind.map(|&(_, kind)| kind).ok_or_else(|| {
        let names: Vec<_> = PIPELINES.iter().map(|(name, _)| *name).collect();
        let mut found = class_text(found);
        if OTHER_FLUX_PIPELINES.contains(&found.as_str()) {
            found.push_str(", a FLUX pipeline that is not supported yet");
        }
        Error::UnknownClass {
            path: path.to_owned(),
            component: "_class_name".into(),
            expected: names.join(" or "),
            found,
        }
    })
}

fn component_class(
    fields: &Map<String, Value>,
    component: Component,
    path: &Path,
) -> Result<String> {
    let name = component.name();
    let expected = component.classes().join(" or ");
    let class = match fields.get(name) {
        Some(Value::Array(pair)) if pair.len() == 2 => &pair[1],
        Some(found) => return Err(Error::invalid(path, name, "a library and a class", found)),
        None => return Err(Error::invalid(path, name, expected, "nothing")),
    };
    match class
        .as_str()
        .filter(|class| component.classes().contains(class))
    {
        Some(class) => Ok(class.to_owned()),
        None => Err(Error::UnknownClass {
            path: path.to_owned(),
            component: name.into(),
            expected,
            found: class_text(class),
        }),
    }
}

fn class_text(value: &Value) -> String {
    match value {
        Value::Null => "none".into(),
        Value::String(name) => name.clone(),
        other => other.to_string(),
    }
}

/// Parts that a pipeline runs without; repositories write them as `[null, null]`.
fn warn_of_others(fields: &Map<String, Value>, path: &Path) {
    let is_part = |name: &str| {
        Component::ALL
            .iter()
            .any(|component| component.name() == name)
    };
    for (name, value) in fields {
        let is_absent = value
            .as_array()
            .is_some_and(|pair| pair.iter().all(Value::is_null));
        let is_other = value.is_array() && !is_absent && !name.starts_with('_') && !is_part(name);
        if is_other {
            tracing::warn!(file = %path.display(), component = name.as_str(), "unknown component ignored");
        }
    }
}

const FILE: &str = "model_index.json";
const PIPELINES: [(&str, PipelineKind); 2] = [
    ("FluxPipeline", PipelineKind::TextToImage),
    ("FluxImg2ImgPipeline", PipelineKind::ImageToImage),
];
const OTHER_FLUX_PIPELINES: [&str; 12] = [
    "FluxInpaintPipeline",
    "FluxFillPipeline",
    "FluxControlPipeline",
    "FluxControlImg2ImgPipeline",
    "FluxControlInpaintPipeline",
    "FluxControlNetPipeline",
    "FluxControlNetImg2ImgPipeline",
    "FluxControlNetInpaintPipeline",
    "FluxKontextPipeline",
    "FluxKontextInpaintPipeline",
    "FluxPriorReduxPipeline",
    "Flux2Pipeline",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Map<String, Value> {
        let mut fields = Map::new();
        fields.insert("_class_name".into(), "FluxPipeline".into());
        for component in Component::ALL {
            let pair = vec![Value::from("library"), component.classes()[0].into()];
            fields.insert(component.name().into(), pair.into());
        }
        fields
    }

    fn parse(fields: Map<String, Value>) -> Result<ModelIndex> {
        let text = Value::from(fields).to_string();
        ModelIndex::parse(text.as_bytes(), Path::new("model_index.json"))
    }

    fn message(name: &str, value: Value) -> String {
        let mut fields = fields();
        fields.insert(name.into(), value);
        parse(fields).unwrap_err().to_string()
    }

    #[test]
    fn classes_are_read() {
        let mut with_others = fields();
        with_others.insert(
            "image_encoder".into(),
            vec![Value::Null, Value::Null].into(),
        );
        with_others.insert("_diffusers_version".into(), "0.42.1".into());
        let index = parse(with_others).unwrap();
        assert_eq!(index.class(Component::Tokenizer2), "T5TokenizerFast");
        assert_eq!(index.components.len(), 7);
    }

    #[test]
    fn other_classes_are_refused_by_name() {
        assert_eq!(
            message("_class_name", "FluxFillPipeline".into()),
            "model_index.json: _class_name: expected class FluxPipeline or FluxImg2ImgPipeline, \
             found FluxFillPipeline, a FLUX pipeline that is not supported yet"
        );
        assert_eq!(
            message("vae", vec!["diffusers", "AutoencoderTiny"].into()),
            "model_index.json: vae: expected class AutoencoderKL, found AutoencoderTiny"
        );
        assert!(message("_class_name", Value::Null).ends_with("found none"));
    }

    #[test]
    fn parts_must_be_there() {
        let mut without = fields();
        without.remove("vae");
        let text = parse(without).unwrap_err().to_string();
        assert_eq!(
            text,
            "model_index.json: vae: expected AutoencoderKL, found nothing"
        );
        assert!(message("vae", "AutoencoderKL".into()).contains("a library and a class"));
        assert!(message("vae", vec![Value::Null, Value::Null].into()).ends_with("found none"));
    }

    #[test]
    fn folders_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            ModelIndex::from_files(&ModelFiles::folder(folder.path())),
            Err(Error::Missing { .. })
        ));
        let text = Value::from(fields()).to_string();
        std::fs::write(folder.path().join("model_index.json"), text).unwrap();
        for component in Component::ALL {
            let error = ModelIndex::from_files(&ModelFiles::folder(folder.path())).unwrap_err();
            assert!(error.to_string().contains(component.name()), "{error}");
            std::fs::create_dir(folder.path().join(component.name())).unwrap();
        }
        ModelIndex::from_files(&ModelFiles::folder(folder.path())).unwrap();
    }
}
