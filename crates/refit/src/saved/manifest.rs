//! What is written of a module, as JSON, and how damage shows.
//!
//! ```text
//! {
//! "format": "tintype module",
//! "version": 1,
//! "checksum": "blake3 of the bytes of the value below",
//! "module": { … }
//! }
//! ```
//!
//! Version and format are looked at before the checksum, and that before anything else is
//! believed. What other files hold is no business of this one.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use tintype_backend::KeepWeights;

use crate::builder::MOST_ENGINES;
use crate::{Error, Result};

/// The list of all that a folder holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    /// The version of this library that wrote it, for people.
    pub(super) written_by: String,
    pub(super) graphs: Vec<GraphRecord>,
    /// Arguments of the definition, as they were set.
    pub(super) arguments: BTreeMap<String, i64>,
    pub(super) ranges: RangesRecord,
    pub(super) most_engines: usize,
    pub(super) check_finite: bool,
    pub(super) keep_weights: String,
    /// The one used longest ago first.
    pub(super) engines: Vec<EngineRecord>,
    /// The inputs of the last call.
    pub(super) latest: Option<BTreeMap<String, TypeRecord>>,
    pub(super) compiled: Vec<CompiledRecord>,
    /// Nothing if they come from elsewhere.
    pub(super) weights: Option<WeightsRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GraphRecord {
    /// The file that holds its text form.
    pub(super) file: String,
    pub(super) hash: String,
    /// What the definition made it of; nothing if it is the same whatever is given.
    pub(super) made_of: Option<MadeOf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MadeOf {
    pub(super) dtypes: BTreeMap<String, String>,
    pub(super) arguments: BTreeMap<String, i64>,
}

/// Smallest and largest, both included.
pub(super) type RangeRecord = [usize; 2];

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RangesRecord {
    pub(super) symbols: BTreeMap<String, RangeRecord>,
    pub(super) axes: Vec<AxisRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AxisRecord {
    pub(super) input: String,
    pub(super) axis: usize,
    pub(super) range: RangeRecord,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EngineRecord {
    pub(super) backend: String,
    /// The hash of its graph.
    pub(super) graph: String,
    pub(super) ranges: BTreeMap<String, RangeRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TypeRecord {
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
}

/// A file of the folder of compiled forms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CompiledRecord {
    pub(super) backend: String,
    pub(super) file: String,
    pub(super) size: u64,
    /// blake3 of its bytes.
    pub(super) hash: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WeightsRecord {
    pub(super) files: Vec<FileRecord>,
    pub(super) parameters: BTreeMap<String, ParameterRecord>,
    pub(super) overlays: Vec<OverlayRecord>,
    /// The parameters of the overlays themselves.
    pub(super) own: BTreeMap<String, ParameterRecord>,
}

/// A safetensors file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileRecord {
    /// From the folder, or absolute.
    pub(super) path: String,
    /// Whether the folder holds it, and this list alone may name it.
    pub(super) is_own: bool,
    pub(super) size: u64,
    /// Since 1970, where the file system knows it.
    pub(super) modified: Option<TimeRecord>,
    /// blake3 of the header.
    pub(super) header: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TimeRecord {
    pub(super) seconds: u64,
    pub(super) nanoseconds: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ParameterRecord {
    pub(super) tensor: TensorRecord,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) scale: Option<TensorRecord>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) views: Vec<ViewRecord>,
    /// Of what is read, where it was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hash: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TensorRecord {
    /// Which of the files.
    pub(super) file: usize,
    /// The name there.
    pub(super) name: String,
    /// The shape there.
    pub(super) shape: Vec<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ViewRecord {
    Rows([usize; 2]),
    SwapHalves,
    Reshape(Vec<usize>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OverlayRecord {
    pub(super) parameter: String,
    /// The text form.
    pub(super) fragment: String,
}

impl Default for Manifest {
    /// Of a module that nothing was said of.
    fn default() -> Self {
        Self {
            written_by: env!("CARGO_PKG_VERSION").to_owned(),
            graphs: Vec::new(),
            arguments: BTreeMap::new(),
            ranges: RangesRecord::default(),
            most_engines: MOST_ENGINES,
            check_finite: true,
            keep_weights: KeepWeights::default().to_string(),
            engines: Vec::new(),
            latest: None,
            compiled: Vec::new(),
            weights: None,
        }
    }
}

/// What lies around the manifest. Unknown fields are those of later versions.
#[derive(Deserialize)]
struct Envelope<'a> {
    format: String,
    version: u64,
    #[serde(default)]
    checksum: String,
    #[serde(borrow, default)]
    module: Option<&'a RawValue>,
}

impl Manifest {
    /// The bytes of the file.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let module = serde_json::to_string_pretty(self).expect("names are texts");
        sealed(&module).into_bytes()
    }

    /// Reads the file's bytes; `file` is for messages.
    pub(super) fn from_bytes(file: &Path, bytes: &[u8]) -> Result<Self> {
        let damaged = |found: String| Error::saved(file, "the list of a saved module", found);
        let text = std::str::from_utf8(bytes).map_err(|error| damaged(error.to_string()))?;
        let envelope: Envelope<'_> =
            serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?;
        if envelope.format != FORMAT {
            let expected = format!("format `{FORMAT}`");
            return Err(Error::saved(file, expected, shown(&envelope.format)));
        }
        if envelope.version != VERSION {
            let expected = format!("version {VERSION}");
            let found = format!("{}, of another version of this library", envelope.version);
            return Err(Error::saved(file, expected, found));
        }
        let module = envelope.module.ok_or_else(|| damaged("none".to_owned()))?;
        let checksum = blake3::hash(module.get().as_bytes()).to_hex();
        if envelope.checksum != checksum.as_str() {
            let expected = format!("checksum {}", shown(&envelope.checksum));
            return Err(Error::saved(file, expected, checksum.to_string()));
        }
        serde_json::from_str(module.get()).map_err(|error| damaged(error.to_string()))
    }
}

/// Whether a file that is no list is something that a save must not replace: another's, or of a
/// later version.
pub(super) fn is_foreign(bytes: &[u8]) -> bool {
    match serde_json::from_slice::<Envelope<'_>>(bytes) {
        Ok(envelope) => envelope.format != FORMAT || envelope.version > VERSION,
        Err(_) => !bytes
            .windows(FORMAT.len())
            .any(|part| part == FORMAT.as_bytes()),
    }
}

/// The whole file around a manifest.
pub(super) fn sealed(module: &str) -> String {
    let checksum = blake3::hash(module.as_bytes()).to_hex();
    format!(
        "{{\n\"format\": \"{FORMAT}\",\n\"version\": {VERSION},\n\"checksum\": \"{checksum}\",\n\
         \"module\": {module}\n}}\n"
    )
}

/// A text from a file as messages show it: a hostile one may fill megabytes.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(LONGEST_SHOWN) {
        Some((end, _)) => format!("`{}…`", &text[..end]),
        None => format!("`{text}`"),
    }
}

const FORMAT: &str = "tintype module";
const VERSION: u64 = 1;
const LONGEST_SHOWN: usize = 200;
