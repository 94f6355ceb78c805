//! A LoRA file: which tensors it has, and what they say about a pipeline.
//!
//! Opening reads names and shapes, and the alphas; every other tensor is read,
//! and converted to f32, when a weight program asks for it. No name is dropped:
//! what has no meaning is listed in [`LoraFile::unknown_keys`].
//!
//! ```no_run
//! # fn main() -> Result<(), tintype_lora::Error> {
//! let file = tintype_lora::LoraFile::open("style.safetensors")?;
//! for target in file.targets() {
//!     println!("{} {}", target.component, target.parameter);
//! }
//! for key in file.unknown_keys() {
//!     eprintln!("not understood: {key}");
//! }
//! # Ok(())
//! # }
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tintype_weights::{Checkpoint, Parameters, SafetensorsFile, View};

use crate::error::{shown, shown_list};
use crate::group::{Group, flattened};
use crate::key::{Key, Role, Spelling};
use crate::names::meaning;
use crate::settings::Settings;
use crate::{Component, Error, Format, LoraTarget, Result};

/// An open LoRA file. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct LoraFile {
    content: Arc<Content>,
}

#[derive(Debug)]
struct Content {
    origin: String,
    tensors: Parameters,
    targets: Vec<LoraTarget>,
    unknown_keys: Vec<String>,
    formats: BTreeSet<Format>,
    /// Set once all values have been found to be finite.
    finite: OnceLock<()>,
}

impl LoraFile {
    /// Opens a safetensors file, or a folder as PEFT or diffusers writes it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file_path = if path.is_dir() {
            file_in_folder(path)?
        } else {
            path.to_owned()
        };
        Self::from_file(SafetensorsFile::open(file_path)?)
    }

    /// The LoRA in a file that is open, for example one inside the program. Settings are
    /// those of its metadata, or of the `adapter_config.json` that PEFT writes beside it.
    pub fn from_file(file: SafetensorsFile) -> Result<Self> {
        let origin = file.path().display().to_string();
        let settings = settings_of(&file)?;
        let tensors = Parameters::from_checkpoint(&Checkpoint::from_file(file))?;
        Self::read(origin, &tensors, &settings)
    }

    /// The LoRA that `parameters` hold under the names of any format.
    pub fn from_parameters(parameters: &Parameters) -> Result<Self> {
        Self::read(parameters.origin(), parameters, &Settings::default())
    }

    /// What the file says, a target for each parameter and pair.
    pub fn targets(&self) -> &[LoraTarget] {
        &self.content.targets
    }

    /// Names in the file that have no meaning here.
    pub fn unknown_keys(&self) -> &[String] {
        &self.content.unknown_keys
    }

    /// The ways in which the file names its tensors.
    pub fn formats(&self) -> impl Iterator<Item = Format> {
        self.content.formats.iter().copied()
    }

    /// The models that the file is for.
    pub fn components(&self) -> BTreeSet<Component> {
        self.targets()
            .iter()
            .map(|target| target.component)
            .collect()
    }

    /// Names in the file that are for models other than `components`.
    pub fn keys_outside(&self, components: &[Component]) -> Vec<String> {
        let outside = self
            .targets()
            .iter()
            .filter(|target| !components.contains(&target.component));
        let keys: BTreeSet<&String> = outside.flat_map(|target| &target.keys).collect();
        keys.into_iter().cloned().collect()
    }

    /// The path of the file, or `memory`.
    pub fn origin(&self) -> &str {
        &self.content.origin
    }

    /// The tensors under their names in the file; a 1×1 convolution's as matrices.
    pub fn tensors(&self) -> &Parameters {
        &self.content.tensors
    }

    /// An error if a value that some target uses is not finite. Reads them all
    /// the first time.
    pub fn check_finite(&self) -> Result<()> {
        if self.content.finite.get().is_some() {
            return Ok(());
        }
        let keys: BTreeSet<&String> = self
            .targets()
            .iter()
            .flat_map(|target| &target.keys)
            .collect();
        for key in keys {
            self.check_tensor(key)?;
        }
        // Another thread may have come first, with the same result.
        let _ = self.content.finite.set(());
        Ok(())
    }

    fn check_tensor(&self, key: &str) -> Result<()> {
        let tensor = self.tensors().get(key)?;
        if !tensor.dtype().is_float() {
            // Some files keep alpha, a single number, as an integer.
            if tensor.element_count() == 1 {
                return Ok(());
            }
            let found = tensor.dtype().to_string();
            return Err(Error::tensor(self.origin(), key, "floats", found));
        }
        // Noted with the tensor, so that no view of it is read for this again.
        self.tensors()
            .expect_finite(key)
            .map_err(|error| match error {
                tintype_weights::Error::Parameter {
                    expected, found, ..
                } => Error::tensor(self.origin(), key, expected, found),
                other => Error::tensor(self.origin(), key, "readable values", other.to_string()),
            })
    }

    fn read(origin: String, tensors: &Parameters, settings: &Settings) -> Result<Self> {
        let tensors = &with_matrices(tensors)?;
        let mut sorted = Sorted::new(&origin, tensors, settings)?;
        let mut targets = Vec::new();
        for group in sorted.groups.values() {
            let (found, unknown) = group.targets()?;
            targets.extend(found);
            sorted.unknown_keys.extend(unknown);
        }
        if targets.is_empty() {
            let found = match tensors.len() {
                0 => "no tensors".to_owned(),
                _ => format!("tensors such as {}", shown_list(tensors.names())),
            };
            return Err(Error::NotLora {
                file: origin,
                found,
            });
        }
        sorted.unknown_keys.sort();
        let content = Content {
            tensors: tensors.clone(),
            targets,
            unknown_keys: sorted.unknown_keys,
            formats: sorted.formats,
            finite: OnceLock::new(),
            origin: origin.clone(),
        };
        Ok(Self {
            content: Arc::new(content),
        })
    }
}

/// The names of a file, sorted by what they are about.
struct Sorted<'f> {
    groups: BTreeMap<&'f str, Group<'f>>,
    unknown_keys: Vec<String>,
    formats: BTreeSet<Format>,
}

impl<'f> Sorted<'f> {
    fn new(file: &'f str, tensors: &'f Parameters, settings: &'f Settings) -> Result<Self> {
        let mut sorted = Self {
            groups: BTreeMap::new(),
            unknown_keys: Vec::new(),
            formats: BTreeSet::new(),
        };
        let mut unsupported: Option<(&'static str, Vec<&str>)> = None;
        for name in tensors.names() {
            let Some((key, meaning)) = Key::parse(name).and_then(|key| {
                let meaning = meaning(key.module)?;
                Some((key, meaning))
            }) else {
                sorted.unknown_keys.push(name.to_owned());
                continue;
            };
            if let Role::Unsupported(kind) = key.role {
                unsupported.get_or_insert((kind, Vec::new())).1.push(name);
                continue;
            }
            sorted.formats.extend(format(&key, meaning.format));
            let group = sorted.groups.entry(key.module).or_insert_with(|| Group {
                file,
                module: key.module,
                meaning,
                keys: BTreeMap::new(),
                tensors,
                settings,
            });
            if let Some(other) = group.keys.insert(key.role, name.to_owned()) {
                let found = format!("`{}` besides", shown(&other));
                return Err(Error::tensor(file, name, "one tensor of its kind", found));
            }
        }
        match unsupported {
            None => Ok(sorted),
            Some((kind, keys)) => Err(Error::Unsupported {
                file: file.to_owned(),
                kind,
                keys: shown_list(keys.into_iter()),
            }),
        }
    }
}

fn format(key: &Key<'_>, of_prefix: Option<Format>) -> Option<Format> {
    of_prefix.or(match (key.role, key.spelling) {
        (Role::NormScale, _) => Some(Format::BflControl),
        (_, Spelling::LoraAB) => Some(Format::Peft),
        (_, Spelling::DownUp) => Some(Format::DownUp),
        (_, Spelling::XLabs) => Some(Format::XLabs),
        (_, Spelling::Other) => None,
    })
}

/// The tensors, those of 1×1 convolutions seen as matrices.
fn with_matrices(tensors: &Parameters) -> Result<Parameters> {
    let mut builder = Parameters::builder().parameters(tensors);
    for name in tensors.names() {
        let shape = tensors.shape(name)?;
        let flattened = flattened(shape);
        if flattened != *shape {
            builder = builder.view(name, name, View::Reshape(flattened));
        }
    }
    Ok(builder.build()?)
}

fn settings_of(file: &SafetensorsFile) -> Result<Settings> {
    let origin = file.path().display().to_string();
    if let Some(text) = file.metadata().get("lora_adapter_metadata") {
        return Settings::parse(&origin, text);
    }
    let beside = file.path().with_file_name("adapter_config.json");
    let is_peft = file
        .path()
        .file_name()
        .is_some_and(|name| name == PEFT_FILE);
    if !is_peft || !beside.is_file() {
        return Ok(Settings::default());
    }
    let origin = beside.display().to_string();
    let refused = |expected: &str, found: String| Error::Settings {
        file: origin.clone(),
        expected: expected.to_owned(),
        found,
    };
    let unreadable = |error: std::io::Error| refused("a readable file", error.to_string());
    let size = std::fs::metadata(&beside).map_err(unreadable)?.len();
    if size > MOST_SETTINGS {
        let expected = format!("at most {MOST_SETTINGS} bytes of settings");
        return Err(refused(&expected, size.to_string()));
    }
    let text = std::fs::read_to_string(&beside).map_err(unreadable)?;
    Settings::parse(&origin, &text)
}

/// Real ones are a few thousand bytes long.
const MOST_SETTINGS: u64 = 1 << 22;

const PEFT_FILE: &str = "adapter_model.safetensors";

fn file_in_folder(folder: &Path) -> Result<PathBuf> {
    for name in ["pytorch_lora_weights.safetensors", PEFT_FILE] {
        let path = folder.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    let not_one = |found: String| Error::NotLora {
        file: folder.display().to_string(),
        found,
    };
    let entries = std::fs::read_dir(folder).map_err(|error| not_one(error.to_string()))?;
    let is_tensors = |path: &PathBuf| path.extension().is_some_and(|end| end == "safetensors");
    let files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(is_tensors)
        .collect();
    match files.as_slice() {
        [file] => Ok(file.clone()),
        files => Err(not_one(format!("{} safetensors files", files.len()))),
    }
}
