//! Algorithms that were timed, on disk, so that a machine times each product once.
//!
//! One JSON file for all devices and versions of the library; a key says which it is of:
//!
//! ```json
//! {"format": "tintype cuBLASLt choices 1", "checksum": "…", "choices": {
//!   "NVIDIA H100 80GB HBM3 (132) | 13.1.0 | tn 9216x4096x3072 a=bf16:3072@16 …":
//!     {"algorithm": "0300…", "workspace": 0, "nanoseconds": 305000}}}
//! ```
//!
//! It is written under a temporary name and renamed. A file that is damaged or of another format
//! is as none, and is written anew. Two programs that write at once may lose entries of one, which
//! are then timed again.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tintype_device::{KernelCache, SavedFolders};

/// The file.
#[derive(Debug, Clone)]
pub(super) struct ChoiceFile {
    path: PathBuf,
}

/// The algorithm that was fastest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// The library's 64 bytes, in hexadecimal digits, word after word.
    algorithm: String,
    /// Scratch memory in bytes.
    pub(super) workspace: usize,
    /// How long a run took.
    pub(super) nanoseconds: u64,
}

/// What lies in folders that go with modules, each read once.
pub(super) struct SavedChoices {
    folders: SavedFolders,
    read: Mutex<Vec<(PathBuf, Entries)>>,
}

/// Entries by their keys.
pub(super) type Entries = BTreeMap<String, Entry>;

#[derive(Serialize, Deserialize)]
struct Content {
    format: String,
    checksum: String,
    choices: Entries,
}

impl Entry {
    pub(super) fn new(words: [u64; 8], workspace: usize, nanoseconds: u64) -> Self {
        Self {
            algorithm: words.map(|word| format!("{word:016x}")).concat(),
            workspace,
            nanoseconds,
        }
    }

    /// The library's words; `None` if these are not as many.
    pub(super) fn words(&self) -> Option<[u64; 8]> {
        let digits = self.algorithm.as_bytes();
        if digits.len() != 128 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let mut words = [0; 8];
        for (word, digits) in words.iter_mut().zip(digits.chunks(16)) {
            *word = u64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(words)
    }
}

impl ChoiceFile {
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The user's own, beside the folder of compiled kernels.
    pub(super) fn of_user() -> Self {
        Self::new(KernelCache::of_user().folder().with_file_name(NAME))
    }

    /// That of a folder that goes with a module.
    pub(super) fn in_folder(folder: &Path) -> Self {
        Self::new(folder.join(NAME))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// All entries; none if there is no file that can be read.
    pub(super) fn read(&self) -> Entries {
        let found = match std::fs::read(&self.path) {
            Ok(bytes) => parse(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Entries::new(),
            Err(error) => Err(error.to_string()),
        };
        found.unwrap_or_else(|reason| {
            let path = self.path.display();
            tracing::warn!("{path} is not read ({reason}); algorithms are timed again");
            Entries::new()
        })
    }

    /// Adds an entry to those that the file has now.
    pub(super) fn add(&self, key: &str, entry: Entry) -> io::Result<()> {
        let mut choices = self.read();
        choices.insert(key.to_owned(), entry);
        let content = Content {
            format: FORMAT.to_owned(),
            checksum: checksum(&choices),
            choices,
        };
        let text = serde_json::to_string_pretty(&content)?;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }
}

impl SavedChoices {
    pub(super) fn new(folders: SavedFolders) -> Self {
        Self {
            folders,
            read: Mutex::default(),
        }
    }

    /// The entry of the first folder that has one.
    pub(super) fn get(&self, key: &str) -> Option<Entry> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        for folder in self.folders.all() {
            if !read.iter().any(|(known, _)| *known == folder) {
                let entries = ChoiceFile::in_folder(&folder).read();
                read.push((folder, entries));
            }
        }
        read.iter()
            .find_map(|(_, entries)| entries.get(key).cloned())
    }
}

fn parse(bytes: &[u8]) -> Result<Entries, String> {
    let content: Content = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if content.format != FORMAT {
        return Err(format!("expected `{FORMAT}`, found `{}`", content.format));
    }
    if content.checksum != checksum(&content.choices) {
        return Err("its checksum is of other entries".to_owned());
    }
    Ok(content.choices)
}

fn checksum(choices: &Entries) -> String {
    let mut hasher = blake3::Hasher::new();
    for (key, entry) in choices {
        let values = format!("{} {}", entry.workspace, entry.nanoseconds);
        for part in [key, &entry.algorithm, &values] {
            // Lengths keep two neighbours from being taken for another two.
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
    }
    hasher.finalize().to_hex().to_string()
}

/// The file's name in a folder.
pub(super) const NAME: &str = "products.json";

const FORMAT: &str = "tintype cuBLASLt choices 1";

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(first: u64) -> Entry {
        Entry::new([first, 2, 3, 4, 5, 6, 7, u64::MAX], 1 << 20, 305_000)
    }

    #[test]
    fn entries_are_added_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = ChoiceFile::new(folder.path().join("new/choices.json"));
        assert!(file.read().is_empty());
        file.add("a", entry(1)).unwrap();
        file.add("b", entry(2)).unwrap();
        file.add("a", entry(3)).unwrap();
        let all = file.read();
        assert_eq!(
            all,
            Entries::from([("a".into(), entry(3)), ("b".into(), entry(2))])
        );
        assert_eq!(all["a"].words(), Some([3, 2, 3, 4, 5, 6, 7, u64::MAX]));
        let left = std::fs::read_dir(folder.path().join("new")).unwrap();
        assert_eq!(left.count(), 1, "no temporary files stay");
    }

    #[test]
    fn a_damaged_file_is_as_none_and_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let file = ChoiceFile::new(folder.path().join("choices.json"));
        file.add("a", entry(1)).unwrap();
        let whole = std::fs::read(file.path()).unwrap();
        for len in 0..whole.len() - 1 {
            std::fs::write(file.path(), &whole[..len]).unwrap();
            assert!(file.read().is_empty(), "{len} bytes");
        }
        let text = String::from_utf8(whole).unwrap();
        for (from, to) in [
            ("305000", "305001"),
            ("choices 1", "choices 2"),
            ("0001", "0011"),
        ] {
            assert!(text.contains(from), "{text}");
            std::fs::write(file.path(), text.replacen(from, to, 1)).unwrap();
            assert!(file.read().is_empty(), "{from}");
        }
        file.add("b", entry(2)).unwrap();
        assert_eq!(file.read().len(), 1);
    }

    #[test]
    fn folders_of_modules_are_read_once_and_in_order() {
        let [first, second] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let file = |folder: &tempfile::TempDir| ChoiceFile::in_folder(folder.path());
        file(&first).add("a", entry(1)).unwrap();
        file(&second).add("a", entry(2)).unwrap();
        file(&second).add("b", entry(3)).unwrap();
        let folders = SavedFolders::default();
        let saved = SavedChoices::new(folders.clone());
        assert_eq!(saved.get("a"), None);
        folders.add(first.path());
        folders.add(second.path());
        assert_eq!(saved.get("a"), Some(entry(1)));
        assert_eq!(saved.get("b"), Some(entry(3)));
        assert_eq!(saved.get("c"), None);
        file(&first).add("c", entry(4)).unwrap();
        assert_eq!(saved.get("c"), None, "read once");
    }

    #[test]
    fn words_are_exactly_as_many_as_the_library_has() {
        let mut entry = entry(1);
        entry.algorithm.pop();
        assert_eq!(entry.words(), None);
        entry.algorithm.push('x');
        assert_eq!(entry.words(), None);
        entry.algorithm = "é".repeat(64);
        assert_eq!(entry.words(), None);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), b"").unwrap();
        let file = ChoiceFile::new(folder.path().join("file/choices.json"));
        assert!(file.add("a", entry(1)).is_err());
    }
}
