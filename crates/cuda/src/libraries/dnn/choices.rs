//! Engines that were chosen before, on disk: a JSON file for each graph, GPU and version of
//! cuDNN.
//!
//! ```json
//! {
//!   "key": "NVIDIA H100 80GB HBM3\ncuDNN 9.14.0\nt0 = bf16[1:…] align 16\n…",
//!   "choice": {"engine": {"advice": "quick", "position": 0, "engine": 11}, "milliseconds": 0.43}
//! }
//! ```
//!
//! A file's name is a hash of its key, and the key is in it: a damaged file, or one under another
//! name, is a miss. Files are written under another name and renamed. A folder that cannot be
//! written costs a warning and the time of choosing again.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use tintype_device::SavedFolders;

use super::choose::Origin;
use super::graph::GraphDescription;
use super::library::Version;

/// A folder of choices.
#[derive(Debug, Clone)]
pub(super) struct Choices {
    folder: PathBuf,
    /// Folders that are looked into first.
    saved: SavedFolders,
}

/// What was chosen for a graph.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Choice {
    /// The engine.
    pub(super) engine: Origin,
    /// How long a run took, if it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) milliseconds: Option<f32>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    key: String,
    choice: Choice,
}

/// All that a choice depends on.
pub(super) fn key(gpu: &str, version: Version, description: &GraphDescription) -> String {
    format!("{gpu}\ncuDNN {version}\n{description}")
}

impl Choices {
    pub(super) fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            saved: SavedFolders::default(),
        }
    }

    /// The same with folders that are looked into first and never written to.
    pub(super) fn with_saved(mut self, saved: &SavedFolders) -> Self {
        self.saved = saved.clone();
        self
    }

    /// What was chosen before, if that is known.
    pub(super) fn read(&self, key: &str) -> Option<Choice> {
        let saved = self.saved.all().into_iter();
        let found = saved.map(Self::new).find_map(|saved| saved.read_own(key));
        found.or_else(|| self.read_own(key))
    }

    /// Writes a choice into a folder, if there is one; gives the file's name.
    pub(super) fn save(&self, key: &str, folder: &Path) -> std::io::Result<Option<String>> {
        let Some(choice) = self.read(key) else {
            return Ok(None);
        };
        let saved = Self::new(folder);
        let path = saved.path(key);
        saved.write_to(&path, key, &choice)?;
        let name = path.file_name().unwrap_or_default();
        Ok(Some(name.to_string_lossy().into_owned()))
    }

    fn read_own(&self, key: &str) -> Option<Choice> {
        let path = self.path(key);
        let text = std::fs::read_to_string(&path).ok()?;
        match serde_json::from_str::<Entry>(&text) {
            Ok(entry) if entry.key == key => Some(entry.choice),
            _ => {
                tracing::warn!("{} is damaged and not used", path.display());
                None
            }
        }
    }

    pub(super) fn write(&self, key: &str, choice: &Choice) {
        let path = self.path(key);
        if let Err(error) = self.write_to(&path, key, choice) {
            tracing::warn!("cannot write {}: {error}", path.display());
        }
    }

    fn write_to(&self, path: &Path, key: &str, choice: &Choice) -> std::io::Result<()> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        std::fs::create_dir_all(&self.folder)?;
        let entry = Entry {
            key: key.to_owned(),
            choice: *choice,
        };
        let text = serde_json::to_string_pretty(&entry)?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_extension(format!("{}-{number}.tmp", std::process::id()));
        let written =
            std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, path));
        if written.is_err() {
            // What is half written would stay for ever.
            let _ = std::fs::remove_file(&temporary);
        }
        written
    }

    fn path(&self, key: &str) -> PathBuf {
        let name = blake3::hash(key.as_bytes()).to_hex();
        self.folder.join(format!("cudnn-{}.json", &name[..32]))
    }
}

#[cfg(test)]
mod tests {
    use tintype_tensor::DType;

    use super::super::choose::Advice;
    use super::super::graph::Tensor;
    use super::*;
    use crate::{Place, View};

    fn choice() -> Choice {
        Choice {
            engine: Origin {
                advice: Advice::Quick,
                position: 2,
                engine: 11,
            },
            milliseconds: Some(0.4375),
        }
    }

    fn folder(name: &str) -> PathBuf {
        let folder = format!("tintype-choices-{name}-{}", std::process::id());
        std::env::temp_dir().join(folder)
    }

    #[test]
    fn what_was_written_is_read_and_what_is_damaged_is_not() {
        let folder = folder("damaged");
        let choices = Choices::new(&folder);
        assert_eq!(choices.read("a"), None);
        choices.write("a", &choice());
        assert_eq!(choices.read("a"), Some(choice()));
        assert_eq!(choices.read("b"), None);
        let not_measured = Choice {
            milliseconds: None,
            ..choice()
        };
        choices.write("b", &not_measured);
        assert_eq!(choices.read("b"), Some(not_measured));
        let whole = std::fs::read(choices.path("a")).unwrap();
        for length in 0..whole.len() {
            std::fs::write(choices.path("a"), &whole[..length]).unwrap();
            assert_eq!(choices.read("a"), None, "{length} bytes");
        }
        std::fs::rename(choices.path("b"), choices.path("a")).unwrap();
        assert_eq!(choices.read("a"), None, "another's name");
        let left = std::fs::read_dir(&folder).unwrap().count();
        assert_eq!(left, 1, "no temporary files stay");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_was_saved_is_found_first() {
        let (own, saved) = (folder("own"), folder("saved"));
        let choices = Choices::new(&own);
        assert_eq!(choices.save("a", &saved).unwrap(), None);
        choices.write("a", &choice());
        let name = choices.save("a", &saved).unwrap().unwrap();
        let folders = SavedFolders::default();
        let other = Choices::new(folder("nowhere")).with_saved(&folders);
        assert_eq!(other.read("a"), None);
        folders.add(&saved);
        assert_eq!(other.read("a"), Some(choice()));
        std::fs::write(saved.join(name), "{").unwrap();
        assert_eq!(other.read("a"), None);
        assert_eq!(choices.with_saved(&folders).read("a"), Some(choice()));
        std::fs::remove_dir_all(&own).unwrap();
        std::fs::remove_dir_all(&saved).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_error() {
        let file = folder("file");
        std::fs::write(&file, b"").unwrap();
        let choices = Choices::new(&file);
        choices.write("a", &choice());
        assert_eq!(choices.read("a"), None);
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    fn keys_tell_gpus_versions_layouts_and_alignments_apart() {
        let of = |view: &View| {
            let mut graph = GraphDescription::default();
            graph.tensor(Tensor::of_view(view));
            graph
        };
        let view = View::contiguous(Place::Buffer(0), DType::BF16, &[4, 8, 16]);
        let version = Version(91_400);
        let plain = key("H100", version, &of(&view));
        assert_ne!(key("H200", version, &of(&view)), plain);
        assert_ne!(key("H100", Version(91_500), &of(&view)), plain);
        assert_ne!(
            key("H100", version, &of(&view.transpose(&[1, 0, 2]))),
            plain
        );
        let half = View {
            dtype: DType::F16,
            ..view.clone()
        };
        assert_ne!(key("H100", version, &of(&half)), plain);
        let odd = View {
            offset: 1,
            ..view.clone()
        };
        assert_ne!(key("H100", version, &of(&odd)), plain);
        let elsewhere = View {
            place: Place::Buffer(7),
            offset: 64,
            ..view
        };
        assert_eq!(key("H100", version, &of(&elsewhere)), plain);
    }
}
