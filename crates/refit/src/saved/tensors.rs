//! Parameters as a list has them: places in files that stay where they are, and a file of the
//! folder for what is in memory alone.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use safetensors::tensor::{Dtype, View as StoredView};
use tintype_tensor::{DType, Tensor};
use tintype_weights::{FileTensor, Parameters, Place, SafetensorsFile, View};

use super::disk;
use super::manifest::{FileRecord, ParameterRecord, TensorRecord, TimeRecord, ViewRecord};
use crate::{Error, Result};

/// Lists parameters and writes those that are in no file.
pub(super) struct Writer<'a> {
    folder: &'a Path,
    /// Whether hashes that are not known are computed.
    hashes: bool,
    files: Vec<(SafetensorsFile, Option<FileRecord>)>,
    /// What goes into the folder's file: the name there, and the tensor with its hash.
    own: Vec<(String, Tensor, String)>,
}

/// What was listed, of one kind.
pub(super) type Listed = BTreeMap<String, ParameterRecord>;

impl<'a> Writer<'a> {
    pub(super) fn new(folder: &'a Path, hashes: bool) -> Self {
        Self {
            folder,
            hashes,
            files: Vec::new(),
            own: Vec::new(),
        }
    }

    /// Lists parameters; `kind` tells those of one name apart.
    pub(super) fn list(&mut self, kind: &str, parameters: &Parameters) -> Result<Listed> {
        let names = parameters.names();
        let listed = names.map(|name| Ok((name.to_owned(), self.record(kind, parameters, name)?)));
        listed.collect()
    }

    fn record(
        &mut self,
        kind: &str,
        parameters: &Parameters,
        name: &str,
    ) -> Result<ParameterRecord> {
        if let Some(place) = parameters.place(name)?
            && let Some(record) = self.placed(&place)?
        {
            let hash = if self.hashes {
                Some(parameters.hash(name)?)
            } else {
                parameters.known_hash(name)?
            };
            let hash = hash.map(|hash| hash.to_string());
            return Ok(ParameterRecord { hash, ..record });
        }
        let tensor = parameters.get(name)?;
        expect_stored(name, tensor.dtype())?;
        let hash = parameters.hash(name)?.to_string();
        let name = format!("{kind}/{name}");
        let shape = tensor.shape().to_vec();
        self.own.push((name.clone(), tensor, hash.clone()));
        Ok(ParameterRecord {
            // Mended once it is known how many files there are.
            tensor: TensorRecord {
                file: OWN,
                name,
                shape,
            },
            scale: None,
            views: Vec::new(),
            hash: Some(hash),
        })
    }

    /// The record of a place, if its files can be referred to.
    fn placed(&mut self, place: &Place) -> Result<Option<ParameterRecord>> {
        let views: Option<Vec<_>> = place.views.iter().map(view_record).collect();
        let tensor = self.file_tensor(&place.tensor)?;
        let scale = match &place.scale {
            None => Some(None),
            Some(scale) => self.file_tensor(scale)?.map(Some),
        };
        let (Some(views), Some(tensor), Some(scale)) = (views, tensor, scale) else {
            return Ok(None);
        };
        Ok(Some(ParameterRecord {
            tensor,
            scale,
            views,
            hash: None,
        }))
    }

    fn file_tensor(&mut self, tensor: &FileTensor) -> Result<Option<TensorRecord>> {
        let known = |known: &(SafetensorsFile, _)| known.0.is_same(&tensor.file);
        let known = self.files.iter().position(known);
        let index = known.unwrap_or(self.files.len());
        if known.is_none() {
            let record = file_record(self.folder, &tensor.file)?;
            self.files.push((tensor.file.clone(), record));
        }
        if self.files[index].1.is_none() {
            return Ok(None);
        }
        let entry = tensor.file.entry(&tensor.name);
        Ok(Some(TensorRecord {
            file: index,
            name: tensor.name.clone(),
            shape: entry.expect("a place is in its file").shape.to_vec(),
        }))
    }

    /// Writes the folder's file, if there is need of one; gives all files, and mends the lists.
    pub(super) fn finish(self, lists: [&mut Listed; 2]) -> Result<Vec<FileRecord>> {
        let mut places = Vec::new();
        let mut files = Vec::new();
        for (_, record) in self.files {
            places.push(files.len());
            files.extend(record);
        }
        let own = files.len();
        if !self.own.is_empty() {
            files.push(write_own(self.folder, self.own)?);
        }
        for record in lists.into_iter().flat_map(BTreeMap::values_mut) {
            let scale = record.scale.as_mut();
            for tensor in std::iter::once(&mut record.tensor).chain(scale) {
                tensor.file = places.get(tensor.file).copied().unwrap_or(own);
            }
        }
        Ok(files)
    }
}

/// The file for tensors that are in memory. It is named by what it holds, so that none that a
/// list names is ever written over by another.
fn write_own(folder: &Path, tensors: Vec<(String, Tensor, String)>) -> Result<FileRecord> {
    let mut hasher = blake3::Hasher::new();
    for (name, _, hash) in &tensors {
        hasher.update(format!("{}:{name}:{hash};", name.len()).as_bytes());
    }
    let path = format!("{OWN_PREFIX}{}{OWN_SUFFIX}", hasher.finalize().to_hex());
    let tensors = tensors
        .into_iter()
        .map(|(name, tensor, _)| (name, Stored(tensor)));
    disk::write_with(folder, &path, |temporary| {
        safetensors::serialize_to_file(tensors, None, temporary).map_err(std::io::Error::other)
    })?;
    let identity = SafetensorsFile::open(folder.join(&path))?.identity();
    Ok(FileRecord {
        path,
        is_own: true,
        size: identity.size,
        modified: None,
        header: hex(identity.header_hash),
    })
}

/// The record of a file that stays where it is; nothing if it cannot be referred to, since
/// another lies there by now, or since a folder of a module holds it, which may drop it.
fn file_record(folder: &Path, file: &SafetensorsFile) -> Result<Option<FileRecord>> {
    file.verify()?;
    let identity = file.identity();
    let name = file.path().file_name().and_then(|name| name.to_str());
    if name.is_some_and(is_own) {
        return Ok(None);
    }
    let there = fs::metadata(file.path()).ok();
    let is_there = there.is_some_and(|there| {
        there.len() == identity.size && there.modified().ok() == identity.modified
    });
    if !is_there {
        let path = file.path().display();
        tracing::warn!("{path} is no longer the file that was opened: its tensors are copied");
        return Ok(None);
    }
    Ok(Some(FileRecord {
        path: disk::path_from(folder, file.path())?,
        is_own: false,
        size: identity.size,
        modified: identity.modified.and_then(time_record),
        header: hex(identity.header_hash),
    }))
}

/// Whether a file of this name is one that this module writes.
pub(super) fn is_own(name: &str) -> bool {
    let hash = name.strip_prefix(OWN_PREFIX);
    let hash = hash.and_then(|rest| rest.strip_suffix(OWN_SUFFIX));
    hash.is_some_and(|hash| hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn time_record(time: SystemTime) -> Option<TimeRecord> {
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    Some(TimeRecord {
        seconds: since.as_secs(),
        nanoseconds: since.subsec_nanos(),
    })
}

fn hex(hash: [u8; 32]) -> String {
    blake3::Hash::from_bytes(hash).to_hex().to_string()
}

/// Nothing for a view of a kind that is not written down.
fn view_record(view: &View) -> Option<ViewRecord> {
    match view {
        View::Rows { start, end } => Some(ViewRecord::Rows([*start, *end])),
        View::SwapHalves => Some(ViewRecord::SwapHalves),
        View::Reshape(shape) => Some(ViewRecord::Reshape(shape.to_vec())),
        _ => None,
    }
}

fn view(record: &ViewRecord) -> View {
    match record {
        ViewRecord::Rows([start, end]) => View::Rows {
            start: *start,
            end: *end,
        },
        ViewRecord::SwapHalves => View::SwapHalves,
        ViewRecord::Reshape(shape) => View::Reshape(shape.clone().into()),
    }
}

/// A checkpoint's file that is no longer what it was when the module was saved. Its tensors are
/// read as they are now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChangedFile {
    /// The file.
    pub path: PathBuf,
    /// What is other than before, as `the size: expected 96 bytes, found 128`.
    pub what: String,
}

/// The open files of a list.
pub(super) struct Reader<'a> {
    list: &'a Path,
    /// Which of the files the folder holds.
    own: Option<usize>,
    files: Vec<Option<SafetensorsFile>>,
    pub(super) changed: Vec<ChangedFile>,
}

impl<'a> Reader<'a> {
    /// Opens the files of a list at `list` that are needed, by number. The folder's own is open
    /// already.
    pub(super) fn open(
        list: &'a Path,
        records: &[FileRecord],
        own: Option<&SafetensorsFile>,
        is_needed: &dyn Fn(usize) -> bool,
    ) -> Result<Self> {
        let mut reader = Self {
            list,
            own: records.iter().position(|record| record.is_own),
            files: Vec::with_capacity(records.len()),
            changed: Vec::new(),
        };
        for (index, record) in records.iter().enumerate() {
            let file = if record.is_own {
                own.cloned()
            } else if is_needed(index) {
                Some(reader.open_other(record)?)
            } else {
                None
            };
            reader.files.push(file);
        }
        Ok(reader)
    }

    fn open_other(&mut self, record: &FileRecord) -> Result<SafetensorsFile> {
        let folder = self.list.parent().unwrap_or(Path::new("."));
        let path = disk::path_to(folder, &record.path).ok_or_else(|| {
            let expected = "an absolute path, or one in or beside the folder";
            Error::saved(self.list, expected, super::manifest::shown(&record.path))
        })?;
        let file = SafetensorsFile::open(&path)?;
        if let Some(what) = difference(record, &file) {
            tracing::warn!(
                "{} has changed since the module was saved ({what}): it is read as it is now",
                path.display()
            );
            self.changed.push(ChangedFile { path, what });
        }
        Ok(file)
    }

    /// The parameters of a list; where some are `given`, those of other files than the folder's
    /// own come from there.
    pub(super) fn parameters(
        &self,
        listed: &Listed,
        given: Option<&Parameters>,
    ) -> Result<Parameters> {
        let mut builder = Parameters::builder();
        if let Some(given) = given {
            builder = builder.parameters(given);
        }
        for (name, record) in listed {
            if let Some(given) = given
                && Some(record.tensor.file) != self.own
            {
                // Says what is missing.
                given.shape(name)?;
                continue;
            }
            let place = Place {
                tensor: self.tensor(&record.tensor)?,
                scale: match &record.scale {
                    Some(scale) => Some(self.tensor(scale)?),
                    None => None,
                },
                views: record.views.iter().map(view).collect(),
            };
            builder = builder.place(name, place)?;
        }
        Ok(builder.build()?)
    }

    fn tensor(&self, record: &TensorRecord) -> Result<FileTensor> {
        let wrong = |expected: String, found: String| Error::saved(self.list, expected, found);
        let file = self.files.get(record.file).and_then(Option::as_ref);
        let file = file.ok_or_else(|| {
            let expected = format!("one of {} files", self.files.len());
            wrong(expected, format!("number {}", record.file))
        })?;
        let shape = tintype_tensor::Shape::from(record.shape.clone());
        let found = match file.entry(&record.name) {
            Some(entry) if entry.shape == shape => {
                return Ok(FileTensor {
                    file: file.clone(),
                    name: record.name.clone(),
                });
            }
            Some(entry) => format!("shape {}", entry.shape),
            None => "none".to_owned(),
        };
        Err(Error::SavedTensor {
            file: file.path().to_owned(),
            tensor: super::manifest::shown(&record.name),
            expected: format!("shape {shape}, as when the module was saved"),
            found,
        })
    }
}

/// Opens the folder's own file.
pub(super) fn open_own(folder: &Path, record: &FileRecord) -> Result<SafetensorsFile> {
    let file = SafetensorsFile::open(folder.join(&record.path))?;
    match difference(record, &file) {
        None => Ok(file),
        Some(what) => Err(Error::saved(
            file.path(),
            "the tensors that the list of the folder tells of",
            format!("others, by {what}"),
        )),
    }
}

/// What is other than a record says.
fn difference(record: &FileRecord, file: &SafetensorsFile) -> Option<String> {
    let identity = file.identity();
    if identity.size != record.size {
        let (expected, found) = (record.size, identity.size);
        return Some(format!(
            "the size: expected {expected} bytes, found {found}"
        ));
    }
    if hex(identity.header_hash) != record.header {
        return Some("the header: other tensors than expected".to_owned());
    }
    let modified = identity.modified.and_then(time_record);
    let is_later = record.modified.is_some() && modified != record.modified;
    is_later.then(|| "the time of modification".to_owned())
}

/// Refuses a dtype that no file is read in.
fn expect_stored(name: &str, dtype: DType) -> Result<Dtype> {
    stored(dtype).ok_or_else(|| Error::SavedTensor {
        file: PathBuf::from("memory"),
        tensor: format!("`{name}`"),
        expected: "a dtype that safetensors files are read in".to_owned(),
        found: dtype.to_string(),
    })
}

fn stored(dtype: DType) -> Option<Dtype> {
    match dtype {
        DType::F32 => Some(Dtype::F32),
        DType::F16 => Some(Dtype::F16),
        DType::BF16 => Some(Dtype::BF16),
        DType::F8E4M3 => Some(Dtype::F8_E4M3),
        DType::I64 => Some(Dtype::I64),
        DType::I32 => Some(Dtype::I32),
        DType::U8 => Some(Dtype::U8),
        DType::Bool => Some(Dtype::BOOL),
        _ => None,
    }
}

/// A tensor as it is written, without a copy.
struct Stored(Tensor);

impl StoredView for Stored {
    fn dtype(&self) -> Dtype {
        stored(self.0.dtype()).expect("looked at when it was listed")
    }

    fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.0.bytes())
    }

    fn data_len(&self) -> usize {
        self.0.bytes().len()
    }
}

/// Stands for the folder's own file until it has a number.
const OWN: usize = usize::MAX;
const OWN_PREFIX: &str = "changed-";
const OWN_SUFFIX: &str = ".safetensors";
