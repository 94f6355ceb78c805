//! Where the files of a model lie: a folder on disk, or a table inside the program.
//!
//! Readers ask for a file by its name below the model and need not know which of
//! the two it is. Files in a table are used where they lie: nothing is unpacked
//! or copied. It knows no format but that of [`SafetensorsFile`], which is mapped
//! from disk and read in place from a table.
//!
//! ```
//! use tintype_weights::{EmbeddedFile, ModelFiles};
//!
//! const FILES: &[EmbeddedFile] = &[("vae/config.json", b"{}")];
//! let vae = ModelFiles::embedded("tiny (built in)", FILES).subfolder("vae");
//! assert!(vae.contains("config.json"));
//! assert_eq!(vae.path("config.json").to_str(), Some("tiny (built in)/vae/config.json"));
//! assert!(ModelFiles::folder("models/tiny").read("config.json", 100).is_err());
//! ```

use std::borrow::Cow;
use std::fs::File;
use std::io::{Error as IoError, ErrorKind, Read, Result as IoResult};
use std::path::{Path, PathBuf};

use crate::{Result, SafetensorsFile};

/// A path below the model, with `/`, and the bytes there. Weights are read in
/// place if the bytes begin at a multiple of 8, and copied at each use if not.
pub type EmbeddedFile = (&'static str, &'static [u8]);

/// The files of a model, or of one folder of it. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    /// The folder, or what stands for it in messages.
    root: PathBuf,
    table: Option<Table>,
}

/// The files of a table below one folder of it.
#[derive(Debug, Clone)]
struct Table {
    files: &'static [EmbeddedFile],
    folder: PathBuf,
}

impl ModelFiles {
    /// A folder on disk. It is not looked at before a file is asked for.
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        Self {
            root: path.into(),
            table: None,
        }
    }

    /// Files inside the program; `label` stands for their folder in messages.
    pub fn embedded(label: impl Into<PathBuf>, files: &'static [EmbeddedFile]) -> Self {
        Self {
            root: label.into(),
            table: Some(Table {
                files,
                folder: PathBuf::new(),
            }),
        }
    }

    /// The files below one folder of these.
    #[must_use]
    pub fn subfolder(&self, name: impl AsRef<Path>) -> Self {
        let name = name.as_ref();
        Self {
            root: self.root.join(name),
            table: self.table.as_ref().map(|table| Table {
                files: table.files,
                folder: table.folder.join(name),
            }),
        }
    }

    /// The folder, or what stands for it in messages.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a file lies, or would lie: for messages, and on disk for opening.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// Whether this folder exists; in a table, whether it has a file.
    pub fn exists(&self) -> bool {
        match &self.table {
            None => self.root.is_dir(),
            Some(table) => table.below().next().is_some(),
        }
    }

    /// Whether there is such a file.
    pub fn contains(&self, name: impl AsRef<Path>) -> bool {
        match &self.table {
            None => self.path(name).is_file(),
            Some(table) => table.find(name.as_ref()).is_ok(),
        }
    }

    /// The size of a file in bytes.
    pub fn size(&self, name: impl AsRef<Path>) -> IoResult<u64> {
        match &self.table {
            None => Ok(std::fs::metadata(self.path(name))?.len()),
            Some(table) => Ok(table.find(name.as_ref())?.len() as u64),
        }
    }

    /// The first `limit` bytes of a file: all of it, if they are fewer.
    pub fn read(&self, name: impl AsRef<Path>, limit: u64) -> IoResult<Cow<'static, [u8]>> {
        if let Some(table) = &self.table {
            let bytes = table.find(name.as_ref())?;
            let length = usize::try_from(limit).unwrap_or(usize::MAX);
            return Ok(Cow::Borrowed(&bytes[..length.min(bytes.len())]));
        }
        let mut bytes = Vec::new();
        let file = File::open(self.path(name))?;
        // The limit holds too where the file grows meanwhile, or is no plain file.
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(Cow::Owned(bytes))
    }

    /// Opens a safetensors file: mapped from disk, or read where it lies.
    pub fn safetensors(&self, name: impl AsRef<Path>) -> Result<SafetensorsFile> {
        let name = name.as_ref();
        let path = self.path(name);
        match &self.table {
            None => SafetensorsFile::open(path),
            Some(table) => {
                let bytes = table.find(name);
                let bytes = bytes.map_err(|error| crate::Error::io(&path, "opening", error))?;
                SafetensorsFile::from_bytes(path, bytes)
            }
        }
    }

    /// The names of what lies directly in this folder, sorted; names that are not
    /// UTF-8 are left out.
    pub fn names(&self) -> IoResult<Vec<String>> {
        let mut names: Vec<String> = match &self.table {
            Some(table) => table.below().filter_map(first_part).collect(),
            None => names_in(&self.root)?,
        };
        names.sort();
        names.dedup();
        Ok(names)
    }
}

impl Table {
    fn find(&self, name: &Path) -> IoResult<&'static [u8]> {
        let path = self.folder.join(name);
        let found = self.files.iter().find(|file| Path::new(file.0) == path);
        found
            .map(|file| file.1)
            .ok_or_else(|| IoError::from(ErrorKind::NotFound))
    }

    /// The paths below this folder, relative to it.
    fn below(&self) -> impl Iterator<Item = &'static Path> {
        let paths = self.files.iter().map(|file| Path::new(file.0));
        paths.filter_map(|path| path.strip_prefix(&self.folder).ok())
    }
}

impl<P: AsRef<Path>> From<P> for ModelFiles {
    /// A folder on disk.
    fn from(path: P) -> Self {
        Self::folder(path.as_ref())
    }
}

fn names_in(folder: &Path) -> IoResult<Vec<String>> {
    let is_here = folder.as_os_str().is_empty();
    let entries = std::fs::read_dir(if is_here { Path::new(".") } else { folder })?;
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string().ok());
    }
    Ok(names)
}

fn first_part(path: &Path) -> Option<String> {
    let first = path.components().next()?;
    first.as_os_str().to_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: &[EmbeddedFile] = &[
        ("a.json", b"0123456789"),
        ("part/b.json", b"{}"),
        ("part/deep/c.json", b"[]"),
        ("parts/d.json", b""),
    ];

    /// The same files in a table and in a folder.
    fn both() -> (tempfile::TempDir, [ModelFiles; 2]) {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in FILES {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let files = [
            ModelFiles::folder(folder.path()),
            ModelFiles::embedded("x", FILES),
        ];
        (folder, files)
    }

    #[test]
    fn a_table_and_a_folder_say_the_same() {
        let (_folder, both) = both();
        for files in both {
            assert_eq!(files.names().unwrap(), ["a.json", "part", "parts"]);
            let part = files.subfolder("part");
            assert_eq!(part.names().unwrap(), ["b.json", "deep"]);
            assert!(part.exists() && files.subfolder("part/deep").exists());
            assert!(!files.subfolder("par").exists());
            assert!(part.contains("b.json") && files.contains("part/b.json"));
            assert!(!files.contains("part") && !files.contains("b.json"));
            assert_eq!(files.size("a.json").unwrap(), 10);
            assert_eq!(*files.read("a.json", 4).unwrap(), *b"0123");
            assert_eq!(*files.read("a.json", 11).unwrap(), *b"0123456789");
            let missing = files.read("b.json", 1).unwrap_err();
            assert_eq!(missing.kind(), ErrorKind::NotFound);
        }
    }

    #[test]
    fn a_table_lends_its_bytes() {
        let files = ModelFiles::embedded("x", FILES).subfolder("part");
        assert!(matches!(files.read("b.json", 9), Ok(Cow::Borrowed(_))));
        let error = files.safetensors("none.safetensors").unwrap_err();
        assert_eq!(error.to_string(), "x/part/none.safetensors: opening failed");
    }

    /// Bytes that begin where a compiler would put them for tensors.
    #[repr(align(64))]
    struct Aligned([u8; 76]);

    #[test]
    fn tensors_lie_in_the_table() {
        static BYTES: Aligned = {
            let mut bytes = [b' '; 76];
            let header = br#"{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}"#;
            let mut index = 0;
            while index < header.len() {
                bytes[8 + index] = header[index];
                index += 1;
            }
            (bytes[0], bytes[72]) = (64, 1);
            let mut index = 1;
            while index < 8 {
                bytes[index] = 0;
                index += 1;
            }
            Aligned(bytes)
        };
        static FILES: &[EmbeddedFile] = &[("vae/model.safetensors", &BYTES.0)];
        let files = ModelFiles::embedded("x", FILES).subfolder("vae");
        let checkpoint = crate::Checkpoint::from_files(&files).unwrap();
        let parameters = crate::Parameters::from_checkpoint(&checkpoint).unwrap();
        let tensor = parameters.get("w").unwrap();
        assert_eq!(tensor.bytes().as_ptr(), BYTES.0[72..].as_ptr());
    }
}
