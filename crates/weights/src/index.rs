//! The index of a sharded checkpoint: `*.safetensors.index.json`.
//!
//! It maps tensor names to files beside it. It is untrusted: a file that is not
//! a plain name would reach out of the folder. It opens no shard.
//!
//! ```text
//! {"metadata": {"total_size": 96}, "weight_map": {"a.weight": "model-00001-of-00002.safetensors"}}
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use crate::error::{shown, shown_list};
use crate::{Error, ModelFiles, Result};

/// A parsed index: tensor name → name of the shard.
#[derive(Debug)]
pub(crate) struct ShardIndex {
    pub(crate) path: PathBuf,
    pub(crate) weight_map: BTreeMap<String, String>,
}

impl ShardIndex {
    pub(crate) fn read(files: &ModelFiles, name: &Path) -> Result<Self> {
        let path = &files.path(name);
        let failed = |action| move |error| Error::io(path, action, error);
        let size = files.size(name).map_err(failed("opening"))?;
        if !files.contains(name) {
            return Err(Error::file(path, "a file", "something else"));
        }
        if size > LARGEST_INDEX {
            let expected = format!("an index of at most {LARGEST_INDEX} bytes");
            return Err(Error::file(path, expected, format!("{size}")));
        }
        let text = files.read(name, LARGEST_INDEX).map_err(failed("reading"))?;
        let raw: RawIndex = serde_json::from_slice(&text).map_err(|error| {
            Error::file(
                path,
                "a JSON index with a weight_map",
                shown(&error.to_string()),
            )
        })?;
        let weight_map = raw.weight_map.0;
        if weight_map.is_empty() {
            return Err(Error::file(
                path,
                "a weight_map with tensors",
                "an empty one",
            ));
        }
        for (tensor, shard) in &weight_map {
            if !is_plain_file_name(shard) {
                let found = format!("`{}`", shown(shard));
                let expected = "the name of a shard in the same folder";
                return Err(Error::file_tensor(path, tensor, expected, found));
            }
        }
        Ok(Self {
            path: path.to_owned(),
            weight_map,
        })
    }

    /// The shards' names, each once, in order.
    pub(crate) fn shards(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }

    /// An error if the folder holds further shards of the same series.
    pub(crate) fn check_extra_shards(&self, files: &ModelFiles) -> Result<()> {
        let shards = self.shards();
        let series: BTreeSet<_> = shards.iter().filter_map(|name| series_of(name)).collect();
        let names = files
            .names()
            .map_err(|error| Error::io(files.root(), "listing", error))?;
        let mut extra = BTreeSet::new();
        for name in names {
            let same_series = series_of(&name).is_some_and(|key| series.contains(&key));
            if same_series && !shards.contains(name.as_str()) {
                extra.insert(name);
            }
        }
        if extra.is_empty() {
            return Ok(());
        }
        let expected = format!("{} shards", shards.len());
        let found = format!("also {}", shown_list(extra.iter().map(String::as_str)));
        Err(Error::file(&self.path, expected, found))
    }
}

#[derive(Deserialize)]
struct RawIndex {
    weight_map: WeightMap,
}

/// Refuses a name that is given twice.
struct WeightMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MapVisitor;
        impl<'de> Visitor<'de> for MapVisitor {
            type Value = WeightMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from tensor names to file names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
                let mut names = BTreeMap::new();
                while let Some((name, shard)) = map.next_entry::<String, String>()? {
                    if names.insert(name.clone(), shard).is_some() {
                        let name = shown(&name);
                        return Err(A::Error::custom(format_args!("two entries `{name}`")));
                    }
                }
                Ok(WeightMap(names))
            }
        }
        deserializer.deserialize_map(MapVisitor)
    }
}

fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let plain =
        matches!(components.next(), Some(Component::Normal(_))) && components.next().is_none();
    // Also what another system would take for a path.
    plain && !name.contains(['/', '\\', ':', '\0'])
}

/// What the shards of one checkpoint share: `model-00001-of-00002.fp16.safetensors`
/// → (`model`, `.fp16.safetensors`).
fn series_of(name: &str) -> Option<(String, String)> {
    let (stem, rest) = name.rsplit_once("-of-")?;
    let (stem, number) = stem.rsplit_once('-')?;
    let digits = rest.find(|c: char| !c.is_ascii_digit())?;
    let numbered = digits > 0 && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let suffix = &rest[digits..];
    (numbered && suffix.ends_with(".safetensors")).then(|| (stem.to_owned(), suffix.to_owned()))
}

/// Ten times the largest that is known.
const LARGEST_INDEX: u64 = 100_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_out_of_the_folder_are_refused() {
        for name in ["", ".", "..", "../a", "/a", "a/b", "a\\b", "c:a", "a\0"] {
            assert!(!is_plain_file_name(name), "{name:?}");
        }
        assert!(is_plain_file_name("model-00001-of-00002.safetensors"));
    }

    #[test]
    fn series_are_told_apart() {
        let series = |name| series_of(name);
        assert_eq!(
            series("a-b-00001-of-00002.fp16.safetensors"),
            Some(("a-b".into(), ".fp16.safetensors".into()))
        );
        assert_eq!(series("model.safetensors"), None);
        assert_eq!(series("model-x-of-2.safetensors"), None);
    }
}
