//! Compiled kernels on disk, so that a program compiles them once for each GPU.
//!
//! An entry's name is a hash of all that its code depends on: source, options, target and the
//! version of NVRTC. Its content begins with a checksum; a damaged, truncated or foreign entry
//! is a miss and is written anew. Entries are written under a temporary name and renamed, so a
//! program that is killed leaves none that is half written, and two that write the same entry
//! do no harm. There is no lock and no eviction: entries are some hundred kilobytes.
//!
//! ```
//! use tintype_device::{CudaVersion, KernelCache, Source, Target};
//!
//! # let folder = std::env::temp_dir().join("tintype-device-doc");
//! let cache = KernelCache::new(&folder);
//! let source = Source::new("copy.cu", "…");
//! let key = KernelCache::key(&source, Target::new(9, 0), CudaVersion { major: 13, minor: 0 });
//! cache.write(&key, b"code")?;
//! assert_eq!(cache.read(&key).as_deref(), Some(&b"code"[..]));
//! # Ok::<(), tintype_device::Error>(())
//! ```

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{CudaVersion, Error, Nvrtc, Result, Source, Target};

/// A folder of compiled kernels.
#[derive(Debug, Clone)]
pub struct KernelCache {
    folder: PathBuf,
    saved: SavedFolders,
}

/// Folders that go with modules: caches look into them first and never write to them. A cheap
/// handle, whose clones see what is added later.
///
/// ```
/// use tintype_device::SavedFolders;
/// let saved = SavedFolders::default();
/// let other = saved.clone();
/// saved.add("module");
/// saved.add("module");
/// assert_eq!(other.all(), [std::path::Path::new("module")]);
/// ```
#[derive(Debug, Clone, Default)]
pub struct SavedFolders(Arc<Mutex<Vec<PathBuf>>>);

impl SavedFolders {
    /// One more, unless it is there already.
    pub fn add(&self, folder: impl Into<PathBuf>) {
        let (folder, mut folders) = (folder.into(), self.lock());
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }

    /// All, in the order in which they were added.
    pub fn all(&self) -> Vec<PathBuf> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheKey(blake3::Hash);

impl KernelCache {
    /// A cache in this folder, which is made when something is written.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            saved: SavedFolders::default(),
        }
    }

    /// The same with folders that are looked into first and never written to.
    #[must_use]
    pub fn with_saved(mut self, saved: &SavedFolders) -> Self {
        self.saved = saved.clone();
        self
    }

    /// The user's own: `kernels` in `TINTYPE_CACHE`, or else in `tintype` of `XDG_CACHE_HOME`
    /// or of `~/.cache`.
    pub fn of_user() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self::new(user_folder(&variable).join("kernels"))
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The key of a source compiled for `target` by this version of NVRTC.
    pub fn key(source: &Source, target: Target, nvrtc: CudaVersion) -> CacheKey {
        let mut hasher = blake3::Hasher::new();
        // Lengths keep two neighbours from being taken for another two.
        let mut part = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        part(&target.to_string());
        part(&nvrtc.to_string());
        part(&source.text);
        for option in &source.options {
            part(option);
        }
        CacheKey(hasher.finalize())
    }

    /// The code of an entry; `None` if there is none or it is damaged.
    pub fn read(&self, key: &CacheKey) -> Option<Vec<u8>> {
        let saved = self.saved.all().into_iter();
        let found = saved.map(Self::new).find_map(|saved| saved.read_own(key));
        found.or_else(|| self.read_own(key))
    }

    fn read_own(&self, key: &CacheKey) -> Option<Vec<u8>> {
        let path = self.path(key);
        let bytes = std::fs::read(&path).ok()?;
        let code = payload(&bytes, key);
        if code.is_none() {
            tracing::warn!("{} is damaged and not used", path.display());
        }
        code.map(<[u8]>::to_vec)
    }

    /// Writes an entry into a folder that goes with a module; gives the file's name, or `None`
    /// if there is no such entry.
    ///
    /// # Errors
    /// As [`KernelCache::write`].
    pub fn save(&self, key: &CacheKey, folder: &Path) -> Result<Option<String>> {
        let Some(code) = self.read(key) else {
            return Ok(None);
        };
        Self::new(folder).write(key, &code)?;
        Ok(Some(name(key)))
    }

    /// Writes an entry.
    ///
    /// # Errors
    /// [`Error::Cache`] if the folder or file cannot be written; there is then no entry.
    pub fn write(&self, key: &CacheKey, code: &[u8]) -> Result<()> {
        let path = self.path(key);
        self.write_to(&path, key, code)
            .map_err(|source| Error::Cache { path, source })
    }

    /// The code of a source, from the cache or compiled. A cache that cannot be written costs
    /// a warning and the time of compiling.
    pub fn compile(&self, nvrtc: &Nvrtc, source: &Source, target: Target) -> Result<Vec<u8>> {
        let key = Self::key(source, target, nvrtc.version());
        if let Some(code) = self.read(&key) {
            return Ok(code);
        }
        let code = nvrtc.compile(source, target)?;
        if let Err(error) = self.write(&key, &code) {
            tracing::warn!("{error}");
        }
        Ok(code)
    }

    fn path(&self, key: &CacheKey) -> PathBuf {
        self.folder.join(name(key))
    }

    fn write_to(&self, path: &Path, key: &CacheKey, code: &[u8]) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(MAGIC)?;
        file.write_all(checksum(key, code).as_bytes())?;
        file.write_all(code)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }
}

/// The file of an entry.
fn name(key: &CacheKey) -> String {
    format!("{}.cubin", key.0.to_hex())
}

/// The code in an entry's bytes, if they are whole and of this key.
fn payload<'b>(bytes: &'b [u8], key: &CacheKey) -> Option<&'b [u8]> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (found, code) = rest.split_first_chunk::<{ blake3::OUT_LEN }>()?;
    (checksum(key, code) == blake3::Hash::from_bytes(*found)).then_some(code)
}

/// A hash of the code with its key, so that an entry under a wrong name is none.
fn checksum(key: &CacheKey, code: &[u8]) -> blake3::Hash {
    blake3::keyed_hash(key.0.as_bytes(), code)
}

fn user_folder(variable: &impl Fn(&str) -> Option<String>) -> PathBuf {
    if let Some(folder) = variable("TINTYPE_CACHE") {
        return PathBuf::from(folder);
    }
    let cache = variable("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(variable("HOME").unwrap_or_else(|| ".".to_owned())).join(".cache"),
        PathBuf::from,
    );
    cache.join("tintype")
}

const MAGIC: &[u8] = b"tintype cubin 1\n";

#[cfg(test)]
mod tests {
    use super::*;

    const CUDA_13: CudaVersion = CudaVersion {
        major: 13,
        minor: 0,
    };

    fn key_of(text: &str) -> CacheKey {
        KernelCache::key(&Source::new("a.cu", text), Target::new(9, 0), CUDA_13)
    }

    #[test]
    fn all_that_code_depends_on_is_in_the_key() {
        let source = Source::new("a.cu", "text");
        let key = key_of("text");
        let other = |source: &Source, target, version| KernelCache::key(source, target, version);
        let target = Target::new(9, 0);
        assert_eq!(other(&source, target, CUDA_13), key);
        assert_ne!(key_of("text "), key);
        assert_ne!(other(&source, target.specific(), CUDA_13), key);
        assert_ne!(other(&source, Target::new(8, 9), CUDA_13), key);
        let older = CudaVersion::from_thousands(12_090);
        assert_ne!(other(&source, target, older), key);
        let option = source.clone().with_option("--fmad=false");
        assert_ne!(other(&option, target, CUDA_13), key);
        let split = source.clone().with_option("-a").with_option("-b");
        let joined = source.with_option("-a-b");
        assert_ne!(
            other(&split, target, CUDA_13),
            other(&joined, target, CUDA_13)
        );
    }

    #[test]
    fn a_damaged_entry_is_a_miss_and_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::new(folder.path().join("new"));
        let key = key_of("text");
        assert_eq!(cache.read(&key), None);
        cache.write(&key, b"some code").unwrap();
        let whole = std::fs::read(cache.path(&key)).unwrap();
        for index in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[index] ^= 4;
            std::fs::write(cache.path(&key), &flipped).unwrap();
            assert_eq!(cache.read(&key), None, "byte {index}");
            std::fs::write(cache.path(&key), &whole[..index]).unwrap();
            assert_eq!(cache.read(&key), None, "{index} bytes");
        }
        cache.write(&key, b"some code").unwrap();
        assert_eq!(cache.read(&key).as_deref(), Some(&b"some code"[..]));
        let left = std::fs::read_dir(cache.folder()).unwrap().count();
        assert_eq!(left, 1, "no temporary files stay");
    }

    #[test]
    fn what_was_saved_is_found_first_and_never_written() {
        let [own, saved] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let cache = KernelCache::new(own.path());
        let key = key_of("text");
        assert_eq!(cache.save(&key, saved.path()).unwrap(), None);
        cache.write(&key, b"some code").unwrap();
        let name = cache.save(&key, saved.path()).unwrap().unwrap();
        let folders = SavedFolders::default();
        let elsewhere = tempfile::tempdir().unwrap();
        let other = KernelCache::new(elsewhere.path()).with_saved(&folders);
        assert_eq!(other.read(&key), None);
        folders.add(saved.path());
        assert_eq!(other.read(&key).as_deref(), Some(&b"some code"[..]));
        other.write(&key_of("other"), b"code").unwrap();
        let count = |folder: &tempfile::TempDir| std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!((count(&saved), count(&elsewhere)), (1, 1));
        // What is damaged there is looked for here.
        std::fs::write(saved.path().join(&name), b"tintype cubin 1").unwrap();
        assert_eq!(other.read(&key), None);
        other.write(&key, b"new code").unwrap();
        assert_eq!(other.read(&key).as_deref(), Some(&b"new code"[..]));
        assert!(cache.save(&key, &saved.path().join(name)).is_err());
    }

    #[test]
    fn an_entry_under_another_name_is_a_miss() {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::new(folder.path());
        cache.write(&key_of("a"), b"code").unwrap();
        std::fs::rename(cache.path(&key_of("a")), cache.path(&key_of("b"))).unwrap();
        assert_eq!(cache.read(&key_of("b")), None);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let error = KernelCache::new(&file).write(&key_of("a"), b"code");
        assert!(error.unwrap_err().to_string().contains("file"));
    }

    #[test]
    fn the_users_folder_follows_the_environment() {
        let from = |set: &[(&str, &str)]| {
            let set: Vec<(String, String)> = set
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            user_folder(&|name: &str| {
                let found = set.iter().find(|(other, _)| other == name);
                found.map(|(_, value)| value.clone())
            })
        };
        assert_eq!(from(&[("HOME", "/h")]), Path::new("/h/.cache/tintype"));
        assert_eq!(
            from(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]),
            Path::new("/x/tintype")
        );
        assert_eq!(
            from(&[("HOME", "/h"), ("TINTYPE_CACHE", "/t")]),
            Path::new("/t")
        );
    }
}
