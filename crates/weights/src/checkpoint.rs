//! A checkpoint: one safetensors file, or shards under an index, or a folder of either.
//!
//! After opening, every tensor is in exactly one file, every file that an index
//! names is there, and no file holds a tensor that the index does not know.
//! It gives no names of its own: see [`crate::layout`].
//!
//! ```no_run
//! # fn main() -> Result<(), tintype_weights::Error> {
//! use tintype_weights::{Checkpoint, Parameters};
//! let checkpoint = Checkpoint::open("FLUX.1-dev/transformer")?;
//! let parameters = Parameters::from_checkpoint(&checkpoint)?;
//! # Ok(())
//! # }
//! ```

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::entry::ContentHash;
use crate::error::shown_list;
use crate::index::ShardIndex;
use crate::{Error, FileIdentity, ModelFiles, Result, SafetensorsFile};

/// The open files of one checkpoint.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    files: Vec<SafetensorsFile>,
}

/// The identities of a checkpoint's files, in order of their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointIdentity {
    /// One per file.
    pub files: Vec<FileIdentity>,
}

impl Checkpoint {
    /// Opens a safetensors file, an index (`*.json`), or a folder that holds
    /// either under the names of diffusers or transformers.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_variant(path, None)
    }

    /// The same for a variant such as `fp16`, where `path` is a folder.
    pub fn open_variant(path: impl AsRef<Path>, variant: Option<&str>) -> Result<Self> {
        let path = path.as_ref();
        if path.is_dir() {
            let files = ModelFiles::folder(path);
            return Self::open_file(&files, &find_in(&files, variant)?);
        }
        let (files, name) = beside(path);
        Self::open_file(&files, name)
    }

    /// Opens what `files` hold under the names of diffusers or transformers.
    pub fn from_files(files: &ModelFiles) -> Result<Self> {
        Self::open_file(files, &find_in(files, None)?)
    }

    /// Opens all shards of an index.
    pub fn open_index(path: impl AsRef<Path>) -> Result<Self> {
        let (files, name) = beside(path.as_ref());
        Self::open_shards(&files, name)
    }

    fn open_file(files: &ModelFiles, name: &Path) -> Result<Self> {
        if name
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            return Self::open_shards(files, name);
        }
        Ok(Self::from_file(files.safetensors(name)?))
    }

    fn open_shards(files: &ModelFiles, name: &Path) -> Result<Self> {
        let index = ShardIndex::read(files, name)?;
        let mut open = Vec::new();
        for shard in index.shards() {
            if !files.contains(shard) {
                let expected = format!("a shard `{shard}`");
                return Err(Error::file(&index.path, expected, "no such file"));
            }
            let file = files.safetensors(shard)?;
            check_shard(&index, shard, &file)?;
            open.push(file);
        }
        index.check_extra_shards(files)?;
        Ok(Self { files: open })
    }

    /// A checkpoint of one file that is open, for example one in memory.
    pub fn from_file(file: SafetensorsFile) -> Self {
        Self { files: vec![file] }
    }

    /// The files, in order of their names.
    pub fn files(&self) -> &[SafetensorsFile] {
        &self.files
    }

    /// Whether all files are still what they were when they were opened.
    pub fn verify(&self) -> Result<()> {
        self.files.iter().try_for_each(SafetensorsFile::verify)
    }

    /// Size, modification time and header hash of every file.
    pub fn identity(&self) -> CheckpointIdentity {
        CheckpointIdentity {
            files: self.files.iter().map(SafetensorsFile::identity).collect(),
        }
    }
}

impl CheckpointIdentity {
    /// One hash of sizes, times and header hashes; paths are left out, so a
    /// checkpoint that was moved keeps it.
    pub fn hash(&self) -> ContentHash {
        let mut hasher = blake3::Hasher::new();
        for file in &self.files {
            let since = file
                .modified
                .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let nanoseconds = since.map_or(0, |duration| duration.as_nanos());
            hasher.update(&file.size.to_le_bytes());
            hasher.update(&nanoseconds.to_le_bytes());
            hasher.update(&file.header_hash);
        }
        ContentHash::from(hasher.finalize())
    }
}

/// The folder that a file lies in, and its name there.
fn beside(path: &Path) -> (ModelFiles, &Path) {
    match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => (ModelFiles::folder(folder), Path::new(name)),
        _ => (ModelFiles::folder(""), path),
    }
}

/// Index and shard must agree on which tensors the shard holds.
fn check_shard(index: &ShardIndex, shard: &str, file: &SafetensorsFile) -> Result<()> {
    let expected = || index.weight_map.iter().filter(|entry| entry.1 == shard);
    let missing: Vec<_> = expected()
        .filter(|entry| file.entry(entry.0).is_none())
        .collect();
    if !missing.is_empty() {
        let names = shown_list(missing.iter().map(|entry| entry.0.as_str()));
        return Err(Error::file(
            file.path(),
            format!("tensors {names}, as the index says"),
            "none",
        ));
    }
    let is_extra = |name: &str| {
        index
            .weight_map
            .get(name)
            .is_none_or(|other| other != shard)
    };
    let extra: Vec<_> = file
        .entries()
        .map(|entry| entry.0)
        .filter(|name| is_extra(name))
        .collect();
    if !extra.is_empty() {
        let names = shown_list(extra.into_iter());
        let expected = format!("only tensors of {}", index.path.display());
        return Err(Error::file(file.path(), expected, names));
    }
    Ok(())
}

/// diffusers prefers an index, transformers the single file; each is followed.
fn find_in(files: &ModelFiles, variant: Option<&str>) -> Result<PathBuf> {
    let mut names = Vec::new();
    match variant {
        None => names.extend(
            [
                "diffusion_pytorch_model.safetensors.index.json",
                "diffusion_pytorch_model.safetensors",
                "model.safetensors",
                "model.safetensors.index.json",
            ]
            .map(str::to_owned),
        ),
        Some(variant) => names.extend([
            format!("diffusion_pytorch_model.safetensors.index.{variant}.json"),
            format!("diffusion_pytorch_model.{variant}.safetensors.index.json"),
            format!("diffusion_pytorch_model.{variant}.safetensors"),
            format!("model.{variant}.safetensors"),
            format!("model.safetensors.index.{variant}.json"),
            format!("model.{variant}.safetensors.index.json"),
        ]),
    }
    if let Some(found) = names.iter().find(|name| files.contains(name)) {
        return Ok(PathBuf::from(found));
    }
    let folder = files.root();
    let mut others = files
        .names()
        .map_err(|error| Error::io(folder, "listing", error))?;
    others.retain(|name| name.contains("safetensors"));
    let expected = shown_list(names.iter().map(String::as_str)).replace(", ", " or ");
    Err(Error::file(
        folder,
        expected,
        shown_list(others.iter().map(String::as_str)),
    ))
}
